//! Requests that are passed on: pushes to upstream registries, and reads that are not cached (catalogues, extensions,
//! pages of the registry, lists whose query nobody knows).

use std::sync::Arc;

use entrepot_core::error::ErrorCode;
use entrepot_core::name::Reference;
use entrepot_core::outcome::RequestType;
use entrepot_core::route::Route;
use http::header::LOCATION;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use url::Url;

use crate::pull::access::LOCAL_REALM_PATH;
use crate::pull::error::{PullError, is_denial};
use crate::pull::rights::Object;
use crate::pull::{Pull, RequestContext, replies};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Refused, RequestRoute};
use entrepot_observe::trail::Decision;
use entrepot_upstream::error::ClientFault;
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::empty;
use entrepot_upstream::timed_body::{BoxError, RequestBody};

impl Pull {
    /// A write below `/v2/`. The body streams to upstream as it comes; what it changes there is forgotten here.
    pub(super) async fn push(
        &self,
        request: &RequestContext,
        route: &Route,
        body: Incoming,
    ) -> Result<Reply, PullError> {
        if !request.snapshot.config.proxy.allow_push {
            let message =
                "entrepot: pushes through this proxy are off; set ALLOW_PUSH=true (proxy.allow_push) to allow them";
            return Ok(Reply::error(ErrorCode::Denied, message).because(Refused::PushOff));
        }
        if !route.allows(&request.method) {
            return Ok(Reply::error(ErrorCode::Unsupported, "").because(Refused::Method));
        }
        let repository = route.repository().cloned();
        let path = request.path_and_query.clone();
        let operation = Operation::relay(request.method.clone(), path, &request.headers, repository);
        let body = request_body(request, body);
        let answer = request.send(&request.credential, &operation, body).await;
        let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
        if answer.status == StatusCode::UNAUTHORIZED && !answer.crossed {
            return Err(self.refused_by_upstream(request, answer, operation.unknown).await);
        }
        if answer.status.is_success() {
            self.forget_changed(request, route).await;
        }
        Ok(local_location(request, replies::relayed(answer)))
    }

    /// Forgets what a successful write has made untrue.
    async fn forget_changed(&self, request: &RequestContext, route: &Route) {
        let Some(repository) = route.repository().cloned() else { return };
        self.negatives.forget(&format!("{}/{repository}:", request.registry.origin));
        self.lists.forget(&request.registry.origin, &repository);
        let place = request.place(&repository);
        match (route, &request.method) {
            (Route::Manifest { reference: Reference::Tag(tag), .. }, _) => {
                self.store.names.forget_tag(&place, tag).await;
            }
            (
                Route::Manifest { reference: Reference::Digest(digest), .. } | Route::Blob { digest, .. },
                &Method::DELETE,
            ) => self.store.names.unlink(&place, digest).await,
            _ => {}
        }
    }

    /// A read that is not cached.
    pub(super) async fn read_through(&self, request: &RequestContext, route: &Route) -> Result<Reply, PullError> {
        let repository = route.repository().cloned();
        let path = request.path_and_query.clone();
        let operation = Operation::relay(request.method.clone(), path, &request.headers, repository);
        let answer = request.execute(&operation).await;
        let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
        if is_denial(answer.status)
            && !answer.crossed
            && let Some(repository) = route.repository()
        {
            let object = Object::Repository(request.place(repository));
            self.deny(request, &object, answer.status, &answer.headers).await;
        }
        if answer.status == StatusCode::UNAUTHORIZED && !answer.crossed {
            return Err(self.refused_by_upstream(request, answer, operation.unknown).await);
        }
        Ok(local_location(request, replies::relayed(answer)))
    }

    /// A request that has nothing to do with a registry, in plain HTTP or on a registry's host: passed on as it is.
    pub(super) async fn pass(&self, request: &RequestContext, body: Incoming) -> Result<Reply, PullError> {
        let operation = Operation::pass(request.method.clone(), request.path_and_query.clone(), &request.headers);
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let body = if reads { empty() } else { request_body(request, body) };
        let answer = request.send(&request.credential, &operation, body).await;
        let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
        Ok(local_location(request, replies::passed(answer)))
    }

    /// A request outside the registry's grammar: tokens, artefacts, pages.
    pub(super) async fn other(self: &Arc<Self>, request: &RequestContext, body: Incoming) -> Result<Reply, PullError> {
        let path = request.path();
        let record = |route, request_type| request.trail.record(Decision::Route { route, request_type, digest: None });
        if path == LOCAL_REALM_PATH {
            record(RequestRoute::Token, RequestType::Unknown);
            return self.local_token(request).await;
        }
        if let Some(registry) = self.realm_of(request, path) {
            record(RequestRoute::Token, RequestType::Unknown);
            return self.token(request, registry, body).await;
        }
        if self.is_artefact(request, path) {
            record(RequestRoute::Artefact, RequestType::BlobMutable);
            return self.artefact(request).await;
        }
        record(RequestRoute::Other, RequestType::Unknown);
        self.pass(request, body).await
    }
}

/// A client's body, as it comes; a client that stops in the middle of it is given up.
fn request_body(request: &RequestContext, body: Incoming) -> RequestBody {
    let patience = request.snapshot.config.client.body_timeout;
    let frames = futures_util::stream::try_unfold(body, move |mut body| async move {
        match tokio::time::timeout(patience, body.frame()).await {
            Ok(Some(Ok(frame))) => Ok(Some((frame, body))),
            Ok(Some(Err(error))) => Err(BoxError::from(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(BoxError::from(ClientFault::Stalled(patience))),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// An upload's Location on the registry itself becomes relative: the client goes on by the name, scheme and port that
/// it knows, whatever upstream calls itself.
fn local_location(request: &RequestContext, reply: Reply) -> Reply {
    let location = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let origin = request.registry.url("/").map(|url| url.origin());
    let relative = location.and_then(|location| {
        let url = Url::parse(&location).ok()?;
        let same = Some(url.origin()) == origin;
        same.then(|| url[url::Position::BeforePath..].to_owned())
    });
    match relative {
        Some(relative) => reply.with(LOCATION, &relative),
        None => reply,
    }
}
