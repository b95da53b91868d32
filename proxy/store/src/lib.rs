//! The store: every byte that was verified, once per digest, and what is known about it.
//!
//! ```text
//! mod       Store, its opening and its figures       paused    fills that wait, clean-up at start
//! paths     where things lie (the only builder)       eviction  making room      space    the ledger
//! disk      the calls that change content on disk     removal   rm, clear, verify
//! pushed/   what was pushed: links, tags, pins        uploads   partial files of pushes
//! adopt     content by clone or link of a file
//! extents   which bytes of a fill are there           expiry    dropping what was not used
//! blobs     hits: open files, reads, uses             index/    redb: recency, links, tags, verdicts
//! manifests manifests, from memory or their files     hot       small manifests, links and tags in memory
//! names     links, tags, marks, artefacts             rebuild   the index from the files
//! fill      one fill: write, read, publish, pause     seed      a great many rows, for benchmarks
//! window    a blob's bytes for a client               disk_threads/  who writes, by io_uring where there is one
//! ```
//!
//! What is not async here blocks, but for the look-ups named `*_now`, `open_blob` and windows; its callers are on
//! blocking threads. What is async waits for a disk thread. Files are the truth and the index follows: a hit needs only
//! the file, a lost index is rebuilt while serving, and no trouble with it fails a request.

mod adopt;
mod blobs;
mod disk;
mod disk_threads;
mod errors;
mod eviction;
mod expiry;
mod extents;
mod hot;
mod index;
mod manifests;
mod names;
mod partial_blob;
mod paths;
mod paused;
mod pushed;
mod rebuild;
mod removal;
pub mod seed;
mod space;
#[cfg(test)]
mod tests;
mod uploads;
mod window;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entrepot_observe::labels::DiskLadder;

pub use adopt::Adopted;
pub use blobs::Blob;
pub use disk_threads::DiskSettings;
pub use disk_threads::buffers::{Buffer, Buffers, PIECE_BYTES};
pub use errors::StoreError;
pub use extents::Extents;
pub use hot::StoredManifest;
pub use names::{ArtefactEntry, TagEntry, TagKey};
pub use partial_blob::PartialBlob;
pub use pushed::{Collected, Hold, PushedManifest, Step, Sweep, Tagged};
pub use removal::{BlobEntry, Cleared, Removal, Verified};
pub use space::Limits;
pub use uploads::{FoundUpload, UploadFile, UploadId};
pub use window::Window;

use blobs::OpenBlobs;
use disk_threads::DiskThreads;
use hot::Hot;
use index::Index;
use index::sweep::Places;
use paths::{ALGORITHMS, Paths};
use paused::Paused;
use pushed::Pushed;
use space::{Counters, Space};

/// The store of one data directory. Shared by `Arc`; dropping the last one commits the index and waits for that.
pub struct Store {
    paths: Paths,
    space: Arc<Space>,
    counters: Arc<Counters>,
    index: Index,
    hot: Arc<Hot>,
    open_blobs: OpenBlobs,
    paused: Paused,
    pushed: Pushed,
    evicting: Mutex<()>,
    sweep_places: Mutex<Places>,
    disk: DiskThreads,
    buffers: Buffers,
}

/// The store's figures; none of them is found by walking.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes of the cache's content.
    pub used_bytes: u64,
    /// Bytes of pushed content.
    pub pinned_bytes: u64,
    /// Bytes promised to running and paused fills.
    pub reserved_bytes: u64,
    /// Bytes promised to uploads.
    pub uploading_bytes: u64,
    /// Published blobs, manifests included.
    pub blobs: u64,
    /// Blobs that made room for others.
    pub evictions: u64,
    /// Fills and removals that failed for lack of room or because the disk refused.
    pub write_errors: u64,
    /// Reads that the disk refused.
    pub read_errors: u64,
    /// Blobs that were found bad and thrown away.
    pub quarantined: u64,
    /// Changes that the index could not take.
    pub index_dropped: u64,
    /// Whether the index is being compared with the files; the first three figures are not final then.
    pub rebuilding: bool,
}

impl Store {
    /// Opens the store of a directory, making it where it does not exist. Deletes partial fills that were not paused
    /// in good order. A damaged index is set aside, and a new one is filled from the files in the background.
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Arc<Self>, StoreError> {
        Self::open_with(data_dir, limits, DiskSettings::default())
    }

    /// The same with a say in how the disk is worked with. The disk threads start with the first fill, or by
    /// [`Store::start_disk_threads`].
    pub fn open_with(data_dir: &Path, limits: Limits, disk: DiskSettings) -> Result<Arc<Self>, StoreError> {
        let paths = Paths::new(data_dir);
        for folder in [paths.fills(), paths.uploads(), paths.pushed()] {
            if disk::make_dir(&folder)? {
                disk::sync_dir(paths.root())?;
            }
        }
        for algorithm in ALGORITHMS {
            disk::make_dir(&paths.algorithm(algorithm))?;
        }
        let (space, counters) = (Space::new(limits), Arc::<Counters>::default());
        let hot = Arc::<Hot>::default();
        let index = Index::open(paths.clone(), space.clone(), counters.clone(), hot.clone())?;
        // After the index, whose lock says that no other process fills here.
        let paused = Paused::load(&paths, &space);
        Ok(Arc::new(Self {
            paths,
            space,
            counters,
            index,
            hot,
            open_blobs: OpenBlobs::default(),
            paused,
            pushed: Pushed::default(),
            evicting: Mutex::new(()),
            sweep_places: Mutex::default(),
            disk: DiskThreads::new(disk),
            buffers: Buffers::new(disk.buffers_bytes, disk.timeout),
        }))
    }

    /// Starts the disk threads where they do not run yet, and says how they make their calls.
    pub fn start_disk_threads(&self) -> DiskLadder {
        self.disk.start()
    }

    /// The memory for bytes on their way to the disk.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// How long the disk may take before clients go on without it.
    pub fn disk_timeout(&self) -> Duration {
        self.disk.timeout()
    }

    /// Takes over limits after a reload. Lower ones are enforced with the next fill or [`Store::expire_unused`].
    pub fn set_limits(&self, limits: Limits) {
        self.space.set_limits(limits);
    }

    /// The figures.
    pub fn usage(&self) -> Usage {
        let ledger = self.space.ledger();
        let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            used_bytes: ledger.held.used_bytes,
            pinned_bytes: ledger.held.pinned_bytes,
            reserved_bytes: ledger.reserved_bytes,
            uploading_bytes: ledger.uploading_bytes,
            blobs: ledger.held.blobs,
            evictions: counted(&self.counters.evictions),
            write_errors: counted(&self.counters.write_errors),
            read_errors: counted(&self.counters.read_errors),
            quarantined: counted(&self.counters.quarantined),
            index_dropped: counted(&self.counters.index_dropped),
            rebuilding: self.index.is_rebuilding(),
        }
    }

    /// Waits until everything that was noted is on the medium; false when the disk does not get there in time.
    pub fn flush(&self) -> bool {
        self.index.flush()
    }

    /// Waits until the index knows every file, so that listings and figures are complete.
    pub fn wait_for_rebuild(&self) {
        self.index.wait_for_rebuild();
    }
}

/// Locks, whoever panicked while holding it: what the store's locks guard is consistent after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
