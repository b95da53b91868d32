//! What a person at the console reads when the server has started: the doors, the CA's fingerprint, and how a Docker
//! host is pointed here.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

use crate::config::ready::Config;
use crate::registry::access::Access;
use crate::tls::authority::Authority;

/// The text for stderr.
pub(super) fn greeting(
    config: &Config,
    authority: &Authority,
    proxy: &[SocketAddr],
    registry: &[SocketAddr],
    access: &Access,
) -> String {
    let port = proxy.first().map_or(3128, SocketAddr::port);
    let bound = proxy.iter().map(SocketAddr::ip).find(|ip| !ip.is_unspecified());
    let name = SocketAddr::new(bound.or_else(lan_address).unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
    let mut text = format!("entrepot {} is ready\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {label:<8} {value}");
    };
    let listening: Vec<_> = proxy.iter().map(ToString::to_string).collect();
    line("proxy", listening.join(", "));
    if !registry.is_empty() {
        let listening: Vec<_> = registry.iter().map(ToString::to_string).collect();
        let name = config.registry.hostname.name();
        line("registry", format!("{} ({name}); {}", listening.join(", "), access.told()));
    }
    if let Some(admin) = config.admin.listen {
        line("admin", format!("http://{admin}/ (metrics, health) and {}", config.admin.socket.display()));
    }
    line("cache", format!("{} at most, in {}", config.cache.max_size, config.data_dir.display()));
    line("CA", config.ca.certificate.display().to_string());
    line("sha256", authority.fingerprint_sha256());
    text.push_str("\nPoint a Docker host at it:\n");
    let _ = writeln!(text, "  curl -fsS http://{name}/setup/systemd | sudo bash");
    text.push_str("or by hand: trust the CA, and set for the daemon\n");
    let _ = writeln!(text, "  HTTPS_PROXY=http://{name}/   (the CA: curl -fsS http://{name}/ca.crt)");
    text
}

/// The first IPv4 address by which others may know this machine.
fn lan_address() -> Option<IpAddr> {
    let addresses = getifaddrs().ok()?.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    addresses.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).map(IpAddr::from).next()
}
