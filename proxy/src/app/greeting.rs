//! The text that a person at the console reads when the server has started: the doors, the CA's fingerprint, and the
//! way to set up a Docker host.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::listening::Addresses;
use entrepot_config::ready::{LiveConfig, Startup};
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
    let Addresses { proxy, registry, .. } = bound;
    let port = proxy.first().map_or(3128, SocketAddr::port);
    let bound = proxy.iter().map(SocketAddr::ip).find(|ip| !ip.is_unspecified());
    let first = bound.or_else(|| addresses.first().copied()).unwrap_or(Ipv4Addr::LOCALHOST.into());
    let name = SocketAddr::new(first, port);
    let mut text = format!("entrepot {} is ready\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {label:<8} {value}");
    };
    let listening: Vec<_> = proxy.iter().map(ToString::to_string).collect();
    line("proxy", listening.join(", "));
    if !registry.is_empty() {
        let listening: Vec<_> = registry.iter().map(ToString::to_string).collect();
        let name = live.registry.hostname.name();
        line("registry", format!("{} ({name}); {}", listening.join(", "), access.told()));
    }
    if let Some(admin) = startup.admin.listen {
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
