//! The name and the addresses of this machine, for the pages and the greeting. `announce` and the composition root keep
//! them up to date; reading them takes no system call.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::interfaces::{is_chosen, of_default_route};

#[derive(Default)]
pub struct Identity {
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    host: Option<String>,
    addresses: Vec<IpAddr>,
}

impl Identity {
    /// The announced host name; None if nothing is announced.
    pub fn host(&self) -> Option<String> {
        self.lock().host.clone()
    }

    /// Sets the announced name, which a conflict on the network may have changed.
    pub(crate) fn set_host(&self, host: String) {
        self.lock().host = Some(host);
    }

    /// The addresses by which the local network reaches this machine: IPv4 first, and of each family those of the
    /// interface that the default route takes.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock().addresses.clone()
    }

    /// Reads the addresses of this machine again. `named` are the interfaces of the configuration; if empty, all of the
    /// local network. Blocks (a netlink dump): not for the event loop.
    pub fn refresh(&self, named: &[String]) {
        let addresses = lan_addresses(named);
        self.lock().addresses = addresses;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lan_addresses(named: &[String]) -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let of_network = interfaces.filter(|interface| {
        let is_loopback = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        is_chosen(&interface.interface_name, is_loopback, named)
    });
    let first = of_default_route();
    let mut addresses: Vec<(bool, bool, IpAddr)> = of_network
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some((address.is_ipv6(), first.as_ref() != Some(&interface.interface_name), address))
        })
        .filter(|(_, _, address)| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    addresses.sort();
    addresses.into_iter().map(|(_, _, address)| address).collect()
}
