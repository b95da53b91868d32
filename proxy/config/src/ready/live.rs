//! The part that a reload replaces. Every request holds the whole of it, as it was when the request began.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::{Origin, OriginPattern, Scheme};
use entrepot_core::quantity::Size;
use entrepot_core::secret::Secret;
use globset::GlobSet;
use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use regex::Regex;
use rustls_pki_types::CertificateDer;

use super::rights::{Notification, Rights};

/// The sections, and the parts of sections, that hold from one reload to the next.
pub struct LiveConfig {
    /// `[proxy]`
    pub proxy: ProxyPolicy,
    /// `[transparent]`
    pub transparent: TransparentPolicy,
    /// `[rights]`
    pub proofs: ProofAges,
    /// `[registry]`
    pub registry: RegistrySettings,
    /// `[cache]`
    pub cache: Cache,
    /// `[cache.tags]`
    pub tags: TagPolicy,
    /// The registries that are intercepted: the built-in list and the user's.
    pub intercept: Vec<OriginPattern>,
    /// `[[credentials]]`; the first that matches wins.
    pub credentials: Vec<Account>,
    /// `[registries."HOST"]`
    pub registries: Vec<RegistryPolicy>,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[client]`
    pub client: ClientDeadlines,
    /// `[data_plane]`
    pub data_plane: Sealing,
    /// `[logging]`
    pub logging: LogLevel,
}

/// The hosts that clients may reach through us.
pub struct ProxyPolicy {
    /// The treatment of a CONNECT for a host that is not listed.
    pub tunnel: TunnelPolicy,
    /// The only ports on which an unlisted host may be reached. Empty allows all ports.
    pub tunnel_ports: Vec<u16>,
    /// The only hosts that clients may reach at all, listed or not. None allows all hosts.
    pub allow: Option<GlobSet>,
    /// Whether pushes to upstream registries pass.
    pub allow_push: bool,
    /// The most time that running answers get after SIGTERM.
    pub drain_timeout: Duration,
}

/// The treatment of a CONNECT for a host that is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelPolicy {
    /// It is tunnelled. Its TLS is not opened.
    Any,
    /// It is tunnelled if its name is that of a listed registry (on another port). All others are refused.
    Registries,
    None,
}

/// The peers that the door for redirected connections believes.
pub struct TransparentPolicy {
    /// Networks whose PROXY protocol headers are believed.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// `[rights]`: how long content counts as public after upstream gave it to an anonymous client.
pub struct ProofAges {
    /// Afterwards upstream is asked anew.
    pub public_for: Duration,
    /// The same while upstream cannot be asked.
    pub offline_for: Duration,
}

/// How our own registry answers.
pub struct RegistrySettings {
    /// The name by which clients on the network know our registry.
    pub hostname: RegistryHost,
    /// Further names and addresses by which clients know this machine. The ports do not count.
    pub names: Vec<RegistryHost>,
    /// Whether the addresses for TLS answer plain HTTP as well.
    pub plain_on_https: bool,
    /// The address by which all clients reach our registry. None if it is the one that each client uses.
    pub url: Option<OwnUrl>,
    /// Reverse proxies, whose `X-Forwarded-Proto` and `X-Forwarded-Host` tell the address that a client uses.
    pub forwarded_from: Vec<IpNet>,
    /// Whether `library/…` is given. It is Docker Hub's and never ours.
    pub docker_hub_mirror: bool,
    pub uploads: UploadLimits,
    /// An upload that makes no progress for this time is dropped.
    pub upload_expiry: Duration,
    /// One that has no bytes yet is dropped after this time.
    pub empty_upload_expiry: Duration,
    /// The time that a pushed blob waits for a manifest. A collection removes it afterwards.
    pub grace: Duration,
    /// Time between two automatic collections. Zero means none.
    pub gc_interval: Duration,
    /// Collections remove manifests that lost their last tag so long ago. None if they stay.
    pub untagged: Option<Duration>,
    pub rights: Arc<Rights>,
    /// The receivers of events about pushes and deletions.
    pub notifications: Vec<Notification>,
}

/// The scheme, host and port of an address of our registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnUrl {
    pub scheme: Scheme,
    pub host: RegistryHost,
}

impl fmt::Display for OwnUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(out, "{scheme}://{}", self.host.authority(self.scheme.default_port()))
    }
}

/// The most uploads that run at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadLimits {
    pub total: usize,
    /// For one account, and for one client address.
    pub per_client: usize,
}

/// `[cache]`
pub struct Cache {
    /// If false, every request passes through to upstream.
    pub enabled: bool,
    /// The most that cached and partial blobs together may take.
    pub max_size: Size,
    /// Free space that must remain on the file system.
    pub min_free: Size,
    /// Entries that are unused for this time are dropped.
    pub inactive: Duration,
    /// The time in which all stored content is compared with its digests once. Zero if it never is.
    pub scrub: Duration,
    /// Paths of other immutable artefacts to cache on intercepted hosts.
    pub patterns: Vec<Regex>,
    /// A client that asks only for a range of a blob up to this size causes the whole blob to be fetched in the
    /// background.
    pub complete_up_to: Size,
}

/// `[cache.tags]`
pub struct TagPolicy {
    /// Whether upstream is asked each time, or an answer is trusted for a time.
    pub mode: TagMode,
    /// The first tier. None if it is off.
    pub primary: Option<Tier>,
    /// The second tier. None if it is off.
    pub secondary: Option<Tier>,
    /// The time for which the answer for any other tag is trusted.
    pub default_time: Duration,
    /// In `revalidate` mode, upstream gets at most one HEAD for a tag in this time.
    pub revalidate_interval: Duration,
    /// The time for which a 404 of upstream is remembered, at most 10 s.
    pub negative_time: Duration,
}

/// How a tag's answer is kept fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TagMode {
    /// A HEAD to upstream decides.
    Revalidate,
    /// The tiers decide, as with docker-registry-proxy's `ENABLE_MANIFEST_CACHE=true`.
    Ttl,
}

/// Tags that match `regex` from their start hold for `time`.
pub struct Tier {
    /// Compiled with `^` in front and no anchor at the end.
    pub regex: Regex,
    /// The time for which an answer is trusted.
    pub time: Duration,
}

/// `[[credentials]]`
pub struct Account {
    /// The registry, or its token server. The account goes to no other scheme or port.
    pub registry: OriginPattern,
    /// The repositories that the account is for. None means all.
    pub repository: Option<GlobSet>,
    /// Sent as Basic authentication.
    pub username: String,
    /// The password, or a key.
    pub password: Secret,
    /// Whether pushes of clients without a login use it. Otherwise it only reads.
    pub push: bool,
}

/// `[registries."HOST"]`
pub struct RegistryPolicy {
    /// The registries that the settings are for, and the scheme that they speak.
    pub registry: OriginPattern,
    /// Certificates trusted for this registry besides the system's roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether the upstream certificate is verified.
    pub verify: bool,
    /// The clients that get a cached image. None means `Shared` if credentials are configured, else `Strict`.
    pub access: Option<AccessMode>,
    /// The host of its token server, if accounts may be sent there. None means no other host.
    pub realm: Option<RegistryHost>,
    /// Headers that are added to requests that read below `/v2/`, read what `cache.patterns` names, or ask for a token.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The methods of any other requests that get the headers as well.
    pub header_methods: Vec<Method>,
}

/// The clients that get a cached image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// A client gets what upstream allows its own credential.
    Strict,
    /// Every client gets what upstream allows the administrator's account.
    Shared,
}

/// `[upstream]`
pub struct Upstream {
    /// None if upstreams are reached directly.
    pub proxy: Option<ParentProxy>,
    /// Hosts that are reached without the parent proxy.
    pub no_proxy: NoProxy,
    /// Certificates trusted for every upstream besides the system's roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether upstream certificates are verified if a registry's own section says nothing.
    pub verify: bool,
    /// The deadline for DNS, connect and TLS together.
    pub connect_timeout: Duration,
    /// The same for a check of something that is stored.
    pub check_connect_timeout: Duration,
    /// The deadline of a connected upstream for the answer to such a check.
    pub check_timeout: Duration,
    /// The longest time without a received byte, in the head and in the body.
    pub read_timeout: Duration,
    /// The longest time without a sent byte.
    pub send_timeout: Duration,
    /// The longest time of a tunnel without a byte in either direction.
    pub tunnel_idle_timeout: Duration,
    /// The deadline of a tunnel for reaching the other side.
    pub tunnel_connect_timeout: Duration,
    /// Whether connections to IPv6 addresses are made.
    pub ipv6: bool,
    /// Loopback, link-local or own addresses that may be connected to nevertheless.
    pub allow_addresses: Vec<IpNet>,
}

/// A parent proxy, `http://[user:password@]host:port`.
pub struct ParentProxy {
    pub host: RegistryHost,
    /// The value of `Proxy-Authorization`. None if the address has no user.
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

/// Deadlines for clients, each measured from the last progress.
pub struct ClientDeadlines {
    /// The time to send a whole request head.
    pub header_timeout: Duration,
    /// The time between two parts of a request body.
    pub body_timeout: Duration,
    /// The time between two writes that the client takes.
    pub send_timeout: Duration,
    /// The idle time between two requests.
    pub keepalive_timeout: Duration,
}

/// How bodies are encrypted for clients that speak TLS.
pub struct Sealing {
    /// Whether the kernel encrypts TLS records if it can. Each connection reads it once.
    pub ktls: bool,
}

/// The events that are written.
pub struct LogLevel {
    /// A level's name, or a filter in tracing's syntax.
    pub level: String,
}

impl LiveConfig {
    /// Whether requests of a client that speaks `scheme` to `host` are answered here. Plain HTTP is answered only for a
    /// registry that the configuration says speaks it.
    pub fn intercepts(&self, scheme: Scheme, host: &RegistryHost) -> bool {
        let is_listed = self.intercept.iter().any(|registry| registry.covers(host));
        is_listed && (scheme == Scheme::Https || self.origin(host).scheme == Scheme::Http)
    }

    /// The origin at which a host is reached. The configuration decides about the scheme, never the client: the
    /// registry's own section, then the most specific entry of the list. Among equals https has precedence.
    pub fn origin(&self, host: &RegistryHost) -> Origin {
        let by_list = || {
            let covering = self.intercept.iter().filter(|registry| registry.covers(host));
            let rank = |registry: &&OriginPattern| (registry.host.specificity(), registry.scheme == Scheme::Https);
            covering.max_by_key(rank).map_or(Scheme::Https, |registry| registry.scheme)
        };
        let policy = self.registries.iter().find(|policy| policy.registry.covers(host));
        Origin { scheme: policy.map_or_else(by_list, |policy| policy.registry.scheme), host: host.clone() }
    }

    /// The settings for a registry alone. None if it has none.
    pub fn registry(&self, origin: &Origin) -> Option<&RegistryPolicy> {
        self.registries.iter().find(|policy| policy.registry.matches(origin))
    }

    /// The administrator's account for a repository of a registry. Without a repository, any account of the registry.
    pub fn account(&self, origin: &Origin, repository: Option<&str>) -> Option<&Account> {
        self.credentials.iter().find(|account| {
            account.registry.matches(origin)
                && match (&account.repository, repository) {
                    (Some(globs), Some(repository)) => globs.is_match(repository),
                    _ => true,
                }
        })
    }
}
