//! Selects the interfaces of the local network, and the one of them that the machine's default route takes.

use std::fs;

use mdns_sd::IfKind;
use mdns_sd::IfPredicate;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The names of interfaces that lead to containers, virtual machines and tunnels begin with these. Nobody of the local
/// network is behind them.
const OTHER_PREFIXES: [&str; 18] = [
    "docker",
    "veth",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "podman",
    "kube-",
    "virbr",
    "vnet",
    "lxdbr",
    "lxcbr",
    "incusbr",
    "tailscale",
    "wg",
    "zt",
    "tun",
    "nebula",
];
/// Docker names the bridge of a network by the first digits of its id.
const DOCKER_BRIDGE: &str = "br-";
const DOCKER_BRIDGE_DIGITS: usize = 12;
/// The flag of a route that is in use (`RTF_UP`).
const ROUTE_UP: u32 = 1;

/// The interfaces that mDNS does not use.
pub(super) fn excluded(named: &[String]) -> IfKind {
    let named = named.to_vec();
    IfKind::Predicate(IfPredicate::new(move |interface| !is_chosen(&interface.name, interface.is_loopback(), &named)))
}

/// Whether an interface is among those named; if none is named, whether it belongs to the local network.
pub(super) fn is_chosen(name: &str, is_loopback: bool, named: &[String]) -> bool {
    if named.is_empty() {
        !is_loopback && !is_docker_bridge(name) && !OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    } else {
        named.iter().any(|chosen| chosen == name)
    }
}

/// Whether this machine has any interface that is chosen.
pub(super) fn is_any_chosen(named: &[String]) -> bool {
    getifaddrs().into_iter().flatten().any(|interface| {
        is_chosen(&interface.interface_name, interface.flags.contains(InterfaceFlags::IFF_LOOPBACK), named)
    })
}

/// The interface of the default route by IPv4. None if there is none.
pub(super) fn of_default_route() -> Option<String> {
    default_in(&fs::read_to_string("/proc/net/route").ok()?)
}

/// A bridge of another name, such as OpenWrt's `br-lan`, is a network that people chose.
fn is_docker_bridge(name: &str) -> bool {
    let digits = name.strip_prefix(DOCKER_BRIDGE).unwrap_or_default();
    digits.len() == DOCKER_BRIDGE_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The interface of the default route with the lowest metric in the text of `/proc/net/route`.
fn default_in(routes: &str) -> Option<String> {
    let defaults = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, "00000000", _, flags, _, _, metric, "00000000", ..] = fields[..] else { return None };
        let is_up = u32::from_str_radix(flags, 16).ok()? & ROUTE_UP != 0;
        is_up.then_some((metric.parse::<u32>().ok()?, name))
    });
    defaults.min().map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_network_has_neither_loopback_nor_containers_machines_and_tunnels() {
        for (name, is_loopback, chosen) in [
            ("eth0", false, true),
            ("enp1s0", false, true),
            ("eth0.20", false, true),
            ("bond0", false, true),
            ("br0", false, true),
            ("br-lan", false, true),
            ("br-0123456789ag", false, true),
            ("wlan0", false, true),
            ("lo", true, false),
            ("docker0", false, false),
            ("br-0123456789ab", false, false),
            ("veth12", false, false),
            ("virbr0", false, false),
            ("lxdbr0", false, false),
            ("tailscale0", false, false),
            ("wg0", false, false),
        ] {
            assert_eq!(is_chosen(name, is_loopback, &[]), chosen, "{name}");
        }
        let named = ["docker0".to_owned()];
        assert!(is_chosen("docker0", false, &named) && !is_chosen("eth0", false, &named));
    }

    #[test]
    fn the_default_route_is_the_one_with_the_lowest_metric() {
        const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let route = |name: &str, destination: &str, flags: &str, metric: u32, mask: &str| {
            format!("{name}\t{destination}\t0100000A\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        for (routes, expected) in [
            (vec![], None),
            (vec![route("eth0", "0000000A", "0001", 0, "00FFFFFF")], None),
            (vec![route("eth1", "00000000", "0003", 600, "00000000")], Some("eth1")),
            (
                vec![
                    route("wlan0", "00000000", "0003", 600, "00000000"),
                    route("eth0", "00000000", "0003", 100, "00000000"),
                    route("gone0", "00000000", "0002", 1, "00000000"),
                    route("tun0", "00000000", "0003", 0, "000000F0"),
                ],
                Some("eth0"),
            ),
        ] {
            assert_eq!(default_in(&(HEAD.to_owned() + &routes.concat())).as_deref(), expected, "{routes:?}");
        }
        assert_eq!(default_in("nonsense"), None);
    }
}
