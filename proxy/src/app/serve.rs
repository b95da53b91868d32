//! A server's life: build, bind, serve, drain.
//!
//! The configuration, the CA and the store are checked before any port is bound. Every listener is bound before
//! anything is served.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, spawn_blocking};

use super::accepting::accept_on_every_door;
use super::backend::backend;
use super::build::{Foundation, Server};
use super::file_limit;
use super::listening::{AdminListening, Listening};
use super::signals::Signals;
use super::start_error::StartError;
use super::unkept::Unkept;
use super::upkeep;
use crate::admin::{AdminState, TcpRights, server as admin};
use entrepot_config::ready::AdminDoor;
use entrepot_config::{Flags, Loaded};
use entrepot_net::drain::{self, Trigger, Watch};
use entrepot_net::service_manager::{self, watchdog};
use entrepot_net::workers::Workers;
use entrepot_net::workers::capabilities::{Capabilities, ColdReads};
use entrepot_observe::events;

/// The time after the drain for fetches that still run and for events to receivers.
const LANDING: Duration = Duration::from_secs(5);
/// The time for the last log lines and threads.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The time that the shutdown may take besides the drain, with a margin.
const AFTER_THE_DRAIN: Duration = Duration::from_secs(30);

/// Serves until a signal ends it.
pub fn run(mut loaded: Loaded, flags: Flags) -> Result<(), StartError> {
    let events = events::init(&loaded.config.live.logging.level, loaded.config.startup.logging.format)?;
    for notice in &loaded.notices {
        tracing::info!("{notice}");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    file_limit::raise();
    let threads = |source| StartError::System { what: "threads", source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(threads)?;
    let capabilities = Capabilities::detect(&loaded.config.startup.data_plane, loaded.config.live.data_plane.ktls);
    let workers = Workers::start(capabilities.workers, capabilities.cold_reads == ColdReads::Ring).map_err(threads)?;
    let workers = Arc::new(workers);
    tracing::info!("data plane: {capabilities}");

    let mut unkept = Unkept::default();
    let foundation = Foundation::open(&loaded.config, &mut unkept)?;
    foundation.metrics.show_data_plane("cold_reads", capabilities.cold_reads.word());
    let inside = runtime.enter();
    let listening = Listening::bind(&mut loaded.config.startup, &mut loaded.effective, &mut unkept)?;
    let server = Server::build(loaded, (flags, events), foundation, &listening.addresses(), unkept)?;
    drop(inside);
    server.answer_scrapes(&workers);

    let reloader = server.reloader.clone();
    let outcome = runtime.block_on(serve(server, listening, &workers));
    let worker_runtimes = workers.stop(LAST_LINES);
    runtime.shutdown_timeout(LAST_LINES);
    worker_runtimes.into_iter().for_each(Runtime::shutdown_background);
    reloader.store.flush_blocking();
    reloader.state.log.access_log.flush(LAST_LINES);
    reloader.events.flush(LAST_LINES);
    outcome
}

/// Serves on every listener. Drains when a signal asks for the end.
async fn serve(server: Server, listening: Listening, workers: &Arc<Workers>) -> Result<(), StartError> {
    let mut signals = Signals::new()?;
    let (trigger, watch) = drain::channel();
    let (admin_trigger, admin_watch) = drain::channel();
    let proxy = listening.addresses().proxy.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let serving = format!("serving; proxy on {proxy}");

    let interfaces = server.startup.mdns.interfaces.clone();
    open_admin_door(&server, listening.admin, &admin_watch);
    accept_on_every_door(&server, listening.doors, workers, watch);
    let chores = [
        tokio::spawn(upkeep::housekeeping(server.reloader.clone(), server.identity.clone(), interfaces)),
        tokio::spawn(upkeep::collecting(server.reloader.state.clone())),
        tokio::spawn(upkeep::scrubbing(server.reloader.state.clone())),
        tokio::spawn({
            let state = server.reloader.state.clone();
            async move { state.registry.local.name_shadowed_repositories(state.snapshot()).await }
        }),
        tokio::spawn(watchdog::watch({
            let workers = workers.clone();
            move || all_answer(workers.clone())
        })),
    ];
    service_manager::ready(&serving).await;
    signals.until_end(&server.reloader, &serving).await;
    stop(server, trigger).await;
    chores.iter().for_each(JoinHandle::abort);
    // The admin door stays open to the end, so that a client can watch the drain.
    drop(admin_watch);
    if tokio::time::timeout(LAST_LINES, admin_trigger.drain()).await.is_err() {
        tracing::debug!("an admin request was still running");
    }
    Ok(())
}

fn open_admin_door(server: &Server, listening: AdminListening, watch: &Watch) {
    let backend = backend(&server.pull, &server.reloader, &server.stopping);
    let state = Arc::new(AdminState::new(server.pull.metrics.clone(), backend));
    if let Some(listener) = listening.tcp {
        let AdminDoor { token, loopback_changes, .. } = &server.startup.admin;
        let rights = TcpRights { token: token.clone(), loopback_changes: *loopback_changes };
        tokio::spawn(admin::serve_tcp(listener, state.clone(), rights, ended(watch.clone())));
    }
    if let Some(socket) = listening.socket {
        tokio::spawn(admin::serve_unix(socket, state, ended(watch.clone())));
    }
}

/// Accepts no more connections, and waits for the running answers for at most the configured time.
async fn stop(server: Server, trigger: Trigger) {
    let deadline = server.reloader.state.snapshot().config.proxy.drain_timeout;
    let status = format!("stopping: running answers have {} s to end", deadline.as_secs());
    service_manager::stopping(&status, deadline + AFTER_THE_DRAIN).await;
    server.stopping.store(true, Ordering::Relaxed);
    if let Some(announcer) = server.announcer {
        // The end does not wait for goodbyes that are still being sent.
        spawn_blocking(move || announcer.stop());
    }
    tracing::info!("{status}");
    if tokio::time::timeout(deadline, trigger.drain()).await.is_err() {
        tracing::warn!("some answers were still running at the deadline and are cut off");
    }
    if tokio::time::timeout(LANDING, server.pull.inflight.drain()).await.is_err() {
        tracing::warn!("some fetches were still running and are given up");
    }
    server.reloader.state.registry.local.close(LANDING).await;
}

/// For the watchdog: true if the serving threads answer. This runtime answers too, because it runs this function.
async fn all_answer(workers: Arc<Workers>) -> bool {
    workers.answer().await
}

async fn ended(mut watch: Watch) {
    watch.draining().await;
}
