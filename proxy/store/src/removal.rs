//! Taking content away, by the administrator or because it is bad; listing and checking it. What was not used goes in
//! `expiry`.
//!
//! Order: close, unlink, close again (it may have been opened in between), then the index. Readers that have the file
//! open finish. A crash in between leaves a row without a file, which the next start or use removes.

use std::time::SystemTime;

use entrepot_core::digest::{Digest, Hasher};
use entrepot_core::host::RegistryHost;

use super::blobs::Blob;
use super::errors::StoreError;
use super::index::{Job, names, recency, time_of};
use super::names::LINKED_MAX;
use super::paths::ALGORITHMS;
use super::space::count;
use super::{Store, disk};

/// Read at once while checking.
const VERIFY_CHUNK_BYTES: usize = 1 << 20;
/// Most entries that one call of `list` gives.
const LIST_MAX: usize = 1000;

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobEntry {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// The last use that was noted, to about a minute.
    pub last_use: SystemTime,
    /// Uses that were noted.
    pub uses: u32,
    /// Its type, where it is a manifest.
    pub media_type: Option<String>,
    /// The repositories that have it, the first 64.
    pub repositories: Vec<(RegistryHost, String)>,
    /// It was pushed here, and is never evicted.
    pub is_pinned: bool,
}

/// What [`Store::clear`] removed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cleared {
    /// How many blobs.
    pub blobs: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What became of the wish to remove cached content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// It stays: it was pushed here.
    Pinned,
    /// There was none.
    Missing,
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verified {
    /// The content has the digest that it is named by.
    Good,
    /// It has not, or cannot be read; it was thrown away and will be fetched again.
    Bad,
    /// There is none of that name.
    Missing,
}

impl Store {
    /// Throws away content that was found bad. Failures are logged: there is nothing the caller could do.
    pub fn quarantine(&self, digest: &Digest) {
        count(&self.counters.quarantined);
        if let Err(error) = self.remove(digest) {
            tracing::error!(%digest, %error, "bad content could not be removed from the cache");
        }
    }

    /// Throws away content that the disk does not give, where it can be fetched again. What was pushed stays: the disk may
    /// give it another time.
    pub fn unreadable(&self, digest: &Digest) {
        if !self.is_pinned(digest) {
            self.quarantine(digest);
        }
    }

    /// Removes content, pushed or not; false where there was none. For what is bad or not durable.
    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let removed = self.unlink_blob(digest)?;
        self.drop_rows(vec![*digest]);
        Ok(removed)
    }

    /// Removes cached content.
    pub fn remove_cached(&self, digest: &Digest) -> Result<Removal, StoreError> {
        let Some(removed) = self.unless_pinned(digest, || self.unlink_blob(digest))? else {
            return Ok(Removal::Pinned);
        };
        self.drop_rows(vec![*digest]);
        Ok(if removed { Removal::Removed } else { Removal::Missing })
    }

    /// Removes all cached content, paused fills, tags and artefacts. Goes by the files, so it also works without an index.
    pub fn clear(&self) -> Result<Cleared, StoreError> {
        self.paused.clear(&self.paths);
        let mut cleared = Cleared::default();
        for algorithm in ALGORITHMS {
            for first_byte in 0..=u8::MAX {
                let (mut digests, mut pinned) = (Vec::new(), Vec::new());
                for (digest, file) in disk::blobs_in(&self.paths, algorithm, first_byte) {
                    let Some(removed) = self.unless_pinned(&digest, || self.unlink_blob(&digest))? else {
                        pinned.push(digest);
                        continue;
                    };
                    if removed {
                        cleared.blobs += 1;
                        cleared.bytes += file.len();
                    }
                    digests.push(digest);
                }
                self.drop_rows(digests);
                if !pinned.is_empty() {
                    // The cache has no use for it any more; whoever pushed it has.
                    let forget =
                        Job::new(move |tables| pinned.iter().try_for_each(|digest| tables.forget_cached(digest)));
                    self.index.change(forget);
                }
            }
        }
        self.index.change(Job::new(|tables| tables.forget_names()));
        Ok(cleared)
    }

    /// Content in the order of its digests, after one of them; at most 1000 entries.
    pub fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>, StoreError> {
        let listed = self.index.read(|index| {
            let rows = recency::list(index, after.as_ref(), limit.min(LIST_MAX))?;
            let entries = rows.into_iter().map(|row| {
                Ok(BlobEntry {
                    digest: row.digest,
                    size_bytes: row.size_bytes,
                    last_use: time_of(row.last_use_ms),
                    uses: row.uses,
                    media_type: names::media_type(index, &row.digest)?,
                    repositories: names::linked_repositories(index, &row.digest, LINKED_MAX)?,
                    is_pinned: self.is_pinned(&row.digest),
                })
            });
            entries.collect()
        });
        listed.ok_or(StoreError::IndexUnavailable)
    }

    /// Reads content and compares it with its name; not a use.
    pub fn verify(&self, digest: &Digest) -> Result<Verified, StoreError> {
        let path = self.paths.blob(digest);
        let Some(file) = disk::open(&path)? else { return Ok(Verified::Missing) };
        let size_bytes = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?.len();
        let blob = Blob::new(*digest, size_bytes, file, self.counters.clone());
        let mut hasher = Hasher::new(digest.algorithm());
        let mut offset = 0;
        while offset < size_bytes {
            let Ok(bytes) = blob.read_at(offset, VERIFY_CHUNK_BYTES) else { break };
            hasher.update(&bytes);
            offset += bytes.len() as u64;
        }
        if offset < size_bytes {
            self.unreadable(digest);
            return Ok(Verified::Bad);
        }
        if hasher.finish() == *digest {
            return Ok(Verified::Good);
        }
        self.quarantine(digest);
        Ok(Verified::Bad)
    }

    /// Removes the file of a blob that nobody reads and nobody pushed; false else. A file that is gone already is removed.
    pub(super) fn unlink_idle_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let unlink = || Ok(self.open_blobs.forget_idle(digest) && self.unlink_blob(digest).map(|_| true)?);
        let unlinked = self.unless_pinned(digest, unlink)?;
        if unlinked.is_none() {
            // The index did not hear of the pin, or this would be no candidate.
            self.pinning_changed(digest);
        }
        Ok(unlinked.unwrap_or(false))
    }

    /// Drops the rows of removed blobs; false when it is not certain that the index followed.
    pub(super) fn drop_rows(&self, digests: Vec<Digest>) -> bool {
        digests.is_empty()
            || self.index.change(Job::new(move |tables| digests.iter().try_for_each(|digest| tables.removed(digest))))
    }

    pub(super) fn unlink_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.open_blobs.forget(digest);
        let unlinked = disk::unlink(&self.paths.blob(digest)).inspect_err(|_| count(&self.counters.write_errors));
        self.open_blobs.forget(digest);
        self.hot.forget_content(digest);
        unlinked
    }
}
