//! The blobs that are kept open, so that a hit costs one lock and one look-up. The least recently used blob without a
//! reader is closed first. How many stay open depends on the limit of open files, and when no descriptor is left, all
//! that nobody reads are closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrepot_core::digest::Digest;
use nix::sys::resource::{Resource, getrlimit};

use crate::blob::Blob;
use crate::errors::StoreError;
use crate::lock;

/// The most files kept open, whatever the limit of open files is. More stay open while more are being read.
const OPEN_MAX: usize = 512;
/// The part of the limit of open files that is kept open for later.
const LIMIT_PART: u64 = 8;
/// Uses of an open blob reach the index once in this time.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// The open blobs of one store.
pub(crate) struct OpenBlobs {
    slots: Mutex<Slots>,
    max: usize,
}

/// The files to keep open with this limit of open files.
fn open_max(limit: u64) -> usize {
    usize::try_from(limit / LIMIT_PART).unwrap_or(OPEN_MAX).clamp(1, OPEN_MAX)
}

impl Default for OpenBlobs {
    fn default() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self { slots: Mutex::default(), max: open_max(limit) }
    }
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
    /// Whether a reader holds the blob, besides this cache.
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.blob) > 1
    }
}

impl OpenBlobs {
    /// An open blob, and whether the index is to hear of this use.
    pub(crate) fn get(&self, digest: &Digest) -> Option<(Arc<Blob>, bool)> {
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

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        lock(&self.slots).by_digest.contains_key(digest)
    }

    /// Keeps a blob open. `touched` is when the index heard of the blob's last use after its publication.
    pub(crate) fn insert(&self, blob: Arc<Blob>, touched: Option<Instant>) {
        let mut slots = lock(&self.slots);
        slots.clock += 1;
        let used = slots.clock;
        slots.by_digest.insert(blob.digest, Slot { blob, used, touched });
        if slots.by_digest.len() > self.max {
            let idle = slots.by_digest.iter().filter(|(_, slot)| !slot.is_read());
            if let Some(oldest) = idle.min_by_key(|(_, slot)| slot.used).map(|(digest, _)| *digest) {
                slots.by_digest.remove(&oldest);
            }
        }
    }

    /// Runs a step that opens a file. If no file descriptor is left, closes all blobs that nobody reads and tries once
    /// more.
    pub(crate) fn with_files<T>(&self, open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match open() {
            Err(error) if error.is_out_of_files() && self.close_idle() > 0 => open(),
            opened => opened,
        }
    }

    /// Returns how many were closed.
    fn close_idle(&self) -> usize {
        let mut slots = lock(&self.slots);
        let before = slots.by_digest.len();
        slots.by_digest.retain(|_, slot| slot.is_read());
        before - slots.by_digest.len()
    }

    /// Closes a blob that has no reader; false if it has one.
    pub(crate) fn forget_idle(&self, digest: &Digest) -> bool {
        let mut slots = lock(&self.slots);
        let is_read = slots.by_digest.get(digest).is_some_and(Slot::is_read);
        if !is_read {
            slots.by_digest.remove(digest);
        }
        !is_read
    }

    /// Closes a blob. A reader keeps its file.
    pub(crate) fn forget(&self, digest: &Digest) {
        lock(&self.slots).by_digest.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u8) -> Arc<Blob> {
        Blob::new(Digest::Sha256([number; 32]), 0, Arc::new(tempfile::tempfile().unwrap()), Arc::default())
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
    fn few_files_are_kept_open_where_few_may_be() {
        for (limit, expected) in [(0, 1), (64, 8), (256, 32), (1024, 128), (4096, 512), (u64::MAX, 512)] {
            assert_eq!(open_max(limit), expected, "{limit}");
        }
    }

    #[test]
    fn idle_files_are_closed_when_no_descriptor_is_left() {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        const EIO: i32 = 5;
        for (code, is_read, opened) in
            [(EMFILE, false, true), (ENFILE, false, true), (EMFILE, true, false), (EIO, false, false)]
        {
            let open = OpenBlobs::default();
            let reader = blob(1);
            let digest = reader.digest;
            open.insert(reader.clone(), None);
            let _kept = is_read.then_some(reader);
            let done = open.with_files(|| match open.contains(&digest) {
                true => Err(StoreError::from_io("open", "x".as_ref(), std::io::Error::from_raw_os_error(code))),
                false => Ok(()),
            });
            assert_eq!(done.is_ok(), opened, "{code} {is_read}");
        }
    }

    #[test]
    fn the_oldest_idle_file_is_closed_first() {
        let open = OpenBlobs { slots: Mutex::default(), max: OPEN_MAX };
        let file = Arc::new(tempfile::tempfile().unwrap());
        let make = |number: u32| {
            let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, &number.to_le_bytes());
            Blob::new(digest, 0, file.clone(), Arc::default())
        };
        let read = make(0);
        open.insert(read.clone(), None);
        (1..=OPEN_MAX as u32 + 1).for_each(|number| open.insert(make(number), None));
        assert!(open.contains(&read.digest), "in use");
        assert!(!open.contains(&make(1).digest) && !open.contains(&make(2).digest));
        assert!(open.contains(&make(3).digest));
    }
}
