//! Every listening socket of the server. It is bound before anything is served, or passed by the service manager.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpListener;

use super::start_error::StartError;
use super::unkept::Unkept;
use entrepot_config::Effective;
use entrepot_config::ready::{RegistryListen, Startup};
use entrepot_net::admin_socket::{AdminSocket, SocketError};
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
    /// For Docker's `registry-mirrors`.
    pub(super) mirror: Vec<TcpListener>,
}

/// The sockets for administrators.
pub(super) struct AdminListening {
    /// None if TCP is switched off.
    pub(super) tcp: Option<TcpListener>,
    /// None if the file system takes no writes.
    pub(super) socket: Option<AdminSocket>,
}

/// The addresses that the sockets for clients are bound to.
pub(super) struct Addresses {
    pub(super) proxy: Vec<SocketAddr>,
    pub(super) transparent: Vec<SocketAddr>,
    pub(super) registry: Vec<SocketAddr>,
    pub(super) mirror: Vec<SocketAddr>,
}

impl Listening {
    /// Binds the configured addresses. Addresses of the registry that stay shut leave `startup`, and `effective` shows
    /// it. Call it within a tokio runtime.
    pub(super) fn bind(
        startup: &mut Startup,
        effective: &mut Effective,
        unkept: &mut Unkept,
    ) -> Result<Self, StartError> {
        let registry = [&startup.registry.http, &startup.registry.https];
        let doors = startup.proxy.listen.iter().chain(&startup.transparent.listen).chain(&startup.admin.listen);
        let doors = doors.chain(&startup.registry.mirror);
        let configured = doors.chain(registry.iter().flat_map(|door| &door.addresses));
        let mut listeners = Listeners::take(configured.copied());
        let mut all = |addresses: &[SocketAddr]| {
            addresses.iter().map(|address| bind(&mut listeners, *address)).collect::<Result<Vec<_>, _>>()
        };
        let (proxy, transparent) = (all(&startup.proxy.listen)?, all(&startup.transparent.listen)?);
        transparent.iter().for_each(accept_for_others);
        let mirror = all(&startup.registry.mirror)?;
        let tcp = startup.admin.listen.map(|address| bind(&mut listeners, address)).transpose()?;
        let registry = bind_registry(&mut listeners, &mut startup.registry, effective)?;
        let socket = unkept.without("the admin socket", AdminSocket::bind(&startup.admin.socket), unbound)?;
        Ok(Self { doors: Doors { proxy, transparent, registry, mirror }, admin: AdminListening { tcp, socket } })
    }

    pub(super) fn addresses(&self) -> Addresses {
        let of = |listeners: &[TcpListener]| listeners.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let Doors { proxy, transparent, registry, mirror } = &self.doors;
        Addresses { proxy: of(proxy), transparent: of(transparent), registry: of(registry), mirror: of(mirror) }
    }
}

impl Addresses {
    /// The addresses of all doors.
    pub(super) fn all(&self) -> impl Iterator<Item = SocketAddr> {
        [&self.proxy, &self.registry, &self.mirror, &self.transparent].into_iter().flatten().copied()
    }
}

fn unbound(error: &SocketError) -> Option<&io::Error> {
    match error {
        SocketError::Io { source, .. } => Some(source),
        SocketError::InUse(_) | SocketError::NotASocket(_) => None,
    }
}

/// The registry's sockets. If another program has a default port, the proxy starts nevertheless: it may be installed
/// beside another registry.
fn bind_registry(
    listeners: &mut Listeners,
    door: &mut RegistryListen,
    effective: &mut Effective,
) -> Result<Vec<TcpListener>, StartError> {
    let mut bound = Vec::new();
    for (key, listen) in [("registry.http", &mut door.http), ("registry.https", &mut door.https)] {
        let mut open = Vec::new();
        for address in &listen.addresses {
            match bind(listeners, *address) {
                Ok(listener) => {
                    bound.push(listener);
                    open.push(*address);
                }
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
        if open.len() < listen.addresses.len() {
            effective.default_is_taken(key, open.iter().map(ToString::to_string).collect());
            // From here on a request for such an address is one for the other program.
            listen.addresses = open;
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

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::ready::Listen;
    use entrepot_config::{Flags, HostFacts, load};

    #[tokio::test]
    async fn a_default_door_of_another_program_stays_shut_and_is_shown_so() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = other.local_addr().expect("its address");
        let flags = Flags { data_dir: Some("/data".into()), ..Flags::default() };
        let mut loaded = load(&flags, &|_| None, &HostFacts::real()).expect("the defaults");
        let file = loaded.effective.clone();
        let free = "127.0.0.1:0".parse().expect("an address");
        let mut door = RegistryListen {
            http: Listen { addresses: vec![taken], is_default: true },
            https: Listen { addresses: vec![free], is_default: true },
            mirror: Vec::new(),
        };
        let mut listeners = Listeners::take(std::iter::empty());
        let bound = bind_registry(&mut listeners, &mut door, &mut loaded.effective).expect("the other door is open");
        assert_eq!((bound.len(), door.http.addresses.len(), door.https.addresses.len()), (1, 0, 1));
        assert!(!door.ports().contains(&taken.port()), "the other program's port is not ours");

        let rows = loaded.effective.to_json_beside(&file);
        let row = |key: &str| rows.as_array().and_then(|rows| rows.iter().find(|row| row["key"] == key)).expect(key);
        let shut = serde_json::json!({"key": "registry.http", "value": [], "origin": "default, whose port is in use",
            "applies": "start", "file_value": ["[::]:5000"], "file_origin": "default"});
        assert_eq!(*row("registry.http"), shut);
        assert_eq!(row("registry.https")["value"], serde_json::json!(["[::]:5443"]));
        assert!(loaded.effective.waiting_for_a_start(&file).is_empty(), "the configuration has not changed");
        assert_eq!(loaded.effective.after_reload(file).value("registry.http"), Some(&toml::Value::Array(Vec::new())));

        door.http = Listen { addresses: vec![taken], is_default: false };
        let refused = bind_registry(&mut listeners, &mut door, &mut loaded.effective).map(drop);
        assert!(
            matches!(refused, Err(StartError::Bind { address, .. }) if address == taken),
            "it is named by the file"
        );
    }
}
