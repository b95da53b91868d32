//! Who may read what (threat T1). A verdict is upstream's own word, for one registry, repository and credential, and
//! holds at most five minutes and never longer than the token it was given for.
//!
//! What upstream gives an anonymous request is public: that is remembered in the index too, and is what still holds
//! when upstream is down. Verdicts about credentials live in memory only; no trace of a credential is on disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use entrepot_core::freshness::{jwt_expiry, verdict_ttl};
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;

use crate::pull::{Call, Pull};
use entrepot_config::ready::Access;
use entrepot_upstream::credential::{Credential, CredentialId};
use entrepot_upstream::token::Scheme;

type Key = (RegistryHost, RepositoryName, CredentialId);

/// The verdicts that hold at the moment.
#[derive(Default)]
pub struct Rights {
    verdicts: Mutex<HashMap<Key, Instant>>,
}

const VERDICTS_MAX: usize = 65_536;
/// While a public verdict has this long to live, its mark in the index is young enough.
const PUBLIC_MARK_FRESH: Duration = Duration::from_secs(240);

impl Rights {
    fn holds(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) -> bool {
        !self.life_left(registry, repository, credential).is_zero()
    }

    fn life_left(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) -> Duration {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let until = verdicts.get(&(registry.clone(), repository.clone(), credential));
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn note(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId, time: Duration) {
        let now = Instant::now();
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.retain(|_, until| *until > now);
        }
        if verdicts.len() < VERDICTS_MAX {
            verdicts.insert((registry.clone(), repository.clone(), credential), now + time);
        }
    }

    fn forget(&self, registry: &RegistryHost, repository: &RepositoryName, credential: CredentialId) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.remove(&(registry.clone(), repository.clone(), credential));
    }
}

impl Pull {
    /// Whether upstream has lately served this repository to this credential, or to everybody.
    pub fn may_read(&self, call: &Call, repository: &RepositoryName) -> bool {
        let registry = &call.registry.host;
        let holds = |credential| self.rights.holds(registry, repository, credential);
        self.is_current(&call.credential) && holds(call.credential.id())
            || holds(CredentialId::ANONYMOUS)
            || (call.registry.access == Access::Shared
                && call.snapshot.account(registry, Some(repository)).is_some_and(|login| holds(login.id())))
    }

    /// The same while upstream cannot be asked: what was public stays so, however long ago upstream said it.
    pub async fn may_read_offline(&self, call: &Call, repository: &RepositoryName) -> bool {
        self.may_read(call, repository) || self.is_public(call, repository).await
    }

    /// Whether upstream has ever given this repository to everybody, and not taken it back since.
    pub async fn is_public(&self, call: &Call, repository: &RepositoryName) -> bool {
        self.store.names.last_public(&call.place(repository)).await.is_some()
    }

    /// Upstream served this repository to the call's credential.
    pub async fn approve(&self, call: &Call, repository: &RepositoryName) {
        let registry = &call.registry.host;
        let marked = self.rights.life_left(registry, repository, CredentialId::ANONYMOUS) > PUBLIC_MARK_FRESH;
        let time = self.verdict_time(&call.credential);
        self.rights.note(registry, repository, call.credential.id(), time);
        let principal = self.principal(&call.credential);
        if principal != call.credential.id() {
            self.rights.note(registry, repository, principal, time);
        }
        let public = principal == CredentialId::ANONYMOUS && !call.registry.injects_headers();
        if !public || marked {
            return;
        }
        self.rights.note(registry, repository, CredentialId::ANONYMOUS, time);
        self.store.names.mark_public(&call.place(repository), SystemTime::now()).await;
    }

    /// Upstream refused this repository to the call's credential.
    pub async fn deny(&self, call: &Call, repository: &RepositoryName) {
        // A client that has answered no challenge yet is refused at first where tokens are asked; that says nothing.
        // Where a login is asked, it says that the repository is not public.
        let scheme = || call.snapshot.upstream.memory().tokens.scheme(&call.registry.host);
        if matches!(call.credential, Credential::None) && !matches!(scheme(), Some(Scheme::Basic)) {
            return;
        }
        let registry = &call.registry.host;
        let principal = self.principal(&call.credential);
        self.rights.forget(registry, repository, call.credential.id());
        self.rights.forget(registry, repository, principal);
        if principal == CredentialId::ANONYMOUS && self.is_current(&call.credential) {
            self.store.names.unmark_public(&call.place(repository)).await;
        }
    }

    /// Who is behind a credential: for a token that passed here, whoever asked for it.
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
