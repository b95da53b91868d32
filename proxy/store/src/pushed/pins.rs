//! Pins: what some repository has, or is about to have, is never evicted.
//!
//! A pin is a file beside the content, not a row: eviction must not trust an index that may be behind or lost. Pinning
//! and the removal of unpinned content exclude each other, so whoever pinned content and then finds it there keeps it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;

use super::super::errors::StoreError;
use super::super::index::{Job, ms_of};
use super::super::{Store, disk, lock};
use super::files;

/// What a collection must leave alone although it finds no link to it.
#[derive(Default)]
pub(super) struct Pins {
    /// Pinned while it looks at who needs what; none while no collection runs.
    pub(super) since_sweep: Option<HashSet<Digest>>,
    /// Of uploads that are about to link it.
    held: HashMap<Digest, usize>,
}

/// Keeps content, from before it is published until its link is made.
pub struct Hold {
    store: Arc<Store>,
    digest: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut pins = lock(&self.store.pushed.pins);
        if let Some(count) = pins.held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.held.remove(&self.digest);
            }
        }
    }
}

impl Store {
    /// Whether content was pushed here.
    pub fn is_pinned(&self, digest: &Digest) -> bool {
        // Where the disk cannot tell, it stays.
        self.paths.pin(digest).try_exists().unwrap_or(true)
    }

    /// Pins content that is about to be published and linked, and keeps it from collections until the hold is dropped.
    pub fn hold(self: &Arc<Self>, digest: &Digest) -> Result<Hold, StoreError> {
        *lock(&self.pushed.pins).held.entry(*digest).or_insert(0) += 1;
        let hold = Hold { store: self.clone(), digest: *digest };
        self.pin(digest)?;
        Ok(hold)
    }

    /// Keeps content from eviction from now on; false where it is not here.
    pub(crate) fn pin(&self, digest: &Digest) -> Result<bool, StoreError> {
        let (path, folder) = (self.paths.pin(digest), self.paths.pins(digest.algorithm(), digest.bytes()[0]));
        let is_new = {
            let mut pins = lock(&self.pushed.pins);
            if let Some(pinned) = &mut pins.since_sweep {
                pinned.insert(*digest);
            }
            let is_new = !path.exists();
            if is_new {
                files::make(&folder, &path)?;
            }
            is_new
        };
        // Not under the lock, and also for a pin that somebody else has just made.
        disk::sync_dir(&folder)?;
        if is_new {
            self.pinning_changed(digest);
        }
        Ok(self.paths.blob(digest).is_file())
    }

    /// Does something to content that is not pinned, and is not while that is done; none where it is.
    pub(crate) fn unless_pinned<T>(
        &self,
        digest: &Digest,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let _pins = lock(&self.pushed.pins);
        if self.is_pinned(digest) { Ok(None) } else { act().map(Some) }
    }

    /// Takes a pin away, unless the content was pinned again since the collection began, or is held; whether it did.
    pub(super) fn unpin(&self, digest: &Digest) -> Result<bool, StoreError> {
        let pins = lock(&self.pushed.pins);
        let is_new = pins.since_sweep.as_ref().is_none_or(|pinned| pinned.contains(digest));
        if is_new || pins.held.contains_key(digest) {
            return Ok(false);
        }
        // A pin that a power cut brings back is found by the next collection.
        let unpinned = disk::unlink(&self.paths.pin(digest))?;
        drop(pins);
        self.pinning_changed(digest);
        Ok(unpinned)
    }

    /// Has the index look again at where the row of a blob belongs.
    pub(crate) fn pinning_changed(&self, digest: &Digest) {
        let (digest, at_ms) = (*digest, ms_of(SystemTime::now()));
        self.index.change_later(Job::new(move |tables| tables.pinning_changed(&digest, at_ms)));
    }
}
