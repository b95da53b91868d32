//! Every listening socket of the server. It is bound before anything is served, or passed by the service manager.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpListener;

use super::start_error::StartError;
use entrepot_config::ready::{RegistryListen, Startup};
use entrepot_net::admin_socket::AdminSocket;
use entrepot_net::service_manager::listeners::Listeners;

/// Every listening socket.
pub(super) struct Listening {
    pub(super) doors: Doors,
    pub(super) admin: AdminListening,
}

/// The sockets for clients.
pub(super) struct Doors {
    pub(super) proxy: Vec<TcpListener>,
    pub(super) transparent: Vec<TcpListener>,
    pub(super) registry: Vec<TcpListener>,
}

/// The sockets for administrators.
pub(super) struct AdminListening {
    /// None if TCP is switched off.
    pub(super) tcp: Option<TcpListener>,
    pub(super) socket: AdminSocket,
}

/// The addresses that the sockets for clients are bound to.
pub(super) struct Addresses {
    pub(super) proxy: Vec<SocketAddr>,
    pub(super) transparent: Vec<SocketAddr>,
    pub(super) registry: Vec<SocketAddr>,
}

impl Listening {
    /// Binds the configured addresses. Call it within a tokio runtime.
    pub(super) fn bind(startup: &Startup) -> Result<Self, StartError> {
        let registry = [&startup.registry.http, &startup.registry.https];
        let doors = startup.proxy.listen.iter().chain(&startup.transparent.listen).chain(&startup.admin.listen);
        let configured = doors.chain(registry.iter().flat_map(|door| &door.addresses));
        let mut listeners = Listeners::take(configured.copied());
        let mut all = |addresses: &[SocketAddr]| {
            addresses.iter().map(|address| bind(&mut listeners, *address)).collect::<Result<Vec<_>, _>>()
        };
        let (proxy, transparent) = (all(&startup.proxy.listen)?, all(&startup.transparent.listen)?);
        transparent.iter().for_each(accept_for_others);
        let tcp = startup.admin.listen.map(|address| bind(&mut listeners, address)).transpose()?;
        let registry = bind_registry(&mut listeners, &startup.registry)?;
        let socket = AdminSocket::bind(&startup.admin.socket)?;
        Ok(Self { doors: Doors { proxy, transparent, registry }, admin: AdminListening { tcp, socket } })
    }

    pub(super) fn addresses(&self) -> Addresses {
        let of = |listeners: &[TcpListener]| listeners.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let Doors { proxy, transparent, registry } = &self.doors;
        Addresses { proxy: of(proxy), transparent: of(transparent), registry: of(registry) }
    }
}

impl Addresses {
    /// The addresses of all doors.
    pub(super) fn all(&self) -> impl Iterator<Item = SocketAddr> {
        [&self.proxy, &self.registry, &self.transparent].into_iter().flatten().copied()
    }
}

/// The registry's sockets. If another program has a default port, the proxy starts nevertheless: it may be installed
/// beside another registry.
fn bind_registry(listeners: &mut Listeners, door: &RegistryListen) -> Result<Vec<TcpListener>, StartError> {
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

/// Lets the transparent door accept connections to addresses of other machines, if the process has the right to. A
/// gateway routes such connections here.
fn accept_for_others(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).set_ip_transparent_v4(true) {
        tracing::debug!("not for `entrepot redirect gateway`, which needs CAP_NET_ADMIN here: {error}");
    }
}
