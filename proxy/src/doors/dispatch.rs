//! One request of a client to one registry: checked, read by the grammar, answered by `pull/`, dressed for the client.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::route::Route;
use http::header::{CONNECTION, HOST};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::doors::state::AppState;
use entrepot_cache::pull::{Call, ConfigSnapshot, identity};
use entrepot_config::ready::Scheme;
use entrepot_net::drain::Watch;
use entrepot_net::http::exchange::{Exchange, LoggedBody};
use entrepot_net::http::guard::GuardHandle;
use entrepot_net::http::reply::Reply;
use entrepot_net::http::serve::{Deadlines, serve};
use entrepot_observe::labels::Rejection;
use entrepot_upstream::own::has_passed;
use entrepot_upstream::registry::{Registry, implied_port};

/// A connection's standing: to whom it leads and from whom it comes.
#[derive(Clone)]
pub struct Visit {
    /// The registry that the connection is for.
    pub host: RegistryHost,
    /// What the client speaks.
    pub client_scheme: Scheme,
    /// Who it is.
    pub client: IpAddr,
    /// Whether the registry is a listed one; else requests only pass through.
    pub listed: bool,
}

/// Serves a visit until the client leaves, idles too long, or the process drains.
pub async fn serve_visit<IO>(state: Arc<AppState>, visit: Visit, io: IO, prefix: Bytes, drain: Watch)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadlines = Deadlines::from(&state.snapshot().config.client);
    let answer = move |guard: GuardHandle, request| {
        let (state, visit) = (state.clone(), visit.clone());
        async move { dispatch(&state, &visit, &guard, request).await }
    };
    serve(io, prefix, deadlines, drain, answer).await;
}

/// Answers one request of a visit.
pub async fn dispatch(
    state: &Arc<AppState>,
    visit: &Visit,
    guard: &GuardHandle,
    request: Request<Incoming>,
) -> Response<LoggedBody> {
    let exchange = Exchange::begin(&state.log, visit.client, visit.host.to_string(), &request);
    exchange.run(guard, request, |request| reply(state, visit, request)).await
}

/// The reply to one request to a registry that is not our own.
pub(super) async fn reply(state: &AppState, visit: &Visit, request: Request<Incoming>) -> Reply {
    let snapshot = state.snapshot();
    let path_and_query = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    if let Err(reply) = check_target(state, visit, &request, &snapshot) {
        return *reply;
    }
    let query = request.uri().query();
    let route = match Route::parse(request.method(), request.uri().path(), query) {
        Ok(route) => route,
        Err(error) => {
            state.pull.metrics.rejected_requests.inc(Rejection::Malformed);
            return Reply::error(error.code, "").because("grammar");
        }
    };
    let registry = match visit.listed {
        true => snapshot.registry(&visit.host),
        false => Registry::unlisted(&visit.host),
    };
    let registry = registry.heard_of_by(request.headers());
    let header = identity::header(request.headers());
    let repository = route.repository();
    let credential = if route == Route::Other || !visit.listed {
        state.pull.passer(&registry, header)
    } else {
        state.pull.reader(&snapshot, &registry, repository, header)
    };
    let (head, body) = request.into_parts();
    let mut call = Call {
        snapshot,
        registry,
        credential: entrepot_upstream::credential::Credential::None,
        client_scheme: visit.client_scheme,
        method: head.method,
        path_and_query,
        headers: head.headers,
    };
    match credential {
        Ok(credential) => call.credential = credential,
        Err(identity::TokenIsOver) => return state.pull.local_challenge(&call, None).because("token_is_over"),
    }
    if visit.listed { state.pull.answer(&call, route, body).await } else { state.pull.pass(&call, body).await }
}

/// The request must be for the registry that the connection is for (T7), and not have been here before (T6).
fn check_target(
    state: &AppState,
    visit: &Visit,
    request: &Request<Incoming>,
    snapshot: &ConfigSnapshot,
) -> Result<(), Box<Reply>> {
    let metrics = &state.pull.metrics;
    if has_passed(request.headers(), &snapshot.upstream.memory().via) {
        metrics.rejected_requests.inc(Rejection::Loop);
        return Err(Box::new(Reply::error(ErrorCode::Loop, "").because("loop")));
    }
    let default_port = implied_port(visit.client_scheme);
    let matches = |text: &str| {
        let host = RegistryHost::parse(text, default_port).ok();
        host.is_some_and(|host| host == visit.host || (host.name() == visit.host.name() && !names_port(text)))
    };
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    if [host, authority].into_iter().flatten().all(matches) {
        return Ok(());
    }
    metrics.rejected_requests.inc(Rejection::Misdirected);
    let message = format!("this connection is for {}", visit.host);
    Err(Box::new(Reply::error(ErrorCode::Misdirected, &message).with(CONNECTION, "close").because("misdirected")))
}

/// Whether an authority says a port; some clients leave out one that is not the default's.
fn names_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}
