//! The names and addresses that clients may know our registry by: for its certificate, and to tell its own pages from
//! those of others.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use entrepot_core::host::RegistryHost;
use nix::ifaddrs::getifaddrs;

use entrepot_config::ready::RegistrySettings;

/// More addresses than a certificate should have; containers' hosts have hundreds of interfaces.
const ADDRESSES_MAX: usize = 64;

/// Our names and addresses, as they were looked up last.
pub(super) struct OwnNames {
    /// For the certificate: the configured names first, then this machine's, then its addresses, in an order that stays
    /// as long as they do.
    pub(super) certified: Arc<[Box<str>]>,
    /// Every address, however many there are.
    addresses: HashSet<IpAddr>,
}

impl OwnNames {
    /// Whether a host is one of them, on whatever port.
    pub(super) fn has(&self, host: &RegistryHost) -> bool {
        match host.address() {
            Some(address) => address.is_loopback() || self.addresses.contains(&address.to_canonical()),
            None => self.certified.iter().any(|own| **own == *host.name()),
        }
    }
}

/// Looks them up. A netlink dump: not for the event loop.
pub(super) fn own_names(settings: &RegistrySettings) -> OwnNames {
    let own = addresses();
    let certified = certified(settings, own.iter().take(ADDRESSES_MAX));
    let configured = settings.names.iter().filter_map(RegistryHost::address);
    OwnNames { certified, addresses: configured.chain(own).collect() }
}

fn certified<'a>(settings: &RegistrySettings, addresses: impl Iterator<Item = &'a IpAddr>) -> Arc<[Box<str>]> {
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let machine = machine.and_then(|name| name.parse::<RegistryHost>().ok());
    let machine_local = machine.as_ref().filter(|name| !name.name().contains('.'));
    let local = machine_local.map(|name| format!("{}.local", name.name()));
    let configured = [&settings.hostname].into_iter().chain(&settings.names).map(|host| host.name().to_owned());
    let named =
        configured.chain(["localhost".to_owned()]).chain(machine.map(|name| name.name().to_owned())).chain(local);
    let mut names: Vec<Box<str>> = Vec::new();
    for name in named.chain(addresses.map(ToString::to_string)) {
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
    found
}

/// Nobody names a server by an address that needs a zone.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn configured_names_and_addresses_are_ours_and_others_are_not() {
        let text =
            "[registry]\nhostname = \"images.lan\"\nnames = [\"cache.example\", \"198.51.100.7\", \"2001:db8::7\"]\n";
        let names = own_names(&from_text(text).expect("configuration").live.registry);
        let has = |text: &str| names.has(&text.parse().expect(text));
        for own in
            ["images.lan:5000", "cache.example", "198.51.100.7:80", "[2001:db8::7]:443", "localhost", "127.0.0.2"]
        {
            assert!(has(own), "{own}");
        }
        for other in ["docker-registry.local", "evil.example", "198.51.100.8", "[2001:db8::8]"] {
            assert!(!has(other), "{other}");
        }
        assert_eq!(&*names.certified[1], "cache.example", "the certificate has them too");
    }
}
