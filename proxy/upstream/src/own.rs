//! Recognises entrepot itself: the sockets it listens on, its name in `Via`, and its certificate authorities.
//!
//! Connections and requests are checked here, so that entrepot never becomes its own client. Certificates that it could
//! have issued itself are never trusted upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

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
}

impl OwnSockets {
    /// Takes the addresses on which the doors listen, and reads the addresses of this machine.
    pub fn new(listening: impl IntoIterator<Item = SocketAddr>) -> Self {
        let ports = listening.into_iter().map(|address| address.port()).collect();
        let own = Self { ports, addresses: Arc::default() };
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
