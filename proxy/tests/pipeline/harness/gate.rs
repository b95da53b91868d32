//! A point at which the fake upstream stops until the test lets it continue.

use std::sync::Arc;

use tokio::sync::watch;

use super::in_time;

/// Closed until it is opened, then open for good. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<watch::Sender<bool>>,
    reached: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), reached: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until a request has reached the gate.
    pub(crate) async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        in_time("the gate is reached", reached.wait_for(|count| *count > 0)).await.expect("the gate lives");
    }

    /// Waits until it is open.
    pub(super) async fn pass(&self) {
        self.reached.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`.
        let _ = open.wait_for(|open| *open).await;
    }
}
