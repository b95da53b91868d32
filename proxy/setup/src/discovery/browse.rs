//! Looking for appliances on the local network.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};

use super::SERVICE;
use super::facts::Facts;
use super::interfaces::excluded;

/// An appliance that announces itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its host name, as in `docker-registry.local`.
    pub host: String,
    /// Its addresses, the most useful first: IPv4, IPv6, then link-local ones.
    pub addresses: Vec<IpAddr>,
    /// What it tells about itself; nothing of it is proven.
    pub facts: Facts,
}

/// Why nobody could be looked for.
#[derive(Debug, thiserror::Error)]
#[error("cannot look for appliances by mDNS: {0}; name one with its address instead")]
pub struct BrowseError(#[from] mdns_sd::Error);

/// More answers than these are not kept: they come from the network.
const FOUND_MAX: usize = 256;
/// After an answer that satisfies, the rest of it (addresses of other interfaces) has this long.
const SETTLE: Duration = Duration::from_millis(300);

impl Found {
    /// Where the explicit proxy is reached; none where only link-local IPv6 is known.
    pub fn proxy(&self) -> Option<SocketAddr> {
        let usable = self.addresses.iter().find(|address| !is_link_local(address));
        usable.map(|address| SocketAddr::new(*address, self.facts.proxy_port))
    }
}

/// Everybody who answers within `wait`; returns early once somebody does who is `enough`. Blocks.
pub fn browse(wait: Duration, enough: impl Fn(&Found) -> bool) -> Result<Vec<Found>, BrowseError> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(excluded(&[]))?;
    let events = daemon.browse(SERVICE)?;
    let mut deadline = Instant::now() + wait;
    let mut found = HashMap::new();
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match event {
            ServiceEvent::ServiceResolved(service) if found.len() < FOUND_MAX => {
                if let Some(appliance) = appliance(&service) {
                    if enough(&appliance) {
                        deadline = deadline.min(Instant::now() + SETTLE);
                    }
                    found.insert(service.fullname.clone(), appliance);
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => drop(found.remove(&fullname)),
            _ => {}
        }
    }
    if let Ok(ended) = daemon.shutdown() {
        let _ = ended.recv_timeout(SETTLE);
    }
    let sorted: BTreeMap<_, _> = found.into_iter().collect();
    Ok(sorted.into_values().collect())
}

fn appliance(service: &ResolvedService) -> Option<Found> {
    let facts = Facts::from_txt(|key| service.get_property_val_str(key))?;
    let host = service.host.trim_end_matches('.').to_ascii_lowercase();
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let mut addresses: Vec<IpAddr> = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    addresses.sort_by_key(|address| (is_link_local(address), address.is_ipv6(), *address));
    addresses.dedup();
    plain.then_some(Found { host, addresses, facts })
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
