//! From a request of the admin door to its answer: gate, route, power, JSON.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Serialize;
use tokio::sync::mpsc;

use super::answers::{BlobPage, BlobState, Done, Failure, ImportLine, VerifyLine};
use super::gate::{self, Entrance, Refusal};
use super::registry::{CollectRequest, GcLine};
use super::routes::{self, Operation, Unrouted, Use};
use super::{AdminState, OperationError, Outcome};

/// A whole answer, or lines as they come.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Lines that wait for a slow reader; what tells them waits with them.
const QUEUED_LINES: usize = 64;

/// Answers one request. The body, if any, is not read.
pub(super) async fn handle<B>(request: Request<B>, state: Arc<AdminState>, entrance: &Entrance) -> Response<Body> {
    let (head, _) = request.into_parts();
    if let Err(refusal) = gate::check_host(&head.uri, &head.headers, entrance) {
        return refused(refusal);
    }
    let path = head.uri.path();
    let route = match routes::find(&head.method, path) {
        Ok(route) => route,
        Err(Unrouted::Path) => return failure(StatusCode::NOT_FOUND, "there is nothing at this path"),
        Err(Unrouted::Method(allowed)) => {
            let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {allowed}"));
            response.headers_mut().extend(HeaderValue::from_str(&allowed).ok().map(|value| (ALLOW, value)));
            return response;
        }
    };
    let changes = !matches!(head.method, Method::GET | Method::HEAD);
    if changes && let Err(refusal) = gate::check_change(&head.headers, entrance) {
        tracing::warn!(method = %head.method, path = route.path, %refusal, "a change was refused at the admin door");
        return refused(refusal);
    }
    let operation = match route.read(path, head.uri.query().unwrap_or_default()) {
        Ok(operation) => operation,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
    };
    if changes {
        tracing::info!(?operation, "asked at the admin door");
    }
    perform(operation, state).await
}

async fn perform(operation: Operation, state: Arc<AdminState>) -> Response<Body> {
    match operation {
        // Says that the event loop turns, and asks nobody.
        Operation::Health => reply(StatusCode::OK, TEXT, "ok\n"),
        Operation::Verify => verify(&state),
        Operation::Collect(request) => collect(&state, request),
        Operation::Import(directory) => import(&state, directory),
        Operation::Use(power) => match tokio::task::spawn_blocking(move || use_power(power, &state)).await {
            Ok(response) => response,
            Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "the operation broke off; the log says why"),
        },
    }
}

/// On the blocking pool.
fn use_power(power: Use, state: &AdminState) -> Response<Body> {
    let backend = &state.backend;
    match power {
        Use::Ready => match (backend.ready)() {
            Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
            Err(reason) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        Use::Metrics => reply(StatusCode::OK, OPEN_METRICS, state.metrics.encode()),
        Use::Config => json(StatusCode::OK, &(backend.effective_config)()),
        Use::Stats => json(StatusCode::OK, &(backend.stats)()),
        Use::List(request) => outcome((backend.list)(request), |blobs| {
            let next = if blobs.len() < request.limit { None } else { blobs.last().map(|last| last.digest.clone()) };
            json(StatusCode::OK, &BlobPage { blobs, next })
        }),
        Use::Clear => outcome((backend.clear)(), done),
        Use::Remove(digest) => outcome((backend.remove)(digest), |freed| match freed {
            Some(freed) => done(freed),
            None => failure(StatusCode::NOT_FOUND, "the cache does not have this blob"),
        }),
        Use::ForgetTag(name) => outcome((backend.forget_tag)(name), |()| done(Nothing {})),
        Use::Repositories(request) => {
            outcome((backend.registry.repositories)(request), |page| json(StatusCode::OK, &page))
        }
        Use::RegistryTags(repository) => outcome((backend.registry.tags)(repository), |tags| match tags {
            Some(tags) => json(StatusCode::OK, &tags),
            None => failure(StatusCode::NOT_FOUND, "the registry has no such repository"),
        }),
        Use::RegistryRemove(request) => outcome((backend.registry.remove)(request), |removed| match removed {
            Some(removed) => done(removed),
            None => failure(StatusCode::NOT_FOUND, "the registry does not have this"),
        }),
        Use::Reload => outcome((backend.reload)(), |()| done(Nothing {})),
    }
}

#[derive(Serialize)]
struct Nothing {}

/// Streams a line a blob. A client that leaves ends the verification at the next blob.
fn verify(state: &Arc<AdminState>) -> Response<Body> {
    let Some(turn) = Turn::take(&state.verifying) else {
        return failure(StatusCode::CONFLICT, "a verification is already running");
    };
    let state = Arc::clone(state);
    lines_of(move |lines| {
        let _turn = turn;
        verify_all(&state, lines);
    })
}

/// Streams the steps of a collection. A client that leaves does not stop it.
fn collect(state: &Arc<AdminState>, request: CollectRequest) -> Response<Body> {
    let state = Arc::clone(state);
    lines_of(move |lines| {
        let collected = (state.backend.registry.collect)(request, &mut |step| tell(lines, &step));
        let last = match collected {
            Ok(collection) => GcLine::Finished(collection),
            Err(error) => GcLine::Failed { error: error.to_string() },
        };
        // Nobody left to tell is no failure.
        let _ = tell(lines, &last);
    })
}

/// Streams an import. A client that leaves ends it; the next one goes on with it.
fn import(state: &Arc<AdminState>, directory: PathBuf) -> Response<Body> {
    let state = Arc::clone(state);
    lines_of(move |lines| {
        let imported = (state.backend.registry.import)(&directory, &mut |line| tell(lines, &line));
        let last = match imported {
            Ok(imported) => ImportLine::Finished(imported),
            Err(error) => ImportLine::Failed { error: error.to_string() },
        };
        // Nobody left to tell is no failure.
        let _ = tell(lines, &last);
    })
}

/// Answers with the lines that `run` tells on the blocking pool.
fn lines_of(run: impl FnOnce(&mpsc::Sender<Bytes>) + Send + 'static) -> Response<Body> {
    let (lines, mut read) = mpsc::channel::<Bytes>(QUEUED_LINES);
    tokio::task::spawn_blocking(move || run(&lines));
    let frames = stream::poll_fn(move |context| read.poll_recv(context)).map(|line| Ok(Frame::data(line)));
    response(StatusCode::OK, JSON_LINES, StreamBody::new(frames).boxed_unsync())
}

fn tell<T: Serialize>(lines: &mpsc::Sender<Bytes>, line: &T) -> ControlFlow<()> {
    match lines.blocking_send(json_line(line)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn verify_all(state: &AdminState, lines: &mpsc::Sender<Bytes>) {
    let (mut checked, mut bad, mut bytes) = (0, 0, 0);
    let result = (state.backend.verify)(&mut |blob| {
        checked += 1;
        bytes += blob.size;
        bad += u64::from(blob.state != BlobState::Ok);
        tell(lines, &VerifyLine::Blob(blob))
    });
    let last = match result {
        Ok(()) => VerifyLine::Finished { checked, bad, bytes },
        Err(error) => VerifyLine::Failed { error: error.to_string() },
    };
    // Nobody left to tell is no failure.
    let _ = tell(lines, &last);
}

/// The right to verify, given back when dropped, by a panic too.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(taken)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn outcome<T>(outcome: Outcome<T>, show: impl FnOnce(T) -> Response<Body>) -> Response<Body> {
    match outcome {
        Ok(value) => show(value),
        Err(OperationError::Refused(reason)) => failure(StatusCode::CONFLICT, &reason),
        Err(OperationError::Failed(reason)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &reason),
    }
}

fn done<T: Serialize>(details: T) -> Response<Body> {
    json(StatusCode::OK, &Done::ok(details))
}

fn refused(refusal: Refusal) -> Response<Body> {
    failure(refusal.status(), &refusal.to_string())
}

fn failure(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &Failure { error: error.to_owned() })
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    reply(status, JSON, json_line(value))
}

/// Our own types always serialise; `null` would say that one did not.
fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    line.push(b'\n');
    line.into()
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    response(status, content_type, Full::new(body.into()).boxed_unsync())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
