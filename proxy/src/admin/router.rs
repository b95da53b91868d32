//! The paths of the admin API and their handlers.
//!
//! A request passes `gate::check_host`, the table of paths, `gate::check_change`, the parameters and the operation, in
//! this order. The gates are around the table, so no handler can omit them. A handler runs an operation of
//! [`AdminBackend`](super::AdminBackend) as a task.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use entrepot_core::digest::{Digest, DigestError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;
use tracing::Instrument;

use super::answers::{BlobPage, CacheStats, Done, Freed, ImportLine, VerifyLine};
use super::gate::{self, Entrance};
use super::parameters::Parameters;
use super::registry::{GcLine, RemoveRequest, RemovedNames, RepositoryPage, TagPage};
use super::reply::{ApiError, ApiResult, Json, lines};
use super::{AdminState, blocking};
use entrepot_observe::request_id::RequestId;

const TEXT: &str = "text/plain; charset=utf-8";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Shared = State<Arc<AdminState>>;

/// Answers every request to the door.
#[derive(Clone)]
pub(super) struct Api(Router);

impl Api {
    pub(super) fn new(state: Arc<AdminState>) -> Self {
        Self(router().with_state(state))
    }

    /// Answers one request. The body of the request is not read. Every event about the request has its id, and so has
    /// the reply.
    pub(super) async fn answer(&self, request: http::Request<Incoming>, entrance: Entrance) -> Response {
        let id = RequestId::next();
        // The level and the target are those of the other doors (`entrepot_net::http::exchange`).
        let span = tracing::error_span!(target: "entrepot_request", "request", request_id = %id);
        let mut response = self.reply(request, entrance).instrument(span).await;
        if let Ok(id) = HeaderValue::try_from(id.to_string()) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }

    async fn reply(&self, mut request: http::Request<Incoming>, entrance: Entrance) -> Response {
        let mut response = match gate::check_host(request.uri(), request.headers(), &entrance) {
            Ok(()) => {
                request.extensions_mut().insert(entrance);
                self.0.clone().call(request).await.into_response()
            }
            Err(error) => ApiError::from(error).into_response(),
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response = wrong_method(&response);
        }
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn router() -> Router<Arc<AdminState>> {
    let table: [(&str, MethodRouter<Arc<AdminState>>); 16] = [
        // This answers that the event loop runs, and calls no operation.
        ("/healthz", get(async || text(StatusCode::OK, "ok\n".to_owned()))),
        ("/readyz", get(ready)),
        ("/metrics", get(metrics)),
        ("/api/config", get(config)),
        ("/api/reload", post(reload)),
        ("/api/cache", delete(clear)),
        ("/api/cache/stats", get(stats)),
        ("/api/cache/blobs", get(blobs)),
        ("/api/cache/blobs/{digest}", delete(remove_blob)),
        ("/api/cache/verify", post(verify)),
        ("/api/cache/tags", delete(forget_tag)),
        ("/api/registry/repositories", get(repositories).delete(remove_repository)),
        ("/api/registry/tags", get(tags).delete(remove_tag)),
        ("/api/registry/manifests", delete(remove_manifest)),
        ("/api/registry/gc", post(collect)),
        ("/api/registry/import", post(import)),
    ];
    // The gate is a layer of each path and not of the router, so that an unknown path or method gets 404 or 405 first.
    let gated = |router: Router<_>, (path, methods): (&str, MethodRouter<_>)| {
        router.route(path, methods.route_layer(middleware::from_fn(changes)))
    };
    table.into_iter().fold(Router::new(), gated).fallback(async || ApiError::not_found("there is nothing at this path"))
}

/// axum's own reply has the methods in `Allow` and no body. It sets `Allow` outside of every layer.
fn wrong_method(response: &Response) -> Response {
    let allowed = response.headers().get(ALLOW).and_then(|methods| methods.to_str().ok()).unwrap_or_default();
    let allowed = allowed.split(',').collect::<Vec<_>>().join(", ");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed}"));
    ([(ALLOW, allowed)], error).into_response()
}

/// Checks the right to change before the handler of a path runs.
async fn changes(Extension(entrance): Extension<Entrance>, request: Request, next: Next) -> ApiResult<Response> {
    let (method, path) = (request.method(), request.uri().path());
    if !matches!(*method, Method::GET | Method::HEAD) {
        if let Err(refusal) = gate::check_change(method, request.uri(), request.headers(), &entrance) {
            tracing::warn!(%method, path, %refusal, "a change was refused at the admin door");
            return Err(refusal.into());
        }
        let query = request.uri().query().unwrap_or_default();
        tracing::info!(%method, path, query, "a change was asked for at the admin door");
    }
    Ok(next.run(request).await)
}

async fn ready(State(state): Shared) -> ApiResult<Response> {
    Ok(match run(state, |state| (state.backend.ready)()).await? {
        Ok(wrong) => text(StatusCode::OK, readiness(&wrong)),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    })
}

/// "ok" in the first line, and each thing that is wrong in a line of its own. A probe that asks only for the status lets
/// the server serve on.
fn readiness(wrong: &[String]) -> String {
    let degraded = wrong.iter().map(|what| format!("degraded: {what}\n"));
    std::iter::once("ok\n".to_owned()).chain(degraded).collect()
}

async fn metrics(State(state): Shared) -> ApiResult<impl IntoResponse> {
    let encoded = run(state.clone(), move |_| blocking(move || state.metrics.encode()).boxed()).await?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], encoded))
}

async fn config(State(state): Shared) -> ApiResult<Json<serde_json::Value>> {
    run(state, |state| (state.backend.effective_config)()).await.map(Json)
}

async fn stats(State(state): Shared) -> ApiResult<Json<CacheStats>> {
    run(state, |state| (state.backend.stats)()).await.map(Json)
}

async fn reload(State(state): Shared) -> ApiResult<Json<Done<Nothing>>> {
    run(state, |state| (state.backend.reload)()).await??;
    Ok(done(Nothing {}))
}

async fn blobs(State(state): Shared, parameters: Parameters) -> ApiResult<Json<BlobPage>> {
    let request = parameters.blob_page()?;
    let blobs = run(state, move |state| (state.backend.list)(request)).await??;
    let next = if blobs.len() < request.limit { None } else { blobs.last().map(|last| last.digest.clone()) };
    Ok(Json(BlobPage { blobs, next }))
}

async fn clear(State(state): Shared) -> ApiResult<Json<Done<Freed>>> {
    Ok(done(run(state, |state| (state.backend.clear)()).await??))
}

async fn remove_blob(State(state): Shared, uri: Uri) -> ApiResult<Json<Done<Freed>>> {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let digest: Digest = name.parse().map_err(|error: DigestError| ApiError::bad_request(error.to_string()))?;
    let freed = run(state, move |state| (state.backend.remove)(digest)).await??;
    freed.map(done).ok_or_else(|| ApiError::not_found("the cache does not have this blob"))
}

async fn forget_tag(State(state): Shared, parameters: Parameters) -> ApiResult<Json<Done<Nothing>>> {
    let name = parameters.tag_name()?;
    match run(state, move |state| (state.backend.forget_tag)(name)).await?? {
        true => Ok(done(Nothing {})),
        false => Err(ApiError::not_found("the cache does not know this tag")),
    }
}

async fn repositories(State(state): Shared, parameters: Parameters) -> ApiResult<Json<RepositoryPage>> {
    let request = parameters.repository_page()?;
    Ok(Json(run(state, move |state| (state.backend.registry.repositories)(request)).await??))
}

async fn tags(State(state): Shared, parameters: Parameters) -> ApiResult<Json<TagPage>> {
    let repository = parameters.repository()?;
    let page = run(state, move |state| (state.backend.registry.tags)(repository)).await??;
    page.map(Json).ok_or_else(|| ApiError::not_found("the registry has no such repository"))
}

async fn remove_repository(State(state): Shared, parameters: Parameters) -> ApiResult<Json<Done<RemovedNames>>> {
    remove(state, RemoveRequest::Repository(parameters.repository()?)).await
}

async fn remove_tag(State(state): Shared, parameters: Parameters) -> ApiResult<Json<Done<RemovedNames>>> {
    remove(state, parameters.tag_to_remove()?).await
}

async fn remove_manifest(State(state): Shared, parameters: Parameters) -> ApiResult<Json<Done<RemovedNames>>> {
    remove(state, parameters.manifest_to_remove()?).await
}

async fn remove(state: Arc<AdminState>, request: RemoveRequest) -> ApiResult<Json<Done<RemovedNames>>> {
    let removed = run(state, move |state| (state.backend.registry.remove)(request)).await??;
    removed.map(done).ok_or_else(|| ApiError::not_found("the registry does not have this"))
}

/// Sends one line for each blob. If the client leaves, the verification ends at the next blob.
async fn verify(State(state): Shared) -> ApiResult<Response> {
    let permit = only_one(&state.verifying, "a verification is already running")?;
    Ok(lines(|lines| async move {
        let _permit = permit;
        let last = match (state.backend.verify)(lines.clone()).await {
            Ok(verification) => VerifyLine::Finished(verification),
            Err(error) => VerifyLine::Failed { error: error.to_string() },
        };
        let _ = lines.send(last).await;
    }))
}

/// Sends the steps of a collection. If the client leaves, the collection continues.
async fn collect(State(state): Shared, parameters: Parameters) -> ApiResult<Response> {
    let request = parameters.collection()?;
    Ok(lines(|lines| async move {
        let last = match (state.backend.registry.collect)(request, lines.clone()).await {
            Ok(collection) => GcLine::Finished(collection),
            Err(error) => GcLine::Failed { error: error.to_string() },
        };
        let _ = lines.send(last).await;
    }))
}

/// Sends the steps of an import. If the client leaves, the import ends. The next import continues it.
async fn import(State(state): Shared, parameters: Parameters) -> ApiResult<Response> {
    let directory = parameters.directory()?;
    let permit = only_one(&state.importing, "an import is already running")?;
    Ok(lines(|lines| async move {
        let _permit = permit;
        let last = match (state.backend.registry.import)(directory, lines.clone()).await {
            Ok(imported) => ImportLine::Finished(imported),
            Err(error) => ImportLine::Failed { error: error.to_string() },
        };
        let _ = lines.send(last).await;
    }))
}

/// The right to run an operation of which there is one at a time. It is given back when it is dropped.
fn only_one(turn: &Arc<Semaphore>, taken: &str) -> ApiResult<OwnedSemaphorePermit> {
    Arc::clone(turn).try_acquire_owned().map_err(|_| ApiError::new(StatusCode::CONFLICT, taken))
}

/// Runs an operation as a task of its own: a client that leaves does not stop it half way, and if it panics, only this
/// request fails.
async fn run<T: Send + 'static>(
    state: Arc<AdminState>,
    operation: impl FnOnce(&AdminState) -> BoxFuture<'static, T> + Send + 'static,
) -> ApiResult<T> {
    let broke_off = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the operation broke off; the log says why");
    tokio::spawn(async move { operation(&state).await }.in_current_span()).await.map_err(broke_off)
}

#[derive(Serialize)]
struct Nothing {}

fn done<T>(details: T) -> Json<Done<T>> {
    Json(Done::ok(details))
}

fn text(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], text).into_response()
}
