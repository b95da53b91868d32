//! Makes the parts of a server. The parts that need no port come first ([`Foundation`]). When every listener is bound,
//! the parts that need the bound addresses follow ([`Server`]).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_lc_rs::rand;
use http::HeaderValue;

use super::discovery::{announce, facts};
use super::greeting::greeting;
use super::listening::Addresses;
use super::reload::{Reloader, registry_address, show_sealing, snapshot};
use super::start_error::StartError;
use super::unkept::{Unkept, itself};
use crate::cli::output;
use crate::doors::state::AppState;
use entrepot_cache::pull::{ConfigSnapshot, Pull};
use entrepot_config::ready::{Config, Startup};
use entrepot_config::{Flags, Loaded};
use entrepot_net::http::held_body::HeldBodies;
use entrepot_net::tls::OwnKey;
use entrepot_net::tls::authority::Authority;
use entrepot_net::tls::error::CaError;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_net::workers::Workers;
use entrepot_observe::access_log::AccessLog;
use entrepot_observe::events::EventsHandle;
use entrepot_observe::labels::Label;
use entrepot_observe::metrics::{Metrics, Scraped};
use entrepot_observe::request_log::RequestLog;
use entrepot_registry::access::AccessControl;
use entrepot_registry::events::{EventSource, Events};
use entrepot_registry::{LocalRegistry, RegistryService};
use entrepot_setup::discovery::announce::Announcer;
use entrepot_setup::discovery::identity::Identity;
use entrepot_setup::pages::CaPage;
use entrepot_store::{DiskSettings, Limits, Store};
use entrepot_upstream::own::{Ourselves, OwnSockets};
use entrepot_upstream::registry_client::UpstreamMemory;

/// The parts that must be in order before a port is bound.
pub(super) struct Foundation {
    authority: Arc<Authority>,
    store: Arc<Store>,
    access_log: AccessLog,
    pub(super) metrics: Arc<Metrics>,
}

/// The parts of a server that is ready to serve.
pub(super) struct Server {
    pub(super) startup: Startup,
    pub(super) reloader: Arc<Reloader>,
    pub(super) pull: Arc<Pull>,
    pub(super) identity: Arc<Identity>,
    /// None if this server is not announced.
    pub(super) announcer: Option<Announcer>,
    /// True as soon as the process stops. `/readyz` reads it.
    pub(super) stopping: Arc<AtomicBool>,
}

impl Foundation {
    /// Opens the CA, the store and the access log.
    pub(super) fn open(config: &Config, unkept: &mut Unkept) -> Result<Self, StartError> {
        let Config { startup, live, .. } = config;
        let path = startup.data_dir.clone();
        let made = unkept.without("data_dir", std::fs::create_dir_all(&path), itself);
        made.map_err(|source| StartError::DataDir { path, source })?;
        let authority = Arc::new(Authority::open_or_create(&startup.ca)?);
        let disk = DiskSettings::from(&startup.data_plane);
        let store = Store::open_with(&startup.data_dir, Limits::from(live), disk)?;
        let disk_ladder = store.start_disk_threads();
        let metrics = Arc::new(Metrics::new());
        metrics.set_disk_ladder(disk_ladder);
        tracing::info!(threads = startup.data_plane.disk_threads, by = disk_ladder.word(), "disk threads run");
        let access_log = AccessLog::start(startup.logging.format, startup.logging.file.as_deref())?;
        Ok(Self { authority, store, access_log, metrics })
    }
}

impl Server {
    /// Makes the server, prints the greeting for the console, and announces the server. Call it within a tokio runtime.
    pub(super) fn build(
        loaded: Loaded,
        (flags, events): (Flags, EventsHandle),
        foundation: Foundation,
        bound: &Addresses,
        mut unkept: Unkept,
    ) -> Result<Self, StartError> {
        let Loaded { config: Config { startup, live, .. }, effective, .. } = loaded;
        let Foundation { authority, store, access_log, metrics } = foundation;
        let instance = instance()?;
        let ourselves = Ourselves {
            sockets: OwnSockets::new(bound.all().chain(startup.admin.listen.addresses.iter().copied())),
            instance: instance.clone().into(),
            authorities: authority.certificates(),
        };
        let memory = Arc::new(UpstreamMemory::new(metrics.clone(), via(&instance)));
        let kept = unkept.without("the key of the own name", OwnKey::open_or_create(&startup.data_dir), unwritable);
        let own_key = kept?.map_or_else(OwnKey::generate, Ok)?;
        let pin = own_key.pin();
        let leaves = Arc::new(LeafStore::new(authority.clone(), own_key, startup.ca.leaf_lifetime, SystemTime::now)?);
        let identity = Arc::new(Identity::default());
        identity.refresh(&startup.mdns.interfaces);
        let facts = facts(bound, &startup.registry, (&authority, pin));
        let token_key = |source| StartError::TokenKey { path: startup.data_dir.clone(), source };
        let rights = || live.registry.rights.clone();
        let opened = AccessControl::open(rights(), &startup.data_dir);
        let opened = unkept.without("the key of the registry's tokens", opened, itself).map_err(token_key)?;
        let access = opened.map_or_else(|| AccessControl::with_passing_key(rights()), Ok).map_err(token_key)?;
        let greeting = greeting((&startup, &live), &facts, bound, &access, &identity.addresses());

        let pull = Pull::new(store.clone(), metrics.clone(), HeldBodies::new(startup.data_dir.clone()));
        show_sealing(&metrics, &live);
        let snapshot = snapshot(live, &ourselves, memory.clone());
        let registry_port = bound.registry.first().map_or(0, SocketAddr::port);
        let source = EventSource { address: registry_address(&snapshot.config.registry, registry_port), instance };
        let told = (source, startup.data_dir.clone());
        let local = local_registry(&snapshot, &pull, startup.registry.ports(), access, told);
        let page = CaPage::new(authority.certificate_pem().to_owned().into(), facts.clone(), identity.clone());
        let log = Arc::new(RequestLog { access_log, metrics });
        let registry = RegistryService { local, pull: pull.clone() };
        let state = AppState::new(pull.clone(), registry, log, page, leaves, snapshot);
        let effective = Mutex::new(effective);
        let reloader = Reloader { flags, state, store, events, ourselves, memory, registry_port, effective };

        output::say(greeting);
        if let Some(line) = unkept.line(&startup.data_dir, &reloader.store.troubles()) {
            tracing::warn!("{line}");
        }
        // Every listener is bound here, so a client that discovers this server finds its doors open.
        let announcer = announce(&startup.mdns, facts, &bound.proxy, identity.clone());
        let (reloader, stopping) = (Arc::new(reloader), Arc::default());
        Ok(Self { startup, reloader, pull, identity, announcer, stopping })
    }

    /// Gives the metrics the numbers that each scrape reads.
    pub(super) fn answer_scrapes(&self, workers: &Arc<Workers>) {
        let (reloader, workers) = (Arc::downgrade(&self.reloader), workers.clone());
        self.pull.metrics.scrape_from(move || {
            let Some(reloader) = reloader.upgrade() else { return Scraped::default() };
            let (usage, governors) = (reloader.store.usage(), reloader.memory.governors.standing());
            Scraped {
                store_size_bytes: usage.used_bytes,
                store_max_size_bytes: reloader.state.snapshot().config.cache.max_size.0,
                store_blobs: usage.blobs,
                store_evictions: usage.evictions,
                store_errors: usage.write_errors + usage.read_errors + usage.index_dropped,
                access_log_dropped: reloader.state.log.access_log.dropped(),
                quota_pauses: governors.quota_pauses,
                rate_pauses: governors.rate_pauses,
                low_quotas: governors.low_quotas,
                worker_major_faults: workers.major_faults(),
            }
        });
    }
}

fn unwritable(error: &CaError) -> Option<&io::Error> {
    match error {
        CaError::Unwritable { source, .. } => Some(source),
        _ => None,
    }
}

/// Our registry, with the receivers of its events.
fn local_registry(
    snapshot: &Arc<ConfigSnapshot>,
    pull: &Arc<Pull>,
    ports: Vec<u16>,
    access: AccessControl,
    (source, data_dir): (EventSource, PathBuf),
) -> Arc<LocalRegistry> {
    let settings = &snapshot.config.registry;
    let events = Events::new(source, snapshot.upstream.clone(), data_dir);
    events.set_receivers(&settings.notifications);
    LocalRegistry::open(pull.store.clone(), ports, settings, access, events)
}

/// A name that no other process has. If a request of ours comes back to us, it is recognised by this name.
fn instance() -> Result<String, StartError> {
    let mut random = [0u8; 8];
    rand::fill(&mut random)
        .map_err(|_| StartError::System { what: "randomness", source: io::ErrorKind::Other.into() })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn via(instance: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("1.1 entrepot-{instance}")).unwrap_or(HeaderValue::from_static("1.1 entrepot"))
}
