//! How many bytes each repository holds: counted once from its files, then with every change, so that a quota costs no
//! walk for each push.
//!
//! The caller of a change holds the repository's lock, and the first count takes it. A sum is made anew after content was
//! lost (bad bytes, see `blobs`), and never kept for a repository that links content which is not here.

use std::collections::HashMap;
use std::sync::Mutex;

use entrepot_core::name::RepositoryName;

use crate::lock;

/// More repositories are counted anew.
const SUMS_MAX: usize = 16_384;

/// The sums of one store.
#[derive(Default)]
pub(super) struct Sums(Mutex<Known>);

#[derive(Default)]
struct Known {
    bytes: HashMap<RepositoryName, u64>,
    /// The number of losses when the sums were made.
    losses: u64,
}

impl Sums {
    /// The sum of a repository. None if it must be counted.
    pub(super) fn get(&self, repository: &RepositoryName, losses: u64) -> Option<u64> {
        let known = lock(&self.0);
        known.bytes.get(repository).copied().filter(|_| known.losses == losses)
    }

    /// Keeps a sum that was counted after so many losses.
    pub(super) fn set(&self, repository: &RepositoryName, bytes: u64, losses: u64) {
        let mut known = lock(&self.0);
        if known.losses != losses || known.bytes.len() >= SUMS_MAX {
            known.bytes.clear();
            known.losses = losses;
        }
        known.bytes.insert(repository.clone(), bytes);
    }

    /// The repository has content more.
    pub(super) fn add(&self, repository: &RepositoryName, bytes: u64) {
        if let Some(sum) = lock(&self.0).bytes.get_mut(repository) {
            *sum = sum.saturating_add(bytes);
        }
    }

    /// The repository has content less.
    pub(super) fn subtract(&self, repository: &RepositoryName, bytes: u64) {
        if let Some(sum) = lock(&self.0).bytes.get_mut(repository) {
            *sum = sum.saturating_sub(bytes);
        }
    }

    /// The repository must be counted anew.
    pub(super) fn forget(&self, repository: &RepositoryName) {
        lock(&self.0).bytes.remove(repository);
    }
}
