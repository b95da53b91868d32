//! Descriptors that a service manager passed to this process (`LISTEN_FDS`), as owned values.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the descriptors with their names. A second call finds none.
pub fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the service manager opened these descriptors for this process, as LISTEN_PID says, and they are open:
    // sd-notify has set a flag on each. Nothing else in the process knows of them, and TAKEN prevents that they are
    // taken twice, so each has one owner from here on. The kernel keeps nothing.
    Ok(passed.map(|(descriptor, name)| (unsafe { OwnedFd::from_raw_fd(descriptor) }, name)).collect())
}
