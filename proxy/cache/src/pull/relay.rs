//! What is passed on: pushes to upstream registries, and reads that are not cached (tag lists, referrers, catalogues,
//! extensions, pages of the registry).

use std::sync::Arc;

use entrepot_core::error::ErrorCode;
use entrepot_core::name::Reference;
use entrepot_core::route::Route;
use http::header::LOCATION;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use url::Url;

use crate::pull::access::LOCAL_REALM_PATH;
use crate::pull::{Call, Pull, replies};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Rejection;
use entrepot_upstream::body::{BoxError, RequestBody};
use entrepot_upstream::exchange::empty;
use entrepot_upstream::operation::Operation;

impl Pull {
    /// A write below `/v2/`. The body streams to upstream as it comes; what it changes there is forgotten here.
    pub(super) async fn push(&self, call: &Call, route: &Route, body: Incoming) -> Reply {
        if !call.snapshot.config.proxy.allow_push {
            self.metrics.rejected_requests.inc(Rejection::PushOff);
            let message =
                "entrepot: pushes through this proxy are off; set ALLOW_PUSH=true (proxy.allow_push) to allow them";
            return Reply::error(ErrorCode::Denied, message).because("push_off");
        }
        if !route.allows(&call.method) {
            return Reply::error(ErrorCode::Unsupported, "").because("method");
        }
        let repository = route.repository().cloned();
        let path = call.path_and_query.clone();
        let operation = Operation::relay(call.method.clone(), path, &call.headers, repository);
        let body = request_body(call, body);
        let answer = call.snapshot.upstream.execute_with_body(&call.registry, &operation, &call.credential, body).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.unreachable(call, &error),
        };
        if answer.status == StatusCode::UNAUTHORIZED && !answer.crossed {
            return self.refused_by_upstream(call, answer, operation.unknown).await;
        }
        if answer.status.is_success() {
            self.forget_changed(call, route).await;
        }
        local_location(call, replies::relayed(answer))
    }

    /// Forgets what a successful write has made untrue.
    async fn forget_changed(&self, call: &Call, route: &Route) {
        let Some(repository) = route.repository().cloned() else { return };
        self.negatives.forget(&format!("{}/{repository}:", call.registry.host));
        let place = call.place(&repository);
        match (route, &call.method) {
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
    pub(super) async fn read_through(&self, call: &Call, route: &Route) -> Reply {
        let repository = route.repository().cloned();
        let path = call.path_and_query.clone();
        let operation = Operation::relay(call.method.clone(), path, &call.headers, repository);
        match call.snapshot.upstream.execute(&call.registry, &operation, &call.credential).await {
            Ok(answer) => {
                if answer.status == StatusCode::UNAUTHORIZED && !answer.crossed {
                    return self.refused_by_upstream(call, answer, operation.unknown).await;
                }
                local_location(call, replies::relayed(answer))
            }
            Err(error) => self.unreachable(call, &error),
        }
    }

    /// A request that has nothing to do with a registry, in plain HTTP or on a registry's host: passed on as it is.
    pub async fn pass(&self, call: &Call, body: Incoming) -> Reply {
        let operation = Operation::pass(call.method.clone(), call.path_and_query.clone(), &call.headers);
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let body = if reads { empty() } else { request_body(call, body) };
        let upstream = &call.snapshot.upstream;
        match upstream.execute_with_body(&call.registry, &operation, &call.credential, body).await {
            Ok(answer) => local_location(call, replies::passed(answer)),
            Err(error) => self.unreachable(call, &error),
        }
    }

    /// A request outside the registry's grammar: tokens, artefacts, pages.
    pub(super) async fn other(self: &Arc<Self>, call: &Call, body: Incoming) -> Reply {
        let path = call.path_and_query.split('?').next().unwrap_or_default();
        if path == LOCAL_REALM_PATH {
            return self.local_token(call).await;
        }
        if let Some(registry) = self.realm_of(call, path) {
            return self.token(call, registry, body).await;
        }
        if self.is_artefact(call, path) {
            return self.artefact(call).await;
        }
        self.pass(call, body).await
    }
}

/// A client's body, as it comes; a client that stops in the middle of it is given up.
fn request_body(call: &Call, body: Incoming) -> RequestBody {
    let patience = call.snapshot.config.client.body_timeout;
    let frames = futures_util::stream::try_unfold(body, move |mut body| async move {
        match tokio::time::timeout(patience, body.frame()).await {
            Ok(Some(Ok(frame))) => Ok(Some((frame, body))),
            Ok(Some(Err(error))) => Err(BoxError::from(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(BoxError::from("the client stopped sending in the middle of its body")),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// An upload's Location on the registry itself becomes relative: the client goes on by the name, scheme and port that
/// it knows, whatever upstream calls itself.
fn local_location(call: &Call, reply: Reply) -> Reply {
    let location = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let origin = call.registry.url("/").map(|url| url.origin());
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
