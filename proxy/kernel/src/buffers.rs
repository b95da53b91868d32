//! Buffers for cold reads. Each thread keeps a few for the next read. All buffers in use count against one budget,
//! beyond which reads become small ([`window_bytes`]): a slow client keeps the buffer that it was given, but never
//! stops others.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A window while memory is plentiful.
pub const WINDOW_BYTES: usize = 512 * 1024;
/// A window while many clients hold buffers.
pub const SMALL_WINDOW_BYTES: usize = 64 * 1024;
/// All buffers in use. Beyond it windows are small.
const BUDGET_BYTES: usize = 48 << 20;
/// Buffers that each thread keeps for later.
const SPARE_MAX: usize = 8;

static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The size of the next read.
pub fn window_bytes() -> usize {
    if IN_USE_BYTES.load(Ordering::Relaxed) + WINDOW_BYTES <= BUDGET_BYTES { WINDOW_BYTES } else { SMALL_WINDOW_BYTES }
}

/// Memory for one read. It goes back to the thread that drops it.
pub struct Buffer {
    memory: Vec<u8>,
    filled_bytes: usize,
}

impl Buffer {
    /// A buffer for `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        let spare =
            if length > SMALL_WINDOW_BYTES && length <= WINDOW_BYTES { SPARE.with_borrow_mut(Vec::pop) } else { None };
        let memory = spare
            .unwrap_or_else(|| vec![0; if length > SMALL_WINDOW_BYTES { length.max(WINDOW_BYTES) } else { length }]);
        IN_USE_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
        Self { memory, filled_bytes: 0 }
    }

    pub(crate) fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[..length]
    }

    pub(crate) fn set_filled(&mut self, filled_bytes: usize) {
        self.filled_bytes = filled_bytes.min(self.memory.len());
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled_bytes]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        IN_USE_BYTES.fetch_sub(memory.len(), Ordering::Relaxed);
        if memory.len() != WINDOW_BYTES {
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
