//! A server's life: build, bind, serve, drain.
//!
//! Every listener is bound before anything is served, and nothing is bound before the configuration, the CA and the
//! store are in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use http::HeaderValue;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::admin::{AdminState, server};
use crate::app::backend::backend;
use crate::app::discovery::{announce, facts};
use crate::app::greeting::greeting;
use crate::app::listening::{Listening, addresses};
use crate::app::reload::{Reloader, snapshot};
use crate::app::signals::Signals;
use crate::doors::state::AppState;
use crate::doors::transparent::TransparentDoor;
use crate::doors::{proxy, registry};
use entrepot_cache::pull::{ConfigSnapshot, Pull};
use entrepot_config::{Flags, Loaded};
use entrepot_core::exit;
use entrepot_net::admin_socket::{AdminSocket, SocketError};
use entrepot_net::drain::{self, Trigger, Watch};
use entrepot_net::listener::{self, Bounds, Place};
use entrepot_net::service_manager::{self, watchdog};
use entrepot_net::serving::capabilities::{Capabilities, ColdReads};
use entrepot_net::serving::load::Connected;
use entrepot_net::serving::workers::Workers;
use entrepot_net::tls::authority::Authority;
use entrepot_net::tls::error::CaError;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_observe::access_log::{AccessLog, AccessLogError};
use entrepot_observe::events::{self, EventsError};
use entrepot_observe::labels::{Door, Label};
use entrepot_observe::metrics::{Metrics, Scraped};
use entrepot_observe::request_log::RequestLog;
use entrepot_registry::access::Access;
use entrepot_registry::events::{Events, Source};
use entrepot_registry::{LocalRegistry, RegistryService};
use entrepot_setup::discovery::announce::Announcer;
use entrepot_setup::discovery::identity::Identity;
use entrepot_setup::pages::CaPage;
use entrepot_store::{DiskSettings, Limits, Store, StoreError, Sweep};
use entrepot_upstream::exchange::Memory;
use entrepot_upstream::own::{Ourselves, OwnSockets};
use entrepot_upstream::quota::Quotas;
use entrepot_upstream::token::Tokens;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Logging.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A listening address.
    #[error("cannot listen on {address}: {source}; {hint}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The data directory.
    #[error("cannot create {path}: {source}; choose another place with --data-dir", path = path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The key of the registry's tokens.
    #[error("cannot read or make the key of the registry's tokens in {path}: {source}", path = path.display())]
    TokenKey {
        /// The data directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Threads, signals, randomness.
    #[error("the system gives no {what}: {source}")]
    System {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code, from sysexits.
    pub fn exit_code(&self) -> u8 {
        let io = match self {
            Self::Events(_) | Self::Ca(_) => return exit::CONFIGURATION,
            Self::Store(StoreError::Locked { .. }) => return exit::UNAVAILABLE,
            Self::Bind { source, .. } | Self::DataDir { source, .. } => source.kind(),
            _ => return exit::IO,
        };
        match io {
            io::ErrorKind::PermissionDenied => exit::PERMISSION,
            io::ErrorKind::AddrInUse => exit::UNAVAILABLE,
            _ => exit::IO,
        }
    }
}

/// How often unused entries are dropped and our own addresses are looked up again.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// After the drain: what is left of fills is put aside.
const LANDING: Duration = Duration::from_secs(5);
const LAST_LINES: Duration = Duration::from_secs(1);

/// What the end may take besides the drain, with something to spare.
const AFTER_THE_DRAIN: Duration = Duration::from_secs(30);

/// Everything that was built.
struct Server {
    reloader: Arc<Reloader>,
    pull: Arc<Pull>,
    listening: Listening,
    admin_socket: AdminSocket,
    announcer: Option<Announcer>,
    identity: Arc<Identity>,
    /// Set when the process stops, for `/readyz`.
    stopping: Arc<AtomicBool>,
    workers: Arc<Workers>,
}

/// Serves until a signal ends it.
pub fn run(loaded: Loaded, flags: Flags) -> Result<(), StartError> {
    let logging = &loaded.config.logging;
    let events = events::init(&logging.level, logging.format)?;
    for notice in &loaded.notices {
        tracing::info!("{notice}");
    }
    raise_file_limit();
    let threads = |source| StartError::System { what: "threads", source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(threads)?;
    let capabilities = Capabilities::detect(&loaded.config.data_plane);
    let workers = Workers::start(capabilities.workers, capabilities.cold_reads == ColdReads::Ring).map_err(threads)?;
    tracing::info!("data plane: {capabilities}");
    let (trigger, watch) = drain::channel();
    let workers = Arc::new(workers);
    let server = build(&runtime, loaded, flags, events, workers.clone())?;
    server.pull.metrics.show_data_plane("cold_reads", capabilities.cold_reads.word());
    server.pull.metrics.show_data_plane("sealing", capabilities.sealing());
    let reloader = server.reloader.clone();
    let outcome = runtime.block_on(server.serve(trigger, watch));
    let worker_runtimes = workers.stop(LAST_LINES);
    runtime.shutdown_timeout(LAST_LINES);
    worker_runtimes.into_iter().for_each(Runtime::shutdown_background);
    reloader.store.flush_blocking();
    reloader.state.log.access_log.flush(LAST_LINES);
    reloader.events.flush(LAST_LINES);
    outcome
}

fn build(
    runtime: &Runtime,
    loaded: Loaded,
    flags: Flags,
    events: events::EventsHandle,
    workers: Arc<Workers>,
) -> Result<Server, StartError> {
    let Loaded { config, effective, .. } = loaded;
    let path = config.data_dir.clone();
    std::fs::create_dir_all(&path).map_err(|source| StartError::DataDir { path, source })?;
    let authority = Arc::new(Authority::open_or_create(&config.ca)?);
    let store =
        Store::open_with(&config.data_dir, Limits::from(&config.cache), DiskSettings::from(&config.data_plane))?;
    let disk_ladder = store.start_disk_threads();
    let access_log = AccessLog::start(config.logging.format, config.logging.file.as_deref())?;
    let instance = instance()?;
    let _inside = runtime.enter();
    let listening = Listening::bind(&config)?;
    let admin_socket = AdminSocket::bind(&config.admin.socket)?;
    let (proxy, registry) = (addresses(&listening.proxy), addresses(&listening.registry));
    let transparent = addresses(&listening.transparent);
    let own = [&proxy, &registry, &transparent].into_iter().flatten().copied();
    let own = own.chain(config.admin.listen);
    let ourselves = Ourselves {
        sockets: OwnSockets::new(own),
        instance: instance.clone().into(),
        authorities: authority.certificates(),
    };
    let via =
        HeaderValue::from_str(&format!("1.1 entrepot-{instance}")).unwrap_or(HeaderValue::from_static("1.1 entrepot"));
    let metrics = Arc::new(Metrics::new());
    metrics.set_disk_ladder(disk_ladder);
    tracing::info!(threads = config.data_plane.disk_threads, by = disk_ladder.word(), "disk threads run");
    let (tokens, quotas) = (Tokens::default(), Quotas::default());
    let memory = Arc::new(Memory { tokens, quotas, metrics: metrics.clone(), via });
    let pull = Pull::new(store.clone(), metrics.clone());
    let leaves = Arc::new(LeafStore::new(authority.clone(), config.ca.leaf_lifetime, SystemTime::now)?);
    let mdns = config.mdns.clone();
    let identity = Arc::new(Identity::default());
    identity.refresh(&mdns.interfaces);
    let facts = facts(&proxy, &registry, &config.registry, &authority);
    let page = CaPage::new(authority.certificate_pem().to_owned().into(), facts.clone(), identity.clone());
    let access = Access::open(config.registry.rights.clone(), &config.data_dir)
        .map_err(|source| StartError::TokenKey { path: config.data_dir.clone(), source })?;
    let greeting = greeting(&config, &authority, (&proxy, &registry), &access, &identity.addresses());
    let snapshot = snapshot(config, &ourselves, memory.clone());
    let log = Arc::new(RequestLog { access_log, metrics: metrics.clone() });
    let local = local_registry(&snapshot, &pull, access, &registry, instance);
    let state = AppState::new(pull.clone(), RegistryService { local, pull: pull.clone() }, log, page, leaves, snapshot);
    let effective = Mutex::new(effective);
    let reloader = Arc::new(Reloader { flags, state, store, events, ourselves, memory, effective });
    let stopping = Arc::default();
    eprint!("{greeting}");
    // Everything is bound: whoever hears of this server finds its doors open.
    let announcer = announce(&mdns, facts, &proxy, identity.clone());
    Ok(Server { reloader, pull, listening, admin_socket, announcer, identity, stopping, workers })
}

/// Our registry, with those who hear of it.
fn local_registry(
    snapshot: &Arc<ConfigSnapshot>,
    pull: &Arc<Pull>,
    access: Access,
    listening: &[SocketAddr],
    instance: String,
) -> Arc<LocalRegistry> {
    let door = &snapshot.config.registry;
    let port = listening.first().map_or(0, SocketAddr::port);
    let source = Source { address: format!("{}:{port}", door.hostname.name()), instance };
    let events = Events::new(source, snapshot.upstream.clone());
    events.set_receivers(&door.notifications);
    LocalRegistry::open(pull.store.clone(), door, access, events)
}

impl Server {
    async fn serve(self, trigger: Trigger, watch: Watch) -> Result<(), StartError> {
        let mut signals = Signals::new()?;
        let serving = format!("serving; proxy on {}", joined(&addresses(&self.listening.proxy)));
        let app = self.reloader.state.clone();
        let config = app.snapshot();
        self.scrape();
        let bounds = Bounds::new(config.config.proxy.max_connections, config.config.proxy.max_connections_per_client);
        let ports = addresses(&self.listening.transparent).iter().map(SocketAddr::port).collect();
        let transparent = Arc::new(TransparentDoor::new(app.clone(), ports));
        let common = (bounds, self.pull.metrics.clone(), self.workers.clone());
        for listener in self.listening.proxy {
            let app = app.clone();
            let serve = move |stream, peer, place, drain| proxy::serve(app.clone(), stream, peer, place, drain);
            open_door(listener, Door::Proxy, &common, &watch, serve);
        }
        for listener in self.listening.transparent {
            let door = transparent.clone();
            let serve = move |stream, peer, place, drain| door.clone().serve(stream, peer, place, drain);
            open_door(listener, Door::Transparent, &common, &watch, serve);
        }
        for listener in self.listening.registry {
            let app = app.clone();
            let serve = move |stream, peer, place, drain| registry::serve(app.clone(), stream, peer, place, drain);
            open_door(listener, Door::Registry, &common, &watch, serve);
        }
        drop((transparent, common));
        let (admin_trigger, admin_watch) = drain::channel();
        let state = AdminState::new(self.pull.metrics.clone(), backend(&self.pull, &self.reloader, &self.stopping));
        let state = Arc::new(state);
        if let Some(listener) = self.listening.admin {
            let token = config.config.admin.token.clone();
            tokio::spawn(server::serve_tcp(listener, state.clone(), token, ended(admin_watch.clone())));
        }
        tokio::spawn(server::serve_unix(self.admin_socket, state, ended(admin_watch)));
        let housekeeping = tokio::spawn(housekeeping(self.reloader.clone(), self.identity));
        let collecting = tokio::spawn(collecting(app));
        let deadline = config.config.proxy.drain_timeout;
        drop(config);
        service_manager::ready(&serving).await;
        let workers = self.workers.clone();
        let watching = tokio::spawn(watchdog::watch(move || all_answer(workers.clone())));
        signals.until_end(&self.reloader, &serving).await;
        let status = format!("stopping: running answers have {} s to end", deadline.as_secs());
        service_manager::stopping(&status, deadline + AFTER_THE_DRAIN).await;
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(announcer) = self.announcer {
            // A goodbye that is still on its way keeps nobody waiting.
            spawn_blocking(move || announcer.stop());
        }
        tracing::info!("{status}");
        drop(watch);
        if tokio::time::timeout(deadline, trigger.drain()).await.is_err() {
            tracing::warn!("some answers were still running at the deadline and are cut off");
        }
        if tokio::time::timeout(LANDING, self.pull.inflight.drain()).await.is_err() {
            tracing::warn!("some fills were still running and are given up");
        }
        self.reloader.state.registry.local.close(LANDING).await;
        [watching, housekeeping, collecting].iter().for_each(JoinHandle::abort);
        // The admin door was open to the last, for whoever watches the drain.
        if tokio::time::timeout(LAST_LINES, admin_trigger.drain()).await.is_err() {
            tracing::debug!("an admin request was still running");
        }
        Ok(())
    }

    fn scrape(&self) {
        let (reloader, workers) = (Arc::downgrade(&self.reloader), self.workers.clone());
        self.pull.metrics.scrape_from(move || {
            let Some(reloader) = reloader.upgrade() else { return Scraped::default() };
            let usage = reloader.store.usage();
            Scraped {
                store_size_bytes: usage.used_bytes,
                store_max_size_bytes: reloader.state.snapshot().config.cache.max_size.0,
                store_blobs: usage.blobs,
                store_evictions: usage.evictions,
                store_errors: usage.write_errors + usage.read_errors + usage.index_dropped,
                access_log_dropped: reloader.state.log.access_log.dropped(),
                worker_major_faults: workers.major_faults(),
            }
        });
    }
}

/// Accepts on `listener` until the drain begins; each connection goes to the serving thread with the least to do.
fn open_door<Serving>(
    listener: TcpListener,
    door: Door,
    (bounds, metrics, workers): &(Arc<Bounds>, Arc<Metrics>, Arc<Workers>),
    watch: &Watch,
    serve: impl Fn(std::net::TcpStream, SocketAddr, (Place, Connected), Watch) -> Serving + Clone + Send + Sync + 'static,
) where
    Serving: Future<Output = ()> + 'static,
{
    let (drain, workers) = (watch.clone(), workers.clone());
    let hand = move |stream, peer, place| {
        let (serve, drain) = (serve.clone(), drain.clone());
        workers.hand(move |connected| serve(stream, peer, (place, connected), drain));
    };
    tokio::spawn(listener::accept(listener, bounds.clone(), (metrics.clone(), door), watch.clone(), hand));
}

/// For the watchdog: the serving threads; this runtime, which has the doors and the fills, answers by running this.
async fn all_answer(workers: Arc<Workers>) -> bool {
    workers.answer().await
}

fn joined(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

async fn ended(mut watch: Watch) {
    watch.draining().await;
}

async fn housekeeping(reloader: Arc<Reloader>, identity: Arc<Identity>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        let (looking, identity) = (reloader.clone(), identity.clone());
        let looked = spawn_blocking(move || {
            looking.ourselves.sockets.refresh();
            let snapshot = looking.state.snapshot();
            identity.refresh(&snapshot.config.mdns.interfaces);
            looking.state.registry.local.refresh_names(&snapshot.config.registry);
        });
        // A panic is in the log, and the next tick looks again.
        let _ = looked.await;
        let expiry = reloader.state.snapshot().config.registry.upload_expiry;
        let expired = reloader.state.registry.local.expire_uploads(expiry).await;
        let dropped = reloader.store.expire_unused(SystemTime::now()).await;
        if dropped > 0 {
            tracing::info!("dropped {dropped} unused entries");
        }
        if expired > 0 {
            tracing::info!("dropped {expired} uploads that nobody went on with");
        }
    }
}

/// Collects in the registry, as often as the configuration says.
async fn collecting(state: Arc<AppState>) {
    loop {
        let interval = state.snapshot().config.registry.gc_interval;
        // What is switched off may be switched on by a reload.
        tokio::time::sleep(if interval.is_zero() { HOUSEKEEPING } else { interval }).await;
        if !interval.is_zero() {
            let (registry, grace) = (state.registry.local.clone(), state.snapshot().config.registry.grace);
            let sweep = Sweep { grace, untagged: false, dry_run: false };
            // Its outcome is in the log.
            registry.collect_quietly(sweep).await;
        }
    }
}

/// A name for this process that no other has: by it a request that comes back is known.
fn instance() -> Result<String, StartError> {
    let mut random = [0u8; 8];
    rand::fill(&mut random)
        .map_err(|_| StartError::System { what: "randomness", source: io::ErrorKind::Other.into() })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Each pull takes several file descriptors, and the usual soft limit is 1024.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("the limit of open files stays at {soft}: {error}");
    }
}
