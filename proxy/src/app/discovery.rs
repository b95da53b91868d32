//! The facts that clients on the local network get, and the announcement of this server there.

use std::net::SocketAddr;
use std::sync::Arc;

use super::listening::Addresses;
use entrepot_config::ready::{Listen, Mdns, RegistryListen};
use entrepot_net::tls::authority::Authority;
use entrepot_setup::discovery::announce::{Announcement, Announcer};
use entrepot_setup::discovery::facts::Facts;
use entrepot_setup::discovery::identity::Identity;

/// The facts about the open doors that clients need. `pin` is that of the key of our own name.
pub(super) fn facts(bound: &Addresses, wanted: &RegistryListen, (authority, pin): (&Authority, String)) -> Facts {
    let proxy_port = bound.proxy.first().map_or(3128, SocketAddr::port);
    let facts = Facts::new(proxy_port, &authority.fingerprint_sha256());
    // Only open doors are announced: another program may have a default port.
    let open = |listen: &Listen| {
        bound.registry.iter().find(|bound| listen.addresses.iter().any(|address| address.port() == bound.port()))
    };
    let port = |listen| open(listen).map(SocketAddr::port);
    Facts {
        registry_http_port: port(&wanted.http),
        registry_https_port: port(&wanted.https),
        docker_mirror_port: bound.mirror.first().map(SocketAddr::port),
        own_key: Some(pin),
        ..facts
    }
}

/// Announces this server. None if the configuration switches that off, or if no other machine can reach the proxy.
pub(super) fn announce(mdns: &Mdns, facts: Facts, proxy: &[SocketAddr], identity: Arc<Identity>) -> Option<Announcer> {
    if !mdns.enabled {
        return None;
    }
    if proxy.iter().all(|address| address.ip().is_loopback()) {
        tracing::info!("not announced on the local network: the proxy listens on loopback addresses only");
        return None;
    }
    let announcement = Announcement { name: mdns.hostname.clone(), interfaces: mdns.interfaces.clone(), facts };
    match Announcer::start(announcement, identity) {
        Ok(announcer) => Some(announcer),
        Err(error) => {
            tracing::warn!("not announced on the local network: no thread: {error}");
            None
        }
    }
}
