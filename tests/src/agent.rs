//! The redirect agent under test: it is started in a namespace, awaited until it redirects, asked for its status, and
//! ended. Its programs redirect only connections of its own network namespace, so tests do not disturb each other. The
//! counters of addresses and of entrepot's own connections (`not_listed`, `learned`, `own`) count for the whole
//! machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bpf::Loaded;
use crate::entrepot::binary;
use crate::namespace::Namespace;
use crate::process::{Finished, Process, finish};
use crate::settings::Settings;
use crate::world::World;

/// A running agent.
pub struct Agent<'w> {
    namespace: &'w Namespace,
    file: PathBuf,
    socket: PathBuf,
    process: Process,
}

/// A test's own control group, below the root of the unified hierarchy. It is removed when it is dropped.
pub struct ControlGroup {
    name: String,
    path: PathBuf,
}

impl ControlGroup {
    pub fn new(purpose: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let root = mount.and_then(|line| line.split(' ').nth(1)).expect("these tests need a cgroup2 mount");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("entrepot-test-{purpose}-{}-{number}", std::process::id());
        let path = PathBuf::from(root).join(&name);
        std::fs::create_dir(&path).expect("a control group; these tests need root");
        Self { name, path }
    }

    /// The path below the root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file into which process ids are written.
    pub fn processes(&self) -> String {
        self.path.join("cgroup.procs").display().to_string()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The last process may still be ending.
        let deadline = Instant::now() + Duration::from_secs(10);
        while remove_groups(&self.path).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// Removes a group, and the groups that its processes have created in it.
fn remove_groups(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

/// The time for the start: the verifier reads programs of many thousand steps, which is slow on a busy machine.
const START: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(30);

impl<'w> Agent<'w> {
    /// Starts `entrepot redirect` with these arguments, and returns when the door has answered.
    pub fn start(world: &'w World, namespace: &'w Namespace, settings: &Settings, arguments: &[&str]) -> Self {
        let agent = Self::attach(world, namespace, settings, arguments);
        agent.process.wait_line("the door answers", START);
        agent
    }

    /// Starts the agent, and returns when its programs are attached, whether or not there is a door.
    pub fn attach(world: &'w World, namespace: &'w Namespace, settings: &Settings, arguments: &[&str]) -> Self {
        let file = world.path(&format!("agent-{}.toml", namespace.name()));
        let socket = world.path(&format!("agent-{}.sock", namespace.name()));
        let settings = settings.clone().set("redirect", &format!("socket = {socket:?}"));
        std::fs::write(&file, settings.toml(world)).expect("the configuration");
        let process = Process::start(namespace, command(&file, arguments));
        process.wait_line("redirect programs are attached", START);
        Self { namespace, file, socket, process }
    }

    /// The status, as a program reads it.
    pub fn status(&self) -> Value {
        let finished = self.command(&["status", "--json"]).expect_success("entrepot redirect status --json");
        serde_json::from_str(&finished.stdout).expect("JSON")
    }

    /// The count of an outcome.
    pub fn count(&self, outcome: &str) -> u64 {
        let status = self.status();
        let counters = status["counters"].as_array().expect("counters");
        let counted = counters.iter().find(|counted| counted["outcome"] == outcome);
        counted.unwrap_or_else(|| panic!("no counter {outcome}"))["count"].as_u64().expect("a number")
    }

    /// Runs `entrepot redirect` with these arguments to its end.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        finish(self.namespace, command(&self.file, arguments), COMMAND)
    }

    /// Waits until the status fulfils the condition.
    #[track_caller]
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + COMMAND;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what} never came: {status:#}");
        }
    }

    /// The metrics, read by the agent's unix socket.
    pub fn metrics(&self) -> String {
        let mut command = Command::new("curl");
        command.args(["-fsS", "--unix-socket"]).arg(&self.socket).arg("http://agent/metrics");
        finish(self.namespace, command, COMMAND).expect_success("GET /metrics").stdout
    }

    /// Sends SIGTERM and returns the exit status. Asserts that nothing of the agent stays in the kernel.
    pub fn terminate(&self) -> ExitStatus {
        let loaded = Loaded::by(self.process.pid());
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait_exit(COMMAND);
        loaded.wait_gone();
        status
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn command(file: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("redirect").arg("--config").arg(file).args(arguments);
    command
}
