//! The right to read (threat T1 in `docs/threats.md`). No stored byte leaves without a [`Right`], and only this file
//! makes one. Each right rests on a proof:
//!
//! ```text
//! who        a credential, or the login or the anonymous client that a token was given to
//! what       a repository of an origin, or the path of an artefact
//! shown by   upstream's answer to this request, or an earlier one (a verdict), or an anonymous one about this link
//! when       a verdict holds for five minutes and no longer than the token; a public link for `rights.public_for`,
//!            and while upstream is down for `rights.offline_for`
//! ```
//!
//! "Public" is a property of a link, which is one digest in one repository: upstream gave it to an anonymous client when
//! or after it was linked. An anonymous verdict covers no link that was made after it. The first refusal of an anonymous
//! request ends all public proofs of the repository. Verdicts about credentials live in memory only; no trace of a
//! credential is on disk.
//!
//! Asking upstream (`Pull::ask`) and the probe of a blob (`Pull::probe`) are here as well, because every answer says
//! something about the right.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::freshness::{jwt_expiry, verdict_ttl};
use entrepot_core::media::ManifestType;
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::fetch::source::{BlobSource, OpenError, SourcePath, UpstreamRefusal};
use crate::pull::error::{PullError, is_transient};
use crate::pull::request::BlobRequest;
use crate::pull::{Pull, RequestContext};
use entrepot_config::ready::AccessMode;
use entrepot_observe::labels::{Proof, UpstreamOutcome};
use entrepot_observe::trail::Decision;
use entrepot_store::{Blob, Link, Place};
use entrepot_upstream::credential::{Credential, CredentialId};
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::{ByteRange, Operation};
use entrepot_upstream::registry_client::{Answer, failure_of, outcome_of};
use entrepot_upstream::token_cache::AuthScheme;

/// The right of one request to one content. It is proven and in the trail.
#[must_use]
pub struct Right(());

/// The thing that a right is about. Artefacts have no names in common with repositories.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Object {
    /// A repository of an origin.
    Repository(Place),
    /// An artefact: its origin, and its path and query.
    Artefact(Origin, Box<str>),
}

/// The verdicts that hold at the moment, those that were used last.
pub struct Rights {
    verdicts: Mutex<Recent<(Object, CredentialId), Verdict>>,
}

/// Upstream's yes.
#[derive(Clone, Copy)]
struct Verdict {
    at: SystemTime,
    until: Instant,
}

const VERDICTS_MAX: usize = 65_536;
/// Clocks that are kept by the network step back this far at most.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(60);
/// A public proof on disk is renewed by a younger verdict at most once in this time.
const PROOF_RENEWAL: Duration = Duration::from_secs(3600);

impl Default for Rights {
    fn default() -> Self {
        Self { verdicts: Mutex::new(Recent::new(VERDICTS_MAX)) }
    }
}

impl Rights {
    /// The verdict that holds. None if none does.
    fn get(&self, object: &Object, credential: CredentialId) -> Option<Verdict> {
        let verdict = self.lock().get(&(object.clone(), credential)).copied();
        verdict.filter(|verdict| verdict.until > Instant::now())
    }

    fn note(&self, object: &Object, credential: CredentialId, time: Duration) {
        let verdict = Verdict { at: SystemTime::now(), until: Instant::now() + time };
        self.lock().insert(&(object.clone(), credential), verdict);
    }

    fn forget(&self, object: &Object, credential: CredentialId) {
        self.lock().remove(&(object.clone(), credential));
    }

    fn lock(&self) -> MutexGuard<'_, Recent<(Object, CredentialId), Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Upstream's answer, by what it says about the right to the content.
pub(super) enum Asked {
    /// Upstream serves it to this credential.
    Allowed(Box<Answer>, Right),
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
    Serves(Right),
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
        self.ask_about(request, &Object::Repository(request.place(repository)), operation, wanted).await
    }

    /// The same about any object.
    pub(super) async fn ask_about(
        &self,
        request: &RequestContext,
        object: &Object,
        operation: &Operation,
        wanted: Wanted,
    ) -> Asked {
        match request.execute(operation).await {
            Ok(answer) if wanted.is_shown_by(&answer) => {
                Asked::Allowed(Box::new(answer), self.approve(request, object))
            }
            Ok(answer) if is_open_question(&answer) => Asked::Unproven(Box::new(answer)),
            Ok(answer) if is_transient(answer.status) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(PullError::answered(UpstreamRefusal::read(answer).await.worded(operation.unknown)))
            }
            Ok(answer) => {
                request.trail.record(Decision::Right { proof: Proof::Denied, age: Duration::ZERO });
                if !answer.crossed && matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.deny(request, object).await;
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
            Asked::Allowed(answer, right) => {
                let told = answer.content_length();
                let is_alike = told.is_none() || size.is_none() || told == size;
                Ok(if is_alike { Probed::Serves(right) } else { Probed::Unclear })
            }
            Asked::Unproven(_) => {
                let first_byte = ByteRange { start: 0, end: Some(1) };
                match self.blob_source(blob).open(&blob.digest, Some(first_byte)).await {
                    Ok(opened) if opened.size.is_some() && opened.size == size => {
                        blob.request.record_upstream(&opened.host, UpstreamOutcome::Ok, Some(opened.elapsed));
                        Ok(Probed::Serves(self.approve(blob.request, &Object::Repository(blob.place()))))
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
        tracing::warn!(registry = %request.registry.origin, path = request.path(), "{error}");
        PullError::Unreachable(error)
    }

    /// The error of a blob that upstream did not open.
    pub(super) fn not_opened(&self, blob: &BlobRequest<'_>, error: OpenError) -> PullError {
        match error {
            OpenError::Refused(refusal) => {
                let host = blob.request.registry.host();
                blob.request.record_upstream(host, outcome_of(refusal.status), None);
                PullError::answered(self.challenged(blob.request, refusal.worded(ErrorCode::BlobUnknown)))
            }
            OpenError::Failed(error) => self.fetch_failed(blob.request, Arc::new(error)),
            OpenError::Broken(error) => PullError::Broken(error),
        }
    }

    /// The error of content whose fetch found no upstream.
    pub(super) fn fetch_failed(&self, request: &RequestContext, error: Arc<UpstreamError>) -> PullError {
        request.record_upstream(request.registry.host(), failure_of(&error), None);
        self.unreachable(request, error)
    }

    /// The right to a link: by a verdict about this credential, or because the link is public. It is recorded. None if
    /// upstream has to be asked.
    pub(super) async fn right_to(
        &self,
        request: &RequestContext,
        place: &Place,
        digest: &Digest,
        link: &Link,
    ) -> Option<Right> {
        let object = Object::Repository(place.clone());
        if let Some((proof, verdict)) = self.own_verdict(request, &object) {
            return Some(shown(request, proof, verdict.at));
        }
        let public_for = request.snapshot.config.proofs.public_for;
        let (proof, at) = match self.public_verdict(request, &object).filter(|verdict| verdict.at >= link.linked_at) {
            Some(verdict) => (Proof::PublicVerdict, verdict.at),
            None => (Proof::PublicMark, link.public_at.filter(|at| is_young(*at, public_for))?),
        };
        if link.public_at.is_none_or(|known| known + PROOF_RENEWAL < at) {
            self.store.names.prove_public(place, digest, at).await;
        }
        Some(shown(request, proof, at))
    }

    /// The same while upstream cannot be asked: the last public proof about the link holds much longer.
    pub(super) async fn right_offline(
        &self,
        request: &RequestContext,
        place: &Place,
        digest: &Digest,
        link: &Link,
    ) -> Option<Right> {
        if let Some(right) = self.right_to(request, place, digest, link).await {
            return Some(right);
        }
        let offline_for = request.snapshot.config.proofs.offline_for;
        let public_at = link.public_at.filter(|at| is_young(*at, offline_for))?;
        Some(shown(request, Proof::PublicMark, public_at))
    }

    /// The right to an artefact, whose entry has `linked_at` and `public_at` as a link has.
    pub(super) async fn right_to_artefact(
        &self,
        request: &RequestContext,
        object: &Object,
        link: &Link,
        is_offline: bool,
    ) -> Option<Right> {
        let proofs = &request.snapshot.config.proofs;
        let public_for = if is_offline { proofs.offline_for } else { proofs.public_for };
        let by_verdict = || self.own_verdict(request, object);
        let by_link = || link.public_at.filter(|at| is_young(*at, public_for));
        match by_verdict() {
            Some((proof, verdict)) => Some(shown(request, proof, verdict.at)),
            None => by_link().map(|at| shown(request, Proof::PublicMark, at)),
        }
    }

    /// The right to the bytes of a fetch that runs in this repository. They are no link yet.
    pub(super) fn right_to_fetch(
        &self,
        request: &RequestContext,
        place: &Place,
        opened_at: Option<SystemTime>,
    ) -> Option<Right> {
        let object = Object::Repository(place.clone());
        let public = || self.public_verdict(request, &object).filter(|verdict| Some(verdict.at) >= opened_at);
        let found = self.own_verdict(request, &object).or_else(|| Some((Proof::PublicVerdict, public()?)));
        found.map(|(proof, verdict)| shown(request, proof, verdict.at))
    }

    /// The verdict about the request's own credential, or about the account that stands in for it. A client without a
    /// credential has none of its own: it is anonymous like all others.
    fn own_verdict(&self, request: &RequestContext, object: &Object) -> Option<(Proof, Verdict)> {
        let is_anonymous = self.principal(&request.credential) == CredentialId::ANONYMOUS;
        let own = || {
            // With headers of the administrator, all clients are one to upstream.
            let is_own = !is_anonymous || request.registry.injects_headers();
            let is_usable = is_own && self.is_current(&request.credential);
            self.rights.get(object, request.credential.id()).filter(|_| is_usable)
        };
        let accounts = || {
            let Object::Repository(place) = object else { return None };
            let login = request.snapshot.account(&request.registry.origin, Some(place.repository()));
            let login = login.filter(|_| request.registry.access == AccessMode::Shared)?;
            self.rights.get(object, login.id())
        };
        own().map(|verdict| (Proof::Verdict, verdict)).or_else(|| Some((Proof::AccountVerdict, accounts()?)))
    }

    fn public_verdict(&self, request: &RequestContext, object: &Object) -> Option<Verdict> {
        self.rights.get(object, CredentialId::ANONYMOUS).filter(|_| !request.registry.injects_headers())
    }

    /// Upstream served this object to the request's credential, just now.
    pub(super) fn approve(&self, request: &RequestContext, object: &Object) -> Right {
        let time = self.verdict_time(&request.credential);
        let principal = self.principal(&request.credential);
        for credential in [request.credential.id(), principal] {
            self.rights.note(object, credential, time);
        }
        shown(request, Proof::Upstream, SystemTime::now())
    }

    /// The right to what upstream sends in answer to this request itself, whatever that is. It is no verdict.
    pub(super) fn right_of_answer(&self, request: &RequestContext) -> Right {
        shown(request, Proof::Upstream, SystemTime::now())
    }

    /// Upstream refused this object to the request's credential.
    pub(super) async fn deny(&self, request: &RequestContext, object: &Object) {
        self.rights.forget(object, request.credential.id());
        if !self.says_something(request, object) {
            return;
        }
        let principal = self.principal(&request.credential);
        self.rights.forget(object, principal);
        if principal != CredentialId::ANONYMOUS {
            return;
        }
        match object {
            Object::Repository(place) => self.store.names.refuse_public(place, SystemTime::now()).await,
            Object::Artefact(origin, path) => self.store.names.refuse_artefact(origin, path).await,
        }
    }

    /// Whether a refusal of the request's credential is about its principal. It is if the credential was good for this
    /// object: a login, or a token that holds and whose scope covers the repository.
    fn says_something(&self, request: &RequestContext, object: &Object) -> bool {
        match &request.credential {
            // A client that has answered no challenge yet is refused at first where tokens are asked; that says nothing.
            // A registry that asks for a Basic login says by that that the repository is not public.
            Credential::None => {
                let scheme = request.snapshot.upstream.memory().tokens.scheme(&request.registry.origin);
                matches!(scheme, Some(AuthScheme::Basic))
            }
            // The token was asked for with the scope of the request.
            Credential::Answered(_) => true,
            Credential::Header(header) if bearer(header.expose()).is_none() => true,
            Credential::Header(header) => match (self.issued.seen(header), object) {
                (Some(token), Object::Repository(place)) => {
                    token.expires > Instant::now() && token.covers(place.repository())
                }
                _ => false,
            },
        }
    }

    /// Whether upstream sees an anonymous client in this request, so that its yes holds for everybody.
    pub(super) fn is_public_answer(&self, request: &RequestContext) -> bool {
        self.principal(&request.credential) == CredentialId::ANONYMOUS && !request.registry.injects_headers()
    }

    /// The time for which a link that this request makes is public from now on. None if the request is not anonymous.
    pub(super) fn public_now(&self, request: &RequestContext) -> Option<SystemTime> {
        self.is_public_answer(request).then(SystemTime::now)
    }

    /// A source of a request's bytes.
    pub(super) fn source(&self, request: &RequestContext, path: SourcePath) -> BlobSource {
        BlobSource {
            upstream: request.snapshot.upstream.clone(),
            registry: request.registry.clone(),
            path,
            credential: request.credential.clone(),
            is_public: self.is_public_answer(request),
        }
    }

    /// A source of a blob's bytes for this request.
    pub(super) fn blob_source(&self, blob: &BlobRequest<'_>) -> BlobSource {
        self.source(blob.request, SourcePath::Blobs(blob.repository.clone()))
    }

    /// Whether the stored copy, whose digest was verified, may stand in for what this registry says it has: the same
    /// origin gave it, or it is public somewhere.
    pub(super) async fn may_share(&self, blob: &BlobRequest<'_>, stored: &Arc<Blob>) -> bool {
        let origin = &blob.request.registry.origin;
        if stored.first_origin().await.as_ref() == Some(origin) {
            return true;
        }
        if self.store.names.places(&blob.digest).await.iter().any(|place| place.origin() == origin) {
            return true;
        }
        let public_for = blob.request.snapshot.config.proofs.public_for;
        let since = SystemTime::now().checked_sub(public_for).unwrap_or(UNIX_EPOCH);
        self.store.names.public_places(&blob.digest, since).await
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

/// Records a proof and gives the right that it proves.
fn shown(request: &RequestContext, proof: Proof, at: SystemTime) -> Right {
    request.trail.record(Decision::Right { proof, age: age_of(at) });
    Right(())
}

/// Whether a proof still holds. One from the future shows that the clock was wrong then, or is now, so it does not.
fn is_young(at: SystemTime, holds_for: Duration) -> bool {
    match SystemTime::now().duration_since(at) {
        Ok(age) => age < holds_for,
        Err(ahead) => ahead.duration() < CLOCK_STEP_MAX && !holds_for.is_zero(),
    }
}

/// The age of a proof, for the trail.
fn age_of(at: SystemTime) -> Duration {
    SystemTime::now().duration_since(at).unwrap_or_default()
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
