//! Pins: content that a repository of ours has, or is about to have, is never evicted.
//!
//! A pin is a file beside the content, not a row: eviction must not trust an index that may be behind or lost. Pinning
//! and the removal of unpinned content exclude each other, so content that is found after it was pinned stays.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use entrepot_core::digest::Digest;

use crate::errors::StoreError;
use crate::index::{Index, Job};
use crate::paths::Paths;
use crate::times::ms_of;
use crate::{disk, lock, small_files};

/// The pins of one store.
pub(crate) struct Pins {
    paths: Paths,
    index: Arc<Index>,
    state: Mutex<State>,
}

/// The content that a collection must leave alone although it finds no link to it.
#[derive(Default)]
struct State {
    /// Content pinned during a collection. None if no collection runs.
    since_collection: Option<HashSet<Digest>>,
    /// How many uploads are about to link the content.
    held: HashMap<Digest, usize>,
}

/// Keeps content from collections, from before it is published until its link is made.
pub struct Hold {
    pins: Arc<Pins>,
    digest: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.pins.state);
        if let Some(count) = state.held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.digest);
            }
        }
    }
}

/// Has every pin noted as long as a collection runs.
pub(crate) struct Watching<'p>(&'p Pins);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).since_collection = None;
    }
}

impl Pins {
    pub(crate) fn new(paths: Paths, index: Arc<Index>) -> Self {
        Self { paths, index, state: Mutex::default() }
    }

    /// Whether content was pushed here. Blocks.
    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        disk::has_pin(&self.paths, digest)
    }

    /// Pins content that is about to be published and linked, and keeps it from collections until the hold is dropped.
    /// Blocks.
    pub(crate) fn hold(self: &Arc<Self>, digest: &Digest) -> Result<Hold, StoreError> {
        *lock(&self.state).held.entry(*digest).or_insert(0) += 1;
        let hold = Hold { pins: self.clone(), digest: *digest };
        self.pin(digest)?;
        Ok(hold)
    }

    /// Keeps content from eviction from now on; false if the content is not here. Blocks.
    pub(crate) fn pin(&self, digest: &Digest) -> Result<bool, StoreError> {
        let (path, folder) = (self.paths.pin(digest), self.paths.pins(digest.algorithm(), digest.bytes()[0]));
        let is_new = {
            let mut state = lock(&self.state);
            if let Some(pinned) = &mut state.since_collection {
                pinned.insert(*digest);
            }
            let is_new = !path.exists();
            if is_new {
                small_files::make(&folder, &path)?;
            }
            is_new
        };
        // The lock is not held here. The sync is also needed for a pin that another thread has just made.
        disk::sync_dir(&folder)?;
        if is_new {
            self.changed(digest);
        }
        Ok(self.paths.blob(digest).is_file())
    }

    /// Runs `act` while the content is not pinned and cannot be. None if it is pinned: then `act` does not run. Blocks.
    pub(crate) fn unless_pinned<T>(
        &self,
        digest: &Digest,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let _no_new_pins = lock(&self.state);
        if self.is_pinned(digest) { Ok(None) } else { act().map(Some) }
    }

    /// Takes a pin away, unless the content was pinned again since the collection began, or is held. True if the pin
    /// was taken away. Blocks.
    pub(crate) fn unpin(&self, digest: &Digest) -> Result<bool, StoreError> {
        let state = lock(&self.state);
        let is_new = state.since_collection.as_ref().is_none_or(|pinned| pinned.contains(digest));
        if is_new || state.held.contains_key(digest) {
            return Ok(false);
        }
        // A pin that a power cut brings back is found by the next collection.
        let unpinned = disk::unlink(&self.paths.pin(digest))?;
        drop(state);
        self.changed(digest);
        Ok(unpinned)
    }

    /// Notes all new pins until the guard is dropped. One collection runs at a time.
    pub(crate) fn watch(&self) -> Watching<'_> {
        lock(&self.state).since_collection = Some(HashSet::new());
        Watching(self)
    }

    /// Has the index move the row of a blob to the segment where it now belongs.
    pub(crate) fn changed(&self, digest: &Digest) {
        let (digest, at_ms) = (*digest, ms_of(SystemTime::now()));
        self.index.change_later(Job::new(move |tables| tables.pinning_changed(&digest, at_ms)));
    }
}
