//! One request to our registry, read as far as every handler needs it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use entrepot_core::name::RepositoryName;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, Method};
use url::form_urlencoded;

use super::LocalRegistry;
use super::access::Visitor;
use super::events::{Deed, Event, EventRequest};
use entrepot_cache::pull::RequestScope;
use entrepot_net::http::held_body::HeldBodies;

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
        let request = EventRequest {
            client: self.scope.connection.client,
            scheme: self.scope.connection.scheme,
            host: text(HOST),
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
