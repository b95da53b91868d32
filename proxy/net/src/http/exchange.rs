//! One exchange, from a request's head to the last byte of its reply: the span with the request's id, the framing
//! check, the trail of decisions, the headers that every reply gets, what HTTP/1.0 needs, and the report. Every door
//! uses this one. The report is made when the body is complete or dropped, so a client that leaves during the body is
//! in the log as well. The report is read from the trail.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::error::ErrorCode;
use entrepot_core::framing::Rejection as FramingRejection;
use entrepot_core::outcome::CacheStatus;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use tracing::{Instrument, Span};

use crate::connection::{ConnectionContext, Destination};
use crate::http::body::{BodyError, ReplyBody};
use crate::http::guard::{GuardHandle, UntilFlushed};
use crate::http::length::{counted, is_fit};
use crate::http::reply::Reply;
use crate::places::Busy;
use crate::workers::load::InFlight;
use entrepot_core::host::RegistryHost;
use entrepot_observe::access_record::AccessRecord;
use entrepot_observe::labels::Rejection;
use entrepot_observe::request_log::RequestLog;
use entrepot_observe::trail::{Decision, Summary, Trail};

const CACHE_UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-docker-registry-proxy-cache-upstream-status");
const CACHE_TYPE: HeaderName = HeaderName::from_static("x-docker-registry-proxy-cache-type");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_DATE: HeaderName = HeaderName::from_static("x-cache-date");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A request that is being answered.
pub struct Exchange {
    log: Arc<RequestLog>,
    trail: Arc<Trail>,
    /// The span of every event about the request.
    span: Span,
    arrived: (SystemTime, Instant),
    method: Method,
    path_and_query: String,
    version: Version,
    /// The host that the client asked for, as the log names it.
    host: String,
    client: IpAddr,
    /// The connection does not rest before the answer has left. None once that is the answer's matter.
    busy: Option<Busy>,
}

impl Exchange {
    /// Begins an exchange with a request's head.
    pub fn begin<B>(log: &Arc<RequestLog>, connection: &ConnectionContext, request: &Request<B>) -> Self {
        let busy = Some(connection.standing.busy());
        let trail = Trail::new(log.metrics.clone());
        // A filter that shows an event should also show its request's id. So the span has the level of errors and a
        // target of its own, which `logging.level` always lets through (`observe::events`).
        let span = tracing::error_span!(target: "entrepot_request", "request", request_id = %trail.id);
        let path_and_query = match (request.uri().path_and_query(), request.method()) {
            (Some(path_and_query), _) => path_and_query.to_string(),
            (None, &Method::CONNECT) => String::new(),
            (None, _) => "/".to_owned(),
        };
        Self {
            log: log.clone(),
            trail,
            span,
            arrived: (SystemTime::now(), Instant::now()),
            method: request.method().clone(),
            path_and_query,
            version: request.version(),
            host: meant_host(connection, request),
            client: connection.client,
            busy,
        }
    }

    /// Checks the request's framing, has `answer` make the reply, and turns the reply into the response.
    pub async fn run<B, Answering>(
        self,
        guard: &GuardHandle,
        request: Request<B>,
        answer: impl FnOnce(Request<B>, Arc<Trail>) -> Answering,
    ) -> Response<LoggedBody>
    where
        Answering: Future<Output = Reply>,
    {
        let reply = match guard.rejection_of(&request) {
            Some(rejection) => unframed(&self.trail, rejection),
            None => answer(request, self.trail.clone()).instrument(self.span.clone()).await,
        };
        let reply = if is_fit(self.version, &reply) {
            reply
        } else {
            // An upstream registry sends the body meanwhile, and its faults are events of this request.
            counted(reply).instrument(self.span.clone()).await
        };
        self.respond(reply, guard)
    }

    fn respond(mut self, reply: Reply, guard: &GuardHandle) -> Response<LoggedBody> {
        let Reply { status, mut headers, body, refused } = reply;
        if let Some(refused) = refused {
            self.trail.record(Decision::Refused(refused));
        }
        tell_of_the_cache(&self.trail.summary(), &mut headers);
        if is_oci(self.path_and_query.split('?').next().unwrap_or_default()) {
            headers.entry(API_VERSION).or_insert(HeaderValue::from_static("registry/2.0"));
        }
        if let Ok(id) = HeaderValue::try_from(self.trail.id.to_string()) {
            headers.insert(X_REQUEST_ID, id);
        }
        let size_bytes = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let busy = self.busy.take().map(|busy| guard.until_flushed(busy));
        let report = Report { exchange: self, status: status.as_u16(), bytes_sent: 0, _busy: busy };
        let in_flight = InFlight::begin(size_bytes.unwrap_or(0));
        let mut response = Response::new(LoggedBody { body, report, in_flight });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// The host of a request, for the log. A user and password in front of it are left out.
fn meant_host<B>(connection: &ConnectionContext, request: &Request<B>) -> String {
    match &connection.destination {
        Destination::Registry(target) => target.host.to_string(),
        Destination::Own | Destination::OwnByTls | Destination::DockerHubMirror => {
            request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned()
        }
        Destination::Named => {
            let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
            let authority = authority.rsplit('@').next().unwrap_or_default();
            let host = request.uri().scheme_str().and_then(|_| RegistryHost::parse(authority, 80).ok());
            host.map_or_else(|| authority.to_owned(), |host| host.to_string())
        }
    }
}

/// Adds docker-registry-proxy's headers about the cache's part in a reply, and those of other proxies.
fn tell_of_the_cache(summary: &Summary, headers: &mut HeaderMap) {
    let word = summary.cache_status.word();
    if !word.is_empty() {
        headers.insert(CACHE_UPSTREAM_STATUS, HeaderValue::from_static(word));
        headers.insert(X_CACHE, HeaderValue::from_static(word));
        headers.insert(CACHE_TYPE, HeaderValue::from_static(summary.request_type.word()));
    }
    if let Some(stored_at) = summary.stored_at.filter(|_| summary.cache_status.served_from_store())
        && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(stored_at))
    {
        headers.insert(X_CACHE_DATE, value);
    }
}

/// Whether a path belongs to the registry protocol.
pub fn is_oci(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// Refuses a request that breaks the HTTP specification. It is never repaired, and the connection ends.
fn unframed(trail: &Trail, rejection: FramingRejection) -> Reply {
    let (code, label) = match rejection.status {
        431 => (ErrorCode::HeadTooLarge, Rejection::TooLarge),
        _ => (ErrorCode::BadRequest, Rejection::Malformed),
    };
    trail.record(Decision::Unframed(label));
    let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
    let reply = if rejection.oci {
        Reply::error_with_status(status, code, rejection.reason)
    } else {
        Reply::full(status, "text/plain", format!("{}\n", rejection.reason))
    };
    reply.with(CONNECTION, "close")
}

/// A body that reports its exchange when it ends.
pub struct LoggedBody {
    body: ReplyBody,
    report: Report,
    in_flight: InFlight,
}

/// Logs and counts the exchange when it is dropped.
struct Report {
    exchange: Exchange,
    status: u16,
    bytes_sent: u64,
    _busy: Option<UntilFlushed>,
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let _inside = this.report.exchange.span.enter();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                this.report.bytes_sent += bytes;
                this.in_flight.sent(bytes);
            }
            Poll::Ready(Some(Err(error))) => {
                let exchange = &this.report.exchange;
                let path = exchange.path_and_query.split('?').next().unwrap_or_default();
                tracing::warn!(host = %exchange.host, path, "the answer was cut off: {error}");
                exchange.trail.record(Decision::CutOff);
            }
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let exchange = &mut self.exchange;
        let summary = exchange.trail.summary();
        if tracing::enabled!(tracing::Level::DEBUG) {
            let trail: Vec<_> = exchange.trail.decisions().iter().map(ToString::to_string).collect();
            exchange.span.in_scope(|| tracing::debug!(host = %exchange.host, "decided: {}", trail.join(", ")));
        }
        if !summary.is_logged {
            return;
        }
        let metrics = &exchange.log.metrics;
        metrics.request(summary.request_type, summary.cache_status, self.status);
        metrics.bytes_to_clients.inc_by(self.bytes_sent);
        let upstream = summary.upstream.map(String::from).unwrap_or_default();
        // As in nginx's log: the registry that was asked, or that would have been asked on a miss.
        let answered = !upstream.is_empty() || summary.cache_status != CacheStatus::None;
        exchange.log.access_log.write(&AccessRecord {
            access_time: exchange.arrived.0,
            cache_status: summary.cache_status,
            method: exchange.method.to_string(),
            uri: std::mem::take(&mut exchange.path_and_query),
            request_type: summary.request_type,
            status: self.status,
            bytes_sent: self.bytes_sent,
            upstream_response_time: summary.upstream_time,
            host: exchange.host.clone(),
            proxy_host: if answered { std::mem::take(&mut exchange.host) } else { String::new() },
            upstream,
            client: exchange.client,
            digest: summary.digest,
            duration: exchange.arrived.1.elapsed(),
            reason: summary.reason,
            request_id: exchange.trail.id,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use entrepot_config::ready::LogFormat;
    use entrepot_core::origin::Scheme;
    use entrepot_observe::access_log::AccessLog;
    use entrepot_observe::labels::Door;
    use entrepot_observe::metrics::Metrics;
    use http_body_util::BodyExt;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::http::body::PieceSource;
    use crate::http::guard::Guard;
    use crate::places::Standing;

    /// Counts the spans of requests that are entered.
    #[derive(Clone, Default)]
    struct Entered(Arc<AtomicUsize>);

    impl Subscriber for Entered {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_span() && metadata.target() == "entrepot_request"
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn exit(&self, _: &Id) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A body of three pieces, each of which is made inside the request's span.
    struct Inside(Entered, u8);

    impl PieceSource for Inside {
        async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
            assert_eq!(self.0.0.load(Ordering::Relaxed), 1, "outside of the span");
            self.1 += 1;
            Ok((self.1 <= 3).then(|| Bytes::from_static(b"piece ")))
        }
    }

    /// Events of the answer and of its body have the request's id. An HTTP/1.0 body is read before the reply begins.
    #[tokio::test]
    async fn an_answer_and_its_body_are_made_inside_the_requests_span() {
        let entered = Entered::default();
        let _subscribed = tracing::subscriber::set_default(entered.clone());
        let folder = tempfile::tempdir().expect("a folder");
        let access_log = AccessLog::start(LogFormat::Json, Some(&folder.path().join("log"))).expect("a log");
        let log = Arc::new(RequestLog { access_log, metrics: Arc::new(Metrics::new()) });
        let (client, destination) = (IpAddr::from([192, 0, 2, 1]), Destination::Own);
        let (door, scheme, standing) = (Door::Proxy, Scheme::Http, Standing::uncounted());
        let connection = ConnectionContext { client, door, scheme, destination, standing };
        for version in [Version::HTTP_11, Version::HTTP_10] {
            let (_, guard) = Guard::new(tokio::io::empty(), Duration::from_secs(60));
            let mut request = Request::new(());
            *request.version_mut() = version;
            let exchange = Exchange::begin(&log, &connection, &request);
            let answer = |_, _| async {
                assert_eq!(entered.0.load(Ordering::Relaxed), 1, "outside of the span");
                let body = ReplyBody::pieces(Inside(entered.clone(), 0));
                Reply { status: StatusCode::OK, headers: HeaderMap::new(), body, refused: None }
            };
            let response = exchange.run(&guard, request, answer).await;
            assert_eq!(response.headers().contains_key(CONTENT_LENGTH), version == Version::HTTP_10);
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            assert_eq!(body, "piece piece piece ");
            assert_eq!(entered.0.load(Ordering::Relaxed), 0);
        }
    }
}
