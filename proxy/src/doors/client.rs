//! A client's connection as every door holds it: adopted from the acceptor, told TLS from HTTP by its first byte, and
//! led through the TLS handshake.
//!
//! The doors (`proxy.rs`, `transparent.rs`, `registry.rs`) and `intercept.rs` use it; `entrepot_net::stream` moves the
//! bytes.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;

use crate::doors::state::AppState;
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;
use entrepot_net::stream::client_socket::ClientSocket;
use entrepot_net::stream::handshake::{HandshakeError, accept};
use entrepot_net::stream::tls::Tls;
use entrepot_observe::labels::{ConnectionRefusal, Handshake};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Takes a connection onto this thread. None if the system cannot watch it, which is logged.
pub(super) fn adopt(stream: std::net::TcpStream, state: &AppState) -> Option<ClientSocket> {
    let stream = TcpStream::from_std(stream)
        .inspect_err(|error| tracing::warn!("a connection cannot be watched and is closed: {error}"))
        .ok()?;
    // Small answers must not wait for each other's acknowledgement; a socket that refuses is served all the same.
    let _ = stream.set_nodelay(true);
    Some(ClientSocket::new(stream, state.snapshot().config.client.send_timeout))
}

/// The protocol that a client speaks. None if the client left or said nothing in time, which is counted, or if the
/// process drains.
pub(super) async fn spoken(state: &AppState, client: &ClientSocket, drain: &mut Watch) -> Option<Scheme> {
    let timeout = state.snapshot().config.client.header_timeout;
    let opening = tokio::select! {
        opening = tokio::time::timeout(timeout, client.peek()) => opening,
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
    client: ClientSocket,
    host: &str,
) -> Option<Tls> {
    let snapshot = state.snapshot();
    let (timeout, ktls) = (snapshot.config.client.header_timeout, snapshot.config.data_plane.ktls);
    drop(snapshot);
    let peer = client.tcp().peer_addr();
    let handshakes = &state.pull.metrics.tls_handshakes;
    match accept(client, config, timeout, ktls).await {
        Ok(stream) => {
            handshakes.inc(Handshake::Ok);
            Some(stream)
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
