//! Selects the interfaces of the local network.

use mdns_sd::IfKind;
use mdns_sd::IfPredicate;

/// The names of container runtimes' interfaces begin with these. Only this machine is behind them.
const CONTAINER_PREFIXES: [&str; 9] = ["docker", "br-", "veth", "cni", "flannel", "cali", "cilium", "podman", "kube-"];

/// The interfaces that mDNS does not use.
pub(super) fn excluded(named: &[String]) -> IfKind {
    let named = named.to_vec();
    IfKind::Predicate(IfPredicate::new(move |interface| !is_chosen(&interface.name, interface.is_loopback(), &named)))
}

/// Whether an interface is among those named; if none is named, whether it belongs to the local network.
pub(super) fn is_chosen(name: &str, is_loopback: bool, named: &[String]) -> bool {
    if named.is_empty() {
        !is_loopback && !CONTAINER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    } else {
        named.iter().any(|chosen| chosen == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_network_has_neither_loopback_nor_containers() {
        for (name, is_loopback, chosen) in [
            ("eth0", false, true),
            ("enp1s0", false, true),
            ("virbr0", false, true),
            ("br0", false, true),
            ("lo", true, false),
            ("docker0", false, false),
            ("br-0123456789ab", false, false),
            ("veth12", false, false),
        ] {
            assert_eq!(is_chosen(name, is_loopback, &[]), chosen, "{name}");
        }
        let named = ["docker0".to_owned()];
        assert!(is_chosen("docker0", false, &named) && !is_chosen("eth0", false, &named));
    }
}
