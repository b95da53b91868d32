//! The configuration as the product uses it: parsed, compiled, defaults filled in. Built only by `config::load`;
//! nothing here can be wrong, so nothing that takes a `Config` validates again.

pub mod rights;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::host::{HTTPS_PORT, HostPattern, RegistryHost};
use entrepot_core::quantity::Size;
use globset::GlobSet;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use regex::Regex;
use rustls_pki_types::CertificateDer;

use entrepot_core::mdns_name::MdnsName;
use entrepot_core::secret::Secret;
use rights::{Notification, Rights};

/// Everything that can be configured.
pub struct Config {
    /// Blobs, fills, index, and the CA where it has no place of its own.
    pub data_dir: PathBuf,
    /// The explicit proxy on 3128.
    pub proxy: ProxyDoor,
    /// The door for redirected connections on 3129.
    pub transparent: TransparentDoor,
    /// Our own registry.
    pub registry: RegistryDoor,
    /// The administrator's door.
    pub admin: AdminDoor,
    /// Where the certificate authority is kept.
    pub ca: CaFiles,
    /// The cache of blobs and manifests.
    pub cache: Cache,
    /// How long a tag's answer holds.
    pub tags: TagPolicy,
    /// The registries that are intercepted: the built-in list and the user's.
    pub intercept: Vec<HostPattern>,
    /// Accounts that the administrator gave, first match wins.
    pub credentials: Vec<Account>,
    /// Exceptions for single registries.
    pub registries: Vec<RegistryPolicy>,
    /// How upstream is reached.
    pub upstream: Upstream,
    /// Deadlines towards clients.
    pub client: ClientDeadlines,
    /// How bytes are moved.
    pub data_plane: DataPlane,
    /// The agent that redirects connections.
    pub redirect: Redirect,
    /// Being found on the local network.
    pub mdns: Mdns,
    /// Events and the access log.
    pub logging: Logging,
}

/// `[proxy]`
pub struct ProxyDoor {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// What happens to CONNECT for hosts that are not listed.
    pub tunnel: TunnelPolicy,
    /// Ports that an unlisted host may be reached on.
    pub tunnel_ports: Vec<u16>,
    /// Where set, only hosts that match may be reached at all, listed or not (`REGISTRY_WHITELIST`).
    pub allow: Option<GlobSet>,
    /// Connections held at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Connections held at once for one client address.
    pub max_connections_per_client: usize,
    /// Whether pushes to upstream registries pass (`ALLOW_PUSH`).
    pub allow_push: bool,
    /// How long running answers may take after SIGTERM.
    pub drain_timeout: Duration,
}

/// What happens to a CONNECT for a host that is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelPolicy {
    /// Tunnelled, sealed.
    Any,
    /// Tunnelled only to names of registries that are listed (on other ports); else refused.
    Registries,
    /// Refused.
    None,
}

/// The port of the transparent door, where none is named.
pub const TRANSPARENT_PORT: u16 = 3129;

/// `[transparent]`
pub struct TransparentDoor {
    /// Addresses to listen on; none: there is no such door.
    pub listen: Vec<SocketAddr>,
    /// Networks whose PROXY protocol headers are believed.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// `[registry]`
pub struct RegistryDoor {
    /// What clients on the network call it.
    pub hostname: RegistryHost,
    /// Plain HTTP.
    pub http: Listen,
    /// TLS, with certificates of our authority.
    pub https: Listen,
    /// Whether what is not here, and is asked for as Docker asks its mirror, comes from Docker Hub.
    pub docker_hub_mirror: bool,
    /// Uploads that run at once.
    pub max_uploads: usize,
    /// An upload that nobody adds to for so long is dropped.
    pub upload_expiry: Duration,
    /// How long pushed blobs wait for a manifest before a collection takes them.
    pub grace: Duration,
    /// Between two collections that nobody asked for; zero: none.
    pub gc_interval: Duration,
    /// Who may do what.
    pub rights: Arc<Rights>,
    /// Who hears of pushes and deletions.
    pub notifications: Vec<Notification>,
}

/// Where a door listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Addresses and ports; none switches it off.
    pub addresses: Vec<SocketAddr>,
    /// Nobody named them: where something else listens there already, the door stays shut.
    pub is_default: bool,
}

/// `[admin]`
pub struct AdminDoor {
    /// The TCP address, loopback by default; none switches TCP off.
    pub listen: Option<SocketAddr>,
    /// The unix socket, mode 0600: whoever may open it may change things.
    pub socket: PathBuf,
    /// The bearer token that allows changes over TCP.
    pub token: Option<Secret>,
}

/// `[ca]`
pub struct CaFiles {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM, possibly encrypted.
    pub key: PathBuf,
    /// Opens an encrypted key; `foobar` is tried besides, as docker-registry-proxy uses it.
    pub passphrase: Option<Secret>,
    /// Validity of the minted leaves, at most 7 days.
    pub leaf_lifetime: Duration,
    /// True where the files were named by the user: then they are never made, only read.
    pub provided: bool,
}

/// `[cache]`
pub struct Cache {
    /// Off: every request passes through.
    pub enabled: bool,
    /// The most that blobs and fills together may take.
    pub max_size: Size,
    /// Free space that stays on the file system.
    pub min_free: Size,
    /// Entries unused this long are dropped.
    pub inactive: Duration,
    /// Paths of other immutable artefacts to cache on intercepted hosts.
    pub patterns: Vec<Regex>,
    /// A blob of which only a range was asked is completed in the background up to this size.
    pub complete_up_to: Size,
}

/// `[cache.tags]`
pub struct TagPolicy {
    /// Ask upstream each time, or trust an answer for a time.
    pub mode: TagMode,
    /// First tier, where set.
    pub primary: Option<Tier>,
    /// Second tier, where set.
    pub secondary: Option<Tier>,
    /// Every other tag.
    pub default_time: Duration,
    /// In `revalidate` mode, one HEAD a tag in this time.
    pub revalidate_interval: Duration,
    /// How long a 404 of upstream is remembered, at most 10 s.
    pub negative_time: Duration,
}

/// How a tag's answer is kept fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TagMode {
    /// A HEAD to upstream decides.
    Revalidate,
    /// The tiers decide (`ENABLE_MANIFEST_CACHE=true`).
    Ttl,
}

/// Tags that match `regex` from their start hold for `time`.
pub struct Tier {
    /// Compiled with `^` in front and no anchor at the end.
    pub regex: Regex,
    /// How long an answer is trusted.
    pub time: Duration,
}

/// `[[credentials]]`
pub struct Account {
    /// The registry, or the token host.
    pub registry: HostPattern,
    /// Only repositories that match, where set.
    pub repository: Option<GlobSet>,
    /// The account's name.
    pub username: String,
    /// Its password or key.
    pub password: Secret,
}

/// `[registries."HOST"]`
pub struct RegistryPolicy {
    /// Which hosts it is about.
    pub host: HostPattern,
    /// Plain http or https towards upstream.
    pub scheme: Scheme,
    /// Certificates trusted besides the system's roots for this registry.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether the upstream certificate is verified.
    pub verify: bool,
    /// Who a cached image is given to; none: `Shared` where credentials are configured, `Strict` else.
    pub access: Option<Access>,
    /// The host of its token server, where that is another one: accounts may go there.
    pub realm: Option<RegistryHost>,
    /// Request headers added towards this host.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Towards upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// Who a cached image is given to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A client gets what upstream allows its own credential.
    Strict,
    /// Every client gets what upstream allows the administrator's account.
    Shared,
}

/// `[upstream]`
pub struct Upstream {
    /// The parent proxy, where there is one.
    pub proxy: Option<ParentProxy>,
    /// Hosts that are reached without the parent proxy.
    pub no_proxy: NoProxy,
    /// Certificates trusted besides the system's roots for every upstream.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether upstream certificates are verified where a registry says nothing (`VERIFY_SSL`).
    pub verify: bool,
    /// For DNS, connect and TLS together.
    pub connect_timeout: Duration,
    /// Without a byte received: head and body.
    pub read_timeout: Duration,
    /// Without a byte sent.
    pub send_timeout: Duration,
    /// For tunnels: without a byte either way.
    pub tunnel_idle_timeout: Duration,
    /// For tunnels: reaching the other side.
    pub tunnel_connect_timeout: Duration,
    /// Whether IPv6 addresses are dialled.
    pub ipv6: bool,
    /// Loopback, link-local or own addresses that may be dialled all the same.
    pub allow_addresses: Vec<IpNet>,
}

/// A parent proxy, `http://[user:password@]host:port`.
pub struct ParentProxy {
    /// Where it listens.
    pub host: RegistryHost,
    /// The value of `Proxy-Authorization`, where the address had a user.
    pub authorization: Option<Secret>,
}

/// `NO_PROXY`'s list: `*`, host names (with everything below them), addresses and networks.
#[derive(Default)]
pub struct NoProxy {
    /// `*`: nothing goes through the parent.
    pub everything: bool,
    /// Names, lower case, without a leading dot or `*.`; each with an optional port.
    pub names: Vec<(String, Option<u16>)>,
    /// Addresses and networks.
    pub networks: Vec<IpNet>,
}

/// Deadlines towards clients, each measured from the last progress.
pub struct ClientDeadlines {
    /// To send a whole request head.
    pub header_timeout: Duration,
    /// Between two parts of a request body.
    pub body_timeout: Duration,
    /// Between two writes that the client takes.
    pub send_timeout: Duration,
    /// Idle between requests.
    pub keepalive_timeout: Duration,
}

/// `[data_plane]`
pub struct DataPlane {
    /// Threads that serve clients; zero is one a core.
    pub workers: usize,
    /// Threads that write to the disk.
    pub disk_threads: usize,
    /// How long the disk may take before clients go on without it.
    pub disk_timeout: Duration,
    /// Memory for bytes on their way from upstream to the disk.
    pub disk_buffers: Size,
    /// Whether io_uring is used where the kernel has it.
    pub io_uring: bool,
    /// Whether the kernel seals TLS records where it can.
    pub ktls: bool,
}

/// `[redirect]`
pub struct Redirect {
    /// The appliance whose door connections are led to; none: the door of this machine.
    pub appliance: Option<RegistryHost>,
    /// Ports that are redirected, besides those that the listed registries name.
    pub ports: Vec<u16>,
    /// Networks that are registries', besides the addresses that are learned.
    pub prefixes: Vec<IpNet>,
    /// Control groups whose processes are redirected; none: all.
    pub cgroups: Vec<PathBuf>,
    /// Control groups whose processes are left alone.
    pub exempt_cgroups: Vec<PathBuf>,
    /// The gateway's interfaces towards its clients.
    pub interfaces: Vec<String>,
    /// How often the listed names are resolved by the agent itself.
    pub seed_interval: Duration,
    /// Whether connections are redirected even where the door does not answer.
    pub enforce: bool,
    /// The agent's unix socket, for its status.
    pub socket: PathBuf,
    /// A TCP address for its metrics.
    pub listen: Option<SocketAddr>,
}

/// `[mdns]`
#[derive(Clone)]
pub struct Mdns {
    /// Whether this server announces itself.
    pub enabled: bool,
    /// The name it asks for; where another machine has it, `-2` is added.
    pub hostname: MdnsName,
    /// The interfaces to announce on; none named: every one of the local network.
    pub interfaces: Vec<String>,
}

/// `[logging]`
pub struct Logging {
    /// Filter of events, in tracing's syntax or a level's name.
    pub level: String,
    /// How events and requests are written.
    pub format: LogFormat,
    /// Requests go here in place of stdout.
    pub file: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// docker-registry-proxy's JSON.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Whether TLS to `host` is intercepted.
    pub fn intercepts_tls(&self, host: &RegistryHost) -> bool {
        self.lists(host, HTTPS_PORT)
    }

    /// Whether plain http to `host` is cached.
    pub fn intercepts_plain(&self, host: &RegistryHost) -> bool {
        self.lists(host, 80)
    }

    fn lists(&self, host: &RegistryHost, implied_port: u16) -> bool {
        self.intercept.iter().any(|pattern| pattern.matches(host, implied_port))
    }

    /// The exceptions for `host`, where there are any.
    pub fn registry(&self, host: &RegistryHost) -> Option<&RegistryPolicy> {
        self.registries.iter().find(|policy| policy.host.matches(host, HTTPS_PORT) || policy.host.matches(host, 80))
    }

    /// The administrator's account for a repository of `host`; `None` as repository asks for any of the host.
    pub fn account(&self, host: &RegistryHost, repository: Option<&str>) -> Option<&Account> {
        self.credentials.iter().find(|account| {
            (account.registry.matches(host, HTTPS_PORT) || account.registry.matches(host, 80))
                && match (&account.repository, repository) {
                    (Some(globs), Some(repository)) => globs.is_match(repository),
                    _ => true,
                }
        })
    }
}
