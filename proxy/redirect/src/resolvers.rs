//! The resolvers whose answers teach the programs: those of this machine's configuration, and those that the
//! administrator names.
//!
//! On a host the administrator's come in addition. A gateway's clients may ask others than the gateway does, so there
//! the administrator's take the place of the gateway's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::plan::Mode;
use super::programs::{Programs, lock};

/// The resolver's configuration, and the servers that systemd-resolved asks.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// The part of a file that is read.
const FILE_MAX_BYTES: u64 = 64 * 1024;
/// The most resolvers (the size of the programs' map).
const RESOLVERS_MAX: usize = 64;
/// The interval at which the files are read again: a new lease or link brings other resolvers.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reads the configuration again at every interval, and tells the programs.
pub(super) async fn run(programs: Arc<Mutex<Programs>>, mode: Mode, named: Vec<IpAddr>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let named = named.clone();
        let Ok(resolvers) = spawn_blocking(move || configured(mode, &named)).await else { continue };
        let told = lock(&programs).set_resolvers(&resolvers);
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
    }
}

/// The resolvers that count now. Reads files.
pub(super) fn configured(mode: Mode, named: &[IpAddr]) -> BTreeSet<IpAddr> {
    let named = named.iter().copied();
    if mode == Mode::Gateway && named.len() > 0 {
        return named.take(RESOLVERS_MAX).collect();
    }
    let own = FILES.iter().flat_map(|file| nameservers(&contents(file)));
    let mut resolvers: BTreeSet<IpAddr> = named.chain(own).take(RESOLVERS_MAX).collect();
    // Without a server in the configuration, resolvers ask this machine (resolv.conf(5)).
    if resolvers.is_empty() {
        resolvers.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    }
    // A gateway that asks itself is what its clients ask, by its other addresses.
    if mode == Mode::Gateway && resolvers.iter().any(IpAddr::is_loopback) {
        let room = RESOLVERS_MAX.saturating_sub(resolvers.len());
        resolvers.extend(own_addresses().take(room));
    }
    resolvers
}

fn contents(file: &str) -> String {
    let mut text = Vec::new();
    // A file that is missing or cannot be read names no resolver.
    let _ = File::open(file).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The servers in a text of resolv.conf. The zone of a link-local address is left out.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words.first() == Some(&"nameserver"))
        .filter_map(|words| words.get(1)?.split('%').next()?.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect()
}

fn own_addresses() -> impl Iterator<Item = IpAddr> {
    getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# nameserver 192.0.2.9\nsearch lan\nnameserver 192.0.2.1\n nameserver\tfe80::1%eth0\n\
            nameserver ::ffff:192.0.2.3 # not read\nnameserver\nnameserver dns.example\noptions edns0\n";
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "fe80::1", "192.0.2.3"].iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn a_host_adds_what_is_named_and_a_gateway_goes_by_it_alone() {
        let named = [IpAddr::from([192, 0, 2, 1])];
        assert_eq!(configured(Mode::Gateway, &named), named.into());
        let host = configured(Mode::Host, &named);
        assert!(host.contains(&named[0]));
        assert!(nameservers(&contents(FILES[0])).iter().all(|own| host.contains(own)), "{host:?}");
        let many: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        for mode in [Mode::Host, Mode::Gateway] {
            assert!(configured(mode, &many).len() <= RESOLVERS_MAX, "{mode:?}");
        }
        assert!(!configured(Mode::Gateway, &[]).is_empty());
    }
}
