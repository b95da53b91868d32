//! One request of a client to one registry: checked, read by the grammar, answered by `pull/`, dressed for the client.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use entrepot_core::error::ErrorCode;
use entrepot_core::framing::Rejection as FramingRejection;
use entrepot_core::host::RegistryHost;
use entrepot_core::route::Route;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::config::ready::Scheme;
use crate::http::body::ReplyBody;
use crate::http::guard::GuardHandle;
use crate::http::length::{counted, is_fit};
use crate::http::log::{Entry, LoggedBody};
use crate::http::reply::{Note, Reply};
use crate::observe::access_log::AccessLog;
use crate::observe::labels::Rejection;
use crate::pull::{Call, Live, Pull, identity};
use crate::registry::LocalRegistry;
use crate::setup::{self, CaPage};
use crate::upstream::own::has_passed;
use crate::upstream::registry::{Registry, implied_port};

/// What every connection shares.
pub struct Site {
    /// Pulling, with all its memories.
    pub pull: Arc<Pull>,
    /// Our own registry.
    pub registry: Arc<LocalRegistry>,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// What the local pages say.
    pub ca_page: CaPage,
    live: RwLock<Arc<Live>>,
}

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

const CACHE_UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-docker-registry-proxy-cache-upstream-status");
const CACHE_TYPE: HeaderName = HeaderName::from_static("x-docker-registry-proxy-cache-type");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_DATE: HeaderName = HeaderName::from_static("x-cache-date");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

impl Site {
    /// With the configuration that holds now.
    pub fn new(
        pull: Arc<Pull>,
        registry: Arc<LocalRegistry>,
        access_log: AccessLog,
        ca_page: CaPage,
        live: Arc<Live>,
    ) -> Arc<Self> {
        Arc::new(Self { pull, registry, access_log, ca_page, live: RwLock::new(live) })
    }

    /// The local page that is asked for, if it is one.
    pub fn page<B>(&self, request: &Request<B>) -> Option<Reply> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let mirrors = || setup::mirror_pages::page(method, path, headers, &self.live().config);
        let (head, body) = setup::page(method, path, headers, &self.ca_page).or_else(mirrors)?.into_parts();
        let note = Note { unlogged: true, ..Note::default() };
        Some(Reply { status: head.status, headers: head.headers, body: ReplyBody::Full(body), note })
    }

    /// The configuration that holds now. A request keeps the one that it began with.
    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another configuration in force.
    pub fn set_live(&self, live: Arc<Live>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}

/// Answers one request of a visit.
pub async fn dispatch(
    site: &Arc<Site>,
    visit: &Visit,
    guard: &GuardHandle,
    request: Request<Incoming>,
) -> Response<LoggedBody> {
    let started = (SystemTime::now(), Instant::now());
    let (method, uri) = (request.method().clone(), request.uri().path_and_query().map(ToString::to_string));
    let uri = uri.unwrap_or_else(|| "/".to_owned());
    let version = request.version();
    let is_oci = uri == "/v2" || uri.starts_with("/v2/");
    let reply = match guard.rejection_of(&request) {
        Some(rejection) => framing_reply(site, rejection),
        None => answer(site, visit, request, &uri).await,
    };
    let reply = if is_fit(version, &reply) { reply } else { counted(reply).await };
    finish(site, reply, is_oci, visit.client, visit.host.to_string(), (method, uri), started)
}

/// Turns a reply into a response that is logged when it ends.
pub fn finish(
    site: &Arc<Site>,
    reply: Reply,
    is_oci: bool,
    client: IpAddr,
    host: String,
    (method, uri): (Method, String),
    started: (SystemTime, Instant),
) -> Response<LoggedBody> {
    let Reply { status, mut headers, body, note } = reply;
    let word = note.cache_status.word();
    if !word.is_empty() {
        headers.insert(CACHE_UPSTREAM_STATUS, HeaderValue::from_static(word));
        headers.insert(X_CACHE, HeaderValue::from_static(word));
        headers.insert(CACHE_TYPE, HeaderValue::from_static(note.request_type.word()));
    }
    if let Some(stored_at) = note.stored_at.filter(|_| note.cache_status.served_from_store())
        && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(stored_at))
    {
        headers.insert(X_CACHE_DATE, value);
    }
    if is_oci {
        headers.entry(API_VERSION).or_insert(HeaderValue::from_static("registry/2.0"));
    }
    let status_number = status.as_u16();
    let size_bytes = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let site = site.clone();
    let entry = Entry { site, started, method, uri, status: status_number, host, client, note, bytes_sent: 0 };
    let mut response = Response::new(LoggedBody::new(body, size_bytes, entry));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A request that is no HTTP as it is specified: refused, never repaired, and the connection ends.
pub fn framing_reply(site: &Site, rejection: FramingRejection) -> Reply {
    let (code, label) = match rejection.status {
        431 => (ErrorCode::HeadTooLarge, Rejection::TooLarge),
        _ => (ErrorCode::BadRequest, Rejection::Malformed),
    };
    site.pull.metrics.rejected_requests.inc(label);
    let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
    let reply = if rejection.oci {
        Reply::error_with_status(status, code, rejection.reason)
    } else {
        Reply::full(status, "text/plain", format!("{}\n", rejection.reason))
    };
    reply.with(CONNECTION, "close").because(rejection.reason)
}

async fn answer(site: &Arc<Site>, visit: &Visit, request: Request<Incoming>, uri: &str) -> Reply {
    let live = site.live();
    if let Err(reply) = check_target(site, visit, &request, &live) {
        return *reply;
    }
    let query = request.uri().query();
    let route = match Route::parse(request.method(), request.uri().path(), query) {
        Ok(route) => route,
        Err(error) => {
            site.pull.metrics.rejected_requests.inc(Rejection::Malformed);
            return Reply::error(error.code, "").because("grammar");
        }
    };
    let registry = match visit.listed {
        true => live.registry(&visit.host),
        false => Registry::unlisted(&visit.host),
    };
    let registry = registry.heard_of_by(request.headers());
    let header = identity::header(request.headers());
    let repository = route.repository();
    let credential = if route == Route::Other || !visit.listed {
        site.pull.passer(&registry, header)
    } else {
        site.pull.reader(&live, &registry, repository, header)
    };
    let (head, body) = request.into_parts();
    let mut call = Call {
        live,
        registry,
        credential: crate::upstream::credential::Credential::None,
        client_scheme: visit.client_scheme,
        method: head.method,
        path_and_query: uri.to_owned(),
        headers: head.headers,
    };
    match credential {
        Ok(credential) => call.credential = credential,
        Err(identity::TokenIsOver) => return site.pull.local_challenge(&call, None).because("token_is_over"),
    }
    if visit.listed { site.pull.answer(&call, route, body).await } else { site.pull.pass(&call, body).await }
}

/// The request must be for the registry that the connection is for (T7), and not have been here before (T6).
fn check_target(site: &Site, visit: &Visit, request: &Request<Incoming>, live: &Live) -> Result<(), Box<Reply>> {
    let metrics = &site.pull.metrics;
    if has_passed(request.headers(), &live.upstream.memory().via) {
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
