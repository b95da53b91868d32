//! The door of our own registry: plain HTTP and TLS, told apart by the first byte, on each of its ports; and the same for
//! clients that come to it through another door.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::doors::client::{Client, adopt, shake, spoken};
use crate::doors::state::AppState;
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;
use entrepot_net::http::exchange::{Exchange, LoggedBody, is_oci};
use entrepot_net::http::guard::GuardHandle;
use entrepot_net::http::reply::Reply;
use entrepot_net::http::serve::{Deadlines, serve};
use entrepot_net::listener::Place;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_net::workers::load::Connected;
use entrepot_registry::access::TOKEN_PATH;
use entrepot_registry::door::{self, Arrival};
use entrepot_registry::web;

/// What the door knows.
#[derive(Clone)]
pub struct RegistryDoor {
    /// What answers requests.
    pub state: Arc<AppState>,
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
        if let Some(client) = adopt(stream, &self.state) {
            self.serve_client(client, Bytes::new(), peer.ip(), drain).await;
        }
    }

    /// Serves a client of whom `first` was read already.
    pub async fn serve_client(&self, client: Client, first: Bytes, ip: IpAddr, mut drain: Watch) {
        match spoken(&self.state, &client, &first, &mut drain).await {
            Some(Scheme::Https) => {}
            Some(Scheme::Http) => return self.serve_http(client, first, ip, Scheme::Http, drain).await,
            None => return,
        }
        let config = match self.leaves.config_of(self.state.registry.local.names()).await {
            Ok(config) => config,
            Err(error) => return tracing::error!("no certificate can be made for the registry: {error}"),
        };
        let host = self.state.snapshot().config.registry.hostname.to_string();
        if let Some(stream) = shake(&self.state, config, client, first, &host).await {
            self.serve_http(stream, Bytes::new(), ip, Scheme::Https, drain).await;
        }
    }

    async fn serve_http<IO>(&self, io: IO, first: Bytes, client: IpAddr, scheme: Scheme, drain: Watch)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let deadlines = Deadlines::from(&self.state.snapshot().config.client);
        let (state, arrival) = (self.state.clone(), Arrival { client, scheme });
        let answer = move |guard, request| {
            let (state, arrival) = (state.clone(), arrival.clone());
            async move { answer(&state, &arrival, &guard, request).await }
        };
        serve(io, first, deadlines, drain, answer).await;
    }
}

async fn answer(
    state: &AppState,
    arrival: &Arrival,
    guard: &GuardHandle,
    request: Request<Incoming>,
) -> Response<LoggedBody> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let exchange = Exchange::begin(&state.log, arrival.client, host, &request);
    exchange.run(guard, request, |request| reply(state, arrival, request)).await
}

/// The reply to one request to our registry.
pub(super) async fn reply(state: &AppState, arrival: &Arrival, request: Request<Incoming>) -> Reply {
    let (service, snapshot) = (&state.registry, state.snapshot());
    match request.uri().path() {
        path if is_oci(path) => Box::pin(door::answer(service, snapshot, arrival, request)).await,
        TOKEN_PATH => Box::pin(service.token(&snapshot, request)).await,
        path if web::is_here(path) => Box::pin(web::answer(service, snapshot, arrival, request)).await,
        _ => state.page(&request).unwrap_or_else(nothing_here),
    }
}

fn nothing_here() -> Reply {
    let text = "This is a registry: docker push and pull it by this name. Its protocol is below /v2/.\n";
    Reply::full(StatusCode::NOT_FOUND, "text/plain", text)
}
