//! A connection to a listed registry: TLS is ended with a leaf of our own for exactly that name, and what is inside is
//! served. A client that speaks plain HTTP through CONNECT is served as well.

use std::sync::Arc;

use bytes::Bytes;

use crate::doors::client::{Client, shake, spoken};
use crate::doors::dispatch::{Visit, serve_visit};
use crate::doors::proxy::ProxyDoor;
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;

/// Serves `client`, of whom `first` was read already.
pub async fn intercept(door: &Arc<ProxyDoor>, visit: Visit, client: Client, first: Bytes, mut drain: Watch) {
    match spoken(&door.state, &client, &first, &mut drain).await {
        Some(Scheme::Https) => {}
        Some(Scheme::Http) => {
            let visit = Visit { client_scheme: Scheme::Http, ..visit };
            return serve_visit(door.state.clone(), visit, client, first, drain).await;
        }
        None => return,
    }
    let config = match door.leaves.server_config(&visit.host).await {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(host = %visit.host, "no certificate can be made: {error}");
            return;
        }
    };
    if let Some(stream) = shake(&door.state, config, client, first, &visit.host.to_string()).await {
        serve_visit(door.state.clone(), visit, stream, Bytes::new(), drain).await;
    }
}
