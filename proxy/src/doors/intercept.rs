//! A connection that leads to a registry, listed or our own: TLS is ended here, with a certificate of our own for
//! exactly the name that is asked for, and what is inside is served. A client that speaks plain HTTP is served as well.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::doors::client::{shake, spoken};
use crate::doors::dispatch::serve_connection;
use crate::doors::state::AppState;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination};
use entrepot_net::drain::Watch;
use entrepot_net::stream::client_socket::ClientSocket;

/// Serves a client. Its first byte tells what it speaks.
pub async fn intercept(state: &Arc<AppState>, connection: ConnectionContext, client: ClientSocket, mut drain: Watch) {
    let speaking = |scheme| connection.leading_to(connection.destination.clone(), scheme);
    match spoken(state, &client, &mut drain).await {
        Some(Scheme::Https) => {}
        Some(Scheme::Http) => {
            return serve_connection(state.clone(), speaking(Scheme::Http), client, drain).await;
        }
        None => return,
    }
    let Some((config, name)) = certificate(state, &connection.destination).await else { return };
    if let Some(stream) = shake(state, config, client, &name).await {
        serve_connection(state.clone(), speaking(Scheme::Https), stream, drain).await;
    }
}

/// The certificate that a client gets, and the name that it is for. None if there is none, which is logged.
async fn certificate(state: &AppState, destination: &Destination) -> Option<(Arc<ServerConfig>, String)> {
    let (config, name) = match destination {
        Destination::Registry(target) => (state.leaves.server_config(&target.host).await, target.host.to_string()),
        Destination::Own | Destination::OwnByTls | Destination::DockerHubMirror => {
            let name = state.snapshot().config.registry.hostname.to_string();
            (state.leaves.own_config(state.registry.local.names()).await, name)
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
