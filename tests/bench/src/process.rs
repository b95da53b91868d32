//! The servers' processes: started with an empty environment and their output in a file, ended by their id. The run's
//! process namespace ends with the bench program, so nothing outlives it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::BoxError;

const END_PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(2);

/// A running server.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` and appends its output to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self, BoxError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(log)?;
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("{name} was not started: {error}"))?;
        Ok(Self { child, name })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is gone.
    pub(crate) fn has_ended(&mut self) -> Result<bool, BoxError> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn terminate(mut self) -> Result<(), BoxError> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + END_PATIENCE;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                return Err(format!("{} did not end within {} s of SIGTERM", self.name, END_PATIENCE.as_secs()).into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(mut self) -> Result<(), BoxError> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), BoxError> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master takes its workers with it on SIGTERM only; asked first, killed after a moment.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::yield_now();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
