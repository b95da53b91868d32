//! One request at our registry's door: the registry that it names, the client's login, its rights, and the answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entrepot_core::client::ClientKey;
use entrepot_core::docker_hub;
use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::outcome::RequestType;
use entrepot_core::route::Route;
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderName, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};

use super::RegistryService;
use super::access::{AccessRefusal, Action, FORM_MAX_BYTES, Visitor, Wish};
use super::error::RegistryError;
use super::forgery::check_change;
use super::meant::{Meant, Named, Way, meant, meant_at_mirror, path_of};
use super::mirror::{Mirrored, name_in_rules};
use super::own_url;
use super::request::LocalRequest;
use entrepot_cache::pull::request::route_decision;
use entrepot_cache::pull::{RequestScope, identity};
use entrepot_net::http::held_body::NotHeld;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Interception, Refused};
use entrepot_observe::trail::Decision;

const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// The most that is read of an unwanted body, beside the answer, so that its sender comes to read that. If the connection
/// ended with bytes unread, the kernel would reset it, and the answer would be lost on its way.
const UNWANTED_MAX_BYTES: usize = 1 << 30;
const UNWANTED_TIMEOUT: Duration = Duration::from_secs(60);

impl RegistryService {
    /// Answers at [`TOKEN_PATH`](super::access::TOKEN_PATH), which challenges name.
    pub async fn token(&self, scope: &RequestScope, request: http::Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let (client, patience) = (ClientKey::of(scope.connection.client), scope.snapshot.config.client.body_timeout);
        let form = match self.pull.bodies.receive(client, body, FORM_MAX_BYTES, patience).await {
            Ok(form) => form,
            Err(NotHeld::Stalled) => return RegistryError::stalled().into_reply(),
            Err(_) => {
                return Reply::error(ErrorCode::BadRequest, "the form is too long, or broke off")
                    .because(Refused::Form);
            }
        };
        let login = identity::header(&head.headers);
        self.local.access().token(client, &head.method, head.uri.query(), login.as_ref(), form.bytes()).await
    }
}

/// Answers a request below `/v2/` at our registry's door, for a repository of our own or, through the pipeline, of
/// another registry.
pub async fn answer(service: &RegistryService, scope: &RequestScope, request: http::Request<Incoming>) -> Reply {
    let (config, uri) = (&scope.snapshot.config, request.uri());
    let is_url = |host: &RegistryHost| config.registry.url.as_ref().is_some_and(|url| url.host == *host);
    let is_own = |host: &RegistryHost| is_url(host) || service.local.is_named(&config.registry, host);
    let meant = meant(config, uri.path(), uri.query(), is_own);
    reply_to(service, scope, meant, request).await
}

/// Answers a request below `/v2/` of a client that has us among Docker's `registry-mirrors`.
pub async fn answer_for_docker_hub(
    service: &RegistryService,
    scope: &RequestScope,
    request: http::Request<Incoming>,
) -> Reply {
    let meant = meant_at_mirror(&scope.snapshot.config, request.uri().path(), request.uri().query());
    reply_to(service, scope, meant, request).await
}

/// Answers at once, also if the client still sends. What it sends in vain is read beside the answer.
async fn reply_to(
    service: &RegistryService,
    scope: &RequestScope,
    meant: Meant,
    request: http::Request<Incoming>,
) -> Reply {
    let (head, body) = request.into_parts();
    let wants_continue = head.headers.contains_key(EXPECT);
    let mut body = AskedBody { body: Some(body), is_begun: false };
    let reply = route_to_owner(service, scope, meant, head, &mut body).await;
    let reply = reply.unwrap_or_else(RegistryError::into_reply);
    let is_refusal = reply.status.is_client_error() || reply.status.is_server_error();
    // To read a body that its client holds back would ask for it.
    let is_coming = body.is_begun || !wants_continue;
    if let Some(body) = body.body.filter(|body| is_refusal && is_coming && !body.is_end_stream()) {
        tokio::spawn(tokio::time::timeout(UNWANTED_TIMEOUT, drain(body)));
    }
    reply
}

/// The body of a request, if nobody has taken it yet.
struct AskedBody {
    body: Option<Incoming>,
    /// Whether reading may have begun.
    is_begun: bool,
}

async fn route_to_owner(
    service: &RegistryService,
    scope: &RequestScope,
    meant: Meant,
    head: Parts,
    body: &mut AskedBody,
) -> Result<Reply, RegistryError> {
    if !is_reading(&head.method) {
        check_change(&service.local, &head).map_err(RegistryError::forged)?;
    }
    let access = service.local.access();
    let identified = access.identify(scope.connection.client.into(), identity::header(&head.headers).as_ref()).await;
    let visitor = identified.map_err(|refusal| challenged(service, scope, &head, refusal))?;
    let (Named { host, place, way, .. }, is_named) = match meant {
        Meant::Upstream(named) if named.may_be_ours && is_kept_here(service, &head).await? => {
            scope.trail.record(Decision::Door(Interception::OwnRegistry));
            return answer_ours(service, scope, visitor, head, body).await;
        }
        Meant::Upstream(named) => (named, true),
        Meant::DockerHub(place) => {
            let host = RegistryHost::parse(docker_hub::REGISTRY, 443).map_err(|_| not_mirrored())?;
            (Named { host, place, way: Way::default(), may_be_ours: false }, false)
        }
        Meant::Stranger => return Err(not_mirrored()),
        Meant::Ours => {
            scope.trail.record(Decision::Door(Interception::OwnRegistry));
            return answer_ours(service, scope, visitor, head, body).await;
        }
    };
    scope.trail.record(Decision::Door(Interception::Mirrored));
    let named = in_rules(&host, &place)?;
    // A token of ours is for the name that the client asked by. A client that does not name Docker Hub has none for Docker
    // Hub's name, so the rules decide for it whatever its token's scope is.
    if is_named || !named.as_ref().is_some_and(|named| access.may_see(&visitor, named)) {
        // Nothing of a repository is given for a ping.
        let wish = named.as_ref().map_or(Wish::Ping, |named| Wish::In(named, Action::Pull));
        check(service, scope, &head, &visitor, &wish)?;
    }
    let namespace = host.to_string();
    let scope = scope.clone();
    let mirrored = Mirrored { scope, host, method: head.method, path_and_query: place, way, headers: head.headers };
    let body = body.body.take().ok_or_else(RegistryError::method)?;
    Ok(mirrored.answer(&service.pull, body).await.with(NAMESPACE, &namespace))
}

fn not_mirrored() -> RegistryError {
    RegistryError::policy(
        "entrepot: this registry is not mirrored here (intercept.registries, proxy.allow; for library/ and Docker Hub \
         also registry.docker_hub_mirror)",
    )
}

/// The name in rules of the repository at a place of another registry. None if it is no repository's place.
fn in_rules(host: &RegistryHost, place: &str) -> Result<Option<RepositoryName>, RegistryError> {
    let route = Route::parse(&Method::GET, path_of(place), None).ok();
    let Some(repository) = route.as_ref().and_then(Route::repository) else { return Ok(None) };
    let message = "entrepot: no rule (registry.rules) can name this repository, so it is not given by the mirror";
    name_in_rules(host.name(), repository).map(Some).ok_or_else(|| RegistryError::policy(message))
}

/// Whether a request reads, or takes away, content that was pushed here under a name that begins with a registry's,
/// before that registry was listed. Such content stays what its name leads to; nothing more is pushed to it.
async fn is_kept_here(service: &RegistryService, head: &Parts) -> Result<bool, RegistryError> {
    if !is_reading(&head.method) && head.method != Method::DELETE {
        return Ok(false);
    }
    let route = Route::parse(&Method::GET, head.uri.path(), None).ok();
    match route.as_ref().and_then(Route::repository) {
        Some(repository) => Ok(service.local.store.repositories.at(repository).has_manifests().await?),
        None => Ok(false),
    }
}

async fn answer_ours(
    service: &RegistryService,
    scope: &RequestScope,
    visitor: Visitor,
    head: Parts,
    body: &mut AskedBody,
) -> Result<Reply, RegistryError> {
    let route = match Route::parse(&head.method, head.uri.path(), head.uri.query()) {
        Ok(route) => route,
        Err(_) if is_reading(&head.method) && names_no_tag(head.uri.path()) => {
            return Err(RegistryError::grammar(ErrorCode::ManifestUnknown));
        }
        Err(error) => return Err(RegistryError::grammar(error.code)),
    };
    scope.trail.record(route_decision(&route, &head.method, RequestType::ManifestDefaultDisabled));
    let Some(wish) = wish_of(&route, &head.method) else {
        return Err(RegistryError::method());
    };
    check(service, scope, &head, &visitor, &wish)?;
    let request = LocalRequest {
        registry: service.local.clone(),
        scope: scope.clone(),
        visitor,
        method: head.method.clone(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.clone(),
        bodies: service.pull.bodies.clone(),
        reads_body: AtomicBool::new(false),
    };
    let Some(incoming) = &mut body.body else { return Err(RegistryError::method()) };
    let reply = request.answer(&route, incoming).await;
    body.is_begun = request.reads_body.load(Ordering::Relaxed);
    reply
}

/// Reads an unwanted body up to a bound, and keeps none of it.
async fn drain<B>(body: B)
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = Limited::new(body, UNWANTED_MAX_BYTES);
    while let Some(Ok(_)) = body.frame().await {}
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// A manifest by a name that no tag can have: the client is told that there is none.
fn names_no_tag(path: &str) -> bool {
    let parts = path.strip_prefix("/v2/").and_then(|rest| rest.rsplit_once("/manifests/"));
    parts.is_some_and(|(name, tag)| name.parse::<RepositoryName>().is_ok() && !tag.contains([':', '/', '%']))
}

/// The right that a request needs. None if the route has no such method.
fn wish_of<'r>(route: &'r Route, method: &Method) -> Option<Wish<'r>> {
    if !route.allows(method) {
        return None;
    }
    let action = |read: Action| match *method {
        Method::GET | Method::HEAD => read,
        Method::DELETE => Action::Delete,
        _ => Action::Push,
    };
    match route {
        Route::Ping => Some(Wish::Ping),
        Route::Catalog => Some(Wish::Catalog),
        Route::Manifest { repository, .. } | Route::Blob { repository, .. } => {
            Some(Wish::In(repository, action(Action::Pull)))
        }
        Route::Tags { repository } | Route::Referrers { repository, .. } => Some(Wish::In(repository, Action::Pull)),
        Route::Uploads { repository } | Route::Upload { repository, .. } => Some(Wish::In(repository, Action::Push)),
        Route::Extension | Route::Other => Some(Wish::Ping),
    }
}

fn check(
    service: &RegistryService,
    scope: &RequestScope,
    head: &Parts,
    visitor: &Visitor,
    wish: &Wish<'_>,
) -> Result<(), RegistryError> {
    let may = service.local.access().may(visitor, wish);
    may.map_err(|refusal| challenged(service, scope, head, refusal))
}

/// The refusal with the way to a login, where one would help.
fn challenged(service: &RegistryService, scope: &RequestScope, head: &Parts, refusal: AccessRefusal) -> RegistryError {
    let door = own_url::seen_by(&scope.snapshot.config.registry, &scope.connection, &head.headers).to_string();
    RegistryError::Challenged { refusal, door, method: service.local.access().auth() }
}

impl LocalRequest {
    async fn answer(&self, route: &Route, body: &mut Incoming) -> Result<Reply, RegistryError> {
        let reads = is_reading(&self.method);
        match route {
            Route::Ping => Ok(Reply::full(StatusCode::OK, "application/json", "{}")),
            Route::Catalog => self.catalog().await,
            Route::Tags { repository } => self.tags(repository).await,
            Route::Referrers { repository, digest } => self.referrers(repository, digest).await,
            Route::Manifest { repository, reference } if reads => self.manifest(repository, reference).await,
            Route::Manifest { repository, reference } if self.method == Method::DELETE => {
                self.delete_manifest(repository, reference).await
            }
            Route::Manifest { repository, reference } => self.put_manifest(repository, reference, body).await,
            Route::Blob { repository, digest } if reads => self.blob(repository, digest).await,
            Route::Blob { repository, digest } => self.delete_blob(repository, digest).await,
            Route::Uploads { repository } => self.begin_upload(repository, body).await,
            Route::Upload { repository, session } => match self.method {
                Method::PATCH => self.add_to_upload(repository, session.id(), body).await,
                Method::PUT => self.end_upload(repository, session.id(), body).await,
                Method::DELETE => self.cancel_upload(repository, session.id()).await,
                _ => self.upload_status(repository, session.id()).await,
            },
            Route::Extension | Route::Other => {
                Err(RegistryError::invalid(ErrorCode::NameUnknown, "there is nothing at this path"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    const PIECE_BYTES: usize = 1 << 20;

    /// Without an end; each piece tells whether those before it are still in memory.
    #[derive(Default)]
    struct Endless {
        pieces: usize,
        in_memory: Arc<()>,
    }

    struct Piece {
        bytes: Vec<u8>,
        _in_memory: Arc<()>,
    }

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            assert_eq!(Arc::strong_count(&self.in_memory), 1, "piece {} is kept", self.pieces);
            self.pieces += 1;
            assert!(self.pieces <= UNWANTED_MAX_BYTES / PIECE_BYTES + 1, "no more is read");
            let piece = Piece { bytes: vec![0; PIECE_BYTES], _in_memory: self.in_memory.clone() };
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
        }
    }

    #[tokio::test]
    async fn an_unwanted_body_is_read_to_a_bound_and_not_kept() {
        let mut body = Endless::default();
        drain(&mut body).await;
        assert_eq!(body.pieces, UNWANTED_MAX_BYTES / PIECE_BYTES + 1);
    }
}
