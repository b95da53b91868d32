//! One disk thread: a tokio-uring runtime where the kernel has a ring for us, else a tokio runtime with a small blocking
//! pool.
//!
//! tokio-uring hands its calls to the kernel only when its thread has nothing else to do, which is why nothing but disk
//! jobs runs here, and no hashing.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::{Arc, mpsc as blocking};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};

use super::calls::Calls;
use super::{Job, QUEUED_MAX};

/// Jobs at once on one thread.
const RUNNING_MAX: u32 = 64;
/// Blocking calls at once on one thread without a ring.
const POOL_MAX: usize = 16;
/// A ring that does not answer the simplest question in this time is none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that an old kernel's ring lacks show by what it says about a file that cannot be there.
const NOWHERE: &str = "/nonexistent/entrepot";

/// Starts a thread; its queue, and whether it works by a ring.
pub(super) fn start(number: usize, wants_ring: bool) -> io::Result<(mpsc::Sender<Job>, bool)> {
    let (queue, jobs) = mpsc::channel(QUEUED_MAX);
    let (report, reported) = blocking::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("disk-{number}"));
    thread.spawn(move || run(jobs, wants_ring, &report))?;
    let has_ring = reported.recv().map_err(|_| io::Error::other("it ended at once"))??;
    Ok((queue, has_ring))
}

fn run(jobs: mpsc::Receiver<Job>, wants_ring: bool, report: &blocking::SyncSender<io::Result<bool>>) {
    // Who started this thread waits for the report, so it always arrives.
    if let Some(ring) = wants_ring.then(ring).flatten() {
        let _ = report.send(Ok(true));
        return ring.block_on(serve(jobs, Calls::Ring));
    }
    match tokio::runtime::Builder::new_current_thread().max_blocking_threads(POOL_MAX).build() {
        Ok(pool) => {
            let _ = report.send(Ok(false));
            LocalSet::new().block_on(&pool, serve(jobs, Calls::Pool));
        }
        Err(error) => drop(report.send(Err(error))),
    }
}

/// Runs jobs beside each other. One that panics has its message in the log, and who waits for it sees that it is gone.
async fn serve(mut jobs: mpsc::Receiver<Job>, calls: Calls) {
    let room = Arc::new(Semaphore::new(RUNNING_MAX as usize));
    while let Some(job) = jobs.recv().await {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        spawn_local(async move {
            job(calls).await;
            drop(place);
        });
    }
    // What was begun is done to its end.
    let _ = room.acquire_many(RUNNING_MAX).await;
}

/// A ring that can do all that is asked of it.
fn ring() -> Option<tokio_uring::Runtime> {
    let ring = tokio_uring::Runtime::new(&tokio_uring::builder());
    let ring = ring.inspect_err(|error| tracing::debug!("the kernel refuses an io_uring: {error}")).ok()?;
    let answered = ring.block_on(async { tokio::time::timeout(PROBE_TIMEOUT, has_calls()).await });
    if answered == Ok(true) {
        return Some(ring);
    }
    tracing::debug!("the kernel's io_uring lacks calls or does not answer");
    // Dropped, it would wait for the answers that do not come.
    std::mem::forget(ring);
    None
}

async fn has_calls() -> bool {
    let is_known = |error: io::Error| error.kind() == ErrorKind::NotFound;
    tokio_uring::no_op().await.is_ok()
        && tokio_uring::fs::rename(NOWHERE, NOWHERE).await.is_err_and(is_known)
        && tokio_uring::fs::remove_file(NOWHERE).await.is_err_and(is_known)
}

/// Runs a future to its end on this thread.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
