//! The door of our own registry: plain HTTP and TLS, told apart by the first byte, on each of its ports; and the same for
//! clients that come to it through another door.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::ready::Scheme;
use crate::http::deadline::Paced;
use crate::http::dispatch::Site;
use crate::http::serve::{Deadlines, serve};
use crate::ingress::drain::Watch;
use crate::ingress::intercept::{TLS_HANDSHAKE, first_byte, shake};
use crate::ingress::listener::Place;
use crate::ingress::proxy::Client;
use crate::observe::labels::ConnectionRefusal;
use crate::registry::door::{Arrival, answer};
use crate::serving::load::Connected;
use crate::serving::outlet::Outlet;
use crate::tls::leaf::LeafStore;

/// What the door knows.
#[derive(Clone)]
pub struct RegistryDoor {
    /// What answers requests.
    pub site: Arc<Site>,
    /// Where its certificate comes from.
    pub leaves: Arc<LeafStore>,
}

impl RegistryDoor {
    /// Serves one connection on this thread until it ends.
    pub async fn serve(
        self: Arc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        _place: (Place, Connected),
        drain: Watch,
    ) {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection cannot be watched and is closed: {error}");
                return;
            }
        };
        // Small answers must not wait for each other's acknowledgement; a socket that refuses is served all the same.
        let _ = stream.set_nodelay(true);
        let client = Paced::new(Outlet::new(stream), self.site.live().config.client.send_timeout);
        self.serve_client(client, Bytes::new(), peer.ip(), drain).await;
    }

    /// Serves a client of whom `first` was read already.
    pub async fn serve_client(&self, client: Client, first: Bytes, ip: IpAddr, mut drain: Watch) {
        let metrics = &self.site.pull.metrics;
        let timeout = self.site.live().config.client.header_timeout;
        let opening = tokio::select! {
            opening = tokio::time::timeout(timeout, first_byte(&client, &first)) => opening,
            () = drain.draining() => return,
        };
        match opening {
            Ok(Some(TLS_HANDSHAKE)) => {}
            Ok(Some(_)) => return self.serve_http(client, first, ip, Scheme::Http, drain).await,
            Ok(None) => return,
            Err(_) => return metrics.connections_refused.inc(ConnectionRefusal::Timeout),
        }
        let config = match self.leaves.config_of(self.site.registry.names()).await {
            Ok(config) => config,
            Err(error) => return tracing::error!("no certificate can be made for the registry: {error}"),
        };
        let host = self.site.live().config.registry.hostname.to_string();
        if let Some(stream) = shake(&self.site, config, client, first, &host).await {
            self.serve_http(stream, Bytes::new(), ip, Scheme::Https, drain).await;
        }
    }

    async fn serve_http<IO>(&self, io: IO, first: Bytes, client: IpAddr, scheme: Scheme, drain: Watch)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let deadlines = Deadlines::from(&self.site.live().config.client);
        let (site, arrival) = (self.site.clone(), Arrival { client, scheme });
        let answer = move |guard, request| {
            let (site, arrival) = (site.clone(), arrival.clone());
            async move { answer(&site, &arrival, &guard, request).await }
        };
        serve(io, first, deadlines, drain, answer).await;
    }
}
