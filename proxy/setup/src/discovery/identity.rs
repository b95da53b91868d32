//! What this machine is called and where it is, as the pages and the greeting tell it. Kept up to date by those who
//! learn of a change; read without any system call.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::interfaces::is_chosen;

/// Name and addresses.
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
    /// The host name that is announced; none where nothing is.
    pub fn host(&self) -> Option<String> {
        self.lock().host.clone()
    }

    /// The name, as it was asked for or as a conflict left it.
    pub fn set_host(&self, host: String) {
        self.lock().host = Some(host);
    }

    /// By which others of the local network reach this machine; IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock().addresses.clone()
    }

    /// Reads the addresses of this machine anew (a netlink dump: not for the event loop). `named` are the interfaces
    /// to be found on, as in the configuration.
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
    let mut addresses: Vec<IpAddr> = of_network
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    addresses.sort();
    addresses
}
