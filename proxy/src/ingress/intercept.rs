//! A connection to a listed registry: TLS is ended with a leaf of our own for exactly that name, and what is inside is
//! served. A client that speaks plain HTTP through CONNECT is served as well.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::ready::Scheme;
use crate::http::dispatch::Visit;
use crate::http::serve::serve_visit;
use crate::ingress::client::{Client, shake, spoken};
use crate::ingress::drain::Watch;
use crate::ingress::proxy::ProxyDoor;

/// Serves `client`, of whom `first` was read already.
pub async fn intercept(door: &Arc<ProxyDoor>, visit: Visit, client: Client, first: Bytes, mut drain: Watch) {
    match spoken(&door.site, &client, &first, &mut drain).await {
        Some(Scheme::Https) => {}
        Some(Scheme::Http) => {
            let visit = Visit { client_scheme: Scheme::Http, ..visit };
            return serve_visit(door.site.clone(), visit, client, first, drain).await;
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
    if let Some(stream) = shake(&door.site, config, client, first, &visit.host.to_string()).await {
        serve_visit(door.site.clone(), visit, stream, Bytes::new(), drain).await;
    }
}
