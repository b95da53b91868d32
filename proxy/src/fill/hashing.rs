//! Hashing on its own threads: a flight's bytes in order, while they are written.
//!
//! The driver's task follows the flight and has one step at a time done by whichever hash thread is free, so the bytes of
//! a flight stay in order and several flights share the threads fairly. Only what is on disk is hashed: pieces that
//! prolong what is there from the first byte come from memory (the flight keeps a few, see [`State::keep_fresh`]);
//! everything else, ranges that were fetched ahead and what an earlier fill left, is read back from the file.
//!
//! [`State::keep_fresh`]: super::flight::State::keep_fresh
//!
//! Invariant: [`Progress`] is the hash of exactly the bytes `0..position`, all of which the file took. What was hashed
//! in memory and went bad on its way to the medium is not noticed here; `entrepot cache verify` reads the medium.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::fill::CHUNK_BYTES;
use crate::fill::flight::Flight;
use crate::store::Fill;

/// More threads than this hash faster than anything here writes.
const THREADS_MAX: usize = 4;
/// Steps that wait for a thread; who has one more waits with it.
const QUEUED_MAX: usize = 64;
/// The most that one step reads back, so that flights take turns.
const STEP_BYTES: u64 = 4 << 20;

type Job = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

/// The hash threads, started with the first step. They end when this is dropped.
#[derive(Default)]
pub(super) struct HashThreads {
    queue: OnceLock<mpsc::Sender<Job>>,
}

/// How the hashing of a file ended.
pub(super) enum Hashed {
    Right,
    Wrong(Digest),
    Unreadable,
}

/// How far the hash has come.
pub(super) struct Progress {
    reached: Mutex<(u64, Hasher)>,
    moved: Notify,
}

/// What one step hashes, from the position on.
enum Step {
    /// Pieces in memory, one behind the other.
    Fresh(Vec<Bytes>),
    /// So far in the file.
    ReadBack(u64),
}

impl HashThreads {
    /// Runs a job with a scratch buffer; `None` where it is lost.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Vec<u8>) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |scratch| {
            // Who no longer waits needs no answer.
            let _ = answer.send(job(scratch));
        });
        self.queue.get_or_init(start).send(job).await.ok()?;
        answered.await.ok()
    }
}

fn start() -> mpsc::Sender<Job> {
    let (queue, jobs) = mpsc::channel::<Job>(QUEUED_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for number in 0..cores.min(THREADS_MAX) {
        let jobs = jobs.clone();
        let run = move || {
            let mut scratch = vec![0; CHUNK_BYTES];
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                let Some(job) = job else { return };
                // The panic's message is in the log, and who waits for the job sees that it is gone.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut scratch)));
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("hash-{number}")).spawn(run) {
            tracing::error!("the system gives no hash thread: {error}");
        }
    }
    queue
}

impl Progress {
    pub(super) fn new(digest: &Digest) -> Arc<Self> {
        let reached = Mutex::new((0, Hasher::new(digest.algorithm())));
        Arc::new(Self { reached, moved: Notify::new() })
    }

    /// A position, and the hash of everything before it.
    pub(super) fn reached(&self) -> (u64, Hasher) {
        self.lock().clone()
    }

    /// Waits until the hash has come to `position`.
    pub(super) async fn past(&self, position: u64) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.lock().0 >= position {
                return;
            }
            moved.await;
        }
    }

    fn set(&self, position: u64, hasher: Hasher) {
        *self.lock() = (position, hasher);
        self.moved.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Hasher)> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the growing file and hashes it in order, to its end.
pub(super) async fn hash_in_order(
    threads: Arc<HashThreads>,
    flight: Arc<Flight>,
    fill: Arc<Fill>,
    progress: Arc<Progress>,
) -> Hashed {
    let mut changes = flight.changes();
    let patience = fill.store().disk_timeout();
    loop {
        changes.mark_unchanged();
        let (position, mut hasher) = progress.reached();
        let step = {
            let mut state = flight.state();
            let covered = state.extents.covered(0);
            if state.size == Some(position) && covered == position {
                drop(state);
                let got = hasher.finish();
                return if got == flight.digest { Hashed::Right } else { Hashed::Wrong(got) };
            }
            let (fresh, fresh_from) = state.take_fresh(position);
            match fresh.is_empty() {
                false => Some(Step::Fresh(fresh)),
                true if covered > position => Some(Step::ReadBack(covered.min(fresh_from).min(position + STEP_BYTES))),
                true => None,
            }
        };
        let Some(step) = step else {
            if changes.changed().await.is_err() {
                return Hashed::Unreadable;
            }
            continue;
        };
        let file = fill.clone();
        let done = threads.run(move |scratch| {
            let reached = step.hash(&file, position, &mut hasher, scratch);
            (reached, hasher)
        });
        // A thread that hangs at a disk, or a panic: either way this hash does not go on.
        let Ok(Some((reached, hasher))) = timeout(patience, done).await else { return Hashed::Unreadable };
        let Some(reached) = reached else { return Hashed::Unreadable };
        progress.set(reached, hasher);
    }
}

impl Step {
    /// The new position; `None` where the file cannot be read.
    fn hash(self, file: &Fill, mut position: u64, hasher: &mut Hasher, scratch: &mut [u8]) -> Option<u64> {
        match self {
            Self::Fresh(pieces) => {
                for piece in pieces {
                    hasher.update(&piece);
                    position += piece.len() as u64;
                }
            }
            Self::ReadBack(to) => {
                while position < to {
                    let length = usize::try_from(to - position).map_or(scratch.len(), |left| left.min(scratch.len()));
                    let piece = &mut scratch[..length];
                    file.read_into(position, piece).ok()?;
                    hasher.update(piece);
                    position += length as u64;
                }
            }
        }
        Some(position)
    }
}
