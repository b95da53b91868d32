//! What is known of a connection before its first request: the client, the door, what the client speaks, and to whom the
//! connection leads. Every door makes one, and nobody below asks the socket again.

use std::net::IpAddr;

use entrepot_config::ready::Scheme;
use entrepot_core::host::RegistryHost;
use entrepot_observe::labels::Door;

/// A client's connection.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    /// The client's address. IPv4 that came mapped into IPv6 is IPv4.
    pub client: IpAddr,
    /// The door that it came in by.
    pub door: Door,
    /// What the client speaks to us.
    pub scheme: Scheme,
    /// To whom it leads.
    pub destination: Destination,
}

/// To whom the requests of a connection are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Each request names its host: an explicit proxy's connection.
    Named,
    /// A registry.
    Registry(Target),
    /// Our own registry.
    Own,
}

/// A registry that a connection leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its host and port.
    pub host: RegistryHost,
    /// Whether it is a listed one. Requests to others only pass through.
    pub listed: bool,
}

impl ConnectionContext {
    /// The same connection, leading elsewhere: what a CONNECT or an absolute URI names.
    #[must_use]
    pub fn leading_to(&self, destination: Destination, scheme: Scheme) -> Self {
        Self { destination, scheme, ..self.clone() }
    }
}
