//! The facts about a connection before its first request: the client, the door, the protocol, and the destination.
//! Every door makes one, so no later code asks the socket again.

use std::net::IpAddr;

use crate::places::Standing;
use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use entrepot_observe::labels::Door;

/// A client's connection.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    /// The client's address. An IPv4 address that is mapped into IPv6 is stored as IPv4.
    pub client: IpAddr,
    /// The door by which it came in.
    pub door: Door,
    /// The protocol between the client and us.
    pub scheme: Scheme,
    pub destination: Destination,
    /// Whether the connection rests, and may make room for another.
    pub standing: Standing,
}

/// The destination of the requests of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Each request names its host, as on an explicit proxy's connection.
    Named,
    /// A registry.
    Registry(RegistryDestination),
    /// Our own registry.
    Own,
    /// Our own registry at an address for TLS. A client that speaks plain HTTP there is told so.
    OwnByTls,
    /// Docker Hub, for a client that has us among its `registry-mirrors` and names no registry.
    DockerHubMirror,
}

/// A registry that a connection leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryDestination {
    pub host: RegistryHost,
    /// Whether the registry is a listed one. Requests to others only pass through.
    pub listed: bool,
}

impl ConnectionContext {
    /// The same connection with another destination, which a CONNECT or an absolute URI names.
    #[must_use]
    pub fn leading_to(&self, destination: Destination, scheme: Scheme) -> Self {
        Self { destination, scheme, ..self.clone() }
    }
}
