//! One request to one registry, as far as every phase needs it.

use std::sync::Arc;
use std::time::Duration;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use entrepot_core::outcome::RequestType;
use entrepot_core::route::Route;
use entrepot_upstream::budget::Quota;
use http::header::{ACCEPT, RANGE};
use http::{HeaderMap, Method, StatusCode};

use crate::fetch::inflight::Target;
use crate::pull::ConfigSnapshot;
use crate::pull::tag_policy::{request_type, tier};
use entrepot_config::ready::AccessMode;
use entrepot_net::connection::ConnectionContext;
use entrepot_observe::labels::{CredentialKind, RequestRoute, UpstreamOutcome};
use entrepot_observe::trail::{Decision, Trail};
use entrepot_store::{Place, TagKey};
use entrepot_upstream::credential::Credential;
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::http_client::Patience;
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::{Answer, failure_of, outcome_of};
use entrepot_upstream::timed_body::RequestBody;
use entrepot_upstream::upstream_registry::UpstreamRegistry;

/// Every answer to a request needs these: the connection, the configuration in force, and the trail.
#[derive(Clone)]
pub struct RequestScope {
    /// The connection that it came by.
    pub connection: Arc<ConnectionContext>,
    /// The configuration that it is answered under. A reload in the middle changes nothing for it.
    pub snapshot: Arc<ConfigSnapshot>,
    /// Takes the decisions about it.
    pub trail: Arc<Trail>,
}

/// A request to a registry that is asked upstream.
#[derive(Clone)]
pub struct RequestContext {
    /// The connection that it came by.
    pub connection: Arc<ConnectionContext>,
    /// The configuration that it is answered under.
    pub snapshot: Arc<ConfigSnapshot>,
    /// Takes the decisions about it.
    pub trail: Arc<Trail>,
    /// The registry that is asked.
    pub registry: UpstreamRegistry,
    /// The credential that it is asked with.
    pub credential: Credential,
    /// The client's method.
    pub method: Method,
    /// The client's path and query. For a mirror, as the registry itself would have them.
    pub path_and_query: String,
    /// The client's headers.
    pub headers: HeaderMap,
}

impl RequestContext {
    /// Whether only the head is asked for.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The path without its query, where tokens and signatures are.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }

    /// The manifest types that the client takes, as a set.
    pub fn accept_class(&self) -> AcceptClass {
        AcceptClass::of(self.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()))
    }

    /// The value of the Range header. None if it is not text, or for HEAD, which has no ranges (RFC 9110 section 14.2).
    pub fn range(&self) -> Option<&str> {
        self.headers.get(RANGE).filter(|_| !self.is_head())?.to_str().ok()
    }

    /// The part of content that is asked for.
    pub fn asked_part(&self) -> AskedPart<'_> {
        AskedPart { range: self.range(), is_head: self.is_head() }
    }

    /// A repository of this registry.
    pub fn place(&self, repository: &RepositoryName) -> Place {
        Place::new(self.registry.origin.clone(), repository.clone())
    }

    /// The same request with the credential that stands in after this refusal. The administrator's account stands in
    /// for a client's own credential, if access to the registry is shared. No credential stands in for an account that
    /// upstream does not take: what is public is still given. None if nothing stands in.
    pub fn with_next_credential(&self, repository: &RepositoryName, refusal: StatusCode) -> Option<Self> {
        let is_denied = matches!(refusal, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let next = match &self.credential {
            Credential::Header(_) if self.registry.access == AccessMode::Shared => {
                Some(self.snapshot.account(&self.registry.origin, Some(repository))?)
            }
            Credential::Answered(Some(login)) if login.is_account() && is_denied => None,
            Credential::None | Credential::Header(_) | Credential::Answered(_) => return None,
        };
        let request = Self { credential: Credential::Answered(next), ..self.clone() };
        request.record_credential();
        Some(request)
    }

    /// The same request as a check of something that is stored: upstream is not waited for for long, because that is
    /// served instead. If the client may not have it, a [`PullError::is_impatient`] is no answer yet.
    pub(super) fn checking(&self) -> Self {
        let registry = UpstreamRegistry { patience: Patience::Check, ..self.registry.clone() };
        Self { registry, ..self.clone() }
    }

    /// The decision of the grammar about the request, for its trail.
    pub fn route_decision(&self, route: &Route) -> Decision {
        let policy = &self.snapshot.config.tags;
        let tag_type = match route {
            Route::Manifest { reference: Reference::Tag(tag), .. } => request_type(policy, tier(policy, tag)),
            _ => RequestType::Unknown,
        };
        route_decision(route, &self.method, tag_type)
    }

    /// Names a manifest's lock. It names the registry too: another one's slowness is not ours to wait for.
    pub(super) fn manifest_name(&self, repository: &RepositoryName, digest: &Digest) -> String {
        format!("{}/{repository}@{digest}", self.registry.origin)
    }

    /// The quota of this credential, if so little is left of it that tags and lists that are known are not checked.
    pub(super) fn low_quota(&self) -> Option<Quota> {
        self.snapshot.upstream.memory().governors.low_quota(&self.registry.origin, &self.credential)
    }

    /// Records the credential that upstream is asked with.
    pub fn record_credential(&self) {
        self.record_credential_of(&self.credential);
    }

    fn record_credential_of(&self, credential: &Credential) {
        let kind = match credential {
            Credential::None | Credential::Answered(None) => CredentialKind::Anonymous,
            Credential::Header(_) => CredentialKind::Client,
            Credential::Answered(Some(_)) => CredentialKind::Account,
        };
        self.trail.record(Decision::Credential { kind, id: credential.id().bytes() });
    }

    /// Asks upstream and records what came of it.
    pub async fn execute(&self, operation: &Operation) -> Result<Answer, UpstreamError> {
        self.execute_as(&self.credential, operation).await
    }

    /// The same with another credential.
    pub async fn execute_as(&self, credential: &Credential, operation: &Operation) -> Result<Answer, UpstreamError> {
        self.record_other_credential(credential);
        self.recorded(self.snapshot.upstream.execute(&self.registry, operation, credential).await)
    }

    /// Sends a body to upstream and records what came of it.
    pub async fn send(
        &self,
        credential: &Credential,
        operation: &Operation,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        self.record_other_credential(credential);
        let upstream = &self.snapshot.upstream;
        self.recorded(upstream.execute_with_body(&self.registry, operation, credential, body).await)
    }

    fn record_other_credential(&self, credential: &Credential) {
        if credential.id() != self.credential.id() {
            self.record_credential_of(credential);
        }
    }

    fn recorded(&self, answer: Result<Answer, UpstreamError>) -> Result<Answer, UpstreamError> {
        match &answer {
            Ok(answer) => {
                self.record_upstream(&answer.host, outcome_of(answer.status), Some(answer.elapsed));
            }
            // Upstream has no part in what the client did not send.
            Err(error) if error.client_fault().is_some() => {}
            Err(error) => self.record_upstream(self.registry.host(), failure_of(error), None),
        }
        answer
    }

    /// Records an answer of upstream.
    pub fn record_upstream(&self, host: &RegistryHost, outcome: UpstreamOutcome, elapsed: Option<Duration>) {
        self.trail.record(Decision::Upstream { host: host.to_string().into(), outcome, elapsed });
    }
}

/// The part of content that a request asks for.
pub struct AskedPart<'a> {
    /// The value of the Range header. None without one.
    pub range: Option<&'a str>,
    /// Whether only the head is asked for.
    pub is_head: bool,
}

/// A request for a tag: the only mutable thing that is cached.
pub(super) struct TagRequest<'a> {
    pub(super) request: &'a RequestContext,
    pub(super) repository: &'a RepositoryName,
    pub(super) tag: &'a Tag,
    pub(super) class: AcceptClass,
}

impl<'a> TagRequest<'a> {
    pub(super) fn new(request: &'a RequestContext, repository: &'a RepositoryName, tag: &'a Tag) -> Self {
        Self { request, repository, tag, class: request.accept_class() }
    }

    pub(super) fn reference(&self) -> Reference {
        Reference::Tag(self.tag.clone())
    }

    /// Names the tag in the small memories.
    pub(super) fn name(&self) -> String {
        format!("{}/{}:{} {}", self.request.registry.origin, self.repository, self.tag, self.class.bits())
    }

    /// The same for what is known of its HEAD alone.
    pub(super) fn name_for_heads(&self) -> String {
        format!("{} HEAD", self.name())
    }

    pub(super) fn key(&self) -> TagKey {
        let place = self.request.place(self.repository);
        TagKey { place, tag: self.tag.clone(), accept_class: self.class.bits() }
    }
}

/// A request for a blob.
#[derive(Clone, Copy)]
pub(super) struct BlobRequest<'a> {
    pub(super) request: &'a RequestContext,
    pub(super) repository: &'a RepositoryName,
    pub(super) digest: Digest,
}

impl BlobRequest<'_> {
    /// The repository that it is asked of.
    pub(super) fn place(&self) -> Place {
        self.request.place(self.repository)
    }

    /// The target of a fetch for it.
    pub(super) fn target(&self) -> Target {
        Target::Blob { place: self.place(), digest: self.digest }
    }
}

/// The decision of the grammar about a request, for its trail. `tag_type` is the kind of the tag if a manifest is asked
/// for by tag. Only reads are of docker-registry-proxy's kinds.
pub fn route_decision(route: &Route, method: &Method, tag_type: RequestType) -> Decision {
    let (route, request_type, digest) = match route {
        Route::Manifest { reference: Reference::Tag(_), .. } => (RequestRoute::ManifestByTag, tag_type, None),
        Route::Manifest { reference: Reference::Digest(digest), .. } => {
            (RequestRoute::ManifestByDigest, RequestType::ManifestByDigest, Some(*digest))
        }
        Route::Blob { digest, .. } => (RequestRoute::Blob, RequestType::BlobByDigest, Some(*digest)),
        Route::Ping => (RequestRoute::Ping, RequestType::Unknown, None),
        Route::Catalog => (RequestRoute::Catalog, RequestType::Unknown, None),
        Route::Tags { .. } => (RequestRoute::Tags, RequestType::Unknown, None),
        Route::Referrers { .. } => (RequestRoute::Referrers, RequestType::Unknown, None),
        Route::Uploads { .. } | Route::Upload { .. } => (RequestRoute::Upload, RequestType::Unknown, None),
        Route::Extension => (RequestRoute::Extension, RequestType::Unknown, None),
        Route::Other => (RequestRoute::Other, RequestType::Unknown, None),
    };
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    Decision::Route { route, request_type: if is_read { request_type } else { RequestType::Unknown }, digest }
}
