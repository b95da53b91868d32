//! The configuration as the product uses it: parsed, compiled, defaults filled in. Only [`load`](crate::load) builds
//! it. Every value in it is valid, so no other crate validates it again.
//!
//! It has three parts, by the moment at which a changed value takes effect. Requests only see a [`LiveConfig`], so they
//! cannot read a value that a reload does not replace.

mod live;
pub mod rights;
mod startup;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use ipnet::IpNet;

pub use live::{
    AccessMode, Account, Cache, ClientDeadlines, LiveConfig, LogLevel, NoProxy, OwnUrl, ParentProxy, ProofAges,
    ProxyPolicy, RegistryPolicy, RegistrySettings, Sealing, TagMode, TagPolicy, Tier, TransparentPolicy, TunnelPolicy,
    UploadLimits, Upstream,
};
pub use startup::{
    AdminDoor, CaFiles, DataPlane, Listen, LogFormat, LogOutput, Mdns, ProxyListen, RegistryListen, Startup,
};

/// The port of the transparent door if none is named.
pub const TRANSPARENT_PORT: u16 = 3129;

/// Everything that can be configured.
pub struct Config {
    /// The part that is read once: the server binds it, opens it or starts threads by it.
    pub startup: Startup,
    /// The part that a reload replaces.
    pub live: LiveConfig,
    /// The part that the agent `entrepot redirect`, a separate process, reads when it starts.
    pub redirect: Redirect,
}

/// `[redirect]`
pub struct Redirect {
    /// The appliance that gets the connections. None if this machine's own door gets them.
    pub appliance: Option<RegistryHost>,
    /// Destination ports, besides those that listed registries name.
    pub ports: Vec<u16>,
    /// Networks that belong to registries, besides the addresses that the agent learns from DNS.
    pub prefixes: Vec<IpNet>,
    /// Resolvers whose answers the agent learns from: a host's besides those of its own configuration, a gateway's in
    /// place of those.
    pub resolvers: Vec<IpAddr>,
    /// Control groups whose processes are redirected. Empty means all.
    pub cgroups: Vec<PathBuf>,
    /// Control groups whose processes are left alone.
    pub exempt_cgroups: Vec<PathBuf>,
    /// The interfaces of a gateway towards its clients.
    pub interfaces: Vec<String>,
    /// Time between two rounds in which the agent resolves the listed names itself.
    pub seed_interval: Duration,
    /// Whether connections are redirected even if the door does not answer.
    pub enforce: bool,
    /// The unix socket for the agent's status.
    pub socket: PathBuf,
    /// The TCP address for the agent's metrics. None if it has no such address.
    pub listen: Option<SocketAddr>,
}
