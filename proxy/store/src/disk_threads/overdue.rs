//! Remembers a disk that hangs, so that only the first callers wait for it. As long as a job is overdue, nobody else
//! waits. The job stays with the kernel until the disk answers; its end is the news that the disk works again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The jobs of one store that are overdue.
#[derive(Clone, Default)]
pub(super) struct Overdue(Arc<AtomicUsize>);

/// One job. Its caller has a share and the job itself has one.
pub(super) struct Watched {
    is_overdue: AtomicBool,
    overdue: Overdue,
}

impl Overdue {
    /// Watches a job that begins.
    pub(super) fn watch(&self) -> Arc<Watched> {
        Arc::new(Watched { is_overdue: AtomicBool::new(false), overdue: self.clone() })
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Watched {
    /// The caller has waited in vain. It gives its share back, so from now on the job alone has one.
    pub(super) fn give_up(self: Arc<Self>) {
        if Arc::strong_count(&self) == 1 {
            // It has just ended, or never began because too many others wait.
            return;
        }
        if !self.is_overdue.swap(true, Ordering::SeqCst) && self.overdue.0.fetch_add(1, Ordering::SeqCst) == 0 {
            tracing::warn!("the disk hangs: until it answers, content passes through without being stored");
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if *self.is_overdue.get_mut() && self.overdue.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            tracing::info!("the disk answers again");
        }
    }
}
