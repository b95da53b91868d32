//! Looks for appliances on the local network.

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
    /// Such as `docker-registry.local`.
    pub host: String,
    /// IPv4 first, then IPv6, then link-local addresses.
    pub addresses: Vec<IpAddr>,
    /// The facts are not proven: any machine on the network can announce them.
    pub facts: Facts,
}

/// mDNS cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot look for appliances by mDNS: {0}; name one with its address instead")]
pub struct BrowseError(#[from] mdns_sd::Error);

/// The most answers that are kept. The network decides how many come.
const FOUND_MAX: usize = 256;
/// The wait for the rest of a sufficient answer (addresses of other interfaces).
const SETTLE: Duration = Duration::from_millis(300);

impl Found {
    /// The address of the explicit proxy; None if only link-local addresses are known.
    pub fn proxy(&self) -> Option<SocketAddr> {
        let usable = self.addresses.iter().find(|address| !is_link_local(address));
        usable.map(|address| SocketAddr::new(*address, self.facts.proxy_port))
    }
}

/// The appliances that answer within `wait`. Returns early once an answer is `enough`. Blocks.
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

/// The addresses that the host `name` announces, for up to `wait`; empty if it does not answer. Blocks.
pub fn addresses(name: &str, wait: Duration) -> Vec<IpAddr> {
    let found = browse(wait, |found| found.host == name).unwrap_or_default();
    found.into_iter().filter(|found| found.host == name).flat_map(|found| found.addresses).collect()
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
