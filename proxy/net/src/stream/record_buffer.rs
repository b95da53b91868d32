//! Memory in which records are sealed and wait for the client's socket. A thread keeps a few pieces for the next write,
//! and all in use count against one budget, beyond which pieces are small: slow clients hold little, and idle ones none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A whole piece: sixteen records of full size, and room to choose where in a page they begin.
const WHOLE_BYTES: usize = 16 * RECORD_ROOM_BYTES + PAGE_BYTES;
/// Pieces while many clients are slow.
const SMALL_BYTES: usize = 2 * RECORD_ROOM_BYTES + PAGE_BYTES;
/// A record of 16 KiB with what any suite puts around it.
const RECORD_ROOM_BYTES: usize = 16 * 1024 + 32;
pub(super) const PAGE_BYTES: usize = 4096;
/// What whole pieces may take together.
const BUDGET_BYTES: usize = 32 << 20;
/// Whole pieces that each thread keeps.
const SPARE_MAX: usize = 4;
/// Less than this that is left to send is moved out of a whole piece.
const MOVED_MAX_BYTES: usize = 16 * 1024;

static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Sealed bytes on their way.
#[derive(Default)]
pub(super) struct Room {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Room {
    /// Room for as much as is good to seal at once now.
    pub(super) fn new() -> Self {
        let whole = IN_USE_BYTES.load(Ordering::Relaxed) + WHOLE_BYTES <= BUDGET_BYTES;
        let spare = if whole { SPARE.with_borrow_mut(Vec::pop) } else { None };
        let memory = spare.unwrap_or_else(|| vec![0; if whole { WHOLE_BYTES } else { SMALL_BYTES }]);
        IN_USE_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
        Self { memory, start: 0, end: 0 }
    }

    /// The memory from the first byte on whose address is `at` modulo a page's size. What is sealed there is said by
    /// [`Room::sealed`].
    pub(super) fn beginning_at(&mut self, at: usize) -> &mut [u8] {
        let address = self.memory.as_ptr() as usize;
        self.start = (at + PAGE_BYTES - address % PAGE_BYTES) % PAGE_BYTES;
        self.end = self.start;
        &mut self.memory[self.start..]
    }

    /// The first `length` bytes of that memory are to be sent.
    pub(super) fn sealed(&mut self, length: usize) {
        self.end = self.start + length;
    }

    /// What is to be sent still.
    pub(super) fn left(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// So much was sent.
    pub(super) fn sent(&mut self, length: usize) {
        self.start += length;
        if self.start == self.end {
            *self = Self::default();
        } else if self.memory.len() == WHOLE_BYTES && self.end - self.start <= MOVED_MAX_BYTES {
            *self = Self::of(self.left().to_vec());
        }
    }

    fn of(memory: Vec<u8>) -> Self {
        IN_USE_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
        Self { start: 0, end: memory.len(), memory }
    }

    /// Appends bytes, which are few.
    pub(super) fn append(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let all = if self.left().is_empty() { bytes } else { [self.left(), &bytes].concat() };
            *self = Self::of(all);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        IN_USE_BYTES.fetch_sub(memory.len(), Ordering::Relaxed);
        if memory.len() != WHOLE_BYTES {
            return;
        }
        // A thread that is ending keeps nothing.
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
        let mut room = Room::new();
        let memory = room.beginning_at(2053);
        assert_eq!(memory.as_ptr() as usize % PAGE_BYTES, 2053);
        assert!(memory.len() >= 16 * RECORD_ROOM_BYTES);
        memory[..40_000].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        room.sealed(40_000);
        room.append(vec![255; 3]);
        let mut expected: Vec<u8> = (0..40_000).map(|at| at as u8).collect();
        expected.extend([255; 3]);
        let mut sent = Vec::new();
        while !room.left().is_empty() {
            let taken = room.left().len().min(7_001);
            sent.extend_from_slice(&room.left()[..taken]);
            room.sent(taken);
        }
        assert!(sent == expected && room.memory.is_empty());
    }

    #[test]
    fn many_rooms_in_use_are_small() {
        let rooms: Vec<_> = (0..400).map(|_| Room::new()).collect();
        assert!(rooms.iter().filter(|room| room.memory.len() == WHOLE_BYTES).count() <= BUDGET_BYTES / WHOLE_BYTES);
        assert!(rooms.iter().any(|room| room.memory.len() == SMALL_BYTES));
    }
}
