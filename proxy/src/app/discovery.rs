//! What this server tells on the local network, and whether it is announced there.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::ready::Mdns;
use crate::discovery::announce::{Announcement, Announcer};
use crate::discovery::facts::Facts;
use crate::discovery::identity::Identity;
use crate::tls::authority::Authority;

/// What clients need to know of the doors that are open.
pub(super) fn facts(proxy: &[SocketAddr], authority: &Authority) -> Facts {
    Facts::new(proxy.first().map_or(3128, SocketAddr::port), &authority.fingerprint_sha256())
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
