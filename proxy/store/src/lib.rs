//! The store: every verified byte, once for each digest, and the facts about it.
//!
//! ```text
//! Store          opens everything; limits, figures, expiry                 beside each: its helpers
//!   blobs          published content by digest                             blob, open_blobs
//!   partial_blobs  content on its way in                                   paused, content, adopt, disk_threads/, extents
//!   names          links, tags and artefacts of other registries           memory, index/, entries, place
//!   repositories   pushed content                                          pins, small_files
//!   uploads        the partial files of pushes                             upload_id
//! room    making room                                        space    the ledger of bytes      troubles  of the disk
//! scrub   finds content that rotted
//! paths   where things lie (the only builder of paths)       disk     the calls that change content on disk
//! ```
//!
//! The handles are async. A look-up that memory can answer is ready at once; all other blocking work runs on the
//! blocking pool or on the disk threads. Methods that say so block, and are for the start and for threads of their own.
//! Files are the truth and the index follows: a hit needs only the file, a lost index is rebuilt while serving, and no
//! trouble with the index fails a request. Unverified bytes, links and proofs belong to an origin: a registry's scheme,
//! name and port. Verified bytes are stored once, whichever origin gave them.

mod adopt;
mod blob;
mod blobs;
mod blocking;
mod content;
mod disk;
mod disk_threads;
mod entries;
mod errors;
mod extents;
mod index;
mod memory;
mod names;
mod open_blobs;
mod partial_blobs;
mod paths;
mod paused;
mod pins;
mod place;
mod repositories;
mod room;
mod scrub;
mod small_files;
mod space;
#[cfg(test)]
mod tests;
mod times;
mod troubles;
mod upload_id;
mod uploads;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use entrepot_observe::labels::DiskLadder;

pub use adopt::Adopted;
pub use blob::{Blob, Window};
pub use blobs::{BlobEntry, Blobs, Cleared, Removal, Verified};
pub use content::{ContentKey, ContentName};
pub use disk::DiskSpace;
pub use disk_threads::DiskSettings;
pub use disk_threads::buffers::{Buffer, Buffers, PIECE_BYTES};
pub use entries::{ArtefactEntry, Link, TagEntry, TagKey};
pub use errors::StoreError;
pub use extents::Extents;
pub use memory::StoredManifest;
pub use names::Names;
pub use partial_blobs::{PartialBlob, PartialBlobs};
pub use paused::PausedPart;
pub use pins::Hold;
pub use place::Place;
pub use repositories::{
    Collected, Expected, LivePush, NotPut, PushedBy, PushedManifest, ReferrersAsked, ReferrersPage, Repositories,
    Repository, Step, Sweep, Tagged, Untagged,
};
pub use scrub::{Scrub, Scrubbed};
pub use space::Limits;
pub use times::{judging_now, steady_now};
pub use troubles::Trouble;
pub use upload_id::UploadId;
pub use uploads::{FoundUpload, UploadFile, Uploads};

use blocking::{blocking, try_blocking};
use index::{Index, Job};
use memory::Memory;
use paths::{ALGORITHMS, Paths};
use paused::Paused;
use pins::Pins;
use room::Room;
use space::{Counters, Space};
use times::ms_of;

/// The store of one data directory. Dropping the last handle commits the index and waits for that.
pub struct Store {
    pub blobs: Arc<Blobs>,
    /// Content on its way in.
    pub partial_blobs: Arc<PartialBlobs>,
    /// Names that lead to content of other registries.
    pub names: Names,
    /// Pushed content.
    pub repositories: Repositories,
    /// The partial files of pushes.
    pub uploads: Uploads,
    /// Finds content that rotted.
    pub scrub: Arc<Scrub>,
    paths: Paths,
    space: Arc<Space>,
    counters: Arc<Counters>,
    index: Arc<Index>,
    paused: Arc<Paused>,
    room: Arc<Room>,
}

/// The store's figures. No figure is found by walking the files.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes of the cache's content.
    pub used_bytes: u64,
    /// Bytes of pushed content.
    pub pinned_bytes: u64,
    /// Bytes promised to running and paused partial blobs.
    pub reserved_bytes: u64,
    /// Bytes promised to uploads.
    pub uploading_bytes: u64,
    /// Published blobs, manifests included.
    pub blobs: u64,
    /// Blobs that made room for others.
    pub evictions: u64,
    /// Writes and removals that failed for lack of room or because the disk refused.
    pub write_errors: u64,
    /// Reads that the disk refused.
    pub read_errors: u64,
    /// Blobs that were found bad and thrown away.
    pub quarantined: u64,
    /// Changes that the index could not take.
    pub index_dropped: u64,
    /// Whether the index is being compared with the files. `used_bytes`, `pinned_bytes` and `blobs` are not final then.
    pub rebuilding: bool,
}

impl Store {
    /// Opens the store of a directory, making it if it does not exist. Deletes partial blobs that were not paused in
    /// good order, or whose origin is not known. A damaged index is set aside, and a new one is filled from the files
    /// in the background. An index of the release before is brought to the present format first. Blocks.
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Arc<Self>, StoreError> {
        Self::open_with(data_dir, limits, DiskSettings::default())
    }

    /// [`Store::open`] with settings for the disk. The disk threads start with the first write, or by
    /// [`Store::start_disk_threads`].
    pub fn open_with(data_dir: &Path, limits: Limits, disk: DiskSettings) -> Result<Arc<Self>, StoreError> {
        times::start();
        let paths = Paths::new(data_dir);
        let blobs = ALGORITHMS.map(|algorithm| paths.algorithm(algorithm));
        for folder in [paths.fills(), paths.uploads(), paths.pushed()].iter().chain(&blobs) {
            match small_files::make_folder(folder) {
                // The first content that is stored makes the folder.
                Err(error) if troubles::is_passing(&error) => {}
                made => made?,
            }
        }
        let (space, counters) = (Space::new(limits), Arc::<Counters>::default());
        let memory = Arc::<Memory>::default();
        memory.begin_at(ms_of(SystemTime::now()));
        let index = Arc::new(Index::open(paths.clone(), space.clone(), counters.clone(), memory.clone())?);
        // This comes after the index, whose lock guarantees that no other process writes here.
        let paused = Arc::new(Paused::load(&paths, &space));
        let pins = Arc::new(Pins::new(paths.clone(), index.clone()));
        let blobs = Arc::new(Blobs::new(paths.clone(), counters.clone(), index.clone(), memory.clone(), pins.clone()));
        let room = Arc::new(Room::new(
            paths.clone(),
            space.clone(),
            counters.clone(),
            index.clone(),
            blobs.clone(),
            paused.clone(),
        ));
        let partial_blobs = Arc::new(PartialBlobs::new(
            paths.clone(),
            room.clone(),
            counters.clone(),
            index.clone(),
            blobs.clone(),
            paused.clone(),
            disk,
        ));
        Ok(Arc::new(Self {
            names: Names::new(index.clone(), memory, blobs.clone()),
            repositories: Repositories::new(paths.clone(), blobs.clone(), pins, index.clone(), partial_blobs.clone()),
            uploads: Uploads::new(partial_blobs.clone()),
            scrub: Arc::new(Scrub::new(paths.clone(), blobs.clone(), space.clone())),
            blobs,
            partial_blobs,
            paths,
            space,
            counters,
            index,
            paused,
            room,
        }))
    }

    /// Starts the disk threads if they do not run yet, and says how they make their calls.
    pub fn start_disk_threads(&self) -> DiskLadder {
        self.partial_blobs.disk.start()
    }

    /// What is wrong with the disk at the moment. Empty if nothing is.
    pub fn troubles(&self) -> Vec<Trouble> {
        let hangs = self.partial_blobs.disk.hangs().then_some(Trouble::DiskHangs);
        let refuses = self.partial_blobs.refusals.last().map(Trouble::DiskRefuses);
        let closed = self.index.refused().map(Trouble::IndexClosed);
        hangs.into_iter().chain(refuses).chain(closed).collect()
    }

    /// Takes over limits after a reload. Lower limits are enforced with the next write or [`Store::expire_unused`].
    pub fn set_limits(&self, limits: Limits) {
        self.space.set_limits(limits);
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        self.paths.root()
    }

    /// The room of the file system that holds the data directory. Blocks.
    pub fn disk_space(&self) -> Result<DiskSpace, StoreError> {
        DiskSpace::of(self.root())
    }

    pub fn usage(&self) -> Usage {
        let ledger = self.space.ledger();
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
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

    /// Removes all cached content, paused partial blobs, tags and artefacts. Pushed content stays.
    pub async fn clear(&self) -> Result<Cleared, StoreError> {
        let (paths, paused, blobs) = (self.paths.clone(), self.paused.clone(), self.blobs.clone());
        try_blocking(move || {
            paused.clear(&paths);
            blobs.clear_blocking()
        })
        .await
    }

    /// Drops content, tags, proofs and links that were not used or confirmed for `Limits::inactive` before `now`. One
    /// call looks at a bounded number of rows. It also evicts until limits that were lowered hold again. Returns the
    /// number of blobs dropped.
    pub async fn expire_unused(&self, now: SystemTime) -> usize {
        let room = self.room.clone();
        blocking(move || room.expire_unused(now)).await.unwrap_or(0)
    }

    /// [`Self::usage`] with every change so far that the index can take.
    pub async fn usage_now(&self) -> Usage {
        self.index.note(Job::new(|_| Ok(()))).await;
        self.usage()
    }

    /// Waits until every change so far is on the medium; false if the disk does not get there in time.
    pub async fn flush(&self) -> bool {
        let index = self.index.clone();
        blocking(move || index.flush()).await.unwrap_or(false)
    }

    /// [`Self::flush`] on this thread, for the end of the process.
    pub fn flush_blocking(&self) -> bool {
        self.index.flush_at_end()
    }

    /// Waits until the index knows every file, so that listings and figures are complete. Blocks.
    pub fn wait_for_rebuild(&self) {
        self.index.wait_for_rebuild();
    }
}

/// Locks a mutex, also after a panic of the thread that held it: the state behind the store's locks is consistent after
/// every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
