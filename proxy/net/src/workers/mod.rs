//! The serving threads: one for each core, each with its own runtime and ring. One thread serves a connection from its
//! first byte to its last. Work that outlives a connection (fetches, upstream connections, housekeeping) runs on the
//! process's main runtime instead.

pub mod capabilities;
pub mod load;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use entrepot_kernel::{major_faults_of_this_thread, ring};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use self::load::{Connected, Load};

/// A connection's task, made on the thread that will run it.
type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// All serving threads.
pub struct Workers {
    workers: Vec<Worker>,
    /// Receives the runtime of each thread that has ended.
    ended: Mutex<Receiver<Ended>>,
}

/// The runtime of a thread that has ended. It may be dropped inside another runtime, where tokio's own drop panics.
struct Ended(Option<Runtime>);

struct Worker {
    /// The doors bound the queue: each connection has a place there before it comes here. `None` ends the thread.
    tasks: mpsc::UnboundedSender<Option<Task>>,
    load: Arc<Load>,
    major_faults: Arc<AtomicU64>,
}

/// The interval at which a thread publishes the number of page faults that it waited for.
const FAULTS_INTERVAL: Duration = Duration::from_secs(5);
/// The most blocking jobs of one thread's requests (the index, opening files) at once.
const BLOCKING_THREADS_MAX: usize = 64;

impl Workers {
    /// Starts `count` threads, with rings if `with_ring`.
    pub fn start(count: usize, with_ring: bool) -> io::Result<Self> {
        let (sender, ended) = std::sync::mpsc::channel();
        let workers = (0..count.max(1)).map(|number| Worker::start(number, with_ring, sender.clone()));
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, ended: Mutex::new(ended) })
    }

    /// Gives a connection to the thread with the fewest bytes in flight, which runs the task that `serve` makes. The
    /// connection counts there until `serve`'s argument is dropped.
    pub fn hand<Serving>(&self, serve: impl FnOnce(Connected) -> Serving + Send + 'static)
    where
        Serving: Future<Output = ()> + 'static,
    {
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.rank()) else { return };
        let connected = worker.load.connect();
        let task: Task = Box::new(move || Box::pin(serve(connected)));
        // If the thread has ended, the task is dropped, which closes the connection.
        let _ = worker.tasks.send(Some(task));
    }

    /// Gives every thread a task, and returns when all have run it. Returns false if a thread is gone.
    pub async fn answer(&self) -> bool {
        let ask = |worker: &Worker| {
            let (answer, answered) = oneshot::channel();
            let task: Task = Box::new(move || {
                Box::pin(async move {
                    // The caller may have given up.
                    let _ = answer.send(());
                })
            });
            // If the thread is gone, the task is dropped, and the receiver sees that.
            let _ = worker.tasks.send(Some(task));
            answered
        };
        let asked: Vec<_> = self.workers.iter().map(ask).collect();
        for answered in asked {
            if answered.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Page faults that each thread has waited for.
    pub fn major_faults(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.major_faults.load(Ordering::Relaxed)).collect()
    }

    /// Ends the threads, and waits up to `patience` for them. Connections that they still serve are cut off. Returns
    /// their runtimes: tasks of the main runtime may use timers that were set there, so the runtimes must outlive those
    /// tasks.
    pub fn stop(&self, patience: Duration) -> Vec<Runtime> {
        for worker in &self.workers {
            // A thread that has ended needs no message.
            let _ = worker.tasks.send(None);
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + patience;
        let next = || ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
        (0..self.workers.len()).map_while(|_| next()?.0.take()).collect()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Worker {
    fn start(number: usize, with_ring: bool, ended: Sender<Ended>) -> io::Result<Self> {
        let (tasks, received) = mpsc::unbounded_channel();
        let (load, major_faults) = (Arc::new(Load::default()), Arc::new(AtomicU64::new(0)));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name(format!("worker-{number}-io"))
            .build()?;
        let (own_load, own_faults) = (load.clone(), major_faults.clone());
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            own_load.adopt();
            let local = LocalSet::new();
            local.block_on(&runtime, run(received, own_faults, with_ring));
            drop(local);
            // If nothing waits for the runtime any more, it is dropped.
            let _ = ended.send(Ended(Some(runtime)));
        })?;
        Ok(Self { tasks, load, major_faults })
    }
}

/// Runs tasks until the thread is to end.
async fn run(mut tasks: mpsc::UnboundedReceiver<Option<Task>>, major_faults: Arc<AtomicU64>, with_ring: bool) {
    if with_ring {
        match ring::start() {
            Ok(completing) => drop(spawn_local(completing)),
            Err(error) => tracing::warn!("a serving thread has no ring and reads by other threads: {error}"),
        }
    }
    spawn_local(async move {
        loop {
            major_faults.store(major_faults_of_this_thread(), Ordering::Relaxed);
            tokio::time::sleep(FAULTS_INTERVAL).await;
        }
    });
    while let Some(Some(task)) = tasks.recv().await {
        spawn_local(task());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn threads_that_ended_may_be_forgotten_inside_a_runtime() {
        let workers = Workers::start(2, false).expect("threads");
        for worker in &workers.workers {
            worker.tasks.send(None).expect("it runs");
        }
        while workers.workers.iter().any(|worker| !worker.tasks.is_closed()) {
            tokio::task::yield_now().await;
        }
        // Their runtimes are on the way to here, or here. tokio panics if such a one is dropped inside a runtime.
        drop(workers);
    }

    #[tokio::test]
    async fn a_thread_that_hangs_does_not_answer() {
        let workers = Arc::new(Workers::start(2, false).expect("threads"));
        assert!(workers.answer().await);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (hanging, hangs) = oneshot::channel();
        workers.hand(move |_connected| async move {
            let _ = hanging.send(());
            let _ = released.recv();
        });
        hangs.await.expect("the task has begun");
        let answering = tokio::spawn({
            let workers = workers.clone();
            async move { workers.answer().await }
        });
        tokio::task::yield_now().await;
        assert!(!answering.is_finished());
        drop(release);
        assert!(answering.await.expect("no panic"));

        workers.stop(Duration::from_secs(10)).into_iter().for_each(Runtime::shutdown_background);
        assert!(!workers.answer().await, "a thread that is gone answers nobody");
    }
}
