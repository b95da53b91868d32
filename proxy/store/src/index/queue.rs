//! The bounded queue between the callers that change the index and the one thread that writes it. It counts jobs, so
//! that a caller can wait until its change is visible to readers, or on the medium.
//!
//! Invariant: no caller waits longer than the patience that it states. A stalled disk costs a caller at most that wait,
//! and never its thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::tables::Tables;
use crate::lock;
use crate::space::Reservation;

/// The most changes that may wait. More are refused, and the caller counts them.
const CAPACITY: usize = 8192;

/// One change.
pub(crate) struct Job {
    /// The change to make to the tables.
    pub(super) apply: Apply,
    /// How long it may be visible before it goes to the medium.
    pub(super) lag: Duration,
    /// Bytes that stay reserved until the change is counted.
    pub(super) reservation: Option<Reservation>,
}

/// The lag of changes that a crash must not undo: names, links, proofs, content. An answer whose change is visible is held
/// within a second, with time left for a slow disk.
pub(super) const LAG: Duration = Duration::from_millis(250);
/// The lag of changes that only tell the order of eviction.
pub(super) const LAZY_LAG: Duration = Duration::from_secs(1);

type Apply = Box<dyn FnOnce(&mut Tables<'_>) -> Result<(), redb::Error> + Send>;

impl Job {
    pub(crate) fn new(apply: impl FnOnce(&mut Tables<'_>) -> Result<(), redb::Error> + Send + 'static) -> Self {
        Self { apply: Box::new(apply), lag: LAG, reservation: None }
    }

    /// Of no weight after a crash: its commit may wait for others.
    pub(crate) fn lazy(self) -> Self {
        Self { lag: LAZY_LAG, ..self }
    }

    pub(crate) fn holding(mut self, reservation: Reservation) -> Self {
        self.reservation = Some(reservation);
        self
    }
}

/// The kind of trouble that a failed operation shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Ailment {
    /// The disk refused; the file may be fine once opened anew.
    Reopen,
    /// The content makes no sense; it is set aside and rebuilt.
    Replace,
}

/// The jobs that the thread takes at once.
pub(super) struct Batch {
    pub(super) jobs: Vec<Job>,
    /// The number of the last job in it.
    pub(super) last: u64,
    pub(super) make_durable: bool,
    pub(super) ailment: Option<Ailment>,
    pub(super) closing: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Tells the thread that there is work.
    work: Condvar,
    /// Tells callers that there is room, or that jobs became visible or durable.
    done: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    accepted: u64,
    visible: u64,
    durable: u64,
    durable_wanted: u64,
    ailment: Option<Ailment>,
    closing: bool,
    /// A caller ran out of patience since the thread last made progress. No other caller waits until it makes progress.
    stalled: bool,
}

impl Queue {
    /// Hands a job in and returns its number. None if the queue stayed full or the store is closing.
    pub(super) fn push(&self, job: Job, patience: Duration) -> Option<u64> {
        let has_room = |state: &State| state.closing || state.jobs.len() < CAPACITY;
        let mut state = self.wait(lock(&self.state), patience, has_room);
        if state.closing || state.jobs.len() >= CAPACITY {
            return None;
        }
        state.jobs.push(job);
        state.accepted += 1;
        let number = state.accepted;
        drop(state);
        self.work.notify_one();
        Some(number)
    }

    /// Waits until a job was applied, or given up with a counted failure; false if patience ran out. Returns false at
    /// once if it has already run out for another caller.
    pub(super) fn wait_visible(&self, number: u64, patience: Duration) -> bool {
        let is_over = |state: &State| state.visible >= number || state.stalled;
        let mut state = self.wait(lock(&self.state), patience, is_over);
        state.stalled |= state.visible < number;
        state.visible >= number
    }

    /// Waits until every accepted job is on the medium or given up; false if patience ran out.
    pub(super) fn wait_durable(&self, patience: Duration) -> bool {
        let mut state = lock(&self.state);
        let number = state.accepted;
        state.durable_wanted = state.durable_wanted.max(number);
        self.work.notify_one();
        state = self.wait(state, patience, |state| state.durable >= number);
        state.durable >= number
    }

    /// Tells the thread of trouble that a reader met. The worse of two reports counts.
    pub(super) fn report(&self, ailment: Ailment) {
        let mut state = lock(&self.state);
        state.ailment = state.ailment.max(Some(ailment));
        self.work.notify_one();
    }

    /// Accepts no more jobs. The thread finishes those it has and ends.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.work.notify_one();
        self.done.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.state).closing
    }

    /// For the thread: waits for work until `deadline` and takes all jobs.
    pub(super) fn take(&self, deadline: Instant) -> Batch {
        let mut state = lock(&self.state);
        loop {
            let make_durable = state.durable_wanted > state.durable;
            let idle = state.jobs.is_empty() && !make_durable && !state.closing && state.ailment.is_none();
            let left = deadline.saturating_duration_since(Instant::now());
            if !idle || left.is_zero() {
                let batch = Batch {
                    jobs: std::mem::take(&mut state.jobs),
                    last: state.accepted,
                    make_durable,
                    ailment: state.ailment.take(),
                    closing: state.closing,
                };
                drop(state);
                self.done.notify_all();
                return batch;
            }
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// For the thread: says that jobs up to this number are over.
    pub(super) fn set_visible(&self, number: u64) {
        let mut state = lock(&self.state);
        (state.visible, state.stalled) = (number, false);
        drop(state);
        self.done.notify_all();
    }

    /// For the thread: says that jobs up to this number are on the medium, or lost for good.
    pub(super) fn set_durable(&self, number: u64) {
        lock(&self.state).durable = number;
        self.done.notify_all();
    }

    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        patience: Duration,
        ready: impl Fn(&State) -> bool,
    ) -> MutexGuard<'s, State> {
        let waited = self.done.wait_timeout_while(state, patience, |state| !ready(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new(|_| Ok(()))
    }

    #[test]
    fn a_full_queue_refuses_and_room_lets_in_again() {
        let queue = Queue::default();
        for number in 1..=CAPACITY as u64 {
            assert_eq!(queue.push(job(), Duration::ZERO), Some(number));
        }
        assert_eq!(queue.push(job(), Duration::ZERO), None);
        let batch = queue.take(Instant::now());
        assert_eq!((batch.jobs.len(), batch.last), (CAPACITY, CAPACITY as u64));
        assert!(queue.push(job(), Duration::ZERO).is_some());
        queue.close();
        assert_eq!(queue.push(job(), Duration::from_secs(60)), None, "closing refuses at once");
    }

    #[test]
    fn waiters_see_exactly_what_is_done() {
        let queue = Queue::default();
        let first = queue.push(job(), Duration::ZERO).unwrap();
        let second = queue.push(job(), Duration::ZERO).unwrap();
        queue.set_visible(first);
        assert!(queue.wait_visible(first, Duration::ZERO));
        assert!(!queue.wait_visible(second, Duration::ZERO));
        assert!(!queue.wait_visible(second, Duration::from_secs(600)), "one waiter for a stalled disk is enough");
        queue.set_visible(second);
        assert!(queue.wait_visible(second, Duration::ZERO));
        assert!(!queue.wait_durable(Duration::ZERO));
        assert!(queue.take(Instant::now()).make_durable, "the wait asked for it");
        queue.set_durable(second);
        assert!(queue.wait_durable(Duration::ZERO));
        queue.report(Ailment::Replace);
        queue.report(Ailment::Reopen);
        assert_eq!(queue.take(Instant::now()).ailment, Some(Ailment::Replace));
    }
}
