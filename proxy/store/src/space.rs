//! How many bytes the store holds and may hold: the ledger of published and reserved bytes. It is checked against
//! `max_size` and the free-space floor before anything is written. This module only counts; `room` makes room.
//!
//! Pushed content is not the cache's: it counts against the free-space floor only, and the cache makes room for it.
//!
//! Invariant: a byte that is being written is in `reserved` until the index has counted it as `used`, so the limit
//! holds at every moment. A partial blob gives its reservation back, whichever way it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use entrepot_config::ready;

/// How much the store may hold, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of published content and running partial blobs together.
    pub max_size_bytes: u64,
    /// Bytes that stay free on the file system.
    pub min_free_bytes: u64,
    /// Content unused this long is dropped by [`Store::expire_unused`](crate::Store::expire_unused).
    pub inactive: Duration,
    /// Public proofs are kept at least so long, because they count so long (`rights.offline_for`).
    pub proofs: Duration,
}

impl From<&ready::LiveConfig> for Limits {
    fn from(live: &ready::LiveConfig) -> Self {
        let cache = &live.cache;
        Self {
            max_size_bytes: cache.max_size.0,
            min_free_bytes: cache.min_free.0,
            inactive: cache.inactive,
            proofs: live.proofs.offline_for,
        }
    }
}

/// The events since the start, for the metrics.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) evictions: AtomicU64,
    pub(super) write_errors: AtomicU64,
    pub(super) read_errors: AtomicU64,
    pub(super) quarantined: AtomicU64,
    pub(super) index_dropped: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The ledger of bytes.
pub(super) struct Space {
    ledger: Mutex<Ledger>,
}

#[derive(Clone, Copy)]
pub(super) struct Ledger {
    pub(super) limits: Limits,
    /// The published content, as the index counts it.
    pub(super) held: Held,
    /// Bytes promised to partial blobs.
    pub(super) reserved_bytes: u64,
    /// Bytes promised to uploads.
    pub(super) uploading_bytes: u64,
    /// The part of the promise for which the file system has not yet set blocks aside.
    unallocated_bytes: u64,
}

/// Published content.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    /// Bytes of the cache.
    pub(super) used_bytes: u64,
    /// Bytes of pushed content.
    pub(super) pinned_bytes: u64,
    /// The number of blobs, cached and pushed.
    pub(super) blobs: u64,
}

/// The purpose of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Content of the cache: it must fit both limits.
    Cache,
    /// Pushed content: it fits as long as the file system has room.
    Upload,
}

/// Why a reservation was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shortfall {
    /// It fits once this many published bytes are gone.
    Evict(u64),
    /// It would not fit even if nothing were published.
    Impossible,
}

impl Space {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let held = Held::default();
        let ledger = Ledger { limits, held, reserved_bytes: 0, uploading_bytes: 0, unallocated_bytes: 0 };
        Arc::new(Self { ledger: Mutex::new(ledger) })
    }

    pub(super) fn ledger(&self) -> Ledger {
        *lock(&self.ledger)
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        lock(&self.ledger).limits = limits;
    }

    /// Takes over the sums of the index's last transaction.
    pub(super) fn set_used(&self, held: Held) {
        lock(&self.ledger).held = held;
    }

    /// Promises `bytes`, if the limits allow it; `free_bytes` is what the file system has.
    pub(super) fn try_reserve(
        self: &Arc<Self>,
        bytes: u64,
        purpose: Purpose,
        free_bytes: u64,
    ) -> Result<Reservation, Shortfall> {
        let mut ledger = lock(&self.ledger);
        match ledger.shortfall(bytes, purpose, free_bytes) {
            None => {
                *ledger.promised(purpose) += bytes;
                ledger.unallocated_bytes += bytes;
                Ok(Reservation { space: self.clone(), purpose, bytes, unallocated_bytes: bytes })
            }
            Some(shortfall) => Err(shortfall),
        }
    }

    /// Counts bytes that are on disk already, whatever the limits say: the paused partial blobs and the uploads that
    /// are found at start.
    pub(super) fn adopt(self: &Arc<Self>, bytes: u64, purpose: Purpose) -> Reservation {
        *lock(&self.ledger).promised(purpose) += bytes;
        Reservation { space: self.clone(), purpose, bytes, unallocated_bytes: 0 }
    }
}

impl Ledger {
    /// The bytes that are missing before `bytes` more fit. None if they fit.
    pub(super) fn shortfall(&self, bytes: u64, purpose: Purpose, free_bytes: u64) -> Option<Shortfall> {
        let used_bytes = self.held.used_bytes;
        let wanted = used_bytes.saturating_add(self.reserved_bytes).saturating_add(bytes);
        let over_size = match purpose {
            Purpose::Cache => wanted.saturating_sub(self.limits.max_size_bytes),
            Purpose::Upload => 0,
        };
        let floor = self.limits.min_free_bytes.saturating_add(self.unallocated_bytes).saturating_add(bytes);
        match over_size.max(floor.saturating_sub(free_bytes)) {
            0 => None,
            missing if missing > used_bytes => Some(Shortfall::Impossible),
            missing => Some(Shortfall::Evict(missing)),
        }
    }

    fn promised(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Cache => &mut self.reserved_bytes,
            Purpose::Upload => &mut self.uploading_bytes,
        }
    }
}

/// Bytes promised to one partial blob; dropping it gives them back.
pub(super) struct Reservation {
    space: Arc<Space>,
    purpose: Purpose,
    bytes: u64,
    unallocated_bytes: u64,
}

impl Reservation {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that the file system has set the blocks aside: they are no longer in its free space.
    pub(super) fn set_allocated(&mut self) {
        lock(&self.space.ledger).unallocated_bytes -= self.unallocated_bytes;
        self.unallocated_bytes = 0;
    }

    /// Adds the bytes of another reservation, for a partial blob that grows.
    pub(super) fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.unallocated_bytes += std::mem::take(&mut other.unallocated_bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut ledger = lock(&self.space.ledger);
        *ledger.promised(self.purpose) -= self.bytes;
        ledger.unallocated_bytes -= self.unallocated_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(max_size_bytes: u64, min_free_bytes: u64) -> Arc<Space> {
        Space::new(Limits { max_size_bytes, min_free_bytes, inactive: Duration::ZERO, proofs: Duration::ZERO })
    }

    #[test]
    fn both_limits_hold() {
        let space = space(100, 10);
        space.set_used(Held { used_bytes: 60, pinned_bytes: 500, blobs: 3 });
        for (bytes, free, expected) in [
            (40, 1000, None),
            (41, 1000, Some(Shortfall::Evict(1))),
            (101, 1000, Some(Shortfall::Impossible)),
            (40, 50, None),
            (40, 49, Some(Shortfall::Evict(1))),
            (40, 0, Some(Shortfall::Evict(50))),
            (1, u64::MAX, None),
            (u64::MAX, u64::MAX, Some(Shortfall::Impossible)),
        ] {
            assert_eq!(space.ledger().shortfall(bytes, Purpose::Cache, free), expected, "{bytes} with {free} free");
        }
        for (bytes, free, expected) in
            [(5000, 6000, None), (5000, 5000, Some(Shortfall::Evict(10))), (5000, 4000, Some(Shortfall::Impossible))]
        {
            assert_eq!(space.ledger().shortfall(bytes, Purpose::Upload, free), expected, "{bytes} pushed, {free} free");
        }
    }

    #[test]
    fn running_fills_count_until_they_end() {
        let space = space(100, 10);
        let mut first = space.try_reserve(60, Purpose::Cache, 100).ok().unwrap();
        assert!(space.try_reserve(50, Purpose::Cache, 1000).is_err(), "over max_size together");
        assert!(
            space.try_reserve(35, Purpose::Cache, 100).is_err(),
            "the first is not yet in the file system's numbers"
        );
        first.set_allocated();
        let second = space.try_reserve(30, Purpose::Cache, 40).ok().unwrap();
        first.absorb(second);
        assert_eq!(space.ledger().reserved_bytes, 90);
        drop(first);
        assert_eq!(space.ledger().reserved_bytes, 0);
        assert_eq!(space.ledger().unallocated_bytes, 0);
    }
}
