//! entrepot in process: its real configuration, store, pipeline and proxy door, on loopback.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use entrepot::doors::dispatch::serve_connection;
use entrepot::doors::state::AppState;
use entrepot::doors::{proxy, registry};
use entrepot_cache::pull::{ConfigSnapshot, Pull};
use entrepot_config::ready::{Config, LiveConfig};
use entrepot_config::{Flags, Found, HostFacts, load};
use entrepot_core::digest::Digest;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination, RegistryDestination};
use entrepot_net::drain::{self, Trigger, Watch};
use entrepot_net::http::held_body::HeldBodies;
use entrepot_net::listener;
use entrepot_net::places::{Bounds, ConnectionSlot, Standing};
use entrepot_net::tls::OwnKey;
use entrepot_net::tls::authority::Authority;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_net::workers::Workers;
use entrepot_observe::access_log::AccessLog;
use entrepot_observe::labels::Door;
use entrepot_observe::metrics::Metrics;
use entrepot_observe::request_log::RequestLog;
use entrepot_registry::access::AccessControl;
use entrepot_registry::events::{EventSource, Events};
use entrepot_registry::{LocalRegistry, RegistryService};
use entrepot_setup::discovery::facts::Facts;
use entrepot_setup::pages::CaPage;
use entrepot_store::{DiskSettings, Limits, Store};
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::{RegistryClient as WayOut, UpstreamMemory};
use http::{HeaderValue, Method};
use tempfile::TempDir;
use tokio::io::DuplexStream;

use super::{Ask, Session, Upstream, eventually};

/// The name of the instance in `Via`.
pub(crate) const VIA: &str = "1.1 entrepot-in-a-test";

/// The text of an `entrepot.toml`, section by section.
pub(crate) struct Setup {
    sections: BTreeMap<String, String>,
    data: Option<PathBuf>,
}

impl Setup {
    /// Every `upstream` is a plain registry. Each request for a tag asks upstream.
    pub(crate) fn of(upstreams: &[&Upstream]) -> Self {
        let mut setup = Self { sections: BTreeMap::new(), data: None }
            .set("upstream", "allow_addresses = [\"127.0.0.0/8\"]")
            .set("cache", "min_free = \"1m\"")
            .set("cache.tags", "revalidate_interval = \"0s\"")
            .set("registry", "anonymous = \"delete\"");
        // Lets all tests run with or without io_uring in the disk threads.
        if let Ok(word) = std::env::var("ENTREPOT_TEST_IO_URING") {
            setup = setup.set("data_plane", &format!("io_uring = \"{word}\""));
        }
        for upstream in upstreams {
            setup = setup.set(&Self::registry(upstream), "scheme = \"http\"");
        }
        setup
    }

    /// The section of one registry.
    pub(crate) fn registry(upstream: &Upstream) -> String {
        format!("registries.\"{}\"", upstream.host())
    }

    /// Adds a line to a section. It replaces the value of a key that the section has already.
    pub(crate) fn set(mut self, section: &str, line: &str) -> Self {
        let text = self.sections.entry(section.to_owned()).or_default();
        let key = line.split('=').next().unwrap_or_default().to_owned() + "=";
        let kept = text.lines().filter(|known| !known.starts_with(&key)).map(|known| format!("{known}\n"));
        *text = kept.collect::<String>() + line + "\n";
        self
    }

    /// Behaves as on a kernel without io_uring.
    pub(crate) fn without_ring(self) -> Self {
        self.set("data_plane", "io_uring = \"off\"")
    }

    /// Puts the data in this folder instead of a temporary one.
    pub(crate) fn at(self, data: PathBuf) -> Self {
        Self { data: Some(data), ..self }
    }

    /// Adds an account of the administrator.
    pub(crate) fn account(self, upstream: &Upstream, user: &str, password: &str) -> Self {
        let host = upstream.host();
        self.set("[credentials]", &format!("registry = \"{host}\""))
            .set("[credentials]", &format!("username = \"{user}\""))
            .set("[credentials]", &format!("password = \"{password}\""))
    }

    fn load(&self, folder: &TempDir) -> Config {
        let data = self.data.clone().unwrap_or_else(|| folder.path().join("data"));
        let mut text = String::new();
        for (section, lines) in &self.sections {
            write!(text, "[{section}]\n{lines}").expect("text");
        }
        let file = folder.path().join("entrepot.toml");
        std::fs::write(&file, text).expect("a file");
        let flags = Flags { config: Some(file), data_dir: Some(data), listen: Vec::new() };
        // A host with no file on it.
        let host = HostFacts { uid: 0, look: Box::new(|_| Found::Nothing) };
        load(&flags, &|_: &str| None, &host).unwrap_or_else(|error| panic!("{error}")).config
    }

    /// Starts entrepot with this configuration.
    pub(crate) async fn start(self) -> Proxy {
        Proxy::start(&self, None).await
    }
}

/// A running entrepot.
pub(crate) struct Proxy {
    pub(crate) door: SocketAddr,
    /// The door of our own registry.
    pub(crate) registry_door: SocketAddr,
    /// The listener for Docker's `registry-mirrors`.
    pub(crate) mirror_door: SocketAddr,
    pub(crate) pull: Arc<Pull>,
    state: Arc<AppState>,
    /// Outlives reloads.
    memory: Arc<UpstreamMemory>,
    watch: Watch,
    _trigger: Trigger,
    authority: Arc<Authority>,
    data: PathBuf,
    folder: TempDir,
}

impl Proxy {
    /// A proxy in front of these registries, with nothing else configured.
    pub(crate) async fn before(upstreams: &[&Upstream]) -> Self {
        Setup::of(upstreams).start().await
    }

    /// Another entrepot over the same store, which remembers nothing but what is there.
    pub(crate) async fn without_memory(&self, setup: &Setup) -> Self {
        Self::start(setup, Some(self.pull.store.clone())).await
    }

    async fn start(setup: &Setup, store: Option<Arc<Store>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = setup.load(&folder);
        std::fs::create_dir_all(&config.startup.data_dir).expect("a folder");
        let data = config.startup.data_dir.clone();
        let authority = Arc::new(Authority::open_or_create(&config.startup.ca).expect("an authority"));
        let own_key = OwnKey::open_or_create(&data).expect("a key");
        let leaves = LeafStore::new(authority.clone(), own_key, config.startup.ca.leaf_lifetime, SystemTime::now);
        let leaves = leaves.expect("leaves");
        let with_ring = config.startup.data_plane.io_uring;
        let disk = DiskSettings::from(&config.startup.data_plane);
        let store = store.unwrap_or_else(|| {
            let limits = Limits::from(&config.live);
            Store::open_with(&config.startup.data_dir, limits, disk).expect("a store")
        });
        let log =
            AccessLog::start(config.startup.logging.format, Some(&folder.path().join("access.log"))).expect("a log");
        let metrics: Arc<Metrics> = Arc::default();
        let log = Arc::new(RequestLog { access_log: log, metrics: metrics.clone() });
        let pull = Pull::new(store, metrics, HeldBodies::new(data.clone()));
        let facts = Facts::new(3128, &authority.fingerprint_sha256());
        let page = CaPage::new(authority.certificate_pem().to_owned().into(), facts, Arc::default());
        let ports = config.startup.registry.ports();
        let memory = Arc::new(UpstreamMemory::new(pull.metrics.clone(), HeaderValue::from_static(VIA)));
        let snapshot = snapshot(config.live, &memory);
        let door = &snapshot.config.registry;
        let access = AccessControl::open(door.rights.clone(), &data).expect("a key");
        let source = EventSource { address: "docker-registry.local:5000".into(), instance: "test".into() };
        let events = Events::new(source, snapshot.upstream.clone(), data.clone());
        let local = LocalRegistry::open(pull.store.clone(), ports, door, access, events);
        let state = AppState::new(
            pull.clone(),
            RegistryService { local, pull: pull.clone() },
            log,
            page,
            Arc::new(leaves),
            snapshot,
        );
        let (trigger, watch) = drain::channel();
        let workers = Arc::new(Workers::start(1, with_ring).expect("a serving thread"));
        let serve = {
            let (workers, watch, state) = (workers.clone(), watch.clone(), state.clone());
            move |stream, peer, place| {
                let (state, drain) = (state.clone(), watch.clone());
                let standing = ConnectionSlot::standing(&place).clone();
                workers.hand(move |connected| {
                    standing.serve(proxy::serve(state, stream, peer, (place, connected), drain))
                });
            }
        };
        let connections_max = config.startup.proxy.max_connections;
        let address = open(serve, &pull, &watch, connections_max);
        let serve = {
            let (workers, watch, state) = (workers.clone(), watch.clone(), state.clone());
            move |stream, peer, place| {
                let (state, drain) = (state.clone(), watch.clone());
                workers.hand(move |connected| {
                    let place = ((place, connected), Door::Registry, Destination::Own);
                    registry::serve(state, stream, peer, place, drain)
                });
            }
        };
        let registry_door = open(serve, &pull, &watch, connections_max);
        let (drain, served) = (watch.clone(), state.clone());
        let serve = move |stream, peer, place| {
            let (state, drain) = (served.clone(), drain.clone());
            workers.hand(move |connected| {
                let place = ((place, connected), Door::Mirror, Destination::DockerHubMirror);
                registry::serve(state, stream, peer, place, drain)
            });
        };
        let mirror_door = open(serve, &pull, &watch, connections_max);
        Self {
            authority,
            door: address,
            registry_door,
            mirror_door,
            pull,
            state,
            memory,
            watch,
            _trigger: trigger,
            data,
            folder,
        }
    }

    /// Puts another configuration's reloadable part in force.
    pub(crate) fn reload(&self, setup: &Setup) {
        let snapshot = snapshot(setup.load(&self.folder).live, &self.memory);
        let registry = &self.state.registry.local;
        registry.set_access(registry.access().renewed(snapshot.config.registry.rights.clone()));
        registry.refresh_names(&snapshot.config.registry);
        self.state.set_snapshot(snapshot);
    }

    /// A request through the proxy door, in absolute form.
    pub(crate) fn ask(&self, method: Method, upstream: &Upstream, path: &str) -> Ask {
        Ask::new(self.door, method, &upstream.host(), path)
    }

    pub(crate) fn get(&self, upstream: &Upstream, path: &str) -> Ask {
        self.ask(Method::GET, upstream, path)
    }

    pub(crate) fn head(&self, upstream: &Upstream, path: &str) -> Ask {
        self.ask(Method::HEAD, upstream, path)
    }

    /// A request through the proxy door to any host.
    pub(crate) fn ask_host(&self, method: Method, host: &str, path: &str) -> Ask {
        Ask::new(self.door, method, host, path)
    }

    /// A request to our own registry.
    pub(crate) fn registry(&self, method: Method, path: &str) -> Ask {
        Ask::new(self.registry_door, method, "docker-registry.local:5000", path)
    }

    /// A request to the listener for Docker's `registry-mirrors`.
    pub(crate) fn mirror(&self, method: Method, path: &str) -> Ask {
        Ask::new(self.mirror_door, method, "docker-registry.local:5001", path)
    }

    /// A TLS connection to a registry after CONNECT, of a client that trusts the CA.
    pub(crate) async fn sealed(&self, upstream: &Upstream) -> Session {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in self.authority.certificates() {
            roots.add(certificate).expect("a certificate");
        }
        Session::sealed(self.door, &upstream.host(), roots).await
    }

    /// A connection that is to the registry already. It holds up to this many bytes on the way.
    pub(crate) fn visit(&self, upstream: &Upstream, room_bytes: usize) -> DuplexStream {
        let host = upstream.host().parse().expect("a host");
        let client = [192, 0, 2, 1].into();
        let destination = Destination::Registry(RegistryDestination { host, listed: true });
        let standing = Standing::uncounted();
        let visit = ConnectionContext { client, door: Door::Proxy, scheme: Scheme::Https, destination, standing };
        let (client, server) = tokio::io::duplex(room_bytes);
        tokio::spawn(serve_connection(self.state.clone(), visit, server, self.watch.clone()));
        client
    }

    /// The state that every connection shares.
    pub(crate) fn state(&self) -> &Arc<AppState> {
        &self.state
    }

    /// Waits until no fetch runs any more.
    pub(crate) async fn landed(&self) {
        eventually("every fill has ended", || self.pull.inflight.count() == 0).await;
    }

    /// The access log, as soon as it has this many lines.
    pub(crate) async fn access_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let read = || {
            let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>()
        };
        eventually("the access log has every line", || read().len() >= count).await;
        read()
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        let hex = digest.hex();
        self.data().join(format!("blobs/{}/{}/{hex}", digest.algorithm().name(), &hex[..2])).is_file()
    }

    /// Asserts that the store has neither content nor partial content.
    pub(crate) async fn holds_nothing(&self) {
        self.publishes_nothing().await;
        eventually("partial files are removed", || self.files("fill").is_empty()).await;
    }

    /// Asserts that no content was published. Bytes from before upstream broke may wait for the next pull.
    pub(crate) async fn publishes_nothing(&self) {
        self.landed().await;
        assert_eq!(self.files("blobs"), Vec::<PathBuf>::new());
    }

    /// The file of a published blob.
    pub(crate) fn file_of(&self, digest: &Digest) -> PathBuf {
        let found = self.files("blobs").into_iter().find(|path| path.ends_with(digest.hex()));
        found.expect("the blob is stored")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(crate) fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.data().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

fn open(
    serve: impl Fn(std::net::TcpStream, SocketAddr, ConnectionSlot) + Send + 'static,
    pull: &Arc<Pull>,
    watch: &Watch,
    connections_max: usize,
) -> SocketAddr {
    let listener = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(listener::accept(
        listener,
        Bounds::new(connections_max, 10_000),
        (pull.metrics.clone(), Door::Proxy),
        watch.clone(),
        serve,
    ));
    address
}

fn snapshot(config: LiveConfig, memory: &Arc<UpstreamMemory>) -> Arc<ConfigSnapshot> {
    let client = HttpClient::new(&config.upstream, &config.registries, &Ourselves::default());
    Arc::new(ConfigSnapshot { upstream: Arc::new(WayOut::new(client, memory.clone())), config })
}
