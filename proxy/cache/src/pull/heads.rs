//! Registries whose HEAD does not tell what GET does. Some answer HEAD of a manifest with 400, 401, 403, 404, 405 or 500
//! and GET with the manifest.
//!
//! For a client's GET, a refused HEAD says nothing yet: the GET decides. If that is answered, HEAD lies, which is
//! remembered for the registry and the credential; then HEADs are answered by GETs, for clients that send HEAD as well.
//!
//! Invariant: a refusal by HEAD takes no right away before GET confirms it, and if GET cannot say, the refusal holds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use crate::fetch::source::UpstreamRefusal;
use crate::pull::asking::{Asked, Wanted};
use crate::pull::error::{PullError, is_denial};
use crate::pull::rights::Object;
use crate::pull::{Pull, RequestContext};
use entrepot_upstream::credential::{Credential, CredentialId};
use entrepot_upstream::operation::Operation;

/// The registries whose HEAD lies, for each credential.
pub(super) struct LyingHeads {
    until: Mutex<Recent<(Origin, CredentialId), Instant>>,
}

const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
const ENTRIES_MAX: usize = 4096;

impl Default for LyingHeads {
    fn default() -> Self {
        Self { until: Mutex::new(Recent::new(ENTRIES_MAX)) }
    }
}

impl LyingHeads {
    fn has(&self, origin: &Origin, credential: CredentialId, now: Instant) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(&(origin.clone(), credential)).is_some_and(|until| *until > now)
    }

    fn note(&self, origin: &Origin, credential: CredentialId, now: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.insert(&(origin.clone(), credential), now + REMEMBERED_FOR);
    }
}

/// Upstream's answer to a HEAD.
pub(super) enum HeadSaid {
    /// It counts.
    Said(Asked),
    /// It is a refusal or a failure, and the client sends GET: that decides.
    Doubted(Doubt),
}

/// A refusal by HEAD.
pub(super) struct Doubt {
    refusal: UpstreamRefusal,
    /// Whether it is the word of a host that a redirect led to.
    crossed: bool,
}

impl Pull {
    /// Whether the registry's HEAD is known to lie to the principal of this request.
    pub(super) fn heads_lie(&self, request: &RequestContext) -> bool {
        self.lying_heads.has(&request.registry.origin, self.principal(&request.credential), Instant::now())
    }

    /// Asks for a manifest's head, ahead of the GET that the client sent.
    pub(super) async fn ask_head(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        operation: &Operation,
    ) -> HeadSaid {
        match request.execute(operation).await {
            Ok(answer)
                if !request.is_head() && may_lie(answer.status, &answer.headers) && !is_refused_account(request) =>
            {
                let crossed = answer.crossed;
                let refusal = UpstreamRefusal::read(answer).await.worded(operation.unknown);
                HeadSaid::Doubted(Doubt { refusal, crossed })
            }
            answer => {
                let object = Object::Repository(request.place(repository));
                HeadSaid::Said(self.weigh(request, &object, operation, Wanted::Manifest, answer).await)
            }
        }
    }

    /// The outcome of a GET whose HEAD was refused.
    pub(super) async fn decided_by_get<T>(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        doubt: Doubt,
        got: Result<T, PullError>,
    ) -> Result<T, PullError> {
        let Doubt { refusal, crossed } = doubt;
        match got {
            Ok(got) => {
                // A gateway that fails once fails for both methods.
                if !matches!(refusal.status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE) {
                    let principal = self.principal(&request.credential);
                    self.lying_heads.note(&request.registry.origin, principal, Instant::now());
                }
                Ok(got)
            }
            Err(error) if error.is_transient() && is_denial(refusal.status) && !crossed => {
                let object = Object::Repository(request.place(repository));
                self.deny(request, &object, refusal.status, &refusal.headers).await;
                Err(PullError::answered(self.challenged(request, refusal)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the request was made with the administrator's account, and upstream does not take that any more.
fn is_refused_account(request: &RequestContext) -> bool {
    let Credential::Answered(Some(login)) = &request.credential else { return false };
    let refused = &request.snapshot.upstream.memory().refused_accounts;
    login.is_account() && refused.has(&request.registry.origin, login.id())
}

/// Whether a GET may be answered although HEAD was answered so. A registry that limits requests is not asked again, and
/// one that was too slow is not waited for twice.
fn may_lie(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_error = status.is_client_error() || status.is_server_error();
    let is_busy =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT);
    is_error && !is_busy && !headers.contains_key(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_asks_for_patience_is_believed() {
        for (status, lies) in [
            (200, false),
            (307, false),
            (400, true),
            (401, true),
            (403, true),
            (404, true),
            (405, true),
            (406, true),
            (415, true),
            (500, true),
            (501, true),
            (503, true),
            (408, false),
            (429, false),
            (504, false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let mut headers = HeaderMap::new();
            assert_eq!(may_lie(status, &headers), lies, "{status}");
            headers.insert(RETRY_AFTER, http::HeaderValue::from_static("60"));
            assert!(!may_lie(status, &headers), "{status}");
        }
    }

    #[test]
    fn a_lie_is_remembered_for_a_day_and_one_credential() {
        let (lying, now) = (LyingHeads::default(), Instant::now());
        let origin: Origin = "reg.example".parse().expect("an origin");
        let other: Origin = "http://reg.example".parse().expect("an origin");
        let alice = CredentialId::of("Basic alice");
        lying.note(&origin, alice, now);
        for (origin, credential, after, expected) in [
            (&origin, alice, Duration::ZERO, true),
            (&origin, alice, REMEMBERED_FOR - Duration::from_secs(1), true),
            (&origin, alice, REMEMBERED_FOR, false),
            (&origin, CredentialId::ANONYMOUS, Duration::ZERO, false),
            (&other, alice, Duration::ZERO, false),
        ] {
            assert_eq!(lying.has(origin, credential, now + after), expected, "{origin} {after:?}");
        }
    }
}
