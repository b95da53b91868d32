//! One disk thread: the ring's runtime if the kernel gives us a ring, else a tokio runtime with a small blocking pool.
//!
//! Nothing but disk jobs runs here, and no hashing (see `ring`).

use std::io;
use std::sync::{Arc, mpsc as blocking};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};

use super::calls::Calls;
use super::ring::Ring;
use super::{Job, QUEUED_MAX};

/// The most jobs at once on one thread.
const RUNNING_MAX: u32 = 64;
/// The most blocking calls at once on one thread without a ring.
const POOL_MAX: usize = 16;

/// Starts a thread. Returns its queue, and whether it works by a ring.
pub(super) fn start(number: usize, wants_ring: bool) -> io::Result<(mpsc::Sender<Job>, bool)> {
    let (queue, jobs) = mpsc::channel(QUEUED_MAX);
    let (report, reported) = blocking::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("disk-{number}"));
    thread.spawn(move || run(jobs, wants_ring, &report))?;
    let has_ring = reported.recv().map_err(|_| io::Error::other("it ended at once"))??;
    Ok((queue, has_ring))
}

fn run(jobs: mpsc::Receiver<Job>, wants_ring: bool, report: &blocking::SyncSender<io::Result<bool>>) {
    // The starter of this thread waits for the report, so it always arrives.
    if let Some(ring) = wants_ring.then(Ring::new).flatten() {
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

/// Runs jobs beside each other. If one panics, its message is in the log, and its caller sees that the job is gone.
async fn serve(mut jobs: mpsc::Receiver<Job>, calls: Calls) {
    let room = Arc::new(Semaphore::new(RUNNING_MAX as usize));
    while let Some(job) = jobs.recv().await {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        spawn_local(async move {
            job(calls).await;
            drop(place);
        });
    }
    // Jobs that have begun run to their end.
    let _ = room.acquire_many(RUNNING_MAX).await;
}
