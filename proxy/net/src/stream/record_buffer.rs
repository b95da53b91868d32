//! Memory in which encrypted records wait for the client's socket. Each thread keeps a few buffers for the next write.
//! All buffers in use count against one budget, beyond which new buffers are small. So slow clients hold little memory,
//! and idle ones none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of a whole buffer: sixteen records of full size, and room to choose the offset in a page at which they
/// begin.
const WHOLE_BYTES: usize = 16 * SEALED_RECORD_BYTES + PAGE_BYTES;
/// The size of a buffer while many clients are slow.
const SMALL_BYTES: usize = 2 * SEALED_RECORD_BYTES + PAGE_BYTES;
/// A record of 16 KiB with the prefix and suffix of any suite.
const SEALED_RECORD_BYTES: usize = 16 * 1024 + 32;
pub(super) const PAGE_BYTES: usize = 4096;
/// The budget for all buffers in use. Beyond it new buffers are small.
const BUDGET_BYTES: usize = 32 << 20;
/// The most whole buffers that each thread keeps.
const SPARE_MAX: usize = 4;
/// A rest up to this size is moved out of a whole buffer.
const MOVED_MAX_BYTES: usize = 16 * 1024;

static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Encrypted bytes that wait for the socket.
#[derive(Default)]
pub(super) struct RecordBuffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl RecordBuffer {
    /// A buffer of the size that fits the budget now.
    pub(super) fn new() -> Self {
        let whole = IN_USE_BYTES.load(Ordering::Relaxed) + WHOLE_BYTES <= BUDGET_BYTES;
        let spare = if whole { SPARE.with_borrow_mut(Vec::pop) } else { None };
        let memory = spare.unwrap_or_else(|| vec![0; if whole { WHOLE_BYTES } else { SMALL_BYTES }]);
        IN_USE_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
        Self { memory, start: 0, end: 0 }
    }

    /// The memory from the first byte whose address is `at` modulo a page's size. The caller reports by
    /// [`RecordBuffer::sealed`] how much of it is to be sent.
    pub(super) fn beginning_at(&mut self, at: usize) -> &mut [u8] {
        let address = self.memory.as_ptr() as usize;
        self.start = (at + PAGE_BYTES - address % PAGE_BYTES) % PAGE_BYTES;
        self.end = self.start;
        &mut self.memory[self.start..]
    }

    /// Marks the first `length` bytes of that memory as bytes to send.
    pub(super) fn sealed(&mut self, length: usize) {
        self.end = self.start + length;
    }

    /// The bytes that are still to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Removes the bytes that were sent.
    pub(super) fn sent(&mut self, length: usize) {
        self.start += length;
        if self.start == self.end {
            *self = Self::default();
        } else if self.memory.len() == WHOLE_BYTES && self.end - self.start <= MOVED_MAX_BYTES {
            *self = Self::of(self.unsent().to_vec());
        }
    }

    fn of(memory: Vec<u8>) -> Self {
        IN_USE_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
        Self { start: 0, end: memory.len(), memory }
    }

    /// Appends a few bytes.
    pub(super) fn append(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let all = if self.unsent().is_empty() { bytes } else { [self.unsent(), &bytes].concat() };
            *self = Self::of(all);
        }
    }
}

impl Drop for RecordBuffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        IN_USE_BYTES.fetch_sub(memory.len(), Ordering::Relaxed);
        if memory.len() != WHOLE_BYTES {
            return;
        }
        // A thread that is ending keeps no buffer.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(memory);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_whatever_the_socket_takes() {
        let mut buffer = RecordBuffer::new();
        let memory = buffer.beginning_at(2053);
        assert_eq!(memory.as_ptr() as usize % PAGE_BYTES, 2053);
        assert!(memory.len() >= 16 * SEALED_RECORD_BYTES);
        memory[..40_000].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        buffer.sealed(40_000);
        buffer.append(vec![255; 3]);
        let mut expected: Vec<u8> = (0..40_000).map(|at| at as u8).collect();
        expected.extend([255; 3]);
        let mut sent = Vec::new();
        while !buffer.unsent().is_empty() {
            let taken = buffer.unsent().len().min(7_001);
            sent.extend_from_slice(&buffer.unsent()[..taken]);
            buffer.sent(taken);
        }
        assert!(sent == expected && buffer.memory.is_empty());
    }

    #[test]
    fn many_buffers_in_use_are_small() {
        let buffers: Vec<_> = (0..400).map(|_| RecordBuffer::new()).collect();
        assert!(
            buffers.iter().filter(|buffer| buffer.memory.len() == WHOLE_BYTES).count() <= BUDGET_BYTES / WHOLE_BYTES
        );
        assert!(buffers.iter().any(|buffer| buffer.memory.len() == SMALL_BYTES));
    }
}
