//! Hashing on its own threads: the bytes of a fetch in order, right behind the disk.
//!
//! The driver's task follows the fetch and has one step at a time done by any free hash thread. So the bytes of a fetch
//! stay in order, and several fetches share the threads fairly. The hashed bytes are read back from the file, in which
//! they have just arrived. So the hash judges the very bytes that clients will read, bytes that were fetched ahead or
//! paused need no second way, and no buffer waits for a hash. Hashing the pieces in memory, while they are written, was
//! built and measured as well: 1 GiB over loopback and tmpfs on 2 cores with other load, medians of ten each in turn.
//! It took 3.38 CPU-seconds and 3.73 s from memory, 3.50 and 3.77 read back. That is within the noise (2.8 to 6.0 s),
//! so the simpler way stayed. Neither way notices a page that goes bad later, on its way to the medium;
//! `entrepot cache verify` reads the medium.
//!
//! Invariant: `Progress` is the hash of exactly the bytes `0..position`, as the file gave them.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest, Hasher};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::fetch::CHUNK_BYTES;
use crate::fetch::inflight::InflightFetch;
use entrepot_store::PartialBlob;

/// The most threads. More would hash faster than anything here writes.
const THREADS_MAX: usize = 4;
/// The most steps that wait for a thread. A fetch with one more waits for a place.
const QUEUED_MAX: usize = 64;
/// The most that one step reads back, so that fetches take turns.
const STEP_BYTES: u64 = 4 << 20;

type Job = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

/// The hash threads, started with the first step. They end when this is dropped.
#[derive(Default)]
pub(super) struct HashThreads {
    queue: OnceLock<mpsc::Sender<Job>>,
}

/// How the hashing of a file ended.
pub(super) enum Hashed {
    /// Every byte is there, and not wrong. The digest is theirs.
    Right(Digest),
    Wrong(Digest),
    Unreadable,
}

/// How far the hash has come.
pub(super) struct Progress {
    reached: Mutex<(u64, Hasher)>,
    moved: Notify,
}

impl HashThreads {
    /// Runs a job with a scratch buffer. None if the job was lost.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Vec<u8>) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |scratch| {
            // A caller that no longer waits needs no answer.
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
                // The panic's message is in the log, and the job's caller sees that it is gone.
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
    pub(super) fn new(algorithm: Algorithm) -> Arc<Self> {
        let reached = Mutex::new((0, Hasher::new(algorithm)));
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
    fetch: Arc<InflightFetch>,
    partial: Arc<PartialBlob>,
    progress: Arc<Progress>,
) -> Hashed {
    let mut changes = fetch.changes();
    // The time covers the disk and the steps of other fetches that come first.
    let patience = partial.disk_timeout();
    loop {
        changes.mark_unchanged();
        let (position, mut hasher) = progress.reached();
        let (covered, size) = {
            let state = fetch.state();
            (state.extents.covered(0), state.size)
        };
        if size == Some(position) && covered == position {
            let got = hasher.finish();
            let is_wrong = fetch.content.digest().is_some_and(|digest| *digest != got);
            return if is_wrong { Hashed::Wrong(got) } else { Hashed::Right(got) };
        }
        if covered <= position {
            if changes.changed().await.is_err() {
                return Hashed::Unreadable;
            }
            continue;
        }
        let (file, step) = (partial.clone(), position..covered.min(position + STEP_BYTES));
        let done = threads.run(move |scratch| hash(&file, step, &mut hasher, scratch).map(|reached| (reached, hasher)));
        // A thread hangs at a disk, or a job panicked. Either way this hash does not go on.
        let Ok(Some(Ok((reached, hasher)))) = timeout(patience, done).await else { return Hashed::Unreadable };
        progress.set(reached, hasher);
    }
}

/// Adds a part of the file to a hash, off this thread. It does not use the hash threads, because fetches may be stuck
/// there.
pub async fn hash_again(file: &Arc<PartialBlob>, part: Range<u64>, mut hasher: Hasher) -> io::Result<Hasher> {
    let patience = file.disk_timeout();
    let mut position = part.start;
    while position < part.end {
        let (file, step) = (file.clone(), position..part.end.min(position + STEP_BYTES));
        let done = spawn_blocking(move || {
            let reached = hash(&file, step, &mut hasher, &mut vec![0; CHUNK_BYTES])?;
            io::Result::Ok((reached, hasher))
        });
        (position, hasher) = timeout(patience, done).await.map_err(|_| io::ErrorKind::TimedOut)???;
    }
    Ok(hasher)
}

/// Adds bytes to a hash, off this thread and not on the hash threads. None only if the work panicked.
pub async fn hash_aside(mut hasher: Hasher, bytes: Bytes) -> Option<Hasher> {
    let hashed = spawn_blocking(move || {
        hasher.update(&bytes);
        hasher
    });
    hashed.await.ok()
}

/// Hashes a part of the file. Returns the offset of the part's end.
fn hash(file: &PartialBlob, step: Range<u64>, hasher: &mut Hasher, scratch: &mut [u8]) -> io::Result<u64> {
    let mut position = step.start;
    while position < step.end {
        let length = usize::try_from(step.end - position).map_or(scratch.len(), |left| left.min(scratch.len()));
        let piece = &mut scratch[..length];
        file.read_into(position, piece)?;
        hasher.update(piece);
        position += length as u64;
    }
    Ok(position)
}
