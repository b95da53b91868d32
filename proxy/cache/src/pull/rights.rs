//! The right to read (threat T1 in `docs/threats.md`). No stored byte leaves without a [`Right`], and only this file
//! makes one. Each right to upstream's content rests on a proof:
//!
//! ```text
//! who        a credential, or the login or the anonymous client that a token was given to
//! what       a repository of an origin, its lists, or the path of an artefact
//! shown by   upstream's answer to this request, or an earlier one (a verdict), or an anonymous one about this link
//! when       a verdict holds for five minutes and no longer than the token; a public link for `rights.public_for`,
//!            and while upstream is down for `rights.offline_for`
//! ```
//!
//! "Public" is a property of a link, which is one digest in one repository: upstream gave it to an anonymous client
//! when or after it was linked. An anonymous verdict covers no link that was made after it. The first refusal of an
//! anonymous request ends all public proofs of the repository. Verdicts about credentials live in memory only; no trace
//! of a credential is on disk.
//!
//! `asking` asks upstream and tells this file what each answer says about the right.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use entrepot_core::challenge::Challenge;
use entrepot_core::digest::Digest;
use entrepot_core::freshness::{jwt_expiry, verdict_ttl};
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};

use crate::pull::request::BlobRequest;
use crate::pull::{Pull, RequestContext};
use entrepot_config::ready::AccessMode;
use entrepot_observe::labels::Proof;
use entrepot_observe::trail::Decision;
use entrepot_store::{Blob, Link, Place};
use entrepot_upstream::credential::{Credential, CredentialId};

/// The right of one request to one content. It is proven and in the trail.
#[must_use]
pub struct Right(());

impl Right {
    /// The right to content of our own registry, about which its own rules have decided.
    pub fn of_our_own_registry() -> Self {
        Self(())
    }
}

/// The thing that a right is about. Artefacts have no names in common with repositories.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Object {
    /// A repository of an origin.
    Repository(Place),
    /// An artefact: its origin, and its path and query.
    Artefact(Origin, Box<str>),
    /// The lists of a repository: its tags, and the referrers of its manifests. Some registries show them to more clients
    /// than the content, so they prove nothing about that.
    Lists(Place),
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
    /// Whether the request had headers of the administrator. Then the yes is for requests that have them too.
    by_headers: bool,
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
    /// The verdict that holds for requests with the administrator's headers, or without them. None if none does.
    fn get(&self, object: &Object, credential: CredentialId, has_headers: bool) -> Option<Verdict> {
        let verdict = self.lock().get(&(object.clone(), credential)).copied();
        verdict.filter(|verdict| verdict.until > Instant::now() && (has_headers || !verdict.by_headers))
    }

    fn note(&self, object: &Object, credential: CredentialId, time: Duration, by_headers: bool) {
        let verdict = Verdict { at: SystemTime::now(), until: Instant::now() + time, by_headers };
        self.lock().insert(&(object.clone(), credential), verdict);
    }

    fn forget(&self, object: &Object, credential: CredentialId) {
        self.lock().remove(&(object.clone(), credential));
    }

    fn lock(&self) -> MutexGuard<'_, Recent<(Object, CredentialId), Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pull {
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
        let (proof, at) = match self.public_verdict(&object).filter(|verdict| verdict.at >= link.linked_at) {
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

    /// The right to a stored list of the repository: as to its content, or because upstream showed this credential a list
    /// of it. `is_down` is true while upstream cannot be asked.
    pub(super) async fn right_to_list(
        &self,
        request: &RequestContext,
        place: &Place,
        digest: &Digest,
        link: &Link,
        is_down: bool,
    ) -> Option<Right> {
        if let Some((proof, verdict)) = self.own_verdict(request, &Object::Lists(place.clone())) {
            return Some(shown(request, proof, verdict.at));
        }
        match is_down {
            true => self.right_offline(request, place, digest, link).await,
            false => self.right_to(request, place, digest, link).await,
        }
    }

    /// The right to an artefact, whose entry is proven public like a link. `public_for` is how long such a proof holds.
    pub(super) fn right_to_artefact(
        &self,
        request: &RequestContext,
        object: &Object,
        link: &Link,
        public_for: Duration,
    ) -> Option<Right> {
        let by_verdict = self.own_verdict(request, object).map(|(proof, verdict)| (proof, verdict.at));
        let by_link = || Some((Proof::PublicMark, link.public_at.filter(|at| is_young(*at, public_for))?));
        by_verdict.or_else(by_link).map(|(proof, at)| shown(request, proof, at))
    }

    /// The right to the bytes of a fetch that runs for this object. They are no link yet.
    pub(super) fn right_to_fetch(
        &self,
        request: &RequestContext,
        object: &Object,
        opened_at: Option<SystemTime>,
    ) -> Option<Right> {
        let public = || self.public_verdict(object).filter(|verdict| Some(verdict.at) >= opened_at);
        let found = self.own_verdict(request, object).or_else(|| Some((Proof::PublicVerdict, public()?)));
        found.map(|(proof, verdict)| shown(request, proof, verdict.at))
    }

    /// The verdict about the request's own credential, or about the account that stands in for it. A client without a
    /// credential has none of its own: it is anonymous like all others.
    fn own_verdict(&self, request: &RequestContext, object: &Object) -> Option<(Proof, Verdict)> {
        let (credential, has_headers) = (&request.credential, request.registry.injects_headers());
        // With headers of the administrator, all clients are one to upstream.
        if (has_headers || self.principal(credential) != CredentialId::ANONYMOUS)
            && self.is_current(credential)
            && let Some(verdict) = self.rights.get(object, credential.id(), has_headers)
        {
            return Some((Proof::Verdict, verdict));
        }
        let (Object::Repository(place) | Object::Lists(place)) = object else { return None };
        if request.registry.access != AccessMode::Shared {
            return None;
        }
        let login = request.snapshot.account(&request.registry.origin, Some(place.repository()))?;
        Some((Proof::AccountVerdict, self.rights.get(object, login.id(), has_headers)?))
    }

    fn public_verdict(&self, object: &Object) -> Option<Verdict> {
        self.rights.get(object, CredentialId::ANONYMOUS, false)
    }

    /// Upstream served this object to the request's credential, just now.
    pub(super) fn approve(&self, request: &RequestContext, object: &Object) -> Right {
        let time = self.verdict_time(&request.credential);
        let principal = self.principal(&request.credential);
        for credential in [request.credential.id(), principal] {
            self.rights.note(object, credential, time, request.registry.injects_headers());
        }
        shown(request, Proof::Upstream, SystemTime::now())
    }

    /// The right to what upstream sends in answer to this request itself, whatever that is. It is no verdict.
    pub(super) fn right_of_answer(&self, request: &RequestContext) -> Right {
        shown(request, Proof::Upstream, SystemTime::now())
    }

    /// Upstream refused this object to the request's credential, with this status (401 or 403) and these headers.
    pub(super) async fn deny(
        &self,
        request: &RequestContext,
        object: &Object,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        self.rights.forget(object, request.credential.id());
        if let Object::Repository(place) = object {
            self.rights.forget(&Object::Lists(place.clone()), request.credential.id());
        }
        if !self.says_something(&request.credential, object, status, headers) {
            return;
        }
        let principal = self.principal(&request.credential);
        self.rights.forget(object, principal);
        if let Object::Repository(place) = object {
            self.rights.forget(&Object::Lists(place.clone()), principal);
        }
        if principal != CredentialId::ANONYMOUS {
            return;
        }
        match object {
            Object::Repository(place) | Object::Lists(place) => {
                self.store.names.refuse_public(place, SystemTime::now()).await;
            }
            Object::Artefact(origin, path) => self.store.names.refuse_artefact(origin, path, SystemTime::now()).await,
        }
    }

    /// Whether a refusal of a credential is about its principal. It is if the credential was good for this object: a
    /// login, or a token that holds and whose scope covers the repository.
    fn says_something(
        &self,
        credential: &Credential,
        object: &Object,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> bool {
        match credential {
            // Where tokens are asked for, every client is refused until it has one. Any other refusal of a client
            // without a login says that the repository is not public.
            Credential::None => status != StatusCode::UNAUTHORIZED || !asks_for_a_token(headers),
            // The token was asked for with the scope of the request.
            Credential::Answered(_) => true,
            Credential::Header(header) if bearer(header.expose()).is_none() => true,
            Credential::Header(header) => match (self.issued.seen(header), object) {
                (Some(token), Object::Repository(place) | Object::Lists(place)) => {
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

    /// Upstream has just shown a link that is known already: an anonymous answer makes it public from now on.
    pub(super) async fn shown_again(&self, request: &RequestContext, place: &Place, digest: &Digest) {
        if let Some(now) = self.public_now(request) {
            self.store.names.prove_public(place, digest, now).await;
        }
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
    pub(super) fn principal(&self, credential: &Credential) -> CredentialId {
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

/// Whether a refusal is the challenge with which every pull begins where tokens are asked for.
fn asks_for_a_token(headers: &HeaderMap) -> bool {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    Challenge::parse(values).iter().any(|challenge| matches!(challenge, Challenge::Bearer { .. }))
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
