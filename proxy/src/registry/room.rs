//! Whether what comes in has room: the quotas of `access` compared with what the store holds.
//!
//! Invariant: where a quota covers a repository, one thing at a time is counted and added, so pushes at the same moment
//! do not pass it together.

use entrepot_core::digest::Digest;
use entrepot_core::name::RepositoryName;
use tokio::sync::MutexGuard;

use super::LocalRegistry;
use super::access::{Held, Refusal};
use crate::store::StoreError;

impl LocalRegistry {
    /// The turn to count and to add; none where nothing is counted.
    pub(super) async fn turn(&self, repository: &RepositoryName) -> Option<MutexGuard<'_, ()>> {
        match self.access().has_quota(repository) {
            true => Some(self.counting.lock().await),
            false => None,
        }
    }

    /// Why `size_bytes` more do not fit into a repository; none where they do. Content that it has already takes no room;
    /// what another repository has takes none of the total. Blocks.
    pub(super) fn overdrawn(
        &self,
        repository: &RepositoryName,
        digest: Option<&Digest>,
        size_bytes: u64,
    ) -> Result<Option<Refusal>, StoreError> {
        let access = self.access();
        if !access.has_quota(repository) || digest.is_some_and(|digest| self.store.has_pushed(repository, digest)) {
            return Ok(None);
        }
        if access.has_total_quota() {
            // The total is the index's, which notes what was added a moment later.
            self.store.flush();
        }
        let is_elsewhere = digest.is_some_and(|digest| self.store.is_pinned(digest));
        let after = Held {
            repository_bytes: self.store.pushed_usage(Some(repository))?.saturating_add(size_bytes),
            total_bytes: self.store.pushed_usage(None)?.saturating_add(if is_elsewhere { 0 } else { size_bytes }),
        };
        Ok(access.room(repository, after).err())
    }
}
