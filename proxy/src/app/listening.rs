//! Every listening socket of the server: bound before anything is served, or taken over from the process before.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpListener;

use super::serve::StartError;
use entrepot_config::ready::{Config, RegistryDoor};
use entrepot_net::service_manager::listeners::Listeners;

/// The doors' listening sockets.
pub(super) struct Listening {
    pub(super) proxy: Vec<TcpListener>,
    pub(super) transparent: Vec<TcpListener>,
    pub(super) registry: Vec<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Listening {
    /// Binds what the configuration says. Call within a tokio runtime.
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        let registry = [&config.registry.http, &config.registry.https];
        let doors = config.proxy.listen.iter().chain(&config.transparent.listen).chain(&config.admin.listen);
        let configured = doors.chain(registry.iter().flat_map(|door| &door.addresses));
        let mut listeners = Listeners::take(configured.copied());
        let mut all = |addresses: &[SocketAddr]| {
            addresses.iter().map(|address| bind(&mut listeners, *address)).collect::<Result<Vec<_>, _>>()
        };
        let (proxy, transparent) = (all(&config.proxy.listen)?, all(&config.transparent.listen)?);
        transparent.iter().for_each(accept_for_others);
        let admin = config.admin.listen.map(|address| bind(&mut listeners, address)).transpose()?;
        let registry = bind_registry(&mut listeners, &config.registry)?;
        Ok(Self { proxy, transparent, registry, admin })
    }
}

/// Where they listen.
pub(super) fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// The registry's ports. One that nobody asked for and that is taken does not stop a proxy from starting, which may have
/// been installed beside a registry.
fn bind_registry(listeners: &mut Listeners, door: &RegistryDoor) -> Result<Vec<TcpListener>, StartError> {
    let mut bound = Vec::new();
    for listen in [&door.http, &door.https] {
        for address in &listen.addresses {
            match bind(listeners, *address) {
                Ok(listener) => bound.push(listener),
                Err(StartError::Bind { source, .. })
                    if listen.is_default && source.kind() == io::ErrorKind::AddrInUse =>
                {
                    tracing::warn!(
                        "{address} is in use, so the registry does not listen there; set registry.http and registry.https"
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bound)
}

fn bind(listeners: &mut Listeners, address: SocketAddr) -> Result<TcpListener, StartError> {
    listeners.bind(address).map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or choose another address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "check that this machine has the address",
        };
        StartError::Bind { address, source, hint }
    })
}

/// The transparent door takes connections to addresses that are not its own, where it may: a gateway leads them here.
fn accept_for_others(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).set_ip_transparent_v4(true) {
        tracing::debug!("not for `entrepot redirect gateway`, which needs CAP_NET_ADMIN here: {error}");
    }
}
