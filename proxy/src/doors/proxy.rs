//! The door on 3128: CONNECT, absolute-form http, and the local pages.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::host::RegistryHost;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, VIA};
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tracing::Instrument;

use crate::doors::client::{adopt, shake, spoken};
use crate::doors::decision::{HostDecision, decide};
use crate::doors::dispatch::{self, exchange};
use crate::doors::intercept::intercept;
use crate::doors::refusal::DoorRefusal;
use crate::doors::state::AppState;
use crate::doors::tunnel::{TunnelCounters, splice};
use entrepot_cache::pull::RequestScope;
use entrepot_cache::pull::error::PullError;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination, RegistryDestination};
use entrepot_net::drain::Watch;
use entrepot_net::http;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::guard::GuardHandle;
use entrepot_net::http::reply::Reply;
use entrepot_net::http::serve::{Deadlines, behind_connect};
use entrepot_net::places::{ConnectionSlot, Standing};
use entrepot_net::stream::client_socket::ClientSocket;
use entrepot_net::workers::load::Connected;
use entrepot_observe as observe;
use entrepot_observe::labels::{Direction, Door, Interception, Refused};
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::own::has_passed;

/// One connection to the door. Its place is shared with what it becomes after a CONNECT.
#[derive(Clone)]
struct Proxied {
    state: Arc<AppState>,
    connection: Arc<ConnectionContext>,
    place: Arc<(ConnectionSlot, Connected)>,
    drain: Watch,
}

/// Serves one connection on this thread until it ends. Its place at the door and its weight on this thread are kept as
/// long, tunnels and intercepted connections included.
pub async fn serve(
    state: Arc<AppState>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: (ConnectionSlot, Connected),
    drain: Watch,
) {
    let Some(client) = adopt(stream, &state) else { return };
    let mut draining = drain.clone();
    match spoken(&state, &client, &mut draining).await {
        Some(Scheme::Http) => {}
        Some(Scheme::Https) => return local_pages(&state, client, (peer, place.0.standing().clone()), drain).await,
        None => return,
    }
    let deadlines = Deadlines::from(&state.snapshot().config.client);
    let connection = ConnectionContext {
        client: peer.ip().to_canonical(),
        door: Door::Proxy,
        scheme: Scheme::Http,
        destination: Destination::Named,
        standing: place.0.standing().clone(),
    };
    let proxied = Proxied { state, connection: Arc::new(connection), place: Arc::new(place), drain: drain.clone() };
    let respond = move |guard: GuardHandle, request| {
        let proxied = proxied.clone();
        async move {
            let answer = |request, scope| proxied.answer(&guard, request, scope);
            exchange(&proxied.state, &proxied.connection, &guard, request, answer).await
        }
    };
    http::serve::serve(client, deadlines, drain, respond).await;
}

/// Serves the pages of this server by TLS, with the key of our own name: for the line of a first set-up.
async fn local_pages(
    state: &Arc<AppState>,
    client: ClientSocket,
    (peer, standing): (SocketAddr, Standing),
    drain: Watch,
) {
    let names = state.registry.local.names();
    let name = names.first().map_or_else(String::new, ToString::to_string);
    let config = match state.leaves.own_config(names).await {
        Ok(config) => config,
        Err(error) => return tracing::error!(host = %name, "no certificate can be made: {error}"),
    };
    let Some(stream) = shake(state, config, client, &name).await else { return };
    let connection = ConnectionContext {
        client: peer.ip().to_canonical(),
        door: Door::Proxy,
        scheme: Scheme::Https,
        destination: Destination::Named,
        standing,
    };
    dispatch::serve_connection(state.clone(), connection, stream, drain).await;
}

impl Proxied {
    async fn answer(&self, guard: &GuardHandle, request: Request<Incoming>, scope: RequestScope) -> Reply {
        let answered = if request.method() == Method::CONNECT {
            self.connect(guard, request, scope).await
        } else if request.uri().authority().is_some() {
            self.absolute(request, scope).await
        } else {
            Ok(dispatch::answer(&self.state, request, scope).await)
        };
        answered.unwrap_or_else(DoorRefusal::into_reply)
    }

    /// `GET http://host/path`: a plain registry is answered from the cache, anything else passes.
    async fn absolute(&self, request: Request<Incoming>, scope: RequestScope) -> Result<Reply, DoorRefusal> {
        let uri = request.uri();
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = RegistryHost::parse(authority, 80);
        let (Ok(host), Some("http")) = (host, uri.scheme_str()) else {
            return Err(DoorRefusal::Target("a request through this proxy names http://host[:port]/path"));
        };
        let config = &scope.snapshot.config;
        let destination = if self.state.registry.local.is_named(&config.registry, &host) {
            Destination::Own
        } else {
            match decide(config, &host, Scheme::Http) {
                HostDecision::Intercept => Destination::Registry(RegistryDestination { host, listed: true }),
                HostDecision::Pass => Destination::Registry(RegistryDestination { host, listed: false }),
                HostDecision::Refuse(refusal) => return Err(DoorRefusal::Policy(refusal)),
            }
        };
        let connection = Arc::new(scope.connection.leading_to(destination, Scheme::Http));
        Ok(dispatch::answer(&self.state, request, RequestScope { connection, ..scope }).await)
    }

    async fn connect(
        &self,
        guard: &GuardHandle,
        request: Request<Incoming>,
        scope: RequestScope,
    ) -> Result<Reply, DoorRefusal> {
        let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        let Ok(host) = RegistryHost::parse_with_port(authority) else {
            return Err(DoorRefusal::Target("CONNECT names host:port"));
        };
        let config = &scope.snapshot.config;
        if has_passed(request.headers(), &scope.snapshot.upstream.memory().via) {
            return Err(DoorRefusal::Loop);
        }
        if self.state.registry.local.is_named(&config.registry, &host) {
            self.enter(guard, request, Destination::Own);
            return Ok(granted(&scope));
        }
        match decide(config, &host, Scheme::Https) {
            HostDecision::Refuse(refusal) => return Err(DoorRefusal::Policy(refusal)),
            HostDecision::Intercept => {
                self.enter(guard, request, Destination::Registry(RegistryDestination { host, listed: true }));
            }
            HostDecision::Pass => {
                let (timeout, idle) = (config.upstream.tunnel_connect_timeout, config.upstream.tunnel_idle_timeout);
                let heard_via: Vec<_> = request.headers().get_all(VIA).iter().cloned().collect();
                let (reach, client) = (scope.snapshot.upstream.reach(), self.connection.client.into());
                let opened = reach.open_tunnel(&host, client, &heard_via, timeout).await;
                let upstream = match opened {
                    Ok(opened) => opened.stream,
                    Err(error) => {
                        tracing::info!(%host, client = %self.connection.client, "no tunnel: {error}");
                        return Ok(no_tunnel(error));
                    }
                };
                guard.open_tunnel();
                tokio::spawn(self.clone().tunnel(host, request, upstream, idle).in_current_span());
            }
        }
        Ok(granted(&scope))
    }

    /// Answers the requests behind this CONNECT here. The door's place is kept until their end.
    fn enter(&self, guard: &GuardHandle, request: Request<Incoming>, destination: Destination) {
        let proxied = self.clone();
        guard.open_tunnel();
        let standing = self.connection.standing.clone();
        tokio::spawn(standing.serve(async move {
            if let Some(client) = behind_connect(request).await {
                let connection = proxied.connection.leading_to(destination, Scheme::Https);
                intercept(&proxied.state, connection, client, proxied.drain.clone()).await;
            }
            drop(proxied);
        }));
    }

    /// Bytes both ways, sealed. The door's place is kept until the end.
    async fn tunnel(self, host: RegistryHost, request: Request<Incoming>, upstream: TcpStream, idle: Duration) {
        // A tunnel that rests looks like any other.
        let _busy = self.connection.standing.busy();
        let Some(client) = behind_connect(request).await else { return };
        let who = (&host, self.connection.client);
        carry(&self.state, (client, upstream), idle, self.drain.clone(), who).await;
        drop(self.place);
    }
}

/// The answer to a CONNECT that was granted.
fn granted(scope: &RequestScope) -> Reply {
    scope.trail.record(observe::trail::Decision::Door(Interception::Granted));
    Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: ReplyBody::Full(Bytes::new()), refused: None }
}

fn no_tunnel(error: UpstreamError) -> Reply {
    let refused = if error.is_ours() { Refused::Address } else { Refused::Unreachable };
    PullError::Unreachable(Arc::new(error)).into_reply().with(CONNECTION, "close").because(refused)
}

/// Carries bytes both ways, sealed, and counts them.
pub(super) async fn carry(
    state: &AppState,
    (client, upstream): (ClientSocket, TcpStream),
    idle: Duration,
    mut drain: Watch,
    (host, peer): (&RegistryHost, IpAddr),
) {
    let metrics = &state.pull.metrics;
    metrics.tunnels.inc();
    let counters = TunnelCounters::default();
    let end = splice(client, upstream, idle, drain.draining(), &counters).await;
    metrics.tunnel_bytes.add(Direction::Up, counters.sent_bytes.load(Ordering::Relaxed));
    metrics.tunnel_bytes.add(Direction::Down, counters.received_bytes.load(Ordering::Relaxed));
    tracing::debug!(%host, client = %peer, "tunnel ended: {end:?}");
}
