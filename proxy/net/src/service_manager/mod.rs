//! The service manager (systemd) that started this process. We tell it when we are ready, reload and stop. It kills us
//! when our event loops hang ([`watchdog`]), and keeps our listening sockets while we restart ([`listeners`]).
//!
//! Without a service manager (`NOTIFY_SOCKET` is not set) every call does nothing. No failure here stops the server: a
//! message that cannot be sent is logged.

pub mod listeners;
pub mod watchdog;

use std::env;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The longest wait for a service manager that does not read its socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells that everything is bound and served. `status` is for people.
pub async fn ready(status: impl Into<String>) {
    let status = one_line(status);
    tell(move || sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)])).await;
}

/// Tells the state of the server, for people.
pub async fn status(status: impl Into<String>) {
    let status = one_line(status);
    tell(move || sd_notify::notify(&[NotifyState::Status(&status)])).await;
}

/// Tells that the configuration is being read again. A call of [`ready`] ends the reload.
pub async fn reloading() {
    tell(|| sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])).await;
}

/// Tells that the shutdown has begun and may take up to `at_most`, whatever the unit file says.
pub async fn stopping(status: impl Into<String>, at_most: Duration) {
    let (status, more) = (one_line(status), format!("EXTEND_TIMEOUT_USEC={}", at_most.as_micros()));
    let say =
        move || sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(&status), NotifyState::Custom(&more)]);
    tell(say).await;
}

/// Sends on a blocking thread, because sending waits while the receiver's queue is full.
async fn tell(say: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if !is_there() {
        return;
    }
    match timeout(PATIENCE, spawn_blocking(say)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!("the service manager could not be told: {error}"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the service manager does not listen"),
    }
}

/// The text as one line, because the service manager takes each line for a separate message.
fn one_line(text: impl Into<String>) -> String {
    text.into().replace('\n', " ")
}

fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}
