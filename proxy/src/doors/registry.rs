//! The door of our own registry, and beside it the listener for Docker's `registry-mirrors`: plain HTTP and TLS, told
//! apart by the first byte. The addresses for TLS answer plain HTTP only where the configuration asks for it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::doors::client::adopt;
use crate::doors::intercept::intercept;
use crate::doors::state::AppState;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination};
use entrepot_net::drain::Watch;
use entrepot_net::places::ConnectionSlot;
use entrepot_net::workers::load::Connected;
use entrepot_observe::labels::Door;

/// Serves one connection on this thread until it ends. `destination` is what a client of that socket means.
pub async fn serve(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    (place, door, destination): ((ConnectionSlot, Connected), Door, Destination),
    drain: Watch,
) {
    let Some(client) = adopt(stream, &state) else { return };
    let (address, standing) = (peer.ip().to_canonical(), place.0.standing().clone());
    let connection = ConnectionContext { client: address, door, scheme: Scheme::Http, destination, standing };
    intercept(&state, connection, client, drain).await;
    drop(place);
}
