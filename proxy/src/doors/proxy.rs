//! The door on 3128: CONNECT, absolute-form http, and the local pages.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use http::header::{CONNECTION, VIA};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::doors::client::{Client, adopt};
use crate::doors::decision::{Decision, decide};
use crate::doors::dispatch::{self, Visit};
use crate::doors::intercept::intercept;
use crate::doors::registry::{self, RegistryDoor};
use crate::doors::state::AppState;
use crate::doors::tunnel::{TunnelCounters, splice};
use entrepot_cache::pull::replies;
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::exchange::{Exchange, LoggedBody};
use entrepot_net::http::guard::{Guard, GuardHandle};
use entrepot_net::http::reply::{Note, Reply};
use entrepot_net::http::serve::{Deadlines, serve};
use entrepot_net::listener::Place;
use entrepot_net::stream::fair_writes::Turns;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_net::workers::load::Connected;
use entrepot_observe::labels::{Direction, Rejection};
use entrepot_registry::door::Arrival;
use entrepot_upstream::own::has_passed;

/// What the door knows.
pub struct ProxyDoor {
    /// What answers requests.
    pub state: Arc<AppState>,
    /// Certificates for intercepted names.
    pub leaves: Arc<LeafStore>,
}

/// One connection to the door. Its place is shared with what it becomes after a CONNECT.
#[derive(Clone)]
struct Guest {
    door: Arc<ProxyDoor>,
    peer: SocketAddr,
    place: Arc<(Place, Connected)>,
    drain: Watch,
}

impl ProxyDoor {
    /// Serves one connection on this thread until it ends. Its place at the door and its weight on this thread are kept
    /// as long, tunnels and intercepted connections included.
    pub async fn serve(
        self: Arc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        place: (Place, Connected),
        drain: Watch,
    ) {
        let Some(client) = adopt(stream, &self.state) else { return };
        let deadlines = Deadlines::from(&self.state.snapshot().config.client);
        let guest = Guest { door: self, peer, place: Arc::new(place), drain: drain.clone() };
        let answer = move |handle, request| {
            let guest = guest.clone();
            async move { guest.answer(handle, request).await }
        };
        serve(client, Bytes::new(), deadlines, drain, answer).await;
    }
}

impl Guest {
    async fn answer(&self, handle: GuardHandle, request: Request<Incoming>) -> Response<LoggedBody> {
        let exchange = Exchange::begin(&self.door.state.log, self.peer.ip(), named_host(&request), &request);
        exchange.run(&handle, request, |request| self.reply(&handle, request)).await
    }

    async fn reply(&self, handle: &GuardHandle, request: Request<Incoming>) -> Reply {
        if request.method() == Method::CONNECT {
            return self.connect(handle, request).await;
        }
        if request.uri().authority().is_some() {
            return self.absolute(request).await;
        }
        self.door.state.page(&request).unwrap_or_else(|| {
            let text = "This is a proxy: name it as HTTPS_PROXY. Its own pages are /, /ca.crt and below /setup/.\n";
            Reply::full(StatusCode::NOT_FOUND, "text/plain", text)
        })
    }

    /// `GET http://host/path`: a plain registry is answered from the cache, anything else passes.
    async fn absolute(&self, request: Request<Incoming>) -> Reply {
        let uri = request.uri();
        let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let host = RegistryHost::parse(&authority, 80);
        let (Ok(host), Some("http")) = (host, uri.scheme_str()) else {
            return self.malformed("a request through this proxy names http://host[:port]/path");
        };
        let snapshot = self.door.state.snapshot();
        if self.door.state.registry.local.is_named(&snapshot.config.registry, &host) {
            let arrival = Arrival { client: self.peer.ip(), scheme: Scheme::Http };
            return registry::reply(&self.door.state, &arrival, request).await;
        }
        let listed = match decide(&snapshot.config, &host, Scheme::Http) {
            Decision::Intercept => true,
            Decision::Pass => false,
            Decision::Refuse(refusal) => return self.forbidden(refusal.message()),
        };
        let visit = Visit { host, client_scheme: Scheme::Http, client: self.peer.ip(), listed };
        dispatch::reply(&self.door.state, &visit, request).await
    }

    async fn connect(&self, handle: &GuardHandle, request: Request<Incoming>) -> Reply {
        let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        let Ok(host) = RegistryHost::parse_with_port(authority) else {
            return self.malformed("CONNECT names host:port");
        };
        let snapshot = self.door.state.snapshot();
        if has_passed(request.headers(), &snapshot.upstream.memory().via) {
            self.door.state.pull.metrics.rejected_requests.inc(Rejection::Loop);
            let reply = Reply::error(ErrorCode::Loop, "").with(CONNECTION, "close").because("loop");
            return reply;
        }
        if self.door.state.registry.local.is_named(&snapshot.config.registry, &host) {
            return self.enter_registry(handle, request);
        }
        match decide(&snapshot.config, &host, Scheme::Https) {
            Decision::Refuse(refusal) => self.forbidden(refusal.message()),
            Decision::Intercept => {
                let guest = self.clone();
                handle.open_tunnel();
                tokio::spawn(async move {
                    if let Some((client, first)) = upgraded(request).await {
                        let visit = Visit { host, client_scheme: Scheme::Https, client: guest.peer.ip(), listed: true };
                        intercept(&guest.door, visit, client, first, guest.drain.clone()).await;
                    }
                    drop(guest);
                });
                established()
            }
            Decision::Pass => {
                let timeout = snapshot.config.upstream.tunnel_connect_timeout;
                let heard_via: Vec<_> = request.headers().get_all(VIA).iter().cloned().collect();
                let opened = snapshot.upstream.reach().open_tunnel(&host, &heard_via, timeout).await;
                let upstream = match opened {
                    Ok(opened) => opened.stream,
                    Err(error) => {
                        tracing::info!(%host, client = %self.peer.ip(), "no tunnel: {error}");
                        if error.is_ours() {
                            self.door.state.pull.metrics.rejected_requests.inc(Rejection::Address);
                        }
                        let reply = replies::unreachable(&error).with(CONNECTION, "close");
                        return reply;
                    }
                };
                handle.open_tunnel();
                tokio::spawn(self.clone().tunnel(
                    host,
                    request,
                    upstream,
                    snapshot.config.upstream.tunnel_idle_timeout,
                ));
                established()
            }
        }
    }

    /// What is behind this CONNECT is our own registry.
    fn enter_registry(&self, handle: &GuardHandle, request: Request<Incoming>) -> Reply {
        let guest = self.clone();
        handle.open_tunnel();
        tokio::spawn(async move {
            if let Some((client, first)) = upgraded(request).await {
                let own = RegistryDoor { state: guest.door.state.clone(), leaves: guest.door.leaves.clone() };
                own.serve_client(client, first, guest.peer.ip(), guest.drain.clone()).await;
            }
            drop(guest);
        });
        established()
    }

    /// Bytes both ways, sealed. The door's place is kept until the end.
    async fn tunnel(self, host: RegistryHost, request: Request<Incoming>, upstream: TcpStream, idle: Duration) {
        let Some((client, first)) = upgraded(request).await else { return };
        let who = (&host, self.peer.ip());
        carry(&self.door.state, (client, upstream), first, idle, self.drain.clone(), who).await;
        drop(self.place);
    }

    fn malformed(&self, message: &str) -> Reply {
        self.door.state.pull.metrics.rejected_requests.inc(Rejection::Malformed);
        Reply::full(StatusCode::BAD_REQUEST, "text/plain", format!("{message}\n")).with(CONNECTION, "close")
    }

    fn forbidden(&self, message: &str) -> Reply {
        self.door.state.pull.metrics.rejected_requests.inc(Rejection::Policy);
        Reply::error(ErrorCode::Denied, &format!("entrepot: {message}")).with(CONNECTION, "close").because("policy")
    }
}

/// The answer to a CONNECT that was granted. It has no line in the log: what is asked behind it is logged itself.
fn established() -> Reply {
    let note = Note { unlogged: true, ..Note::default() };
    Reply { status: StatusCode::OK, headers: http::HeaderMap::new(), body: ReplyBody::Full(Bytes::new()), note }
}

/// The host that a request names, for the log. A user and password in front of it are left out.
fn named_host(request: &Request<Incoming>) -> String {
    let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    match request.uri().scheme_str() {
        Some("http") => {
            RegistryHost::parse(authority, 80).map_or_else(|_| authority.to_owned(), |host| host.to_string())
        }
        _ => authority.to_owned(),
    }
}

/// Carries bytes both ways, sealed, after what was read of the client already; counts them.
pub(super) async fn carry(
    state: &AppState,
    (client, mut upstream): (Client, TcpStream),
    first: Bytes,
    idle: Duration,
    mut drain: Watch,
    (host, peer): (&RegistryHost, IpAddr),
) {
    if upstream.write_all(&first).await.is_err() {
        return;
    }
    let metrics = &state.pull.metrics;
    metrics.tunnels.inc();
    let counters = TunnelCounters::default();
    let end = splice(client, upstream, idle, drain.draining(), &counters).await;
    metrics.tunnel_bytes.add(Direction::Up, counters.sent_bytes.load(Ordering::Relaxed));
    metrics.tunnel_bytes.add(Direction::Down, counters.received_bytes.load(Ordering::Relaxed));
    tracing::debug!(%host, client = %peer, "tunnel ended: {end:?}");
}

/// The connection behind a CONNECT, with what the client sent ahead of our answer.
async fn upgraded(request: Request<Incoming>) -> Option<(Client, Bytes)> {
    let upgraded: Upgraded = hyper::upgrade::on(request).await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Guard<Turns<Client>>>>().ok()?;
    let (turns, unread) = parts.io.into_inner().into_inner();
    let client = turns.into_inner();
    // A copy of what are few bytes, as a rule none: hyper's buffer would live as long as the connection.
    let first = Bytes::from([&parts.read_buf[..], &unread].concat());
    Some((client, first))
}
