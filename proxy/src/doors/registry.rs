//! The door of our own registry, and beside it the listener for Docker's `registry-mirrors`: plain HTTP and TLS, told
//! apart by the first byte, on each of their ports.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::doors::client::adopt;
use crate::doors::intercept::intercept;
use crate::doors::state::AppState;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination};
use entrepot_net::drain::Watch;
use entrepot_net::listener::ConnectionSlot;
use entrepot_net::workers::load::Connected;
use entrepot_observe::labels::Door;

/// Serves one connection to our own registry on this thread until it ends.
pub async fn serve(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: (ConnectionSlot, Connected),
    drain: Watch,
) {
    lead(state, stream, peer, (Door::Registry, Destination::Own), drain).await;
    drop(place);
}

/// Serves one connection of a client that means Docker Hub.
pub async fn serve_mirror(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: (ConnectionSlot, Connected),
    drain: Watch,
) {
    lead(state, stream, peer, (Door::Mirror, Destination::DockerHubMirror), drain).await;
    drop(place);
}

async fn lead(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    (door, destination): (Door, Destination),
    drain: Watch,
) {
    let Some(client) = adopt(stream, &state) else { return };
    let client_address = peer.ip().to_canonical();
    let connection = ConnectionContext { client: client_address, door, scheme: Scheme::Http, destination };
    intercept(&state, connection, client, drain).await;
}
