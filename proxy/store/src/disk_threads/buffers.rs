//! The memory between upstream and disk: a bounded number of buffers for the whole process. A fetcher takes one,
//! gathers a piece into it and freezes it for the disk. The buffer is free again when the last share of the piece is
//! dropped. If none is free, the fetcher waits, and upstream waits with it: that is the back-pressure.
//!
//! No deadlock: a fetcher takes a buffer only when it has bytes to put into it. It hands the buffer on when the buffer
//! is full, or when none of its earlier pieces is with the disk any more. While it holds an unfinished buffer, it never
//! waits for a second one, nor for upstream alone. So every buffer that is out is with the disk, or waits for one that
//! is. The disk needs no buffer to finish with one. If the disk never finishes, a deadline ends the wait of every
//! caller, that of [`Buffers::take`] included. A fetcher has one unfinished buffer and at most four with the disk; a
//! fetch has at most four fetchers.
//!
//! Buffers come from the allocator and are kept while any is in use; at rest only a few are kept. They are not aligned,
//! because content goes through the page cache, which does not need that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::errors::StoreError;

/// One buffer's length: the most that goes to the disk in one call.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Buffers that are kept while none is in use.
const KEPT_MAX: usize = 8;

/// The buffers of one process.
pub struct Buffers {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    count: usize,
    free_permits: Arc<Semaphore>,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that is being filled.
pub struct Buffer {
    bytes: Vec<u8>,
    shared: Arc<Shared>,
    /// Given back after the memory.
    permit: Option<OwnedSemaphorePermit>,
}

impl Buffers {
    /// As many buffers as fit into `bytes`, and at least two: one with the disk and one that is being filled.
    pub(crate) fn new(bytes: usize, timeout: Duration) -> Self {
        let count = (bytes / PIECE_BYTES).clamp(2, Semaphore::MAX_PERMITS);
        let shared = Shared { count, free_permits: Arc::new(Semaphore::new(count)), free: Mutex::default() };
        Self { shared: Arc::new(shared), timeout }
    }

    /// An empty buffer, once one is free; an error if the disk keeps them all for too long.
    pub async fn take(&self) -> Result<Buffer, StoreError> {
        let stalled = StoreError::Stalled { seconds: self.timeout.as_secs_f32() };
        let permit = tokio::time::timeout(self.timeout, self.shared.free_permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(stalled) };
        let bytes = self.shared.free().pop().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        Ok(Buffer { bytes, shared: self.shared.clone(), permit: Some(permit) })
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.shared.count - self.shared.free_permits.available_permits()
    }
}

impl Shared {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Moves as many bytes as fit from the front of `bytes` into the buffer.
    pub fn fill_from(&mut self, bytes: &mut Bytes) {
        let fits = bytes.len().min(PIECE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&bytes.split_to(fits));
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() == PIECE_BYTES
    }

    /// The bytes, to be shared. The buffer is free again when the last share is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut free = self.shared.free();
        free.push(bytes);
        self.permit = None;
        if self.shared.free_permits.available_permits() == self.shared.count {
            free.truncate(KEPT_MAX);
        }
    }
}
