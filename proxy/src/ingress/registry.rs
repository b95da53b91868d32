//! The door of our own registry: plain HTTP and TLS, told apart by the first byte, on each of its ports; and the same for
//! clients that come to it through another door.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::ready::Scheme;
use crate::http::dispatch::Site;
use crate::http::serve::{Deadlines, serve};
use crate::ingress::client::{Client, adopt, shake, spoken};
use crate::ingress::drain::Watch;
use crate::ingress::listener::Place;
use crate::registry::door::{Arrival, answer};
use crate::serving::load::Connected;
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
        if let Some(client) = adopt(stream, &self.site) {
            self.serve_client(client, Bytes::new(), peer.ip(), drain).await;
        }
    }

    /// Serves a client of whom `first` was read already.
    pub async fn serve_client(&self, client: Client, first: Bytes, ip: IpAddr, mut drain: Watch) {
        match spoken(&self.site, &client, &first, &mut drain).await {
            Some(Scheme::Https) => {}
            Some(Scheme::Http) => return self.serve_http(client, first, ip, Scheme::Http, drain).await,
            None => return,
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
