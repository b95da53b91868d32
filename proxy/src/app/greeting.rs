//! The text that a person at the console reads when the server has started: the doors and what each of them is open for,
//! the CA's fingerprint, and the way to set up a Docker host.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::listening::Addresses;
use entrepot_config::ready::{LiveConfig, ProxyPolicy, Startup, TunnelPolicy};
use entrepot_registry::access::AccessControl;
use entrepot_setup::discovery::facts::Facts;
use entrepot_setup::first_line::first_line;
use entrepot_setup::pages::{link, terminal_code};

/// The text for stderr. `addresses` are the addresses by which other machines may know this one.
pub(super) fn greeting(
    (startup, live): (&Startup, &LiveConfig),
    facts: &Facts,
    bound: &Addresses,
    access: &AccessControl,
    addresses: &[IpAddr],
) -> String {
    let Addresses { proxy, transparent, registry, mirror } = bound;
    let port = proxy.first().map_or(3128, SocketAddr::port);
    let bound = proxy.iter().map(SocketAddr::ip).find(|ip| !ip.is_unspecified());
    let first = bound.or_else(|| addresses.first().copied()).unwrap_or(Ipv4Addr::LOCALHOST.into());
    let name = SocketAddr::new(first, port);
    let mut text = format!("entrepot {} is ready\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {label:<11} {value}");
    };
    line("proxy", format!("{}; {} may pull; {}", listed(proxy), people(proxy), tunnels(&live.proxy)));
    if !transparent.is_empty() {
        let (listed, people) = (listed(transparent), people(transparent));
        line("transparent", format!("{listed}; {people} may pull; any other connection goes on to where it meant to"));
    }
    if !registry.is_empty() {
        let name = live.registry.hostname.name();
        line("registry", format!("{} ({name}); of {}, {}", listed(registry), people(registry), access.told()));
    }
    if !mirror.is_empty() {
        line("mirror", format!("{}; {} may pull from Docker Hub", listed(mirror), people(mirror)));
    }
    if let Some(admin) = startup.admin.listen.addresses.first() {
        line("admin", format!("http://{admin}/ (metrics, health) and {}", startup.admin.socket.display()));
    }
    if startup.mdns.enabled && !addresses.is_empty() {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        line("network", format!("{} ({})", startup.mdns.hostname.host(), addresses.join(", ")));
    }
    line("cache", format!("{} at most, in {}", live.cache.max_size, startup.data_dir.display()));
    line("CA", startup.ca.certificate.display().to_string());
    line("sha256", facts.ca_sha256.clone());
    text.push_str("\nPoint a Docker host at it:\n");
    let _ = writeln!(text, "  {}", first_line(facts, &name.to_string(), "docker"));
    text.push_str("or by hand: trust the CA, and set for the daemon\n");
    let _ = writeln!(text, "  HTTPS_PROXY=http://{name}/   (the CA: curl -fsS http://{name}/ca.crt)");
    // A QR code is of no use in a journal.
    if io::stderr().is_terminal() {
        let code = terminal_code(&link(&format!("http://{name}/"), &facts.ca_sha256));
        let _ = writeln!(text, "\nThe same as a page, with the fingerprint to compare:\n{code}");
    }
    text
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The clients that can reach a door.
fn people(addresses: &[SocketAddr]) -> &'static str {
    match addresses.iter().all(|address| address.ip().is_loopback()) {
        true => "the programs of this machine",
        false => "all clients that reach it",
    }
}

fn tunnels(policy: &ProxyPolicy) -> String {
    let hosts = match policy.tunnel {
        TunnelPolicy::Any => "any other host",
        TunnelPolicy::Registries => "other ports of listed registries",
        TunnelPolicy::None => "",
    };
    let ports: Vec<_> = policy.tunnel_ports.iter().map(ToString::to_string).collect();
    match (hosts.is_empty(), ports.is_empty()) {
        (true, _) => "no tunnels to other hosts".to_owned(),
        (false, true) => format!("tunnels to {hosts}, any port"),
        (false, false) => format!("tunnels to {hosts} (ports {})", ports.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn a_door_says_who_reaches_it_and_what_it_lets_through() {
        let addresses = |text: &str| text.split(' ').map(|text| text.parse().expect(text)).collect::<Vec<SocketAddr>>();
        assert_eq!(people(&addresses("127.0.0.1:1 [::1]:1")), "the programs of this machine");
        assert_eq!(people(&addresses("127.0.0.1:1 192.0.2.1:1")), "all clients that reach it");
        for (text, expected) in [
            ("", "tunnels to any other host, any port"),
            ("tunnel_ports = [443, 8443]", "tunnels to any other host (ports 443, 8443)"),
            ("tunnel = \"registries\"", "tunnels to other ports of listed registries, any port"),
            ("tunnel = \"none\"", "no tunnels to other hosts"),
        ] {
            let config = from_text(&format!("[proxy]\n{text}\n")).expect("configuration").live;
            assert_eq!(tunnels(&config.proxy), expected, "{text}");
        }
    }
}
