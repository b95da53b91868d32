//! Makes room: reservations that evict first, the choice of victims, and dropping content that was not used for long.
//!
//! Victims come from the index in its order (`index::recency`); blobs that are read or pinned are skipped. Work is
//! bounded: a request evicts what it needs, looks at a limited number of candidates, and then gives up. It fails with
//! `NoSpace`, and the caller passes the body through, rather than flush the cache for content that cannot fit. A round
//! of expiry looks at a bounded number of rows, and the next round goes on where it ended (`index::sweep`). So a round
//! costs the same whatever the size of the store. With a million blobs and a round a minute, every row was looked at
//! after about an hour.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::blobs::Blobs;
use crate::disk_threads::calls::Calls;
use crate::errors::StoreError;
use crate::index::recency::{self, Position, Victim};
use crate::index::sweep::{self, Before, Cursors};
use crate::index::{Index, Job};
use crate::paths::Paths;
use crate::paused::Paused;
use crate::space::{Counters, Limits, Purpose, Reservation, Shortfall, Space};
use crate::times::ms_of;
use crate::{disk, lock};

/// Candidates read from the index at once.
const BATCH: usize = 64;
/// The most batches that one reservation looks at.
const BATCHES_MAX: usize = 256;
/// Attempts of one reservation. Other reservations may take the room that it made.
const ATTEMPTS: usize = 4;
/// Rows of blobs that are dropped in one transaction.
const DROP_BATCH: usize = 1000;

/// The room of one store.
pub(crate) struct Room {
    paths: Paths,
    space: Arc<Space>,
    counters: Arc<Counters>,
    index: Arc<Index>,
    blobs: Arc<Blobs>,
    paused: Arc<Paused>,
    evicting: Mutex<()>,
    sweep_cursors: Mutex<Cursors>,
}

impl Room {
    pub(crate) fn new(
        paths: Paths,
        space: Arc<Space>,
        counters: Arc<Counters>,
        index: Arc<Index>,
        blobs: Arc<Blobs>,
        paused: Arc<Paused>,
    ) -> Self {
        let (evicting, sweep_cursors) = (Mutex::default(), Mutex::default());
        Self { paths, space, counters, index, blobs, paused, evicting, sweep_cursors }
    }

    /// Promises `bytes`, and evicts for them if necessary. Blocks.
    pub(crate) fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, StoreError> {
        self.check_size(bytes, purpose)?;
        for _ in 0..ATTEMPTS {
            let free_bytes = disk::free_bytes(self.paths.root())?;
            let made_room = match self.space.try_reserve(bytes, purpose, free_bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(Shortfall::Evict(missing)) => {
                    self.evict(missing) >= missing || self.paused.drop_oldest(&self.paths)
                }
                Err(Shortfall::Impossible) => self.paused.drop_oldest(&self.paths),
            };
            if !made_room {
                break;
            }
        }
        Err(StoreError::NoSpace { needed_bytes: bytes })
    }

    /// Refuses content of this size if the whole cache may not be so large. Nothing that could be dropped would help.
    pub(crate) fn check_size(&self, bytes: u64, purpose: Purpose) -> Result<(), StoreError> {
        let max_size_bytes = self.space.ledger().limits.max_size_bytes;
        match purpose {
            Purpose::Cache if bytes > max_size_bytes => {
                Err(StoreError::LargerThanCache { needed_bytes: bytes, max_size_bytes })
            }
            Purpose::Cache | Purpose::Upload => Ok(()),
        }
    }

    /// Counts bytes that are on disk already, whatever the limits say.
    pub(crate) fn adopt(&self, bytes: u64, purpose: Purpose) -> Reservation {
        self.space.adopt(bytes, purpose)
    }

    /// Runs a step that takes disk space. If the file system has none although the ledger had, it evicts `bytes` (at
    /// least one blob, for its inode) and tries once more.
    pub(crate) async fn with_room<T>(
        self: &Arc<Self>,
        calls: Calls,
        bytes: u64,
        step: impl AsyncFn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = step().await;
        if done.as_ref().is_err_and(StoreError::is_no_space) {
            let room = self.clone();
            if calls.aside(move || room.evict(bytes.max(1))).await > 0 {
                done = step().await;
            }
        }
        done.map_err(|error| error.needing(bytes))
    }

    /// Drops content, tags, proofs and links that were not used or confirmed for `Limits::inactive` before `now`, as
    /// far as this round looks. Also evicts until limits that were lowered hold again. Returns the number of blobs
    /// dropped. Blocks.
    pub(crate) fn expire_unused(&self, now: SystemTime) -> usize {
        let Limits { inactive, proofs, .. } = self.space.ledger().limits;
        let since = |age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let before = since(inactive);
        let ends = Before { names_ms: ms_of(before), proofs_ms: ms_of(since(inactive.max(proofs))) };
        self.paused.expire(&self.paths, before);
        let mut cursors = lock(&self.sweep_cursors);
        let suspects = self.index.read(|index| sweep::look(index, &mut cursors, ends));
        drop(cursors);
        let mut dropped = 0;
        if let Some(suspects) = suspects {
            for batch in suspects.blobs.chunks(DROP_BATCH) {
                let gone = batch.iter().filter(|digest| self.blobs.unlink_idle(digest).unwrap_or(false));
                let gone: Vec<_> = gone.copied().collect();
                dropped += gone.len();
                if !self.blobs.drop_rows(gone) {
                    break;
                }
            }
            if !suspects.names.is_empty() {
                self.index.change(Job::new(move |tables| tables.drop_stale(&suspects.names, ends)));
            }
        }
        self.return_under_limits();
        dropped
    }

    /// Evicts until limits that were lowered hold again.
    fn return_under_limits(&self) {
        let Ok(free_bytes) = disk::free_bytes(self.paths.root()) else { return };
        // If other programs filled the disk, emptying the cache would not help.
        if let Some(Shortfall::Evict(missing)) = self.space.ledger().shortfall(0, Purpose::Cache, free_bytes) {
            self.evict(missing);
        }
    }

    /// Evicts at least `bytes` if it can, and returns how many bytes it evicted. One thread evicts at a time: otherwise
    /// several fetches that start together would each count the same victims as their own.
    fn evict(&self, bytes: u64) -> u64 {
        let _one_at_a_time = lock(&self.evicting);
        let mut freed = 0;
        let mut after: Option<Position> = None;
        for _ in 0..BATCHES_MAX {
            let victims = self.index.read(|index| recency::victims(index, after, BATCH)).unwrap_or_default();
            let Some(last) = victims.last() else { break };
            after = Some(last.position);
            let gone = match self.unlink_victims(victims, bytes - freed) {
                Ok(gone) => gone,
                Err(error) => {
                    tracing::warn!(%error, "a blob could not be evicted");
                    break;
                }
            };
            freed += gone.iter().map(|victim| victim.size_bytes).sum::<u64>();
            self.counters.evictions.fetch_add(gone.len() as u64, Ordering::Relaxed);
            let followed = self.blobs.drop_rows(gone.into_iter().map(|victim| victim.digest).collect());
            if freed >= bytes || !followed {
                break;
            }
        }
        freed
    }

    /// Removes the files of victims that have no reader, until `bytes` are free. A disk that refuses even the first is
    /// an error; later refusals only end the batch.
    fn unlink_victims(&self, victims: Vec<Victim>, bytes: u64) -> Result<Vec<Victim>, StoreError> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        for victim in victims {
            match self.blobs.unlink_idle(&victim.digest) {
                Ok(true) => {
                    freed += victim.size_bytes;
                    gone.push(victim);
                }
                Ok(false) => {}
                Err(error) if gone.is_empty() => return Err(error),
                Err(_) => break,
            }
            if freed >= bytes {
                break;
            }
        }
        Ok(gone)
    }
}
