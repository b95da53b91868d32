//! Processes of a test. They are started in a namespace, their output is kept line by line, and tests wait for lines.
//! They are ended by their id at the end of the test. If the tests are killed, the kernel kills the processes.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::namespace::Namespace;

/// The folders of programs.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The pipe of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A running process and its output so far.
pub struct Process {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<(Stream, String)>,
    open_pipes: usize,
    exit: Option<ExitStatus>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status. 124 and 137 mean that the deadline ended it.
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts `command` in `namespace`. It ends with the namespace.
    pub fn start(namespace: &Namespace, command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut command = wrapped(&["setpriv", "--pdeathsig", "KILL", "--"], command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            namespace.run(move || command.spawn()).unwrap_or_else(|error| panic!("{name}: not started: {error}"));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let shared = Arc::new(Shared::default());
        shared.lock().open_pipes = 2;
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        shared.follow(Stream::Stdout, stdout);
        shared.follow(Stream::Stderr, stderr);
        let reaper = Arc::clone(&shared);
        std::thread::spawn(move || {
            let exit = child.wait().expect("our own child");
            reaper.lock().exit = Some(exit);
            reaper.changed.notify_all();
        });
        Self { name, pid, shared }
    }

    /// Like `start`, in a separate process namespace: its child processes die with it.
    pub fn start_with_children(namespace: &Namespace, command: Command) -> Self {
        Self::start(namespace, wrapped(&["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"], command))
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The first line that contains `needle`, whichever stream it comes by. Waits for it.
    pub fn wait_line(&self, needle: &str, timeout: Duration) -> String {
        self.wait_lines(1, timeout, needle, |_| true).remove(0)
    }

    /// The first line of one stream that contains `needle`. Waits for it: the streams come by pipes of their own, so a
    /// line of one tells nothing of the other.
    pub fn wait_line_on(&self, stream: Stream, needle: &str, timeout: Duration) -> String {
        self.wait_lines_on(stream, needle, 1, timeout).remove(0)
    }

    /// The first `count` lines of one stream that contain `needle`. Waits for them.
    pub fn wait_lines_on(&self, stream: Stream, needle: &str, count: usize, timeout: Duration) -> Vec<String> {
        self.wait_lines(count, timeout, needle, |from| from == stream)
    }

    fn wait_lines(
        &self,
        count: usize,
        timeout: Duration,
        needle: &str,
        is_wanted: impl Fn(Stream) -> bool,
    ) -> Vec<String> {
        let found = |state: &State| -> Vec<String> {
            let lines = state.lines.iter().filter(|(from, line)| is_wanted(*from) && line.contains(needle));
            lines.map(|(_, line)| line.clone()).take(count).collect()
        };
        let (state, ended) =
            self.wait_for(timeout, |state| (state.open_pipes == 0 || found(state).len() == count).then_some(()));
        let (lines, said) = (found(&state), state.tail());
        drop(state);
        let reason = if ended.is_some() { "ended" } else { "is late" };
        assert!(lines.len() == count, "{} {reason} and never said {needle:?}; its last words:\n{said}", self.name);
        lines
    }

    /// Waits for the end and returns the exit status.
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        let (state, exit) = self.wait_for(timeout, |state| state.exit.filter(|_| state.open_pipes == 0));
        let said = state.tail();
        drop(state);
        exit.unwrap_or_else(|| panic!("{} did not end; its last words:\n{said}", self.name))
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.lock().exit.is_some()
    }

    /// The output on one pipe so far.
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        self.shared.lock().lines.iter().filter(|(from, _)| *from == stream).map(|(_, line)| line.clone()).collect()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let state = self.shared.lock();
        if state.exit.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Kills the process and its group, and waits for the end.
    pub fn kill(&self) {
        let state = self.shared.lock();
        if state.exit.is_none() {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        drop(state);
        let _ = self.wait_for(Duration::from_secs(10), |state| state.exit);
    }

    fn wait_for<T>(
        &self,
        timeout: Duration,
        ready: impl Fn(&State) -> Option<T>,
    ) -> (MutexGuard<'_, State>, Option<T>) {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(value) = ready(&state) {
                return (state, Some(value));
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return (state, None) };
            state = self.shared.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn follow(self: &Arc<Self>, stream: Stream, pipe: impl Read + Send + 'static) {
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                shared.lock().lines.push((stream, text));
                shared.changed.notify_all();
                line.clear();
            }
            shared.lock().open_pipes -= 1;
            shared.changed.notify_all();
        });
    }
}

impl State {
    fn tail(&self) -> String {
        let from = self.lines.len().saturating_sub(25);
        self.lines[from..].iter().map(|(_, line)| format!("    {line}\n")).collect()
    }
}

/// Runs `command` in `namespace` to its end, for at most `timeout`.
pub fn finish(namespace: &Namespace, command: Command, timeout: Duration) -> Finished {
    let seconds = timeout.as_secs().to_string();
    let mut command = wrapped(&["setpriv", "--pdeathsig", "KILL", "--", "timeout", "-k", "2", &seconds], command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = namespace.run(move || command.spawn()).expect("setpriv and timeout are parts of every Debian");
    let output = child.wait_with_output().expect("our own child");
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Finished {
    /// Fails the test with the output, unless the command succeeded.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> Self {
        assert!(self.status.success(), "{what}: {}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Fails the test if the command succeeded, or was ended by its deadline.
    #[track_caller]
    pub fn expect_failure(self, what: &str) -> Self {
        let ended_itself = self.status.code().is_some_and(|code| code != 0 && code != 124 && code != 137);
        assert!(ended_itself, "{what}: should have failed: {}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }
}

/// `command` behind another program that ends by executing it, with the same environment and directory.
fn wrapped(front: &[&str], command: Command) -> Command {
    let mut outer = Command::new(front[0]);
    outer.args(&front[1..]).arg(command.get_program()).args(command.get_args());
    outer.env_clear().env("PATH", PATH);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, AsRef::<OsStr>::as_ref(value));
        }
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}
