//! The names and addresses that clients may know our registry by: for its certificate, and to tell its own pages from
//! those of others.

use std::net::IpAddr;
use std::sync::Arc;

use entrepot_core::host::RegistryHost;
use nix::ifaddrs::getifaddrs;

use entrepot_config::ready::RegistrySettings;

/// More addresses than a certificate should have; containers' hosts have hundreds of interfaces.
const ADDRESSES_MAX: usize = 64;

/// The configured names first, then this machine's, then its addresses, in an order that stays as long as they do. A
/// netlink dump: not for the event loop.
pub(super) fn own_names(settings: &RegistrySettings) -> Arc<[Box<str>]> {
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let machine = machine.and_then(|name| name.parse::<RegistryHost>().ok());
    let machine_local = machine.as_ref().filter(|name| !name.name().contains('.'));
    let local = machine_local.map(|name| format!("{}.local", name.name()));
    let configured = [&settings.hostname].into_iter().chain(&settings.names).map(|host| host.name().to_owned());
    let named =
        configured.chain(["localhost".to_owned()]).chain(machine.map(|name| name.name().to_owned())).chain(local);
    let mut names: Vec<Box<str>> = Vec::new();
    for name in named.chain(addresses().into_iter().map(|address| address.to_string())) {
        if !names.iter().any(|known| **known == *name) {
            names.push(name.into());
        }
    }
    names.into()
}

fn addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = getifaddrs().map_or(Vec::new(), |interfaces| {
        let address = |interface: nix::ifaddrs::InterfaceAddress| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        };
        interfaces.filter_map(address).filter(|ip| !is_link_local(ip)).collect()
    });
    found.sort_unstable();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    found
}

/// Nobody names a server by an address that needs a zone.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
