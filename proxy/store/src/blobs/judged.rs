//! Content that is suspected to be bad: hashed again, and what becomes of it.
//!
//! Files are the truth. An index whose row says another size than the file is only a suspicion: the bytes decide. Good
//! bytes correct the row. Bad bytes of the cache go, because they can be fetched again. Bad bytes that were pushed are
//! set aside (`paths`), because nobody else has them; a later push puts the right ones in their place.
//!
//! Invariant: only the file that was judged goes. A publication may replace it at any moment, so both take the digest's
//! turn, and the file under the name is compared with the judged one.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use entrepot_core::digest::{Digest, Hasher};

use super::{Blobs, Verified};
use crate::blob::Blob;
use crate::blocking::try_blocking;
use crate::disk;
use crate::errors::StoreError;
use crate::index::Job;
use crate::small_files;
use crate::space::count;
use crate::times::ms_of;

/// Read at once while hashing.
const HASHED_BYTES: usize = 1 << 20;

/// Tells one file from another that has its name later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// The verdict about bytes.
enum Judged {
    Good,
    Bad,
    /// The disk does not give them.
    Unreadable(StoreError),
}

impl FileId {
    pub(crate) fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

impl Blobs {
    /// Reads content and compares it with its digest; not a use.
    pub async fn verify(self: &Arc<Self>, digest: &Digest) -> Result<Verified, StoreError> {
        let (blobs, digest) = (self.clone(), *digest);
        try_blocking(move || blobs.verify_blocking(&digest)).await
    }

    pub(crate) fn verify_blocking(&self, digest: &Digest) -> Result<Verified, StoreError> {
        let path = self.paths.blob(digest);
        let Some(file) = disk::open(&path)? else { return Ok(Verified::Missing) };
        let known = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?;
        Ok(match self.judge(digest, file, known.len()) {
            Judged::Good => Verified::Good,
            Judged::Bad => {
                self.throw_away(digest, FileId::of(&known));
                Verified::Bad
            }
            Judged::Unreadable(_) => {
                self.throw_away_if_cached(digest, FileId::of(&known));
                Verified::Bad
            }
        })
    }

    /// Decides about a file whose size is not the one that the index has. Good bytes correct the row; false means that
    /// the content is gone.
    pub(super) fn is_good_after_all(&self, digest: &Digest, file: File, known: &Metadata) -> Result<bool, StoreError> {
        // One suspicion at a time: many readers of one blob must not all read it from its beginning to its end.
        let _one_at_a_time = crate::lock(&self.judging);
        if self.expected_bytes(digest) == Some(known.len()) {
            return Ok(true);
        }
        match self.judge(digest, file, known.len()) {
            Judged::Good => {
                tracing::warn!(%digest, size_bytes = known.len(), "the index had a wrong size of a blob; corrected");
                let (digest, at_ms) = (*digest, ms_of(SystemTime::now()));
                self.index.change(Job::new(move |tables| tables.remeasured(&digest, at_ms)));
                Ok(true)
            }
            Judged::Bad => {
                self.throw_away(digest, FileId::of(known));
                Ok(false)
            }
            Judged::Unreadable(error) => {
                self.throw_away_if_cached(digest, FileId::of(known));
                Err(error)
            }
        }
    }

    fn judge(&self, digest: &Digest, file: File, size_bytes: u64) -> Judged {
        let blob = Blob::new(*digest, size_bytes, Arc::new(file), self.counters.clone());
        let mut hasher = Hasher::new(digest.algorithm());
        let mut offset = 0;
        while offset < size_bytes {
            match blob.read_blocking(offset, HASHED_BYTES) {
                Ok(bytes) => {
                    hasher.update(&bytes);
                    offset += bytes.len() as u64;
                }
                Err(error) => return Judged::Unreadable(StoreError::from_io("read", &self.paths.blob(digest), error)),
            }
        }
        if hasher.finish() == *digest { Judged::Good } else { Judged::Bad }
    }

    /// The disk does not give content that is served. Cached content goes, because it can be fetched again. Pushed
    /// content goes only if its bytes are wrong: the disk may give it at another time.
    pub(super) fn unreadable_blocking(&self, digest: &Digest) {
        if self.pins.is_pinned(digest) {
            if let Err(error) = self.verify_blocking(digest) {
                tracing::error!(%digest, "pushed content cannot be read: {error}");
            }
        } else if let Some(found) = self.file_now(digest) {
            self.throw_away_if_cached(digest, found);
        }
    }

    /// Takes a file away that was found bad, and sets it aside if it was pushed. Failures are logged: the caller could do
    /// nothing about them.
    pub(crate) fn throw_away(&self, digest: &Digest, judged: FileId) {
        let removed = {
            let _turn = self.turn_at(digest).blocking_lock();
            if self.file_now(digest) != Some(judged) {
                return;
            }
            count(&self.counters.quarantined);
            self.losses.fetch_add(1, Ordering::Release);
            match self.pins.unless_pinned(digest, || self.unlink(digest).map(drop)) {
                Ok(None) => self.set_aside(digest),
                Ok(Some(())) => {
                    tracing::warn!(%digest, "a cached blob had other bytes than its digest says; it is thrown away");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        };
        match removed {
            Ok(()) => _ = self.drop_rows(vec![*digest]),
            Err(error) => tracing::error!(%digest, %error, "bad content could not be taken out of the store"),
        }
    }

    fn throw_away_if_cached(&self, digest: &Digest, judged: FileId) {
        if !self.pins.is_pinned(digest) {
            self.throw_away(digest, judged);
        }
    }

    fn set_aside(&self, digest: &Digest) -> Result<(), StoreError> {
        let (from, to) = (self.paths.blob(digest), self.paths.aside(digest));
        self.open.forget(digest);
        small_files::make_folder(&self.paths.set_aside())?;
        disk::rename(&from, &to)?;
        self.open.forget(digest);
        self.memory.forget_content(digest);
        disk::sync_dir(&self.paths.set_aside())?;
        disk::sync_dir(&self.paths.shard_of(digest))?;
        tracing::error!(
            %digest,
            "pushed content has rotted on the disk and is no longer given out; it lies at {}. Push it again to mend it",
            to.display()
        );
        Ok(())
    }

    fn file_now(&self, digest: &Digest) -> Option<FileId> {
        std::fs::symlink_metadata(self.paths.blob(digest)).ok().map(|file| FileId::of(&file))
    }
}

#[cfg(test)]
impl Blobs {
    /// Throws away the bytes that lie there, as if they had been found bad.
    pub(crate) fn quarantine(&self, digest: &Digest) {
        if let Some(found) = self.file_now(digest) {
            self.throw_away(digest, found);
        }
    }

    /// Removes content, pushed or not; false if there was none.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<bool, StoreError> {
        let removed = self.unlink(digest)?;
        self.drop_rows(vec![*digest]);
        Ok(removed)
    }
}
