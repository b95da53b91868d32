//! From a connection's request to whom it is for: a registry, our own registry, or a page of this proxy.
//!
//! Every door serves its connections by [`serve_connection`], or, where each request names its own host, calls
//! `exchange` for each of them. The prologue of a request stands here once.

use std::sync::Arc;

use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use entrepot_core::outcome::RequestType;
use entrepot_core::route::Route;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::doors::refusal::DoorRefusal;
use crate::doors::state::AppState;
use entrepot_cache::pull::{RequestContext, RequestScope, identity};
use entrepot_net::connection::{ConnectionContext, Destination, RegistryDestination};
use entrepot_net::drain::Watch;
use entrepot_net::http::exchange::{Exchange, LoggedBody, is_oci};
use entrepot_net::http::guard::GuardHandle;
use entrepot_net::http::reply::Reply;
use entrepot_net::http::serve::{Deadlines, serve};
use entrepot_observe::labels::{Interception, Refused, RequestRoute};
use entrepot_observe::trail::Decision;
use entrepot_registry::access::TOKEN_PATH;
use entrepot_registry::{door, web};
use entrepot_upstream::credential::Credential;
use entrepot_upstream::own::has_passed;
use entrepot_upstream::upstream_registry::UpstreamRegistry;

/// Serves a connection until the client leaves, idles too long, or the process drains.
pub async fn serve_connection<IO>(state: Arc<AppState>, connection: ConnectionContext, io: IO, drain: Watch)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadlines = Deadlines::from(&state.snapshot().config.client);
    let connection = Arc::new(connection);
    let respond = move |guard: GuardHandle, request| {
        let (state, connection) = (state.clone(), connection.clone());
        async move { exchange(&state, &connection, &guard, request, |request, scope| answer(&state, request, scope)).await }
    };
    serve(io, deadlines, drain, respond).await;
}

/// One exchange on a connection, with the configuration that holds when it begins.
pub(super) async fn exchange<Answering>(
    state: &AppState,
    connection: &Arc<ConnectionContext>,
    guard: &GuardHandle,
    request: Request<Incoming>,
    answer: impl FnOnce(Request<Incoming>, RequestScope) -> Answering,
) -> Response<LoggedBody>
where
    Answering: Future<Output = Reply>,
{
    let exchange = Exchange::begin(&state.log, connection, &request);
    let in_scope = |request, trail| {
        answer(request, RequestScope { connection: connection.clone(), snapshot: state.snapshot(), trail })
    };
    exchange.run(guard, request, in_scope).await
}

/// The reply to a request, by whom its connection leads to.
pub(super) async fn answer(state: &AppState, request: Request<Incoming>, scope: RequestScope) -> Reply {
    match scope.connection.destination.clone() {
        Destination::Registry(target) => match to_registry(state, &target, request, scope).await {
            Ok(reply) => reply,
            Err(refusal) => refusal.into_reply(),
        },
        Destination::OwnByTls
            if scope.connection.scheme == Scheme::Http && !scope.snapshot.config.registry.plain_on_https =>
        {
            plain_http(&request)
        }
        Destination::Own | Destination::OwnByTls => to_own_registry(state, request, &scope).await,
        Destination::DockerHubMirror => to_docker_hub(state, request, &scope).await,
        Destination::Named => local_page(state, &request, &scope, PROXY_HERE),
    }
}

async fn to_registry(
    state: &AppState,
    target: &RegistryDestination,
    request: Request<Incoming>,
    scope: RequestScope,
) -> Result<Reply, DoorRefusal> {
    check_target(&target.host, &request, &scope)?;
    let door = if target.listed { Interception::Intercepted } else { Interception::PassedOn };
    scope.trail.record(Decision::Door(door));
    let (head, body) = request.into_parts();
    let route = match Route::parse_upstream(&head.method, head.uri.path(), head.uri.query()) {
        Ok(route) => route,
        Err(error) => return Ok(Reply::error(error.code, "").because(Refused::Grammar)),
    };
    let registry = match target.listed {
        true => scope.snapshot.registry(&target.host),
        false => UpstreamRegistry::unlisted(&target.host),
    };
    let registry = registry.heard_of_by(&head.headers);
    let login = identity::header(&head.headers);
    let credential = if route == Route::Other || !target.listed {
        state.pull.passer(&registry, login)
    } else {
        state.pull.reader(&scope.snapshot, &registry, route.repository(), login, route.is_push(&head.method))
    };
    let RequestScope { connection, snapshot, trail } = scope;
    let mut request = RequestContext {
        connection,
        snapshot,
        trail,
        registry,
        credential: Credential::None,
        method: head.method,
        path_and_query: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: head.headers,
    };
    match credential {
        Ok(credential) => request.credential = credential,
        Err(identity::TokenIsOver) => {
            return Ok(state.pull.local_challenge(&request, None).because(Refused::TokenIsOver));
        }
    }
    Ok(match target.listed {
        true => state.pull.answer(&request, route, body).await,
        false => state.pull.pass_on(&request, body).await,
    })
}

/// The request must be for the registry that the connection is for (T7 in `docs/threats.md`), and not have been here
/// before (T6).
fn check_target(expected: &RegistryHost, request: &Request<Incoming>, scope: &RequestScope) -> Result<(), DoorRefusal> {
    if has_passed(request.headers(), &scope.snapshot.upstream.memory().via) {
        return Err(DoorRefusal::Loop);
    }
    let default_port = scope.connection.scheme.default_port();
    let matches = |text: &str| {
        let host = RegistryHost::parse(text, default_port).ok();
        host.is_some_and(|host| host == *expected || (host.name() == expected.name() && !names_port(text)))
    };
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match [host, authority].into_iter().flatten().all(matches) {
        true => Ok(()),
        false => Err(DoorRefusal::Misdirected { expected: expected.clone() }),
    }
}

/// Whether an authority says a port; some clients leave out one that is not the default's.
fn names_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Our own registry, whichever door the client came by: the protocol, tokens, the page for people, the local pages.
async fn to_own_registry(state: &AppState, request: Request<Incoming>, scope: &RequestScope) -> Reply {
    let route = |route| {
        scope.trail.record(Decision::Door(Interception::OwnRegistry));
        scope.trail.record(Decision::Route { route, request_type: RequestType::Unknown, digest: None });
    };
    // On the heap, so that a connection that waits for its next request does not hold room for an answer's making.
    match request.uri().path() {
        path if is_oci(path) => Box::pin(door::answer(&state.registry, scope, request)).await,
        TOKEN_PATH => {
            route(RequestRoute::Token);
            Box::pin(state.registry.token(scope, request)).await
        }
        path if web::is_here(path) => {
            route(RequestRoute::Page);
            Box::pin(web::answer(&state.registry, scope, request)).await
        }
        _ => local_page(state, &request, scope, REGISTRY_HERE),
    }
}

/// Docker Hub by the listener for Docker's `registry-mirrors`, and tokens for our own rules. Nothing else is there.
async fn to_docker_hub(state: &AppState, request: Request<Incoming>, scope: &RequestScope) -> Reply {
    match request.uri().path() {
        path if is_oci(path) => Box::pin(door::answer_for_docker_hub(&state.registry, scope, request)).await,
        TOKEN_PATH => Box::pin(state.registry.token(scope, request)).await,
        _ => Reply::full(StatusCode::NOT_FOUND, "text/plain", MIRROR_HERE).because(Refused::NotHere),
    }
}

const PLAIN_HTTP: &str = "plain HTTP was sent to an HTTPS port: use https:// with this port, or the registry's port for \
                          plain HTTP (registry.http); registry.plain_on_https = true lets this port answer both";
const MIRROR_HERE: &str = "This is a mirror of Docker Hub: name it in Docker's registry-mirrors.\n";
const PROXY_HERE: &str = "This is a proxy: name it as HTTPS_PROXY. Its own pages are /, /ca.crt and below /setup/.\n";
const REGISTRY_HERE: &str = "This is a registry: docker push and pull it by this name. Its protocol is below /v2/.\n";

/// The answer to plain HTTP at an address for TLS, in the form that the client reads.
fn plain_http(request: &Request<Incoming>) -> Reply {
    let reply = match is_oci(request.uri().path()) {
        true => Reply::error(ErrorCode::BadRequest, PLAIN_HTTP),
        false => Reply::full(StatusCode::BAD_REQUEST, "text/plain", format!("{PLAIN_HTTP}\n")),
    };
    reply.because(Refused::PlainHttp)
}

/// A page of this proxy, or what is here instead.
fn local_page(state: &AppState, request: &Request<Incoming>, scope: &RequestScope, here: &'static str) -> Reply {
    match state.page(request) {
        Some(page) => {
            scope.trail.record(Decision::Door(Interception::LocalPage));
            page
        }
        None => Reply::full(StatusCode::NOT_FOUND, "text/plain", here).because(Refused::NotHere),
    }
}
