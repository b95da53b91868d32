//! Making room: reservations that evict first, and the choice of what goes.
//!
//! Victims come from the index in its order (see `index::recency`); blobs that are read or pinned are skipped. Work is
//! bounded: a request evicts what it misses, looks at a limited number of candidates, and gives up (`NoSpace`, the
//! caller passes the body through) rather than flush the cache for something that cannot fit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk_threads::calls::Calls;
use super::errors::StoreError;
use super::index::recency::{self, Place, Victim};
use super::space::{Purpose, Reservation, Shortfall};
use super::{Store, disk, lock};

/// Candidates read from the index at once.
const BATCH: usize = 64;
/// Such batches that one reservation looks at.
const BATCHES_MAX: usize = 256;
/// Attempts of one reservation: others may take the room that it made.
const ATTEMPTS: usize = 4;

impl Store {
    /// Promises `bytes`, evicting for them where necessary.
    pub(super) fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, StoreError> {
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

    /// Runs a step that takes disk space; if the file system has none although the ledger had, evicts `bytes` (at
    /// least something, for its inode) and tries once more.
    pub(super) async fn with_room<T>(
        self: &Arc<Self>,
        calls: Calls,
        bytes: u64,
        step: impl AsyncFn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = step().await;
        if done.as_ref().is_err_and(StoreError::is_no_space) {
            let store = self.clone();
            if calls.aside(move || store.evict(bytes.max(1))).await > 0 {
                done = step().await;
            }
        }
        done.map_err(|error| error.needing(bytes))
    }

    /// Evicts until limits that were lowered hold again.
    pub(super) fn return_under_limits(&self) {
        let Ok(free_bytes) = disk::free_bytes(self.paths.root()) else { return };
        // Where others filled the disk, emptying the cache would not help.
        if let Some(Shortfall::Evict(missing)) = self.space.ledger().shortfall(0, Purpose::Cache, free_bytes) {
            self.evict(missing);
        }
    }

    /// Evicts at least `bytes` if it can; how many it did. One thread evicts at a time, so that several fills that
    /// start together do not each take the same victims for their own.
    fn evict(&self, bytes: u64) -> u64 {
        let _one_at_a_time = lock(&self.evicting);
        let mut freed = 0;
        let mut after: Option<Place> = None;
        for _ in 0..BATCHES_MAX {
            let victims = self.index.read(|index| recency::victims(index, after, BATCH)).unwrap_or_default();
            let Some(last) = victims.last() else { break };
            after = Some(last.place);
            let gone = match self.unlink_victims(victims, bytes - freed) {
                Ok(gone) => gone,
                Err(error) => {
                    tracing::warn!(%error, "a blob could not be evicted");
                    break;
                }
            };
            freed += gone.iter().map(|victim| victim.size_bytes).sum::<u64>();
            self.counters.evictions.fetch_add(gone.len() as u64, Ordering::Relaxed);
            let followed = self.drop_rows(gone.into_iter().map(|victim| victim.digest).collect());
            if freed >= bytes || !followed {
                break;
            }
        }
        freed
    }

    /// Removes the files of those that nobody reads, until `bytes` are free. A disk that refuses even the first is an
    /// error; later refusals only end the batch.
    fn unlink_victims(&self, victims: Vec<Victim>, bytes: u64) -> Result<Vec<Victim>, StoreError> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        for victim in victims {
            match self.unlink_idle_blob(&victim.digest) {
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
