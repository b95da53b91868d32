//! What was pushed: which repository has which content, what its tags point to, what refers to what.
//!
//! ```text
//! mod    adding: blobs, manifests, tags         pins     what must not be evicted
//! look   reading and listing                    removal  taking away
//! sweep  collecting what nothing needs          files    small files, made and removed durably
//! ```
//!
//! Each fact is a small file of its own below `<data>/pushed/` (drawn in `paths`), published like content: written,
//! synced, renamed, its folder synced. So an acknowledged push needs no index, a kill at any moment leaves whole facts,
//! and a lost index loses none. Everything here blocks, and what it changed is durable when it returns.
//!
//! Order: content before its pin's promise, the pin before the link and once more after it (a collection may run), links
//! before the manifest, the manifest before the tag; taking away goes backwards. So a tag never leads to a missing
//! manifest, nor a manifest that was complete to a missing blob. One thread at a time changes a repository.

mod files;
mod look;
mod pins;
mod removal;
mod sweep;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, MutexGuard};

use entrepot_core::digest::Digest;
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::referrer::Referrer;
use serde::{Deserialize, Serialize};

use super::errors::StoreError;
use super::paths::Kept;
use super::{Store, lock};
pub use look::Tagged;
pub use pins::Hold;
use pins::Pins;
pub use sweep::{Collected, Step, Sweep};

/// Repositories that may change at the same time, at most.
const STRIPES: usize = 64;

/// The locks over what was pushed.
pub(super) struct Pushed {
    repositories: [Mutex<()>; STRIPES],
    pins: Mutex<Pins>,
    /// One collection at a time.
    sweeping: Mutex<()>,
}

/// A manifest as a repository keeps it; its bytes are content like any other.
#[derive(Clone, PartialEq, Debug)]
pub struct PushedManifest {
    /// Its name.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
    /// What it is about, and how that lists it.
    pub referrer: Option<(Digest, Referrer)>,
}

/// What the file of a manifest says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFile {
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subject: Option<String>,
}

impl Default for Pushed {
    fn default() -> Self {
        Self { repositories: [const { Mutex::new(()) }; STRIPES], pins: Mutex::default(), sweeping: Mutex::default() }
    }
}

impl Pushed {
    fn lock(&self, repository: &RepositoryName) -> MutexGuard<'_, ()> {
        let stripe = BuildHasherDefault::<DefaultHasher>::default().hash_one(repository) % STRIPES as u64;
        lock(&self.repositories[stripe as usize])
    }
}

impl PushedManifest {
    /// What is kept of a manifest of this type.
    pub fn of(digest: Digest, media_type: &str, info: &ManifestInfo, bytes: &[u8]) -> Self {
        let subject = info.subject.as_ref().map(|subject| subject.digest);
        let referrer = subject.and_then(|subject| Some((subject, Referrer::of(bytes, media_type, &digest)?)));
        Self { digest, media_type: media_type.to_owned(), referrer }
    }
}

impl Store {
    /// Notes that a repository has the content, and keeps it from eviction; false where the content is not here.
    pub fn link_pushed(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let _turn = self.pushed.lock(repository);
        Ok(self.pin(digest)? && self.link_pinned(repository, digest)?)
    }

    /// The second half of [`Self::link_pushed`]. A collection that began since the first pin has perhaps listed what is
    /// linked already: only a second one, after the link, it cannot miss.
    fn link_pinned(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        files::mark(&self.paths.kept(repository, Kept::Blobs), &self.paths.pushed_blob(repository, digest))?;
        self.pin(digest)
    }

    /// Adds a manifest, whose bytes are in the store already, and points `tags` to it. `objection` is asked first, while
    /// nothing can change in the repository; where there is one it is the outcome, and nothing was changed.
    pub fn put_pushed_manifest<E>(
        &self,
        repository: &RepositoryName,
        manifest: &PushedManifest,
        tags: &[Tag],
        objection: impl FnOnce() -> Option<E>,
    ) -> Result<Option<E>, StoreError> {
        let _turn = self.pushed.lock(repository);
        if let Some(objection) = objection() {
            return Ok(Some(objection));
        }
        if !self.pin(&manifest.digest)? {
            return Err(StoreError::ManifestLost { digest: Box::new(manifest.digest) });
        }
        self.put_pinned(repository, manifest)?;
        for tag in tags {
            files::put(&self.paths.tag(repository, tag), manifest.digest.to_string().as_bytes())?;
        }
        Ok(None)
    }

    /// Adds a manifest that is pinned, and pins it again as [`Self::link_pinned`] does a blob.
    fn put_pinned(&self, repository: &RepositoryName, manifest: &PushedManifest) -> Result<(), StoreError> {
        if let Some((subject, entry)) = &manifest.referrer {
            let path = self.paths.referrer(repository, subject, &manifest.digest);
            files::put(&path, &to_json(entry))?;
        }
        let file = ManifestFile {
            media_type: manifest.media_type.clone(),
            subject: manifest.referrer.as_ref().map(|(subject, _)| subject.to_string()),
        };
        let path = self.paths.pushed_manifest(repository, &manifest.digest);
        let is_new = !path.exists();
        files::put(&path, &to_json(&file))?;
        if self.pin(&manifest.digest)? {
            return Ok(());
        }
        // Without its bytes, it would keep its repository from being collected.
        if is_new {
            files::remove(&path)?;
        }
        Err(StoreError::ManifestLost { digest: Box::new(manifest.digest) })
    }
}

/// Types of ours always serialise.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
