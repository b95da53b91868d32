//! Recognises entrepot itself: the sockets it listens on, its name in `Via`, and its certificate authorities.
//!
//! Connections and requests are checked here, so that entrepot never becomes its own client. Certificates that it could
//! have issued itself are never trusted upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::header::VIA;
use http::{HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;

/// Whether a request passed this process before (threat T6): one of its `Via` values contains `own`.
pub fn has_passed(headers: &HeaderMap, own: &HeaderValue) -> bool {
    let own = own.as_bytes();
    headers.get_all(VIA).iter().any(|value| value.as_bytes().windows(own.len()).any(|window| window == own))
}

/// The identity of this process.
#[derive(Clone, Default)]
pub struct Ourselves {
    /// The sockets of all doors.
    pub sockets: OwnSockets,
    /// The random name in `Via: 1.1 entrepot-<instance>`.
    pub instance: Arc<str>,
    /// The current certificate authority and earlier ones. They are never trusted upstream, even if the system trusts them.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// The ports of all doors and the addresses of this machine. Clones share the addresses.
#[derive(Clone, Default)]
pub struct OwnSockets {
    ports: Arc<[u16]>,
    addresses: Arc<RwLock<Vec<IpAddr>>>,
    /// The time of the last refresh. None if there was none: without doors there is nothing to protect.
    read_at: Arc<Mutex<Option<Instant>>>,
}

/// The age at which the addresses of this machine are read again before a connection is made: an interface may be new.
const FRESH: Duration = Duration::from_secs(1);

impl OwnSockets {
    /// Takes the addresses on which the doors listen, and reads the addresses of this machine.
    pub fn new(listening: impl IntoIterator<Item = SocketAddr>) -> Self {
        let ports = listening.into_iter().map(|address| address.port()).collect();
        let own = Self { ports, ..Self::default() };
        own.refresh();
        own
    }

    /// Reads the addresses of this machine again. It is a netlink dump, so do not call it on the event loop. If it fails, the
    /// known addresses stay.
    pub fn refresh(&self) {
        let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return };
        let found = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = found.collect();
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the addresses are to be read again before they are relied on.
    pub(crate) fn is_stale(&self) -> bool {
        let read_at = *self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        read_at.is_some_and(|at| at.elapsed() >= FRESH)
    }

    /// Adds an address of this machine, until the next refresh.
    #[cfg(test)]
    pub(crate) fn add(&self, ip: IpAddr) {
        self.addresses.write().expect("no panic").push(ip);
    }

    /// Whether a door listens on `port`.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Whether `ip` is an address of this machine.
    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).contains(&ip)
    }

    /// Whether a connection to `address` would reach one of our doors.
    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        self.has_port(address.port()) && (ip.is_loopback() || ip.is_unspecified() || self.has_address(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address_policy::{AddressPolicy, AddressRefusal, Purpose};

    #[test]
    fn every_port_of_every_address_of_this_machine_is_refused() {
        let own = OwnSockets::new(["0.0.0.0:3128".parse().expect("an address")]);
        own.add([8, 8, 8, 8].into());
        own.add([10, 0, 0, 7].into());
        let policy = AddressPolicy::new(Vec::new(), own.clone());
        let allowed = AddressPolicy::new(vec!["10.0.0.7/32".parse().expect("a network")], own);
        for purpose in Purpose::ALL {
            for text in ["8.8.8.8:443", "10.0.0.7:443", "[::ffff:10.0.0.7]:22", "[64:ff9b::808:808]:1"] {
                let address: SocketAddr = text.parse().expect(text);
                // The administrator names the parent, and it is often on this machine.
                let expected = if purpose == Purpose::Parent { Ok(()) } else { Err(AddressRefusal::ThisMachine) };
                assert_eq!(policy.check(purpose, address), expected, "{purpose:?} {text}");
            }
            assert_eq!(allowed.check(purpose, "10.0.0.7:443".parse().expect("an address")), Ok(()), "{purpose:?}");
            let door = allowed.check(purpose, "10.0.0.7:3128".parse().expect("an address"));
            assert_eq!(door, Err(AddressRefusal::Own), "{purpose:?}: our own doors are never lifted");
        }
    }

    #[test]
    fn a_socket_is_own_by_address_and_port() {
        let own = OwnSockets::new(["0.0.0.0:3128".parse().expect("an address")]);
        for (text, expected) in [
            ("127.0.0.1:3128", true),
            ("[::1]:3128", true),
            ("[::]:3128", true),
            ("127.0.0.1:3129", false),
            ("192.0.2.7:3128", false),
        ] {
            assert_eq!(own.contains(text.parse().expect(text)), expected, "{text}");
        }
        own.add([192, 0, 2, 7].into());
        assert!(own.contains("192.0.2.7:3128".parse().expect("an address")));
        own.refresh();
        assert!(!own.contains("192.0.2.7:3128".parse().expect("an address")), "a refresh forgets what is gone");
        let addresses = own.addresses.read().expect("no panic");
        assert!(addresses.contains(&[127, 0, 0, 1].into()), "the interfaces were read: {addresses:?}");
    }
}
