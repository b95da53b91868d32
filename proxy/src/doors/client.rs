//! A client's connection as every door holds it: adopted from the acceptor, told TLS from HTTP by its first byte, and
//! shaken hands with.
//!
//! Neighbours: the doors (`proxy.rs`, `transparent.rs`, `registry.rs`) and `intercept.rs` use it; `serving` moves the bytes.

use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::TcpStream;

use crate::doors::state::AppState;
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;
use entrepot_net::http::deadline::Paced;
use entrepot_net::rewind::Rewind;
use entrepot_net::serving::outlet::Outlet;
use entrepot_net::serving::secure::Secure;
use entrepot_net::tls::handshake::{HandshakeError, accept};
use entrepot_observe::labels::{ConnectionRefusal, Handshake};

/// A client's connection.
pub type Client = Paced<Outlet>;

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Takes a connection onto this thread. None if the system cannot watch it, which is logged.
pub(super) fn adopt(stream: std::net::TcpStream, state: &AppState) -> Option<Client> {
    let stream = TcpStream::from_std(stream)
        .inspect_err(|error| tracing::warn!("a connection cannot be watched and is closed: {error}"))
        .ok()?;
    // Small answers must not wait for each other's acknowledgement; a socket that refuses is served all the same.
    let _ = stream.set_nodelay(true);
    Some(Paced::new(Outlet::new(stream), state.snapshot().config.client.send_timeout))
}

/// Tells what a client speaks, of which `first` was read already. None if the client left, if it said nothing in time
/// (which is counted), or if the process drains.
pub(super) async fn spoken(state: &AppState, client: &Client, first: &Bytes, drain: &mut Watch) -> Option<Scheme> {
    let timeout = state.snapshot().config.client.header_timeout;
    let opening = tokio::select! {
        opening = tokio::time::timeout(timeout, first_byte(client, first)) => opening,
        () = drain.draining() => return None,
    };
    match opening {
        Ok(Some(TLS_HANDSHAKE)) => Some(Scheme::Https),
        Ok(byte) => byte.map(|_| Scheme::Http),
        Err(_) => {
            state.pull.metrics.connections_refused.inc(ConnectionRefusal::Timeout);
            None
        }
    }
}

/// Does the TLS handshake with a client that wants `host`. None if it fails, which is logged and counted.
pub(super) async fn shake(
    state: &AppState,
    config: Arc<ServerConfig>,
    client: Client,
    first: Bytes,
    host: &str,
) -> Option<Secure<Rewind<Client>>> {
    let snapshot = state.snapshot();
    let (timeout, ktls) = (snapshot.config.client.header_timeout, snapshot.config.data_plane.ktls);
    drop(snapshot);
    let peer = client.get_ref().get_ref().peer_addr();
    let handshakes = &state.pull.metrics.tls_handshakes;
    match accept(Rewind { prefix: first, io: client }, config, timeout).await {
        Ok(secured) => {
            handshakes.inc(Handshake::Ok);
            let secure = Secure::new(secured, ktls);
            secure.inspect_err(|error| tracing::error!(%host, "a TLS connection cannot go on: {error}")).ok()
        }
        Err(error) => {
            let client = peer.map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
            tracing::info!(%host, %client, "{error}");
            handshakes.inc(match error {
                HandshakeError::Timeout { .. } => Handshake::Timeout,
                HandshakeError::Untrusted { .. } => Handshake::ClientRefused,
                HandshakeError::NoCommonProtocol | HandshakeError::Other(_) => Handshake::Failed,
            });
            None
        }
    }
}

/// The client's first byte, left where it is. None if the client is gone.
async fn first_byte(client: &Client, first: &Bytes) -> Option<u8> {
    if let Some(byte) = first.first() {
        return Some(*byte);
    }
    let mut byte = [0];
    match client.get_ref().get_ref().peek(&mut byte).await {
        Ok(1) => Some(byte[0]),
        _ => None,
    }
}
