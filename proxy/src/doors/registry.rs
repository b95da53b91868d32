//! The door of our own registry: plain HTTP and TLS, told apart by the first byte, on each of its ports.

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

/// Serves one connection on this thread until it ends.
pub async fn serve(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: (ConnectionSlot, Connected),
    drain: Watch,
) {
    let Some(client) = adopt(stream, &state) else { return };
    let connection = ConnectionContext {
        client: peer.ip().to_canonical(),
        door: Door::Registry,
        scheme: Scheme::Http,
        destination: Destination::Own,
        standing: place.0.standing().clone(),
    };
    intercept(&state, connection, client, drain).await;
    drop(place);
}
