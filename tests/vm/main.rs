//! The appliance as a virtual machine, started for real by QEMU and by Vagrant: what takes too long for each change.
//! `tests/vm/run` builds the image, installs what is needed, runs this and says what to record in RESULTS.md.
//!
//! Everything runs in namespaces of a world; emulated, so no test needs /dev/kvm, and none judges speed.

mod disks;
mod life;
mod same;
mod sealing;
mod trouble;
mod vagrant;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One machine at a time: each takes both cores.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
