//! Published content by its digest: open it, list it, check it, take it away.
//!
//! A hit costs one lock and one look-up (`open_blobs`). The file decides whether content exists. The index hears of
//! uses, and is asked for the size only when a file is opened: a file of another size is hashed before it is served
//! (`judged`; invariant 1 of ARCHITECTURE.md).
//!
//! Order of a removal: close, unlink, close again (a hit may have opened it in between), then the index. Readers that
//! have the file open finish. A crash in between leaves a row without a file, which the next start or use removes.

mod doubts;
mod judged;

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::media::MANIFEST_MAX_BYTES;

use crate::blob::Blob;
use crate::blocking::{blocking, try_blocking};
use crate::disk;
use crate::errors::StoreError;
use crate::index::{Index, Job, names, recency};
use crate::memory::Memory;
use crate::open_blobs::OpenBlobs;
use crate::paths::{ALGORITHMS, Paths};
use crate::pins::Pins;
use crate::place::Place;
use crate::space::{Counters, count};
use crate::times::{ms_of, time_of};
use doubts::Doubts;
pub(crate) use judged::FileId;

/// The most entries that one call of `list` gives.
const LIST_MAX: usize = 1000;
/// The most repositories that a listing names for one blob.
pub(crate) const PLACES_MAX: usize = 64;

/// Digests share so many turns at their files.
const TURNS: usize = 64;

/// The published content of one store.
pub struct Blobs {
    paths: Paths,
    counters: Arc<Counters>,
    index: Arc<Index>,
    memory: Arc<Memory>,
    pins: Arc<Pins>,
    open: OpenBlobs,
    /// Held while the file of a digest is replaced, or taken away because it is bad.
    turns: [tokio::sync::Mutex<()>; TURNS],
    /// How often content was found bad and taken away.
    losses: AtomicU64,
    doubts: Doubts,
    /// When content was last asked for, in ms since `began`.
    used_ms: AtomicU64,
    began: Instant,
    /// Held while suspected content is hashed.
    judging: Mutex<()>,
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobEntry {
    pub digest: Digest,
    pub size_bytes: u64,
    /// The last noted use, accurate to about a minute.
    pub last_use: SystemTime,
    /// How many uses were noted.
    pub uses: u32,
    /// Its type, if it is a manifest.
    pub media_type: Option<String>,
    /// The repositories that are known to have it, the first 64.
    pub places: Vec<Place>,
    /// Whether it was pushed here. Pushed content is never evicted.
    pub is_pinned: bool,
}

/// How much [`crate::Store::clear`] removed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cleared {
    pub blobs: u64,
    pub bytes: u64,
}

/// The outcome of removing cached content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// It is gone. The value is its size in bytes.
    Removed(u64),
    /// It stays, because it was pushed here.
    Pinned,
    /// There was no such content.
    Missing,
}

/// The result of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verified {
    /// The content has the digest that it is named by.
    Good,
    /// It has another digest, or cannot be read. Cached content was thrown away and will be fetched again. Pushed
    /// content with another digest was set aside; pushed content that cannot be read stays.
    Bad,
    /// There is no content of that digest.
    Missing,
}

impl Blobs {
    pub(crate) fn new(
        paths: Paths,
        counters: Arc<Counters>,
        index: Arc<Index>,
        memory: Arc<Memory>,
        pins: Arc<Pins>,
    ) -> Self {
        let turns = [const { tokio::sync::Mutex::const_new(()) }; TURNS];
        Self {
            paths,
            counters,
            index,
            memory,
            pins,
            open: OpenBlobs::default(),
            turns,
            losses: AtomicU64::default(),
            doubts: Doubts::default(),
            used_ms: AtomicU64::default(),
            began: Instant::now(),
            judging: Mutex::default(),
        }
    }

    /// The content of that digest. None if it is not here. Counts as a use. Ready at once if the blob is open already.
    pub async fn get(self: &Arc<Self>, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        if let Some(blob) = self.get_open(digest) {
            return Ok(Some(blob));
        }
        let (blobs, digest) = (self.clone(), *digest);
        try_blocking(move || blobs.get_blocking(&digest)).await
    }

    /// Whether the content is here; not a use.
    pub async fn contains(self: &Arc<Self>, digest: &Digest) -> bool {
        if self.open.contains(digest) {
            return true;
        }
        let (blobs, digest) = (self.clone(), *digest);
        blocking(move || blobs.contains_blocking(&digest)).await.unwrap_or(false)
    }

    /// Throws away content that the disk does not give, if it can be fetched again. Pushed content stays: the disk may
    /// give it at another time.
    pub async fn unreadable(self: &Arc<Self>, digest: &Digest) {
        let (blobs, digest) = (self.clone(), *digest);
        blocking(move || blobs.unreadable_blocking(&digest)).await;
    }

    /// Removes cached content.
    pub async fn remove(self: &Arc<Self>, digest: &Digest) -> Result<Removal, StoreError> {
        let (blobs, digest) = (self.clone(), *digest);
        try_blocking(move || {
            let size_bytes = blobs.size_blocking(&digest).unwrap_or(0);
            let Some(removed) = blobs.pins.unless_pinned(&digest, || blobs.unlink(&digest))? else {
                return Ok(Removal::Pinned);
            };
            blobs.drop_rows(vec![digest]);
            Ok(if removed { Removal::Removed(size_bytes) } else { Removal::Missing })
        })
        .await
    }

    /// Lists content in the order of its digests, after one of them; at most 1000 entries.
    pub async fn list(self: &Arc<Self>, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>, StoreError> {
        let pins = self.pins.clone();
        let listed = self.index.ask(move |index| {
            let rows = recency::list(index, after.as_ref(), limit.min(LIST_MAX))?;
            let entries = rows.into_iter().map(|row| {
                Ok(BlobEntry {
                    digest: row.digest,
                    size_bytes: row.size_bytes,
                    last_use: time_of(row.last_use_ms),
                    uses: row.uses,
                    media_type: names::media_type(index, &row.digest)?,
                    places: names::places(index, &row.digest, PLACES_MAX)?,
                    is_pinned: pins.is_pinned(&row.digest),
                })
            });
            entries.collect()
        });
        listed.await.ok_or(StoreError::IndexUnavailable)
    }

    /// A blob that is open already; counts as a use.
    fn get_open(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let used_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_ms.store(used_ms, Ordering::Relaxed);
        let (blob, touch) = self.open.get(digest)?;
        if touch {
            self.touch(digest);
        }
        Some(blob)
    }

    /// Runs a step that opens a file. Blobs that nobody reads are closed for it if no file descriptor is left.
    pub(crate) fn with_files<T>(&self, open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.open.with_files(open)
    }

    /// [`Self::get`] on this thread.
    pub(crate) fn get_blocking(&self, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        if let Some(blob) = self.get_open(digest) {
            return Ok(Some(blob));
        }
        let path = self.paths.blob(digest);
        let opened = self.with_files(|| disk::open(&path)).inspect_err(|_| count(&self.counters.read_errors))?;
        let Some(file) = opened else {
            return Ok(None);
        };
        let measure = |error: io::Error| StoreError::from_io("measure", &path, error);
        let known = file.metadata().map_err(measure)?;
        let size_bytes = known.len();
        if self.expected_bytes(digest).is_some_and(|expected| expected != size_bytes) {
            let again = file.try_clone().map_err(measure)?;
            if !self.is_good_after_all(digest, again, &known)? {
                return Ok(None);
            }
        }
        let blob = Blob::new(*digest, size_bytes, Arc::new(file), self.counters.clone());
        self.open.insert(blob.clone(), Some(Instant::now()));
        // If the blob was evicted since the file was opened, the open file must not keep its bytes on disk for long.
        if !path.exists() {
            self.open.forget(digest);
        }
        self.touch(digest);
        Ok(Some(blob))
    }

    /// The size that the index has. None if it knows none.
    fn expected_bytes(&self, digest: &Digest) -> Option<u64> {
        self.index.read(|index| recency::size_of(index, digest)).flatten()
    }

    /// [`Self::contains`] on this thread.
    pub(crate) fn contains_blocking(&self, digest: &Digest) -> bool {
        self.open.contains(digest) || self.paths.blob(digest).is_file()
    }

    /// The length of content by its file. None if the content is not here. Blocks; not a use.
    pub(crate) fn size_blocking(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.paths.blob(digest)).ok().filter(|file| file.is_file()).map(|file| file.len())
    }

    /// Whether the file of a digest has exactly these bytes. Blocks; not a use.
    pub(crate) fn has_bytes(&self, digest: &Digest, wanted: &[u8]) -> bool {
        let Ok(Some(file)) = disk::open(&self.paths.blob(digest)) else { return false };
        let mut found = vec![0; wanted.len()];
        let is_as_long = file.metadata().is_ok_and(|file| file.len() == wanted.len() as u64);
        is_as_long && file.read_exact_at(&mut found, 0).is_ok() && found == wanted
    }

    /// All bytes of a manifest, compared with their digest. Bytes of another digest are thrown away. Blocks; counts as
    /// a use.
    pub(crate) fn manifest_blocking(&self, digest: &Digest) -> Option<(Arc<Blob>, Bytes)> {
        let blob = self.get_blocking(digest).ok()??;
        if blob.size_bytes > MANIFEST_MAX_BYTES as u64 {
            return None;
        }
        let bytes = blob.read_blocking(0, blob.size_bytes as usize).ok()?;
        if bytes.len() as u64 != blob.size_bytes || Digest::of(digest.algorithm(), &bytes) != *digest {
            if let Ok(judged) = blob.file.metadata() {
                self.throw_away(digest, FileId::of(&judged));
            }
            return None;
        }
        Some((blob, bytes))
    }

    /// The turn at the file of a digest.
    pub(crate) fn turn_at(&self, digest: &Digest) -> &tokio::sync::Mutex<()> {
        &self.turns[usize::from(digest.bytes()[0]) % TURNS]
    }

    /// Removes a file that was just published and is not durable, unless another one replaced it. After a crash it might
    /// be there or not; now it is gone for certain.
    pub(crate) fn unpublish(&self, digest: &Digest, published: FileId) {
        let _turn = self.turn_at(digest).blocking_lock();
        let found = std::fs::symlink_metadata(self.paths.blob(digest));
        if found.is_ok_and(|file| FileId::of(&file) == published) && self.unlink(digest).is_ok() {
            self.drop_rows(vec![*digest]);
        }
    }

    /// Keeps newly published content open.
    pub(crate) fn published(&self, blob: Arc<Blob>) {
        self.doubts.settle(&blob.digest);
        self.open.insert(blob, None);
    }

    /// Whether a client asked for content so lately.
    pub(crate) fn was_used_within(&self, time: Duration) -> bool {
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        used > Duration::ZERO && self.began.elapsed().saturating_sub(used) < time
    }

    /// How often content was found bad and taken away.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Tells the index of a use, some time soon.
    pub(crate) fn touch(&self, digest: &Digest) {
        let (digest, at_ms) = (*digest, ms_of(SystemTime::now()));
        self.index.change_later(Job::new(move |tables| tables.touched(&digest, at_ms)).lazy());
    }

    /// Removes all cached content, and the names that led to it. Goes by the files, so it also works without an index.
    pub(crate) fn clear_blocking(&self) -> Result<Cleared, StoreError> {
        let mut cleared = Cleared::default();
        for algorithm in ALGORITHMS {
            for first_byte in 0..=u8::MAX {
                let (mut digests, mut pinned) = (Vec::new(), Vec::new());
                for (digest, file) in disk::blobs_in(&self.paths, algorithm, first_byte) {
                    let Some(removed) = self.pins.unless_pinned(&digest, || self.unlink(&digest))? else {
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
                    // The cache has no use for it any more, but our registry has.
                    let forget =
                        Job::new(move |tables| pinned.iter().try_for_each(|digest| tables.forget_cached(digest)));
                    self.index.change(forget);
                }
            }
        }
        self.index.change(Job::new(|tables| tables.forget_names()));
        Ok(cleared)
    }

    /// Removes the file of a blob that has no reader and was not pushed; false if it has a reader or was pushed. A file
    /// that is already gone counts as removed.
    pub(crate) fn unlink_idle(&self, digest: &Digest) -> Result<bool, StoreError> {
        let unlink = || Ok(self.open.forget_idle(digest) && self.unlink(digest).map(|_| true)?);
        let unlinked = self.pins.unless_pinned(digest, unlink)?;
        if unlinked.is_none() {
            // The index did not hear of the pin; otherwise this blob would be no candidate.
            self.pins.changed(digest);
        }
        Ok(unlinked.unwrap_or(false))
    }

    /// Removes the file and closes it; false if there was none. The caller drops the row.
    pub(crate) fn unlink(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.open.forget(digest);
        let unlinked = disk::unlink(&self.paths.blob(digest)).inspect_err(|_| count(&self.counters.write_errors));
        self.open.forget(digest);
        self.memory.forget_content(digest);
        unlinked
    }

    /// Drops the rows of removed blobs; false if it is not certain that the index followed.
    pub(crate) fn drop_rows(&self, digests: Vec<Digest>) -> bool {
        digests.is_empty()
            || self.index.change(Job::new(move |tables| digests.iter().try_for_each(|digest| tables.removed(digest))))
    }
}
