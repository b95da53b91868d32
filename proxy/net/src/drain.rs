//! The drain at the end of the process. A trigger starts it, watches are told of it, and it ends when the last watch is
//! dropped.

use tokio::sync::{mpsc, watch};

/// Starts the drain and waits for its end.
pub struct Trigger {
    signal: watch::Sender<bool>,
    gone: mpsc::Receiver<()>,
}

/// Held by every task that should end before the process does.
#[derive(Clone)]
pub struct Watch {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// A trigger and its first watch.
pub fn channel() -> (Trigger, Watch) {
    let (signal, heard) = watch::channel(false);
    let (alive, gone) = mpsc::channel(1);
    (Trigger { signal, gone }, Watch { signal: heard, _alive: alive })
}

impl Trigger {
    /// Tells every watch, and returns when the last one is dropped. The caller sets a deadline.
    pub async fn drain(mut self) {
        self.signal.send_replace(true);
        // Nothing is ever sent. The channel ends with its last sender.
        while self.gone.recv().await.is_some() {}
    }
}

impl Watch {
    /// Returns when the drain has begun.
    pub async fn draining(&mut self) {
        // A dropped trigger starts the drain too.
        let _ = self.signal.wait_for(|draining| *draining).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_drain_ends_with_the_last_watch() {
        let (trigger, watch) = channel();
        let mut second = watch.clone();
        let drained = tokio::spawn(trigger.drain());
        second.draining().await;
        drop(watch);
        assert!(!drained.is_finished());
        drop(second);
        drained.await.expect("drained");
    }
}
