//! The right to read (threat T1 in `docs/threats.md`). A verdict is upstream's own word, for one registry, repository
//! and credential, and holds at most five minutes and never longer than the token it was given for.
//!
//! A repository that upstream gives to an anonymous request is public. The index remembers that too, and it still holds
//! when upstream is down. Verdicts about credentials live in memory only; no trace of a credential is on disk.
//!
//! Asking upstream (`Pull::ask`) and the probe of a blob (`Pull::probe`) are here as well, because every answer says
//! something about the right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use entrepot_core::error::ErrorCode;
use entrepot_core::freshness::{jwt_expiry, verdict_ttl};
use entrepot_core::host::RegistryHost;
use entrepot_core::media::ManifestType;
use entrepot_core::name::RepositoryName;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::fetch::inflight::InflightFetch;
use crate::fetch::source::{OpenError, UpstreamRefusal};
use crate::pull::error::{PullError, is_transient};
use crate::pull::request::BlobRequest;
use crate::pull::{Pull, RequestContext};
use entrepot_config::ready::AccessMode;
use entrepot_observe::labels::{Proof, UpstreamOutcome};
use entrepot_observe::trail::Decision;
use entrepot_store::Blob;
use entrepot_upstream::credential::{Credential, CredentialId};
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::{ByteRange, Operation};
use entrepot_upstream::registry_client::{Answer, failure_of, outcome_of};
use entrepot_upstream::token_cache::AuthScheme;

type Key = (RegistryHost, RepositoryName, CredentialId);

/// The verdicts that hold at the moment.
#[derive(Default)]
pub struct Rights {
    verdicts: Mutex<HashMap<Key, Verdict>>,
}

/// Upstream's yes.
#[derive(Clone, Copy)]
struct Verdict {
    since: Instant,
    until: Instant,
}

const VERDICTS_MAX: usize = 65_536;
/// While a public verdict has this long to live, its mark in the index is young enough.
const PUBLIC_MARK_FRESH: Duration = Duration::from_secs(240);

impl Rights {
    /// The age of the verdict. None if none holds.
    fn age(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) -> Option<Duration> {
        let now = Instant::now();
        let verdict = self.get(registry, repository, credential).filter(|verdict| verdict.until > now)?;
        Some(now.saturating_duration_since(verdict.since))
    }

    fn life_left(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) -> Duration {
        let verdict = self.get(registry, repository, credential);
        verdict.map_or(Duration::ZERO, |verdict| verdict.until.saturating_duration_since(Instant::now()))
    }

    fn get(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(&(registry.clone(), repository.clone(), credential)).copied()
    }

    fn note(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId, time: Duration) {
        let now = Instant::now();
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.retain(|_, verdict| verdict.until > now);
        }
        if verdicts.len() < VERDICTS_MAX {
            let verdict = Verdict { since: now, until: now + time };
            verdicts.insert((registry.clone(), repository.clone(), credential), verdict);
        }
    }

    fn forget(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.remove(&(registry.clone(), repository.clone(), credential));
    }
}

/// Upstream's answer, by what it says about the right to the content.
pub(super) enum Asked {
    /// Upstream serves it to this credential.
    Allowed(Box<Answer>),
    /// It led elsewhere, or takes no HEAD: only the content itself can tell.
    Unproven(Box<Answer>),
    /// It refused.
    Refused(PullError),
    /// It could not be asked, or was not in a state to say.
    Down(PullError),
}

/// The answer of the client's own registry about a blob that is here already.
pub(super) enum Probed {
    /// It serves it to this credential, of the same length.
    Serves,
    /// It may; only its bytes will tell.
    Unclear,
}

/// The content that is asked for. It tells when an answer shows that the registry itself gives it to this credential. A
/// redirect shows nothing, and neither does a page: both are ways to ask for a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Manifest,
    /// Content of this length. None if the length is not known.
    Content(Option<u64>),
}

impl Pull {
    /// Asks upstream, and remembers what its answer says about the right to the repository.
    pub(super) async fn ask(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        operation: &Operation,
        wanted: Wanted,
    ) -> Asked {
        match request.execute(operation).await {
            Ok(answer) if wanted.is_shown_by(&answer) => {
                request.trail.record(Decision::Right { proof: Proof::Upstream, age: Duration::ZERO });
                self.approve(request, repository).await;
                Asked::Allowed(Box::new(answer))
            }
            Ok(answer) if is_open_question(&answer) => Asked::Unproven(Box::new(answer)),
            Ok(answer) if is_transient(answer.status) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(PullError::answered(UpstreamRefusal::read(answer).await.worded(operation.unknown)))
            }
            Ok(answer) => {
                request.trail.record(Decision::Right { proof: Proof::Denied, age: Duration::ZERO });
                if !answer.crossed && matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.deny(request, repository).await;
                }
                Asked::Refused(self.refused_by_upstream(request, answer, operation.unknown).await)
            }
            Err(error) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(self.unreachable(request, Arc::new(error)))
            }
        }
    }

    /// Asks the client's own registry by HEAD. Where that is answered by a redirect, one byte is fetched: the page that
    /// asks for a login has another length than the blob.
    pub(super) async fn probe(&self, blob: &BlobRequest<'_>, size: Option<u64>) -> Result<Probed, PullError> {
        let operation = Operation::probe(blob.repository, &blob.digest);
        match self.ask(blob.request, blob.repository, &operation, Wanted::Content(size)).await {
            Asked::Allowed(answer) => {
                let told = answer.content_length();
                let is_alike = told.is_none() || size.is_none() || told == size;
                Ok(if is_alike { Probed::Serves } else { Probed::Unclear })
            }
            Asked::Unproven(_) => {
                let first_byte = ByteRange { start: 0, end: Some(1) };
                match blob.request.source(blob.repository).open(&blob.digest, Some(first_byte)).await {
                    Ok(opened) if opened.size.is_some() && opened.size == size => {
                        blob.request.record_upstream(&opened.host, UpstreamOutcome::Ok, Some(opened.elapsed));
                        blob.request.trail.record(Decision::Right { proof: Proof::Upstream, age: Duration::ZERO });
                        self.approve(blob.request, blob.repository).await;
                        Ok(Probed::Serves)
                    }
                    Ok(_) | Err(OpenError::Broken(_)) => Ok(Probed::Unclear),
                    Err(error) => Err(self.not_opened(blob, error)),
                }
            }
            Asked::Refused(error) | Asked::Down(error) => Err(error),
        }
    }

    /// Upstream's refusal, its challenge made one that the client can answer here where need be.
    pub(super) async fn refused_by_upstream(
        &self,
        request: &RequestContext,
        answer: Answer,
        unknown: ErrorCode,
    ) -> PullError {
        if answer.crossed {
            return PullError::RedirectTarget { host: answer.host, status: answer.status };
        }
        PullError::answered(self.challenged(request, UpstreamRefusal::read(answer).await.worded(unknown)))
    }

    /// Upstream could not be asked. That is said once for each request.
    pub(super) fn unreachable(&self, request: &RequestContext, error: Arc<UpstreamError>) -> PullError {
        tracing::warn!(registry = %request.registry.host, path = request.path(), "{error}");
        PullError::Unreachable(error)
    }

    /// The error of a blob that upstream did not open.
    pub(super) fn not_opened(&self, blob: &BlobRequest<'_>, error: OpenError) -> PullError {
        match error {
            OpenError::Refused(refusal) => {
                let host = &blob.request.registry.host;
                blob.request.record_upstream(host, outcome_of(refusal.status), None);
                PullError::answered(self.challenged(blob.request, refusal.worded(ErrorCode::BlobUnknown)))
            }
            OpenError::Failed(error) => self.fetch_failed(blob.request, Arc::new(error)),
            OpenError::Broken(error) => PullError::Broken(error),
        }
    }

    /// The error of content whose fetch found no upstream.
    pub(super) fn fetch_failed(&self, request: &RequestContext, error: Arc<UpstreamError>) -> PullError {
        request.record_upstream(&request.registry.host, failure_of(&error), None);
        self.unreachable(request, error)
    }

    /// Whether upstream has lately served this repository to this credential, or to an anonymous client. A yes is
    /// recorded.
    pub fn may_read(&self, request: &RequestContext, repository: &RepositoryName) -> bool {
        let proof = self.proof(request, repository);
        if let Some((proof, age)) = proof {
            request.trail.record(Decision::Right { proof, age });
        }
        proof.is_some()
    }

    fn proof(&self, request: &RequestContext, repository: &RepositoryName) -> Option<(Proof, Duration)> {
        let registry = &request.registry.host;
        let age = |credential| self.rights.age(registry, repository, credential);
        let own = || age(request.credential.id()).filter(|_| self.is_current(&request.credential));
        let accounts = || {
            let login = request.snapshot.account(registry, Some(repository));
            login.filter(|_| request.registry.access == AccessMode::Shared).and_then(|login| age(login.id()))
        };
        own()
            .map(|age| (Proof::Verdict, age))
            .or_else(|| age(CredentialId::ANONYMOUS).map(|age| (Proof::PublicVerdict, age)))
            .or_else(|| accounts().map(|age| (Proof::AccountVerdict, age)))
    }

    /// The same while upstream cannot be asked: what was public stays so, however long ago upstream said it.
    pub async fn may_read_offline(&self, request: &RequestContext, repository: &RepositoryName) -> bool {
        self.may_read(request, repository)
    }

    /// Upstream served this repository to the request's credential.
    pub async fn approve(&self, request: &RequestContext, repository: &RepositoryName) {
        let registry = &request.registry.host;
        let marked = self.rights.life_left(registry, repository, CredentialId::ANONYMOUS) > PUBLIC_MARK_FRESH;
        let time = self.verdict_time(&request.credential);
        self.rights.note(registry, repository, request.credential.id(), time);
        let principal = self.principal(&request.credential);
        if principal != request.credential.id() {
            self.rights.note(registry, repository, principal, time);
        }
        let public = principal == CredentialId::ANONYMOUS && !request.registry.injects_headers();
        if !public || marked {
            return;
        }
        self.rights.note(registry, repository, CredentialId::ANONYMOUS, time);
    }

    /// Upstream refused this repository to the request's credential.
    pub async fn deny(&self, request: &RequestContext, repository: &RepositoryName) {
        // A client that has answered no challenge yet is refused at first where tokens are asked; that says nothing.
        // A registry that asks for a Basic login says by that that the repository is not public.
        let scheme = || request.snapshot.upstream.memory().tokens.scheme(&request.registry.host);
        if matches!(request.credential, Credential::None) && !matches!(scheme(), Some(AuthScheme::Basic)) {
            return;
        }
        let registry = &request.registry.host;
        let principal = self.principal(&request.credential);
        self.rights.forget(registry, repository, request.credential.id());
        self.rights.forget(registry, repository, principal);
        if principal == CredentialId::ANONYMOUS && self.is_current(&request.credential) {
            self.store.names.refuse_public(&request.place(repository), SystemTime::now()).await;
        }
    }

    /// Whether the stored copy may stand in for what this registry says it has: the same registry gave it, or it is
    /// public somewhere.
    pub(super) async fn may_share(&self, blob: &BlobRequest<'_>, stored: &Arc<Blob>) -> bool {
        let registry = &blob.request.registry.host;
        if stored.first_origin().await.is_some_and(|origin| origin.host == *registry) {
            return true;
        }
        let places = self.store.names.places(&blob.digest).await;
        if places.iter().any(|place| place.origin().host == *registry) {
            return true;
        }
        self.store.names.public_places(&blob.digest, UNIX_EPOCH).await
    }

    pub(super) async fn may_share_fetch(&self, blob: &BlobRequest<'_>, fetch: &InflightFetch) -> bool {
        fetch.origin.origin().host == blob.request.registry.host
    }

    /// The principal behind a credential: for a token that passed here, the login that asked for it.
    fn principal(&self, credential: &Credential) -> CredentialId {
        match credential {
            Credential::Header(header) => self.issued.seen(header).map_or(credential.id(), |token| token.principal),
            _ => credential.id(),
        }
    }

    /// Whether the credential itself is still good, as far as it tells: a token's verdict ends with the token.
    fn is_current(&self, credential: &Credential) -> bool {
        !self.verdict_time(credential).is_zero()
    }

    fn verdict_time(&self, credential: &Credential) -> Duration {
        let Credential::Header(header) = credential else { return verdict_ttl(None, false) };
        let Some(token) = bearer(header.expose()) else { return verdict_ttl(None, false) };
        let seen = self.issued.seen(header).map(|token| token.expires.saturating_duration_since(Instant::now()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let told = jwt_expiry(token).map(|expiry| Duration::from_secs(expiry.saturating_sub(now)));
        verdict_ttl([seen, told].into_iter().flatten().min(), true)
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Wanted {
    fn is_shown_by(self, answer: &Answer) -> bool {
        let is_it = || match self {
            Self::Manifest => {
                let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                content_type.is_some_and(|content_type| ManifestType::of(content_type).is_some())
            }
            Self::Content(size) => size.is_none() || answer.content_length() == size,
        };
        answer.status.is_success() && answer.is_registrys_word() && (answer.digest.is_some() || is_it())
    }
}

fn is_open_question(answer: &Answer) -> bool {
    answer.status.is_success()
        || answer.status.is_redirection()
        || matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
        || (answer.crossed && answer.status.is_client_error())
}
