//! A connection to a listed registry: TLS is ended with a leaf of our own for exactly that name, and what is inside is
//! served. A client that speaks plain HTTP through CONNECT is served as well.

use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;

use crate::config::ready::Scheme;
use crate::http::dispatch::{Site, Visit};
use crate::http::serve::serve_visit;
use crate::ingress::drain::Watch;
use crate::ingress::proxy::{Client, ProxyDoor};
use crate::ingress::rewind::Rewind;
use crate::observe::labels::{ConnectionRefusal, Handshake};
use crate::serving::secure::Secure;
use crate::tls::handshake::{HandshakeError, accept};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
pub(super) const TLS_HANDSHAKE: u8 = 0x16;

/// Serves `client`, of whom `first` was read already.
pub async fn intercept(door: &Arc<ProxyDoor>, visit: Visit, client: Client, first: Bytes, mut drain: Watch) {
    let metrics = &door.site.pull.metrics;
    let timeout = door.site.live().config.client.header_timeout;
    let opening = tokio::select! {
        opening = tokio::time::timeout(timeout, first_byte(&client, &first)) => opening,
        () = drain.draining() => return,
    };
    match opening {
        Ok(Some(TLS_HANDSHAKE)) => {}
        Ok(Some(_)) => {
            let visit = Visit { client_scheme: Scheme::Http, ..visit };
            return serve_visit(door.site.clone(), visit, client, first, drain).await;
        }
        Ok(None) => return,
        Err(_) => {
            metrics.connections_refused.inc(ConnectionRefusal::Timeout);
            return;
        }
    }
    let config = match door.leaves.server_config(&visit.host).await {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(host = %visit.host, "no certificate can be made: {error}");
            return;
        }
    };
    if let Some(stream) = shake(&door.site, config, client, first, &visit.host.to_string()).await {
        serve_visit(door.site.clone(), visit, stream, Bytes::new(), drain).await;
    }
}

/// Shakes hands with a client that wants `host`; none where that came to nothing, which is logged and counted.
pub(super) async fn shake(
    site: &Site,
    config: Arc<ServerConfig>,
    client: Client,
    first: Bytes,
    host: &str,
) -> Option<Secure<Rewind<Client>>> {
    let live = site.live();
    let (timeout, ktls) = (live.config.client.header_timeout, live.config.data_plane.ktls);
    drop(live);
    let peer = client.get_ref().get_ref().peer_addr();
    let handshakes = &site.pull.metrics.tls_handshakes;
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

/// The client's first byte, left where it is; none when the client is gone.
pub(super) async fn first_byte(client: &Client, first: &Bytes) -> Option<u8> {
    if let Some(byte) = first.first() {
        return Some(*byte);
    }
    let mut byte = [0];
    match client.get_ref().get_ref().peek(&mut byte).await {
        Ok(1) => Some(byte[0]),
        _ => None,
    }
}
