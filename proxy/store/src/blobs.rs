//! Published content: opening it, and keeping what is hot open.
//!
//! A hit costs one lock and one map look-up. Whether content exists is decided by its file; the index is told of uses
//! (at most once a minute for each blob that stays open) and is asked only when a file is opened, for its size: a file
//! that shrank or grew is never served (DESIGN invariant 1).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_kernel::mapping::MappedFile;
use xattr::FileExt as _;

use super::errors::StoreError;
use super::index::{Job, ms_of, recency};
use super::space::{Counters, count};
use super::{Store, disk, lock};

/// Where a file names the registry that gave it.
const REGISTRY_ATTRIBUTE: &str = "user.entrepot.registry";
/// Files kept open. More stay open while more are being read.
const OPEN_MAX: usize = 512;
/// Uses of an open blob reach the index once in this time.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Published, verified, immutable content.
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// The open file. It stays readable after the blob was evicted.
    pub file: Arc<File>,
    pub(super) counters: Arc<Counters>,
    /// Made when it is first asked for; none where the file cannot be mapped.
    pub(super) mapped: OnceLock<Option<Arc<MappedFile>>>,
}

impl Blob {
    pub(super) fn new(digest: Digest, size_bytes: u64, file: File, counters: Arc<Counters>) -> Arc<Self> {
        let (file, mapped) = (Arc::new(file), OnceLock::new());
        Arc::new(Self { digest, size_bytes, file, counters, mapped })
    }

    /// Reads up to `len` bytes from `offset` on; fewer only at the end of the blob. A file that is shorter than the
    /// blob is an error, as is the disk's; both are counted, and call for [`Store::quarantine`].
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        read_exact_at(&self.file, offset, len, self.size_bytes).inspect_err(|_| count(&self.counters.read_errors))
    }

    /// The registry that gave the bytes, written on the file itself: it outlives the index. None where the file system
    /// keeps no attributes.
    pub fn first_registry(&self) -> Option<RegistryHost> {
        let value = self.file.get_xattr(REGISTRY_ATTRIBUTE).ok()??;
        std::str::from_utf8(&value).ok()?.parse().ok()
    }

    /// Since when it is published: the file's time, of which the open file's inode tells without asking the disk.
    pub fn stored_at(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.modified().ok()
    }
}

/// Writes on the file which registry gave it. Without it the blob is fetched once more after the index was lost.
pub(super) fn mark_registry(file: &File, registry: &RegistryHost) {
    if let Err(error) = file.set_xattr(REGISTRY_ATTRIBUTE, registry.to_string().as_bytes()) {
        tracing::debug!("the file system keeps no attributes: {error}");
    }
}

/// Reads `len` bytes, or up to `end`.
pub(super) fn read_exact_at(file: &File, offset: u64, len: usize, end: u64) -> io::Result<Bytes> {
    let left = end.saturating_sub(offset);
    let len = usize::try_from(left).map_or(len, |left| left.min(len));
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(Bytes::from(buffer))
}

impl Store {
    /// A blob that is open already, without a wait; counts as a use.
    pub fn open_blob(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let (blob, touch) = self.open_blobs.get(digest)?;
        if touch {
            self.touch(digest);
        }
        Some(blob)
    }

    /// The published content of that name, if it is there; counts as a use.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        if let Some(blob) = self.open_blob(digest) {
            return Ok(Some(blob));
        }
        let opened = disk::open(&self.paths.blob(digest)).inspect_err(|_| count(&self.counters.read_errors))?;
        let Some(file) = opened else {
            return Ok(None);
        };
        let path = self.paths.blob(digest);
        let size_bytes = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?.len();
        let expected = self.index.read(|index| recency::size_of(index, digest)).flatten();
        if expected.is_some_and(|expected| expected != size_bytes) {
            tracing::warn!(%digest, size_bytes, ?expected, "a blob changed its size on disk; it is thrown away");
            self.quarantine(digest);
            return Ok(None);
        }
        let blob = Blob::new(*digest, size_bytes, file, self.counters.clone());
        self.open_blobs.insert(blob.clone(), Some(Instant::now()));
        // If it was evicted between the two, the open file must not keep its bytes on disk for long.
        if !path.exists() {
            self.open_blobs.forget(digest);
        }
        self.touch(digest);
        Ok(Some(blob))
    }

    /// Whether the content is there; not a use.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.open_blobs.contains(digest) || self.paths.blob(digest).is_file()
    }

    /// Whether the content is there in this length; not a use.
    pub fn has_content(&self, digest: &Digest, size_bytes: u64) -> bool {
        std::fs::metadata(self.paths.blob(digest)).is_ok_and(|file| file.is_file() && file.len() == size_bytes)
    }

    /// Tells the index of a use.
    pub(super) fn touch(&self, digest: &Digest) {
        let (digest, at_ms) = (*digest, ms_of(SystemTime::now()));
        self.index.change_later(Job::new(move |tables| tables.touched(&digest, at_ms)));
    }
}

/// The blobs that are open, the least recently used idle one leaving first.
#[derive(Default)]
pub(super) struct OpenBlobs {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_digest: HashMap<Digest, Slot>,
    clock: u64,
}

struct Slot {
    blob: Arc<Blob>,
    used: u64,
    touched: Option<Instant>,
}

impl Slot {
    /// Whether anybody but this cache holds the blob.
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.blob) > 1
    }
}

impl OpenBlobs {
    /// An open blob, and whether the index is to hear of this use.
    fn get(&self, digest: &Digest) -> Option<(Arc<Blob>, bool)> {
        let mut slots = lock(&self.slots);
        slots.clock += 1;
        let used = slots.clock;
        let slot = slots.by_digest.get_mut(digest)?;
        slot.used = used;
        let touch = slot.touched.is_none_or(|touched| touched.elapsed() >= TOUCH_INTERVAL);
        if touch {
            slot.touched = Some(Instant::now());
        }
        Some((slot.blob.clone(), touch))
    }

    fn contains(&self, digest: &Digest) -> bool {
        lock(&self.slots).by_digest.contains_key(digest)
    }

    /// Keeps a blob open; `touched` is when the index heard of its last use after its publication.
    pub(super) fn insert(&self, blob: Arc<Blob>, touched: Option<Instant>) {
        let mut slots = lock(&self.slots);
        slots.clock += 1;
        let used = slots.clock;
        slots.by_digest.insert(blob.digest, Slot { blob, used, touched });
        if slots.by_digest.len() > OPEN_MAX {
            let idle = slots.by_digest.iter().filter(|(_, slot)| !slot.is_read());
            if let Some(oldest) = idle.min_by_key(|(_, slot)| slot.used).map(|(digest, _)| *digest) {
                slots.by_digest.remove(&oldest);
            }
        }
    }

    /// Closes a blob, unless somebody reads it; false then.
    pub(super) fn forget_idle(&self, digest: &Digest) -> bool {
        let mut slots = lock(&self.slots);
        let is_read = slots.by_digest.get(digest).is_some_and(Slot::is_read);
        if !is_read {
            slots.by_digest.remove(digest);
        }
        !is_read
    }

    /// Closes a blob; who reads it keeps its file.
    pub(super) fn forget(&self, digest: &Digest) {
        lock(&self.slots).by_digest.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u8) -> Arc<Blob> {
        Blob::new(Digest::Sha256([number; 32]), 0, tempfile::tempfile().unwrap(), Arc::default())
    }

    #[test]
    fn a_use_is_told_once_a_minute() {
        let open = OpenBlobs::default();
        let first = blob(1);
        open.insert(first.clone(), None);
        let told: Vec<bool> = (0..3).map(|_| open.get(&first.digest).unwrap().1).collect();
        assert_eq!(told, [true, false, false]);
    }

    #[test]
    fn what_is_read_is_not_closed() {
        let open = OpenBlobs::default();
        let read = blob(1);
        open.insert(read.clone(), None);
        assert!(!open.forget_idle(&read.digest));
        let digest = read.digest;
        drop(read);
        assert!(open.forget_idle(&digest) && !open.contains(&digest));
        assert!(open.forget_idle(&digest), "unknown is idle");
    }

    #[test]
    fn the_oldest_idle_file_is_closed_first() {
        let open = OpenBlobs::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let make = |number: u32| {
            let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, &number.to_le_bytes());
            Arc::new(Blob {
                digest,
                size_bytes: 0,
                file: file.clone(),
                counters: Arc::default(),
                mapped: OnceLock::new(),
            })
        };
        let read = make(0);
        open.insert(read.clone(), None);
        (1..=OPEN_MAX as u32 + 1).for_each(|number| open.insert(make(number), None));
        assert!(open.contains(&read.digest), "in use");
        assert!(!open.contains(&make(1).digest) && !open.contains(&make(2).digest));
        assert!(open.contains(&make(3).digest));
    }

    #[test]
    fn reads_end_at_the_end_and_a_short_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let counters: Arc<Counters> = Arc::default();
        let blob = Blob::new(Digest::Sha256([0; 32]), 10, file, counters.clone());
        assert_eq!(blob.read_at(8, 100).unwrap(), "89");
        assert_eq!(blob.read_at(10, 100).unwrap(), "");
        assert_eq!(blob.read_at(u64::MAX, 1).unwrap(), "");
        blob.file.set_len(5).unwrap();
        assert_eq!(blob.read_at(0, 10).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(counters.read_errors.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
