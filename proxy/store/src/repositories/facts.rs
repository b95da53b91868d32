//! The facts about repositories, as files below `<data>/pushed/` (drawn in `paths`). Each fact is a small file of its
//! own, made like content: written, synced, renamed, its folder synced. So an acknowledged push needs no index, a kill
//! at any moment leaves whole facts, and a lost index loses none. Everything here blocks, and a change is durable when
//! its method returns.
//!
//! Order: content before its pin's promise, the pin before the link and once more after it (a collection may run),
//! links before the manifest, the manifest before the tag. Removal goes backwards. So a tag never leads to a missing
//! manifest, and a manifest that was complete never leads to a missing blob. One thread at a time changes a repository.
//!
//! A repository has content if both the link and the content are there. Content that was found bad and thrown away is
//! unknown until it is pushed again.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::sums::Sums;
use super::{Expected, NotPut, PushedBy, PushedManifest, Tagged};
use crate::blob::Blob;
use crate::blobs::Blobs;
use crate::errors::StoreError;
use crate::memory::StoredManifest;
use crate::paths::{Kept, Paths, digest_of_link, repository_of_folder};
use crate::pins::Pins;
use crate::{disk, lock, small_files};

/// The most repositories that may change at the same time.
const STRIPES: usize = 64;
/// The most repositories that are searched for a blob if the client did not name one.
const ASKED_MAX: usize = 1000;

/// The facts about the repositories of one store.
pub(super) struct Facts {
    pub(super) paths: Paths,
    pub(super) blobs: Arc<Blobs>,
    pub(super) pins: Arc<Pins>,
    locks: [Mutex<()>; STRIPES],
    sums: Sums,
    catalog: Catalog,
}

/// The content of a manifest's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFile {
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subject: Option<String>,
    #[serde(skip_serializing_if = "PushedBy::is_anyone", default)]
    pushed_by: PushedBy,
}

/// The second line of a tag's file if the tag was set with a login. A file from before this note has no second line.
const WITH_LOGIN: &str = "login";

impl Facts {
    pub(super) fn new(paths: Paths, blobs: Arc<Blobs>, pins: Arc<Pins>) -> Self {
        let (catalog, sums) = (Catalog::default(), Sums::default());
        Self { paths, blobs, pins, locks: [const { Mutex::new(()) }; STRIPES], sums, catalog }
    }

    /// Locks a repository for changes.
    pub(super) fn lock(&self, repository: &RepositoryName) -> MutexGuard<'_, ()> {
        let stripe = BuildHasherDefault::<DefaultHasher>::default().hash_one(repository) % STRIPES as u64;
        lock(&self.locks[stripe as usize])
    }

    /// See [`super::Repository::link`].
    pub(super) fn link(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let _turn = self.lock(repository);
        Ok(self.pins.pin(digest)? && self.link_pinned(repository, digest)?)
    }

    /// The second half of [`Self::link`]. A collection that began after the first pin may already have listed this
    /// repository's links. It cannot miss a second pin that comes after the link.
    pub(super) fn link_pinned(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.paths.pushed_blob(repository, digest);
        let is_new = !path.exists();
        small_files::mark(&self.paths.kept(repository, Kept::Blobs), &path)?;
        self.noted(repository, digest, is_new);
        self.pins.pin(digest)
    }

    /// See [`super::Repository::put_manifest`].
    pub(super) fn put_manifest<E>(
        &self,
        repository: &RepositoryName,
        expected: Option<&Expected>,
        manifest: &PushedManifest,
        (tags, needed): (&[Tag], &[Digest]),
        may_move: impl Fn(&Tag, PushedBy) -> Result<(), E>,
    ) -> Result<Result<(), NotPut<E>>, StoreError> {
        let _turn = self.lock(repository);
        if let Some(expected) = expected
            && !(expected.holds)(self.digest_of(repository, &expected.reference)?)
        {
            return Ok(Err(NotPut::Unexpected));
        }
        if let Some(missing) = needed.iter().find(|digest| !self.has(repository, digest)) {
            return Ok(Err(NotPut::Missing(*missing)));
        }
        let (mut set, mut left) = (Vec::with_capacity(tags.len()), Vec::new());
        for tag in tags {
            let before = self.tag_note(repository, tag)?;
            left.extend(before.map(|(at, _)| at).filter(|at| *at != manifest.digest));
            let pushed_by = match before {
                Some((at, before)) if at == manifest.digest => before.max(manifest.pushed_by),
                Some((_, before)) => {
                    if let Err(why) = may_move(tag, before) {
                        return Ok(Err(NotPut::Refused(why)));
                    }
                    manifest.pushed_by
                }
                None => manifest.pushed_by,
            };
            set.push((tag, pushed_by));
        }
        if !self.pins.pin(&manifest.digest)? {
            return Err(StoreError::ManifestLost { digest: Box::new(manifest.digest) });
        }
        self.put_pinned(repository, manifest)?;
        for digest in left {
            self.note_untagged(repository, &digest)?;
        }
        for (tag, pushed_by) in set {
            small_files::put(&self.paths.tag(repository, tag), tag_text(&manifest.digest, pushed_by).as_bytes())?;
        }
        Ok(Ok(()))
    }

    /// Adds a manifest that is pinned, and pins it again as [`Self::link_pinned`] does with a blob.
    pub(super) fn put_pinned(&self, repository: &RepositoryName, manifest: &PushedManifest) -> Result<(), StoreError> {
        if let Some((subject, entry)) = &manifest.referrer {
            small_files::put(&self.paths.referrer(repository, subject, &manifest.digest), &to_json(entry))?;
        }
        let file = ManifestFile {
            media_type: manifest.media_type.clone(),
            subject: manifest.referrer.as_ref().map(|(subject, _)| subject.to_string()),
            pushed_by: manifest.pushed_by,
        };
        let path = self.paths.pushed_manifest(repository, &manifest.digest);
        let known = self.manifest_file(repository, &manifest.digest)?;
        let is_new = known.is_none();
        if known.is_none_or(|known| known.pushed_by <= file.pushed_by) {
            small_files::put(&path, &to_json(&file))?;
            self.noted(repository, &manifest.digest, is_new);
        } else {
            // An account's statement about these bytes stays, such as their type. A collection waits for this push, too.
            small_files::touch(&path)?;
        }
        if self.pins.pin(&manifest.digest)? {
            return Ok(());
        }
        // A manifest without its bytes would keep its repository from being collected.
        if is_new {
            small_files::remove(&path)?;
            self.sums.forget(repository);
        }
        Err(StoreError::ManifestLost { digest: Box::new(manifest.digest) })
    }

    /// Whether anything was pushed to a repository of that name.
    pub(super) fn exists(&self, repository: &RepositoryName) -> bool {
        self.paths.repository(repository).is_dir()
    }

    /// The content. None if it was not pushed to the repository. Counts as a use.
    pub(super) fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        if disk::open(&self.paths.pushed_blob(repository, digest))?.is_none() {
            return Ok(None);
        }
        self.blobs.get_blocking(digest)
    }

    /// [`Self::blob`] that also makes collections leave the content alone for its grace period from now on.
    pub(super) fn confirm_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<Blob>>, StoreError> {
        if !small_files::touch(&self.paths.pushed_blob(repository, digest))? {
            return Ok(None);
        }
        self.blobs.get_blocking(digest)
    }

    /// Whether the repository has content that a manifest may refer to.
    pub(super) fn has(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        if self.paths.pushed_manifest(repository, digest).exists() {
            return self.blobs.manifest_blocking(digest).is_some();
        }
        self.has_blob(repository, digest)
    }

    /// Whether a blob was pushed to the repository and is here.
    pub(super) fn has_blob(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        // Opened, not only looked for: what is acknowledged here is read later.
        self.paths.pushed_blob(repository, digest).exists()
            && self.blobs.get_blocking(digest).is_ok_and(|blob| blob.is_some())
    }

    /// A repository that has the blob, among those that may be asked. The search looks at a bounded number of them.
    pub(super) fn holder(
        &self,
        digest: &Digest,
        may_ask: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Option<RepositoryName>, StoreError> {
        if !self.pins.is_pinned(digest) {
            return Ok(None);
        }
        let all = self.names()?;
        let mut asked = all.iter().take(ASKED_MAX);
        Ok(asked.find(|repository| self.has_blob(repository, digest) && may_ask(repository)).cloned())
    }

    /// The manifest that a reference leads to.
    pub(super) fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.tag(repository, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(file) = self.manifest_file(repository, &digest)? else { return Ok(None) };
        let Some((blob, bytes)) = self.blobs.manifest_blocking(&digest) else { return Ok(None) };
        let media_type = file.media_type.into();
        Ok(Some(StoredManifest { digest, media_type, stored_at: blob.stored_at(), bytes }))
    }

    /// See [`super::Repository::digest_of`].
    pub(super) fn digest_of(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>, StoreError> {
        match reference {
            Reference::Tag(tag) => self.tag(repository, tag),
            Reference::Digest(digest) => Ok(self.manifest_file(repository, digest)?.map(|_| *digest)),
        }
    }

    /// The digest that a tag points to.
    pub(super) fn tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        Ok(self.tag_note(repository, tag)?.map(|(digest, _)| digest))
    }

    /// The digest that a tag points to, and whether it was set with a login.
    fn tag_note(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<(Digest, PushedBy)>, StoreError> {
        let content = small_files::read(&self.paths.tag(repository, tag))?;
        Ok(content.and_then(|content| tag_of_text(std::str::from_utf8(&content).ok()?)))
    }

    /// When a tag was last set.
    pub(super) fn tag_set_at(&self, repository: &RepositoryName, tag: &Tag) -> Option<SystemTime> {
        small_files::marked_at(&self.paths.tag(repository, tag))
    }

    /// See [`super::Repository::tags`].
    pub(super) fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<(Vec<Tag>, bool)>, StoreError> {
        if !self.exists(repository) {
            return Ok(None);
        }
        let names = small_files::names(&self.paths.kept(repository, Kept::Tags))?;
        // Layers may wait for a collection after everything else was removed.
        if names.is_empty() && self.manifests(repository)?.is_empty() {
            return Ok(None);
        }
        Ok(Some(page(names.into_iter().filter_map(|name| name.parse().ok()), after, limit, Tag::as_str)))
    }

    /// All tags of a repository with the digests that they point to.
    pub(super) fn tagged(&self, repository: &RepositoryName) -> Result<Vec<Tagged>, StoreError> {
        let (tags, _) = self.tags(repository, None, usize::MAX)?.unwrap_or_default();
        let mut found = Vec::with_capacity(tags.len());
        for tag in tags {
            // A tag that is deleted meanwhile is left out.
            found.extend(self.tag(repository, &tag)?.map(|digest| Tagged { tag, digest }));
        }
        Ok(found)
    }

    /// The manifests of a repository, in no order.
    pub(super) fn manifests(&self, repository: &RepositoryName) -> Result<Vec<Digest>, StoreError> {
        let names = small_files::names(&self.paths.kept(repository, Kept::Manifests))?;
        Ok(names.iter().filter_map(|name| digest_of_link(name)).collect())
    }

    /// See [`super::Repositories::list`].
    pub(super) fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&RepositoryName) -> bool,
    ) -> Result<(Vec<RepositoryName>, bool), StoreError> {
        let all = self.names()?;
        let from = after.map_or(0, |after| all.partition_point(|name| name.as_str() <= after));
        let mut found = Vec::new();
        for name in all[from..].iter().filter(|name| is_wanted(name)) {
            if !self.has_manifests(name)? {
                continue;
            }
            if found.len() == limit {
                return Ok((found, true));
            }
            found.push(name.clone());
        }
        Ok((found, false))
    }

    /// Whether a repository has any manifest.
    pub(super) fn has_manifests(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        small_files::has_any(&self.paths.kept(repository, Kept::Manifests))
    }

    /// Bytes of content that a repository has. Counted from the files only the first time.
    pub(super) fn held_bytes(&self, repository: &RepositoryName) -> Result<u64, StoreError> {
        if let Some(bytes) = self.sums.get(repository, self.blobs.losses()) {
            return Ok(bytes);
        }
        let _turn = self.lock(repository);
        let losses = self.blobs.losses();
        let (mut bytes, mut is_complete) = (0, true);
        for kept in [Kept::Blobs, Kept::Manifests] {
            for digest in self.digests_in(&self.paths.kept(repository, kept))? {
                match self.blobs.size_blocking(&digest) {
                    Some(size_bytes) => bytes += size_bytes,
                    None => is_complete = false,
                }
            }
        }
        if is_complete {
            self.sums.set(repository, bytes, losses);
        }
        Ok(bytes)
    }

    /// Counts content that was linked. The caller holds the repository's lock.
    fn noted(&self, repository: &RepositoryName, digest: &Digest, is_new: bool) {
        if is_new {
            self.sums.add(repository, self.blobs.size_blocking(digest).unwrap_or(0));
        }
    }

    /// Counts content whose link was removed. The caller holds the repository's lock.
    pub(super) fn dropped(&self, repository: &RepositoryName, digest: &Digest) {
        self.sums.subtract(repository, self.blobs.size_blocking(digest).unwrap_or(0));
    }

    /// Every repository that has a folder, sorted.
    pub(super) fn names(&self) -> Result<Arc<[RepositoryName]>, StoreError> {
        self.catalog.names(&self.paths.pushed())
    }

    /// Every repository that has a folder, as the disk has them now.
    pub(super) fn all(&self) -> Result<Vec<RepositoryName>, StoreError> {
        let names = small_files::names(&self.paths.pushed())?;
        Ok(names.iter().filter_map(|name| repository_of_folder(name)).collect())
    }

    /// Removes a tag; false if there was none.
    pub(super) fn remove_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<bool, StoreError> {
        let _turn = self.lock(repository);
        if let Some(digest) = self.tag(repository, tag)? {
            self.note_untagged(repository, &digest)?;
        }
        small_files::remove(&self.paths.tag(repository, tag))
    }

    /// See [`super::Repository::remove_tag_at`].
    pub(super) fn remove_tag_at(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let _turn = self.lock(repository);
        match self.tag(repository, tag)? {
            Some(at) if at == *digest => {
                self.note_untagged(repository, digest)?;
                small_files::remove(&self.paths.tag(repository, tag))
            }
            _ => Ok(false),
        }
    }

    /// Notes that a tag is about to leave a manifest, before it does: a note about a manifest that kept its tag says
    /// nothing, and the next one replaces it.
    fn note_untagged(&self, repository: &RepositoryName, digest: &Digest) -> Result<(), StoreError> {
        if !self.paths.pushed_manifest(repository, digest).exists() {
            return Ok(());
        }
        small_files::mark(&self.paths.kept(repository, Kept::Untagged), &self.paths.untagged(repository, digest))
    }

    /// When a tag last left a manifest. None if none did.
    pub(super) fn untagged_at(&self, repository: &RepositoryName, digest: &Digest) -> Option<SystemTime> {
        small_files::marked_at(&self.paths.untagged(repository, digest))
    }

    /// Removes a manifest and the tags that point to it. None if there was none.
    pub(super) fn remove_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Vec<Tag>>, StoreError> {
        let _turn = self.lock(repository);
        self.remove_manifest_locked(repository, digest)
    }

    /// Takes a blob away from a repository; false if the repository did not have it.
    pub(super) fn remove_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let _turn = self.lock(repository);
        let removed = small_files::remove(&self.paths.pushed_blob(repository, digest))?;
        if removed {
            self.dropped(repository, digest);
        }
        Ok(removed)
    }

    /// See [`super::Repository::remove`].
    pub(super) fn remove(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let _turn = self.lock(repository);
        let tags = small_files::names(&self.paths.kept(repository, Kept::Tags))?;
        let manifests = self.manifests(repository)?;
        for tag in tags.iter().filter_map(|tag| tag.parse::<Tag>().ok()) {
            small_files::remove(&self.paths.tag(repository, &tag))?;
        }
        for digest in &manifests {
            self.remove_manifest_locked(repository, digest)?;
        }
        // Links to blobs stay for their grace period, as after the removal of a tag: a push may rely on them.
        self.sums.forget(repository);
        self.remove_empty_folders(repository);
        Ok(!tags.is_empty() || !manifests.is_empty())
    }

    /// [`Self::remove_manifest`] for a caller that holds the repository's lock.
    pub(super) fn remove_manifest_locked(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Vec<Tag>>, StoreError> {
        let Some(file) = self.manifest_file(repository, digest)? else { return Ok(None) };
        let mut tags = Vec::new();
        for tagged in self.tagged(repository)?.into_iter().filter(|tagged| tagged.digest == *digest) {
            small_files::remove(&self.paths.tag(repository, &tagged.tag))?;
            tags.push(tagged.tag);
        }
        if small_files::remove(&self.paths.pushed_manifest(repository, digest))? {
            self.dropped(repository, digest);
        }
        disk::unlink(&self.paths.untagged(repository, digest))?;
        if let Some(subject) = file.subject.and_then(|subject| subject.parse::<Digest>().ok()) {
            small_files::remove(&self.paths.referrer(repository, &subject, digest))?;
            small_files::remove_folder_if_empty(&self.paths.referrers(repository, &subject));
        }
        Ok(Some(tags))
    }

    /// Removes the folders of a repository that has nothing left. The caller holds its lock.
    pub(super) fn remove_empty_folders(&self, repository: &RepositoryName) {
        for kept in [Kept::Tags, Kept::Untagged, Kept::Manifests, Kept::Referrers, Kept::Blobs] {
            small_files::remove_folder_if_empty(&self.paths.kept(repository, kept));
        }
        small_files::remove_folder_if_empty(&self.paths.repository(repository));
    }

    /// The digests that a folder names.
    pub(super) fn digests_in(&self, folder: &Path) -> Result<Vec<Digest>, StoreError> {
        Ok(small_files::names(folder)?.iter().filter_map(|name| digest_of_link(name)).collect())
    }

    fn manifest_file(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<ManifestFile>, StoreError> {
        let content = small_files::read(&self.paths.pushed_manifest(repository, digest))?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }
}

fn tag_text(digest: &Digest, pushed_by: PushedBy) -> String {
    match pushed_by {
        PushedBy::Anyone => digest.to_string(),
        PushedBy::Account => format!("{digest}\n{WITH_LOGIN}"),
    }
}

fn tag_of_text(text: &str) -> Option<(Digest, PushedBy)> {
    let mut lines = text.lines();
    let digest = lines.next()?.trim().parse().ok()?;
    let pushed_by = if lines.next() == Some(WITH_LOGIN) { PushedBy::Account } else { PushedBy::Anyone };
    Some((digest, pushed_by))
}

/// Serialising our own types never fails.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The first `limit` after `after`, sorted as bytes, and whether more follow.
fn page<T>(
    all: impl Iterator<Item = T>,
    after: Option<&str>,
    limit: usize,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, bool) {
    let mut found: Vec<T> = all.filter(|item| after.is_none_or(|after| name(item) > after)).collect();
    found.sort_unstable_by(|one, other| name(one).cmp(name(other)));
    let more = found.len() > limit;
    found.truncate(limit);
    (found, more)
}
