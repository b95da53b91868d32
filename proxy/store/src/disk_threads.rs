//! The threads that change content on disk (allocate, write, sync, rename, unlink), so that no other thread waits for a
//! disk.
//!
//! ```text
//! mod     DiskThreads: the queues, which thread a digest has, deadlines      buffers  pieces between upstream and disk
//! thread  one thread: the ring's runtime, or a small blocking pool           calls    the calls, made either way
//! ring    the io_uring, by tokio-uring; no other module uses it                overdue  remembers a disk that hangs
//! ```
//!
//! A job is an async closure that gets [`Calls`] and runs on one thread to its end, whether or not its caller still
//! waits. All jobs of a digest go to the same thread, which starts them in the order of its queue and runs them beside
//! each other: while one waits for the disk, others go on. `partial_blobs` orders what must be ordered (writes before
//! the end, the steps of publishing) by awaiting one after the other.
//!
//! The ladder: if the kernel gives us an io_uring, the ring makes the calls. Calls that the ring's library lacks
//! (create with a mode, truncate, mkdir, attributes) and work that waits for the index run on the blocking pool of its
//! runtime. If the kernel refuses a ring (`io_uring_disabled`, seccomp, too old: probed at the start of each thread),
//! all calls are ordinary ones on a small blocking pool of the thread. Either way the disk never blocks a disk thread
//! itself.
//!
//! Content is not pushed out by `sync_file_range` along the way, because that would save little. Publishing took 0 to
//! 0.6 s a GiB here (virtual disk, ext4), its `fdatasync` included, and no client waits for it.
//!
//! Bounds: a limited number of jobs waits for a thread, and a limited number runs on its ring. A caller beyond that
//! waits as well, but never longer than the deadline. A disk that hangs costs only the jobs that are at it, which stay
//! with the kernel until it answers; meanwhile nobody else waits ([`overdue`]).

pub(super) mod buffers;
pub(super) mod calls;
mod overdue;
mod ring;
mod thread;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use entrepot_core::digest::Digest;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, Span};

use crate::disk;
use crate::errors::StoreError;
use crate::space::Reservation;
use calls::Calls;
use entrepot_config::ready;
use entrepot_observe::labels::DiskLadder;
use overdue::Overdue;

/// The most jobs that wait for one thread. A caller with one more waits for a place.
const QUEUED_MAX: usize = 256;

/// The form of a job: it gets [`Calls`] and runs on one thread to its end.
type Job = Box<dyn FnOnce(Calls) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The settings for work with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSettings {
    pub threads: usize,
    /// Memory for bytes on their way from upstream to the disk.
    pub buffers_bytes: usize,
    /// How long the disk may take before clients go on without it.
    pub timeout: Duration,
    /// Whether io_uring is used if the kernel has it.
    pub io_uring: bool,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { threads: 2, buffers_bytes: 32 << 20, timeout: Duration::from_secs(30), io_uring: true }
    }
}

impl From<&ready::DataPlane> for DiskSettings {
    fn from(data_plane: &ready::DataPlane) -> Self {
        Self {
            threads: data_plane.disk_threads,
            buffers_bytes: usize::try_from(data_plane.disk_buffers.0).unwrap_or(usize::MAX),
            timeout: data_plane.disk_timeout,
            io_uring: data_plane.io_uring,
        }
    }
}

/// The threads of one store, started with the first job. They end when this is dropped and their queues are empty.
pub(super) struct DiskThreads {
    settings: DiskSettings,
    running: OnceLock<Running>,
    overdue: Overdue,
}

struct Running {
    queues: Vec<mpsc::Sender<Job>>,
    ladder: DiskLadder,
}

/// The number of the thread that has the jobs of a partial blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane(pub(super) u64);

impl Lane {
    /// The lane of a digest. Content without a digest has the lane of its random number.
    pub(super) fn of(digest: Option<&Digest>, random: u64) -> Self {
        let first_bytes = digest.and_then(|digest| digest.bytes().first_chunk().copied());
        Self(first_bytes.map_or(random, u64::from_be_bytes))
    }
}

impl DiskThreads {
    pub(super) fn new(settings: DiskSettings) -> Self {
        Self { settings, running: OnceLock::new(), overdue: Overdue::default() }
    }

    /// Starts the threads if they do not run yet, and says how they make their calls.
    pub(super) fn start(&self) -> DiskLadder {
        self.running().ladder
    }

    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Whether the disk has not answered in time, and still does not.
    pub(super) fn hangs(&self) -> bool {
        self.overdue.count() > 0
    }

    /// Has a lane's thread run a job, and waits for its result, however long that takes.
    pub(super) async fn run<T, F>(
        &self,
        lane: Lane,
        job: impl FnOnce(Calls) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = in_this_span(async move |calls| {
            // A caller that no longer waits needs no answer.
            let _ = answer.send(job(calls).await);
        });
        let queue = self.queue(lane).ok_or(StoreError::DiskThreadGone)?;
        queue.send(job).await.map_err(|_| StoreError::DiskThreadGone)?;
        answered.await.map_err(|_| StoreError::DiskThreadGone)
    }

    /// [`Self::run`] within the deadline. The job goes on after the deadline, but its caller no longer waits. If another
    /// job is overdue already, nothing is run.
    pub(super) async fn run_in_time<T, F>(
        &self,
        lane: Lane,
        job: impl FnOnce(Calls) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        if self.hangs() {
            return Err(self.stalled());
        }
        let watched = self.overdue.watch();
        let held = watched.clone();
        let job = async move |calls| {
            let done = job(calls).await;
            drop(held);
            done
        };
        match self.in_time(self.run(lane, job)).await {
            Ok(done) => done,
            Err(error) => {
                watched.give_up();
                Err(error)
            }
        }
    }

    fn stalled(&self) -> StoreError {
        StoreError::Stalled { seconds: self.settings.timeout.as_secs_f32() }
    }

    /// Waits for work that needs the disk, no longer than the deadline.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        tokio::time::timeout(self.settings.timeout, work).await.map_err(|_| self.stalled())
    }

    /// Removes the file of a partial blob that was given up, and gives its room back. The caller does not wait for
    /// that. Only if no thread runs or takes another job, it is done here.
    pub(super) fn discard(&self, lane: Lane, path: PathBuf, file: Arc<File>, reservation: Reservation) {
        let queue = self.running.get().and_then(|running| running.queue(lane));
        let permit = queue.and_then(|queue| queue.try_reserve().ok());
        let Some(permit) = permit else {
            warn_unless_removed(disk::unlink(&path), &path);
            return;
        };
        permit.send(in_this_span(async move |calls: Calls| {
            warn_unless_removed(calls.unlink(&path).await, &path);
            // Dropping the last handle gives the blocks back, which takes time.
            calls.aside(move || drop(file)).await;
            drop(reservation);
        }));
    }

    fn queue(&self, lane: Lane) -> Option<&mpsc::Sender<Job>> {
        self.running().queue(lane)
    }

    fn running(&self) -> &Running {
        self.running.get_or_init(|| Running::start(self.settings))
    }
}

impl Running {
    fn start(settings: DiskSettings) -> Self {
        let mut running = Self { queues: Vec::new(), ladder: DiskLadder::Threads };
        let mut on_ring = 0;
        for number in 0..settings.threads.max(1) {
            match thread::start(number, settings.io_uring) {
                Ok((queue, has_ring)) => {
                    running.queues.push(queue);
                    on_ring += usize::from(has_ring);
                }
                Err(error) => tracing::error!("the system gives no disk thread: {error}"),
            }
        }
        if on_ring > 0 && on_ring == running.queues.len() {
            running.ladder = DiskLadder::Uring;
        }
        running
    }

    fn queue(&self, lane: Lane) -> Option<&mpsc::Sender<Job>> {
        let count = self.queues.len() as u64;
        self.queues.get(usize::try_from(lane.0.checked_rem(count)?).ok()?)
    }
}

/// A job whose events have the span of the caller's request.
fn in_this_span(job: impl AsyncFnOnce(Calls) + Send + 'static) -> Job {
    let span = Span::current();
    // The job is called inside the future, so that what it does before its first wait is in the span as well.
    Box::new(move |calls| Box::pin(async move { job(calls).await }.instrument(span)))
}

fn warn_unless_removed(removed: Result<bool, StoreError>, path: &Path) {
    if let Err(error) = removed {
        let path = path.display();
        tracing::warn!(%error, %path, "a dropped partial blob could not be removed; the next start does");
    }
}
