//! Signals to a running server: SIGHUP reads the configuration again, SIGTERM and SIGINT end the server.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

use super::reload::Reloader;
use super::start_error::StartError;
use entrepot_net::service_manager;

/// The signals of this process. They are caught as soon as this exists.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, StartError> {
        let catch = |kind| signal(kind).map_err(|source| StartError::System { what: "signals", source });
        let (terminate, interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hang_up: catch(SignalKind::hangup())? })
    }

    /// Returns when a signal asks for the end. `serving` is the first part of the status for the service manager.
    pub(super) async fn until_end(&mut self, reloader: &Arc<Reloader>, serving: &str) {
        loop {
            tokio::select! {
                _ = self.hang_up.recv() => reload(reloader.clone(), serving).await,
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

async fn reload(reloader: Arc<Reloader>, serving: &str) {
    service_manager::reloading().await;
    let outcome = spawn_blocking(move || reloader.reload()).await;
    // The log has the result too.
    let status = match outcome {
        Ok(Err(error)) => format!("{serving}; the configuration is bad, the last good one stays in force: {error}"),
        _ => serving.to_owned(),
    };
    service_manager::ready(status).await;
}
