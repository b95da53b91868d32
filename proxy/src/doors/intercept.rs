//! A connection that leads to a registry, listed or our own: TLS is ended here, with a certificate of our own for exactly
//! the name that is asked for, and what is inside is served. A client that speaks plain HTTP is served as well.

use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;

use crate::doors::client::{Client, shake, spoken};
use crate::doors::dispatch::serve_connection;
use crate::doors::state::AppState;
use entrepot_config::ready::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination};
use entrepot_net::drain::Watch;

/// Serves a client of which `first` was read already. What it speaks is told by its first byte.
pub async fn intercept(
    state: &Arc<AppState>,
    connection: ConnectionContext,
    client: Client,
    first: Bytes,
    mut drain: Watch,
) {
    let speaking = |scheme| connection.leading_to(connection.destination.clone(), scheme);
    match spoken(state, &client, &first, &mut drain).await {
        Some(Scheme::Https) => {}
        Some(Scheme::Http) => {
            return serve_connection(state.clone(), speaking(Scheme::Http), client, first, drain).await;
        }
        None => return,
    }
    let Some((config, name)) = certificate(state, &connection.destination).await else { return };
    if let Some(stream) = shake(state, config, client, first, &name).await {
        serve_connection(state.clone(), speaking(Scheme::Https), stream, Bytes::new(), drain).await;
    }
}

/// The certificate that a client gets, and the name that it is for. None if there is none, which is logged.
async fn certificate(state: &AppState, destination: &Destination) -> Option<(Arc<ServerConfig>, String)> {
    let (config, name) = match destination {
        Destination::Registry(target) => (state.leaves.server_config(&target.host).await, target.host.to_string()),
        Destination::Own => {
            let name = state.snapshot().config.registry.hostname.to_string();
            (state.leaves.config_of(state.registry.local.names()).await, name)
        }
        Destination::Named => return None,
    };
    match config {
        Ok(config) => Some((config, name)),
        Err(error) => {
            tracing::error!(host = %name, "no certificate can be made: {error}");
            None
        }
    }
}
