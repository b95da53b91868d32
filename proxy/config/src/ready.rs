//! The configuration as the product uses it: parsed, compiled, defaults filled in. [`load`](crate::load) alone builds it;
//! nothing here can be wrong, so nobody who takes a part of it validates again.
//!
//! It has three parts, by the moment at which a changed value takes effect. Requests only ever see a [`LiveConfig`], so
//! they cannot read a value that a reload does not swap.

mod live;
pub mod rights;
mod startup;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use ipnet::IpNet;

pub use live::{
    AccessMode, Account, Cache, ClientDeadlines, LiveConfig, LogLevel, NoProxy, ParentProxy, ProxyPolicy,
    RegistryPolicy, RegistrySettings, Scheme, Sealing, TagMode, TagPolicy, Tier, TransparentPolicy, TunnelPolicy,
    Upstream,
};
pub use startup::{
    AdminDoor, CaFiles, DataPlane, Listen, LogFormat, LogOutput, Mdns, ProxyListen, RegistryListen, Startup,
    TransparentListen,
};

/// The port of the transparent door if none is named.
pub const TRANSPARENT_PORT: u16 = 3129;

/// Everything that can be configured.
pub struct Config {
    /// Read once: bound, opened, or made into threads when the server starts.
    pub startup: Startup,
    /// Swapped by a reload.
    pub live: LiveConfig,
    /// Read by the agent `entrepot redirect`, a process of its own, when it starts.
    pub redirect: Redirect,
}

/// `[redirect]`
pub struct Redirect {
    /// The appliance that gets the connections. None if this machine's own door gets them.
    pub appliance: Option<RegistryHost>,
    /// Destination ports, besides those that listed registries name.
    pub ports: Vec<u16>,
    /// Networks that belong to registries, besides the addresses learned from DNS.
    pub prefixes: Vec<IpNet>,
    /// Control groups whose processes are redirected. Empty means all.
    pub cgroups: Vec<PathBuf>,
    /// Control groups whose processes are left alone.
    pub exempt_cgroups: Vec<PathBuf>,
    /// The gateway's interfaces towards its clients.
    pub interfaces: Vec<String>,
    /// Time between two rounds in which the agent resolves the listed names itself.
    pub seed_interval: Duration,
    /// Whether connections are redirected although the door does not answer.
    pub enforce: bool,
    /// The unix socket for the agent's status.
    pub socket: PathBuf,
    /// The TCP address for the agent's metrics. None if there is none.
    pub listen: Option<SocketAddr>,
}
