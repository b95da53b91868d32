//! The memory that lists of referrers may take, which their pushers choose: a few are made at a time, and those that
//! clients have not read yet share a budget, of which one client has half.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::client::{ClientKey, ClientShare, ClientShares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

/// Lists that are made at once. Each takes the memory of one answer and of one entry.
const MAKING_MAX: usize = 4;
/// Lists that are on their way to clients.
const UNREAD_MAX_BYTES: usize = 64 << 20;
const UNREAD_PER_CLIENT_MAX_BYTES: u64 = (UNREAD_MAX_BYTES / 2) as u64;

/// The budget of all lists.
pub(super) struct ListMemory {
    making: Arc<Semaphore>,
    unread: Arc<Semaphore>,
    clients: ClientShares,
}

/// A list that holds its part of the budget until its last byte has left.
struct Unread {
    text: Vec<u8>,
    _room: OwnedSemaphorePermit,
    _client: ClientShare,
}

impl Default for ListMemory {
    fn default() -> Self {
        Self {
            making: Arc::new(Semaphore::new(MAKING_MAX)),
            unread: Arc::new(Semaphore::new(UNREAD_MAX_BYTES)),
            clients: ClientShares::new(UNREAD_PER_CLIENT_MAX_BYTES),
        }
    }
}

impl ListMemory {
    /// Makes a list when it is its turn. A client that leaves meanwhile gives up no turn before the work has ended.
    pub(super) async fn make<T: Send + 'static>(&self, making: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let turn = self.making.clone().acquire_owned().await.ok()?;
        let work = async move {
            let made = making.await;
            drop(turn);
            made
        };
        tokio::spawn(work.in_current_span()).await.ok()
    }

    /// A list as a body. None if too many are on their way to this client, or to all.
    pub(super) fn body(&self, client: ClientKey, text: Vec<u8>) -> Option<Bytes> {
        let length = u32::try_from(text.len()).ok()?;
        let client = self.clients.take(client, length.into())?;
        let room = self.unread.clone().try_acquire_many_owned(length).ok()?;
        Some(Bytes::from_owner(Unread { text, _room: room, _client: client }))
    }
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST_BYTES: usize = 4 << 20;

    #[test]
    fn lists_on_their_way_are_bounded_for_each_client_and_for_all() {
        let memory = ListMemory::default();
        let client = |last: u8| ClientKey::of([192, 0, 2, last].into());
        let list = || vec![0; LIST_BYTES];
        let mut unread = Vec::new();
        for last in [1, 2] {
            unread.extend((0..8).map(|_| memory.body(client(last), list()).expect("half of the room for one client")));
            assert!(memory.body(client(last), list()).is_none(), "not more than half");
        }
        assert!(memory.body(client(3), list()).is_none(), "not more than all");
        let piece = unread.remove(0).slice(..10);
        assert!(memory.body(client(3), list()).is_none(), "a piece of a list holds it");
        drop(piece);
        assert!(memory.body(client(3), list()).is_some());
    }

    #[tokio::test]
    async fn a_client_that_leaves_does_not_let_more_lists_be_made_at_once() {
        let memory = Arc::new(ListMemory::default());
        let (done, wait) = tokio::sync::watch::channel(());
        for _ in 0..MAKING_MAX {
            let mut wait = wait.clone();
            let making = memory.make(async move { wait.changed().await.is_ok() });
            // Polled once, then given up.
            tokio::select! { biased; _ = making => panic!("it waits"), () = tokio::task::yield_now() => {} }
        }
        assert_eq!(memory.making.available_permits(), 0);
        let next = memory.make(async {});
        done.send(()).expect("they wait");
        assert_eq!(next.await, Some(()));
    }
}
