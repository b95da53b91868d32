//! A network namespace with its own mount namespace. One thread holds it.
//!
//! It has no name in the file system: when the thread and the processes that it started are gone, the kernel removes
//! it, also after `kill -9` of the tests. Processes are started by that thread and sockets are made on a runtime whose
//! threads have entered the network namespace, so nothing of a world can reach the machine's own network.

use std::fs::File;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;
use tokio::runtime::{Builder, Handle, Runtime};

type Job = Box<dyn FnOnce() + Send>;

/// A place for processes and servers of a test.
pub struct Namespace {
    name: &'static str,
    net_path: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

/// A file or directory that the namespace shows in another place.
pub struct Bind {
    pub source: PathBuf,
    /// The place, which exists already.
    pub target: PathBuf,
}

impl Namespace {
    /// A new namespace. Its loopback is up, and `binds` are mounted.
    pub fn new(name: &'static str, binds: Vec<Bind>) -> Self {
        let (jobs, work) = channel::<Job>();
        let (born, birth) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("namespace-{name}"))
            .spawn(move || live(&binds, &born, &work))
            .expect("a thread for the namespace");
        let net_path = birth.recv().unwrap_or_else(|_| panic!("namespace {name}: not made; the tests need root"));
        let runtime = runtime_in(&net_path);
        let namespace = Self { name, net_path, jobs: Some(jobs), thread: Some(thread), runtime: Some(runtime) };
        namespace.ip("link set lo up");
        namespace
    }

    /// The namespace's name in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The network namespace as a file, for `ip link … netns`.
    pub fn net_path(&self) -> &Path {
        &self.net_path
    }

    /// Runs `job` on the namespace's thread, so its processes and files belong to the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(job)));
        };
        self.jobs.as_ref().expect("open until drop").send(Box::new(job)).expect("the thread lives until drop");
        match result.recv().expect("the thread answers") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The runtime whose threads are inside: every socket made by its tasks belongs to the namespace.
    pub fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("running until drop").handle()
    }

    /// Runs `task` inside and waits for it.
    pub fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = channel();
        let task = self.handle().spawn(task);
        self.handle().spawn(async move {
            let _ = done.send(task.await);
        });
        match result.recv().expect("the runtime lives until drop") {
            Ok(value) => value,
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Runs `ip` inside with lines of its batch language.
    pub fn ip(&self, batch: &str) {
        let batch = batch.to_owned();
        self.run(move || {
            use std::io::Write as _;
            use std::process::{Command, Stdio};
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("ip is installed (tests/run installs it)");
            ip.stdin.take().expect("piped").write_all(batch.as_bytes()).expect("ip reads its batch");
            assert!(ip.wait().expect("ip ends").success(), "ip refused:\n{batch}");
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The namespace's thread. It makes the namespaces, then works until no more job can come.
fn live(binds: &[Bind], born: &Sender<PathBuf>, work: &Receiver<Job>) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces need root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
    for Bind { source, target } in binds {
        mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| panic!("bind {} to {}: {error}", source.display(), target.display()));
    }
    let net_path = PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()));
    let _ = born.send(net_path);
    while let Ok(job) = work.recv() {
        job();
    }
}

fn runtime_in(net_path: &Path) -> Runtime {
    let net = Arc::new(File::open(net_path).expect("the namespace's file"));
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || setns(&*net, CloneFlags::CLONE_NEWNET).expect("entering the namespace"))
        .build()
        .expect("a runtime")
}
