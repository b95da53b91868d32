//! The index (redb): which blobs there are, in which order they are evicted, and which names lead to them.
//!
//! ```text
//! callers ── read ───────────────────────────────► database (snapshot, from the calling thread)
//!    └────── change ► queue (bounded) ► writer thread ──┘ one transaction per batch
//! ```
//!
//! Read your writes: a change waits until the writer has committed it, so every thread that reads afterwards sees it.
//! That wait is one in-memory commit: about 0.1 ms, or an fsync if it meets a durable commit. The wait
//! is bounded. If the disk stalls, one caller goes on after `PATIENCE` and all others at once. The changes follow
//! later. Until then a reader may not see them, which costs a question to upstream. An overlay of pending rows would
//! save the wait, but every range query would have to merge it.
//!
//! The file has a format number. An index of the format before is brought to the present one at the first start
//! (`upgrade`); one of a later format is refused by name.
//!
//! Invariant: the index never fails a request. A row that cannot be read is `None`; a change that cannot be written is
//! dropped and counted. The file of a blob decides whether the blob exists, not the index.

mod file;
pub(super) mod names;
mod opening;
mod queue;
mod rebuild;
pub(super) mod recency;
pub(super) mod sweep;
pub(super) mod tables;
mod upgrade;
mod writer;

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, Error, ReadTransaction, ReadableDatabase};

use crate::blocking::blocking;
use crate::errors::StoreError;
use crate::lock;
use crate::memory::Memory;
use crate::paths::Paths;
use crate::space::{Counters, Space, count};
use file::{ailment_of, guarded};
pub(super) use queue::Job;
use queue::Queue;
use writer::Writer;

/// How long a caller waits for its change to become visible.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long `flush` waits for the medium.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// The open index and its thread.
pub(super) struct Index {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The state that the writer, the rebuild and the callers share.
pub(super) struct Shared {
    pub(super) paths: Paths,
    space: Arc<Space>,
    counters: Arc<Counters>,
    memory: Arc<Memory>,
    queue: Queue,
    /// None while the index cannot be opened. Only the writer takes the write lock, to replace the database.
    database: RwLock<Option<Database>>,
    /// Why the index could not be opened. None while it is open.
    refused: Mutex<Option<String>>,
    rebuild: Mutex<Rebuild>,
    rebuild_ended: Condvar,
}

#[derive(Default)]
struct Rebuild {
    running: bool,
    /// Whether the index knows every file.
    complete: bool,
}

impl Index {
    /// Opens the index, or a new one, and starts its thread. The only errors are a second process on the same store and
    /// an index of a later format.
    pub(super) fn open(
        paths: Paths,
        space: Arc<Space>,
        counters: Arc<Counters>,
        memory: Arc<Memory>,
    ) -> Result<Self, StoreError> {
        let tried = opening::open(&paths)?;
        let shared = Arc::new(Shared {
            paths,
            space,
            counters,
            memory,
            queue: Queue::default(),
            database: RwLock::new(None),
            refused: Mutex::default(),
            rebuild: Mutex::default(),
            rebuild_ended: Condvar::new(),
        });
        let writer = Writer::new(shared.clone(), tried);
        let thread = std::thread::Builder::new().name("store-index".to_owned()).spawn(move || writer.run());
        let thread =
            thread.map_err(|error| StoreError::from_io("start the thread of", &shared.paths.index(), error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reads a snapshot. None if the index cannot answer.
    pub(super) fn read<T>(&self, query: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Option<T> {
        self.shared.read(query)
    }

    /// [`Self::read`] on the blocking pool.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&ReadTransaction) -> Result<T, Error> + Send + 'static,
    ) -> Option<T> {
        let index = self.clone();
        blocking(move || index.read(query)).await.flatten()
    }

    /// [`Self::change`] on the blocking pool.
    pub(crate) async fn note(self: &Arc<Self>, job: Job) -> bool {
        let index = self.clone();
        blocking(move || index.change(job)).await.unwrap_or(false)
    }

    /// Makes a change and waits until readers see it; false if that is not certain.
    pub(super) fn change(&self, job: Job) -> bool {
        self.shared.change(job)
    }

    /// Makes a change some time soon.
    pub(super) fn change_later(&self, job: Job) {
        if self.shared.queue.push(job, Duration::ZERO).is_none() {
            count(&self.shared.counters.index_dropped);
        }
    }

    /// Waits until every change so far is on the medium, for at most [`FLUSH_PATIENCE`].
    pub(super) fn flush(&self) -> bool {
        self.shared.queue.wait_durable(FLUSH_PATIENCE)
    }

    /// [`Self::flush`] for the end of the process. Once everything is on the medium, the index of the format before is
    /// no longer kept.
    pub(super) fn flush_at_end(&self) -> bool {
        let is_durable = self.flush();
        if is_durable && self.shared.with_database(|_| Ok(())).is_some() {
            upgrade::forget_earlier(&self.shared.paths);
        }
        is_durable
    }

    /// Why the index could not be opened. None while it is open.
    pub(super) fn refused(&self) -> Option<String> {
        lock(&self.shared.refused).clone()
    }

    /// Whether the index is being compared with the files.
    pub(super) fn is_rebuilding(&self) -> bool {
        lock(&self.shared.rebuild).running
    }

    /// Waits until the comparison is over.
    pub(super) fn wait_for_rebuild(&self) {
        let rebuild = lock(&self.shared.rebuild);
        let ended = self.shared.rebuild_ended.wait_while(rebuild, |rebuild| rebuild.running);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(super) fn set_refused(&self, why: Option<String>) {
        *lock(&self.refused) = why;
    }

    pub(super) fn read<T>(&self, query: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Option<T> {
        match self.with_database(|database| query(&database.begin_read()?))? {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::warn!(%error, "the cache's index could not be read");
                self.queue.report(ailment_of(&error));
                None
            }
        }
    }

    pub(super) fn change(&self, job: Job) -> bool {
        match self.queue.push(job, PATIENCE) {
            Some(number) => self.queue.wait_visible(number, PATIENCE),
            None => {
                count(&self.counters.index_dropped);
                false
            }
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.queue.is_closing()
    }

    fn with_database<T>(&self, run: impl FnOnce(&Database) -> Result<T, Error>) -> Option<Result<T, Error>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map(|database| guarded(|| run(database)))
    }

    fn is_reconciled(&self) -> bool {
        lock(&self.rebuild).complete
    }

    fn start_rebuilding(&self) {
        *lock(&self.rebuild) = Rebuild { running: true, complete: false };
    }

    fn end_rebuilding(&self, complete: bool) {
        *lock(&self.rebuild) = Rebuild { running: false, complete };
        self.rebuild_ended.notify_all();
    }
}

fn write_lock(database: &RwLock<Option<Database>>) -> RwLockWriteGuard<'_, Option<Database>> {
    database.write().unwrap_or_else(PoisonError::into_inner)
}
