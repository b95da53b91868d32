//! Every listening socket of the server. It is bound before anything is served, or passed by the service manager.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpListener;

use super::start_error::StartError;
use super::unkept::Unkept;
use entrepot_config::Effective;
use entrepot_config::ready::{Listen, Startup};
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
    pub(super) registry: RegistrySockets,
    /// For Docker's `registry-mirrors`.
    pub(super) mirror: Vec<TcpListener>,
}

/// The sockets of our own registry.
pub(super) struct RegistrySockets {
    pub(super) http: Vec<TcpListener>,
    pub(super) https: Vec<TcpListener>,
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
    /// Binds the configured addresses. Default addresses that stay shut leave `startup`, and `effective` shows it. Call
    /// it within a tokio runtime.
    pub(super) fn bind(
        startup: &mut Startup,
        effective: &mut Effective,
        unkept: &mut Unkept,
    ) -> Result<Self, StartError> {
        let defaults = [&startup.transparent, &startup.admin.listen, &startup.registry.http, &startup.registry.https];
        let configured = startup.proxy.listen.iter().chain(&startup.registry.mirror);
        let configured = configured.chain(defaults.into_iter().flat_map(|door| &door.addresses));
        let mut listeners = Listeners::take(configured.copied());
        let mut all = |addresses: &[SocketAddr]| {
            addresses.iter().map(|address| bind(&mut listeners, *address)).collect::<Result<Vec<_>, _>>()
        };
        let (proxy, mirror) = (all(&startup.proxy.listen)?, all(&startup.registry.mirror)?);
        let mut open = |door, listen: &mut Listen| bind_door(&mut listeners, door, listen, effective);
        let transparent = open(&TRANSPARENT, &mut startup.transparent)?;
        transparent.iter().for_each(accept_for_others);
        let tcp = open(&ADMIN, &mut startup.admin.listen)?.pop();
        let registry = RegistrySockets {
            http: open(&REGISTRY_HTTP, &mut startup.registry.http)?,
            https: open(&REGISTRY_HTTPS, &mut startup.registry.https)?,
        };
        let socket = unkept.without("the admin socket", AdminSocket::bind(&startup.admin.socket), unbound)?;
        Ok(Self { doors: Doors { proxy, transparent, registry, mirror }, admin: AdminListening { tcp, socket } })
    }

    pub(super) fn addresses(&self) -> Addresses {
        let of = |listeners: &[TcpListener]| -> Vec<SocketAddr> {
            listeners.iter().filter_map(|socket| socket.local_addr().ok()).collect()
        };
        let Doors { proxy, transparent, registry, mirror } = &self.doors;
        let registry = [of(&registry.http), of(&registry.https)].concat();
        Addresses { proxy: of(proxy), transparent: of(transparent), registry, mirror: of(mirror) }
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

/// A door that the proxy can do without.
struct SpareDoor {
    /// The key of its addresses.
    key: &'static str,
    /// The consequence of a shut door, and the remedy, for people.
    shut: &'static str,
}

const TRANSPARENT: SpareDoor = SpareDoor {
    key: "transparent.listen",
    shut: "so redirected connections are not taken there; set transparent.listen",
};
const ADMIN: SpareDoor = SpareDoor {
    key: "admin.listen",
    shut: "so metrics and health are answered by the admin socket only; set admin.listen",
};
const REGISTRY_HTTP: SpareDoor = SpareDoor {
    key: "registry.http",
    shut: "so the registry does not listen there; set registry.http and registry.https",
};
const REGISTRY_HTTPS: SpareDoor = SpareDoor { key: "registry.https", ..REGISTRY_HTTP };

/// The sockets of a door. If another program has a default port, the proxy starts nevertheless: it may be installed
/// beside another registry, or beside Squid, which people like to run on 3129.
fn bind_door(
    listeners: &mut Listeners,
    door: &SpareDoor,
    listen: &mut Listen,
    effective: &mut Effective,
) -> Result<Vec<TcpListener>, StartError> {
    let (mut bound, mut open) = (Vec::new(), Vec::new());
    for address in &listen.addresses {
        match bind(listeners, *address) {
            Ok(listener) => {
                bound.push(listener);
                open.push(*address);
            }
            Err(StartError::Bind { source, .. }) if listen.is_default && source.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!("{address} is in use, {}", door.shut);
            }
            Err(error) => return Err(error),
        }
    }
    if open.len() < listen.addresses.len() {
        effective.default_is_taken(door.key, &open.iter().map(ToString::to_string).collect::<Vec<_>>());
        // From here on a request for such an address is one for the other program.
        listen.addresses = open;
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
    use entrepot_config::{Flags, HostFacts, load};
    use serde_json::json;

    #[tokio::test]
    async fn a_default_door_of_another_program_stays_shut_and_is_shown_so() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = other.local_addr().expect("its address");
        let flags = Flags { data_dir: Some("/data".into()), ..Flags::default() };
        let mut listeners = Listeners::take(std::iter::empty());
        for (door, value, in_file) in [
            (&REGISTRY_HTTP, json!([]), json!(["[::]:5000"])),
            (&REGISTRY_HTTPS, json!([]), json!(["[::]:5443"])),
            (&TRANSPARENT, json!([]), json!(["[::]:3129"])),
            (&ADMIN, json!("none"), json!("127.0.0.1:3130")),
        ] {
            let mut loaded = load(&flags, &|_: &str| None, &HostFacts::real()).expect("the defaults");
            let file = loaded.effective.clone();
            let mut listen = Listen { addresses: vec![taken], is_default: true };
            let bound = bind_door(&mut listeners, door, &mut listen, &mut loaded.effective).expect(door.key);
            assert_eq!((bound.len(), listen.addresses.len()), (0, 0), "{}: the port is not ours", door.key);

            let rows = loaded.effective.to_json_beside(&file);
            let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["key"] == door.key));
            let shut = json!({"key": door.key, "value": value, "origin": "default, whose port is in use",
                "applies": "start", "file_value": in_file, "file_origin": "default"});
            assert_eq!(row, Some(&shut));
            assert!(loaded.effective.waiting_for_a_start(&file).is_empty(), "the configuration has not changed");
            let reloaded = loaded.effective.after_reload(file);
            assert_eq!(reloaded.value(door.key).map(|value| json!(value)), Some(value), "it stays shut");

            let mut named = Listen { addresses: vec![taken], is_default: false };
            let refused = bind_door(&mut listeners, door, &mut named, &mut loaded.effective).map(drop);
            assert!(
                matches!(refused, Err(StartError::Bind { address, .. }) if address == taken),
                "{}: the file names it",
                door.key
            );
        }
    }

    #[tokio::test]
    async fn the_free_addresses_of_a_default_door_are_open() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = other.local_addr().expect("its address");
        let free = "127.0.0.1:0".parse().expect("an address");
        let mut listen = Listen { addresses: vec![taken, free], is_default: true };
        let mut listeners = Listeners::take(std::iter::empty());
        let bound = bind_door(&mut listeners, &REGISTRY_HTTP, &mut listen, &mut Effective::default()).expect("open");
        assert_eq!((bound.len(), listen.addresses), (1, vec![free]));
    }
}
