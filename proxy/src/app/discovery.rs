//! What this server tells on the local network, and whether it is announced there.

use std::net::SocketAddr;
use std::sync::Arc;

use entrepot_config::ready::{Listen, Mdns, RegistryDoor};
use entrepot_net::tls::authority::Authority;
use entrepot_setup::discovery::announce::{Announcement, Announcer};
use entrepot_setup::discovery::facts::Facts;
use entrepot_setup::discovery::identity::Identity;

/// What clients need to know of the doors that are open.
pub(super) fn facts(
    proxy: &[SocketAddr],
    registry: &[SocketAddr],
    door: &RegistryDoor,
    authority: &Authority,
) -> Facts {
    let facts = Facts::new(proxy.first().map_or(3128, SocketAddr::port), &authority.fingerprint_sha256());
    // Only what is open: a default port that something else has is not told.
    let open = |listen: &Listen| {
        registry.iter().find(|bound| listen.addresses.iter().any(|address| address.port() == bound.port()))
    };
    let port = |listen| open(listen).map(SocketAddr::port);
    Facts { registry_http_port: port(&door.http), registry_https_port: port(&door.https), ..facts }
}

/// Announces this server, where that is wanted and others could reach it.
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
