//! Which interfaces belong to the local network.

use mdns_sd::IfKind;
use mdns_sd::IfPredicate;

/// Interfaces of container runtimes begin so: whoever is behind them is on this machine.
const CONTAINER_PREFIXES: [&str; 9] = ["docker", "br-", "veth", "cni", "flannel", "cali", "cilium", "podman", "kube-"];

/// The interfaces to leave alone: all but those that are named, or all that are not of the local network.
pub(super) fn excluded(named: &[String]) -> IfKind {
    let named = named.to_vec();
    IfKind::Predicate(IfPredicate::new(move |interface| !is_chosen(&interface.name, interface.is_loopback(), &named)))
}

/// Whether an interface is one of the named, or of the local network where none is named.
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
    fn the_local_network_is_what_is_not_of_this_machine() {
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
