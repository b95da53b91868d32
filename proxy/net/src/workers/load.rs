//! The body bytes that each serving thread still has to send. New connections are distributed by these numbers.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thread's bytes in flight and connections.
#[derive(Default)]
pub(crate) struct Load {
    bytes: AtomicU64,
    connections: AtomicU64,
}

/// The part of one answer's body that is still to be sent.
pub(crate) struct InFlight {
    load: Option<Arc<Load>>,
    left_bytes: u64,
}

/// A connection that counts until this is dropped.
pub struct Connected(Arc<Load>);

thread_local! {
    static OWN: RefCell<Option<Arc<Load>>> = const { RefCell::new(None) };
}

impl Load {
    /// Makes this thread's answers count here from now on.
    pub(crate) fn adopt(self: &Arc<Self>) {
        OWN.set(Some(self.clone()));
    }

    /// Counts one more connection.
    pub(crate) fn connect(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.clone())
    }

    /// The load, for comparison: bytes first, then connections. Less is better.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed))
    }
}

impl InFlight {
    /// Counts the bytes that an answer of this thread has to send.
    pub(crate) fn begin(left_bytes: u64) -> Self {
        let load = OWN.with_borrow(Clone::clone);
        if let Some(load) = &load {
            load.bytes.fetch_add(left_bytes, Ordering::Relaxed);
        }
        Self { load, left_bytes }
    }

    /// Takes off the bytes that were sent.
    pub(crate) fn sent(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left_bytes);
        self.left_bytes -= bytes;
        if let Some(load) = &self.load {
            load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.sent(self.left_bytes);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_or_given_up_weighs_no_more() {
        let load = Arc::new(Load::default());
        load.adopt();
        let connected = load.connect();
        let mut first = InFlight::begin(1000);
        let second = InFlight::begin(10);
        first.sent(400);
        assert_eq!(load.rank(), (610, 1));
        first.sent(u64::MAX);
        drop(second);
        drop(first);
        drop(connected);
        assert_eq!(load.rank(), (0, 0));
        OWN.set(None);
        assert!(InFlight::begin(5).load.is_none(), "other threads weigh nothing");
    }
}
