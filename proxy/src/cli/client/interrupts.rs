//! Signals that ask a command to end: SIGHUP, SIGINT, SIGQUIT, SIGTERM. A set-up that changes something takes its
//! changes back then, and an undo goes on to its end; further signals change nothing about that. Before and after that,
//! the process ends as it would without this file.
//!
//! All threads block these signals, and one thread waits for them. So no call is cut short, and no handler runs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal, raise};
use tokio::sync::watch;

use crate::cli::output::complain;

/// The signals of this process.
pub(super) struct Interrupts {
    phase: Arc<Mutex<Phase>>,
    caught: watch::Receiver<Option<Signal>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing would be left half done.
    Idle,
    /// Something would. The text says what happens at a signal.
    Changing(&'static str),
}

const ALL: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

impl Interrupts {
    /// Begins to watch. Call it while this process has one thread: threads that exist would still get the signals.
    pub(super) fn watch() -> io::Result<Self> {
        let ignored = ignored();
        let set: SigSet = ALL.into_iter().filter(|signal| ignored >> (*signal as u32 - 1) & 1 == 0).collect();
        set.thread_block()?;
        let phase = Arc::new(Mutex::new(Phase::Idle));
        let (sender, caught) = watch::channel(None);
        let of_thread = phase.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while let Ok(signal) = set.wait() {
                let phase = lock(&of_thread);
                match *phase {
                    Phase::Changing(what) if sender.borrow().is_none() => {
                        complain(format_args!("{signal}: {what}"));
                        sender.send_replace(Some(signal));
                    }
                    // People press Ctrl-C more than once.
                    Phase::Changing(_) => {}
                    // The lock is held to the end of the process, so no change begins.
                    Phase::Idle => end_by(signal),
                }
            }
        })?;
        Ok(Self { phase, caught })
    }

    /// From here on something would be left half done. `what` is what happens at a signal.
    pub(super) fn begin(&self, what: &'static str) {
        *lock(&self.phase) = Phase::Changing(what);
    }

    /// Nothing would be left half done any more. If a signal has been told that something happens, it is returned, and
    /// that has to happen.
    pub(super) fn end(&self) -> Option<Signal> {
        let mut phase = lock(&self.phase);
        let caught = self.caught();
        if caught.is_none() {
            *phase = Phase::Idle;
        }
        caught
    }

    /// The signal that came since [`Interrupts::begin`].
    pub(super) fn caught(&self) -> Option<Signal> {
        *self.caught.borrow()
    }

    /// Waits for a signal.
    pub(super) async fn wait(&self) {
        // The thread has the sender as long as this process lives.
        let _ = self.caught.clone().wait_for(Option::is_some).await;
    }
}

/// Ends this process as the signal does by itself, so that the parent sees why.
fn end_by(signal: Signal) {
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ = raise(signal);
}

/// The signals that this process was started to ignore, as `nohup` has it, as a mask.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}
