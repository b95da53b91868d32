//! Dropping what was not used or confirmed for long. Each round looks at a bounded number of rows and the next one goes
//! on where it ended (`index::sweep`), so a round costs the same whatever the size of the store; with a million blobs
//! and a round a minute, everything was looked at after about an hour, beside the days that things may lie unused.

use std::time::SystemTime;

use super::Store;
use super::index::{Job, ms_of, sweep};
use super::lock;

/// Rows of blobs that are dropped in one transaction.
const DROP_BATCH: usize = 1000;

impl Store {
    /// Drops content, tags, marks and links that were not used or confirmed for `Limits::inactive` before `now`, as far
    /// as this round looks, and comes back under limits that were lowered; the number of blobs dropped.
    pub fn expire_unused(&self, now: SystemTime) -> usize {
        let inactive = self.space.ledger().limits.inactive;
        let before = now.checked_sub(inactive).unwrap_or(SystemTime::UNIX_EPOCH);
        let before_ms = ms_of(before);
        self.paused.expire(&self.paths, before);
        let mut places = lock(&self.sweep_places);
        let suspects = self.index.read(|index| sweep::look(index, &mut places, before_ms));
        drop(places);
        let mut dropped = 0;
        if let Some(suspects) = suspects {
            for batch in suspects.blobs.chunks(DROP_BATCH) {
                let gone = batch.iter().filter(|digest| self.unlink_idle_blob(digest).unwrap_or(false));
                let gone: Vec<_> = gone.copied().collect();
                dropped += gone.len();
                if !self.drop_rows(gone) {
                    break;
                }
            }
            if !suspects.names.is_empty() {
                self.index.change(Job::new(move |tables| tables.drop_stale(&suspects.names, before_ms)));
            }
        }
        self.return_under_limits();
        dropped
    }
}
