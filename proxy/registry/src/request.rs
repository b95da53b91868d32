//! One request to our registry, read as far as every handler needs it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::conditional::{Conditions, Verdict};
use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::name::RepositoryName;
use http::header::{ETAG, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use url::form_urlencoded;

use super::LocalRegistry;
use super::access::Visitor;
use super::error::RegistryError;
use super::events::{Deed, Event, EventRequest};
use super::own_url;
use entrepot_cache::pull::RequestScope;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::held_body::HeldBodies;
use entrepot_net::http::reply::Reply;
use entrepot_observe::trail::Decision;

/// A request to our own registry, by a client whose login is checked.
pub(super) struct LocalRequest {
    pub(super) registry: Arc<LocalRegistry>,
    pub(super) scope: RequestScope,
    pub(super) visitor: Visitor,
    pub(super) method: Method,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// Holds the request's body until it is complete.
    pub(super) bodies: HeldBodies,
    /// Whether reading of the request's body has begun.
    pub(super) reads_body: AtomicBool,
}

impl LocalRequest {
    /// The answer that the request's conditions ask for, about content that is here. None if it is answered as if it had
    /// none.
    pub(super) fn conditional(&self, digest: &Digest) -> Result<Option<Reply>, RegistryError> {
        let tag = digest.to_string();
        match Conditions::of(&self.headers).judge(&self.method, Some(&tag)) {
            Verdict::Proceed => Ok(None),
            Verdict::Failed => Err(RegistryError::Precondition),
            Verdict::NotModified => {
                self.scope.trail.record(Decision::Given(*digest));
                let (headers, body) = (HeaderMap::new(), ReplyBody::Full(Bytes::new()));
                let reply = Reply { status: StatusCode::NOT_MODIFIED, headers, body, refused: None };
                let reply = reply.with(ETAG, &format!("\"{tag}\""));
                Ok(Some(reply.with(DOCKER_CONTENT_DIGEST, &tag)))
            }
        }
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The first value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).next()
    }

    /// All values of a parameter.
    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = String> {
        let pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(move |(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// A header that is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Tells of something that was done in a repository.
    pub(super) fn tell(&self, deed: Deed, repository: &RepositoryName, about: impl FnOnce(Event) -> Event) {
        let text = |name: HeaderName| self.header(&name).unwrap_or_default().to_owned();
        let url = own_url::seen_by(&self.scope.snapshot.config.registry, &self.scope.connection, &self.headers);
        let request = EventRequest {
            client: self.scope.connection.client,
            scheme: url.scheme,
            host: url.host.authority(url.scheme.default_port()),
            method: self.method.clone(),
            user_agent: text(USER_AGENT),
        };
        self.registry.events.tell(about(Event {
            deed,
            at: SystemTime::now(),
            repository: repository.clone(),
            digest: None,
            size_bytes: None,
            media_type: None,
            tag: None,
            from: None,
            actor: self.visitor.principal.clone(),
            request: Some(request),
        }));
    }
}
