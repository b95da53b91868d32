//! Tokens that clients hold, known by their hash: their principal, and until when they hold. Two kinds: upstream's,
//! which were seen as they passed, and our own, given out where upstream cannot answer or the administrator's account
//! stands in.
//!
//! Invariant (T2): a token is an answer to one client. Nothing here hands one client's token to another; the memory
//! only tells whom a token stands for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use entrepot_core::scope::{Action, Scope};

use entrepot_core::secret::Secret;
use entrepot_upstream::credential::{CredentialId, Login};

/// Upstream's token, as it passed.
#[derive(Clone)]
pub struct SeenToken {
    /// The principal that it was given to: a login's hash, or anonymous.
    pub principal: CredentialId,
    /// When upstream stops taking it.
    pub expires: Instant,
    /// The repositories that it was asked for, to pull from them.
    repositories: Arc<[RepositoryName]>,
}

/// A token of ours.
#[derive(Clone)]
pub struct LocalToken {
    /// The registry that takes it.
    pub registry: Origin,
    /// The client's login, none for an anonymous client.
    pub login: Option<Login>,
    expires: Instant,
}

/// Both memories. A full one forgets what was used longest ago.
pub struct IssuedTokens {
    seen: Mutex<Recent<CredentialId, SeenToken>>,
    /// The token of ours that every anonymous client of a registry gets, so that asking often costs nothing.
    anonymous: Mutex<HashMap<Origin, (Secret, Instant)>>,
    local: Mutex<Recent<CredentialId, LocalToken>>,
}

/// Our own tokens begin with this. They are never sent upstream.
const LOCAL_PREFIX: &str = "entrepot.";
/// How long a token of ours holds: long enough for one large pull.
pub const LOCAL_LIFETIME: Duration = Duration::from_secs(300);
const TOKENS_MAX: usize = 65_536;
/// The most repositories that are remembered of one token.
const SCOPES_MAX: usize = 8;

impl Default for IssuedTokens {
    fn default() -> Self {
        let (seen, local) = (Mutex::new(Recent::new(TOKENS_MAX)), Mutex::new(Recent::new(TOKENS_MAX)));
        Self { seen, anonymous: Mutex::default(), local }
    }
}

impl IssuedTokens {
    /// Notes a token that upstream gave to `principal` for these scopes.
    pub fn note(&self, token: &Secret, principal: CredentialId, scopes: &[String], lifetime: Duration) {
        let id = CredentialId::of(&format!("Bearer {}", token.expose()));
        let token = SeenToken { principal, expires: Instant::now() + lifetime, repositories: pulled(scopes) };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(&id, token);
    }

    /// The token in this `Authorization` header, if it was seen.
    pub fn seen(&self, header: &Secret) -> Option<SeenToken> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&CredentialId::of(header.expose())).cloned()
    }

    /// Gives out a token of ours. `None` only where the system has no randomness.
    pub fn issue(&self, registry: &Origin, login: Option<Login>) -> Option<Secret> {
        if login.is_some() {
            return self.issue_fresh(registry, login);
        }
        let mut anonymous = self.anonymous.lock().unwrap_or_else(PoisonError::into_inner);
        let young = anonymous.get(registry).filter(|(_, issued)| issued.elapsed() < LOCAL_LIFETIME / 10);
        if let Some((token, _)) = young {
            return Some(token.clone());
        }
        anonymous.retain(|_, (_, issued)| issued.elapsed() < LOCAL_LIFETIME);
        let token = self.issue_fresh(registry, None)?;
        anonymous.insert(registry.clone(), (token.clone(), Instant::now()));
        Some(token)
    }

    fn issue_fresh(&self, registry: &Origin, login: Option<Login>) -> Option<Secret> {
        let mut random = [0u8; 16];
        rand::fill(&mut random).ok()?;
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("{LOCAL_PREFIX}{hex}");
        let id = CredentialId::of(&format!("Bearer {token}"));
        let issued = LocalToken { registry: registry.clone(), login, expires: Instant::now() + LOCAL_LIFETIME };
        self.local.lock().unwrap_or_else(PoisonError::into_inner).insert(&id, issued);
        Some(Secret::new(token))
    }

    /// Whether the header carries a token of ours, and if so what it stands for at `registry`; `Some(None)` is one
    /// that is over, or another registry's.
    pub fn local(&self, registry: &Origin, header: &Secret) -> Option<Option<LocalToken>> {
        let (scheme, token) = header.expose().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") || !token.trim().starts_with(LOCAL_PREFIX) {
            return None;
        }
        let id = CredentialId::of(&format!("Bearer {}", token.trim()));
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let known = local.get(&id).filter(|token| token.expires > Instant::now() && token.registry == *registry);
        Some(known.cloned())
    }
}

impl SeenToken {
    /// Whether the token was asked for to pull from this repository. Only then its refusal there says something.
    pub fn covers(&self, repository: &RepositoryName) -> bool {
        self.repositories.contains(repository)
    }
}

/// The repositories that scopes name to pull from. One value may hold several scopes.
fn pulled(scopes: &[String]) -> Arc<[RepositoryName]> {
    let scopes = scopes.iter().flat_map(|scopes| Scope::parse_all_upstream(scopes));
    let pulled = scopes.filter_map(|scope| match scope {
        Scope::Repository { name, actions } if actions.contains(Action::Pull) => Some(name),
        _ => None,
    });
    pulled.take(SCOPES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_ours_holds_at_its_registry_only() {
        let issued = IssuedTokens::default();
        let ghcr: Origin = "ghcr.io".parse().expect("host");
        let quay: Origin = "quay.io".parse().expect("host");
        let token = issued.issue(&ghcr, None).expect("random");
        let header = Secret::new(format!("Bearer {}", token.expose()));
        assert!(issued.local(&ghcr, &header).is_some_and(|known| known.is_some()));
        assert!(issued.local(&quay, &header).is_some_and(|known| known.is_none()));
        assert!(issued.local(&ghcr, &Secret::new("Bearer entrepot.00")).is_some_and(|known| known.is_none()));
        assert!(issued.local(&ghcr, &Secret::new("Bearer other")).is_none());
        assert_eq!(token.expose(), issued.issue(&ghcr, None).expect("random").expose());
        let login = Login::new("alice", &Secret::new("pw"));
        let own = issued.issue(&ghcr, Some(login.clone())).expect("random");
        assert_ne!(own.expose(), issued.issue(&ghcr, Some(login)).expect("random").expose());
    }

    #[test]
    fn a_seen_token_tells_whose_it_is() {
        let issued = IssuedTokens::default();
        let alice = CredentialId::of("Basic alice");
        let scopes = [
            "repository:a/b:pull repository:c:push".to_owned(),
            "repository:d:*".to_owned(),
            "repository:E/F:pull".to_owned(),
        ];
        issued.note(&Secret::new("t"), alice, &scopes, Duration::from_secs(60));
        let seen = issued.seen(&Secret::new("Bearer t")).expect("seen");
        assert_eq!(seen.principal, alice);
        let covers = |name: &str| seen.covers(&RepositoryName::of_upstream(name).expect("a repository"));
        assert_eq!(["a/b", "c", "d", "a", "E/F", "e/f"].map(covers), [true, false, true, false, true, false]);
        assert!(issued.seen(&Secret::new("Bearer u")).is_none());
    }

    #[test]
    fn a_token_in_use_outlives_any_number_of_a_strangers() {
        let issued = IssuedTokens::default();
        let (registry, alice): (Origin, _) = ("ghcr.io".parse().expect("an origin"), CredentialId::of("Basic alice"));
        issued.note(&Secret::new("alices"), alice, &[], Duration::from_secs(60));
        let own = issued.issue(&registry, Some(Login::new("alice", &Secret::new("pw")))).expect("random");
        let own = Secret::new(format!("Bearer {}", own.expose()));
        for number in 0..TOKENS_MAX + 10 {
            issued.note(&Secret::new(number.to_string()), CredentialId::ANONYMOUS, &[], Duration::from_secs(3600));
            issued.issue(&registry, Some(Login::new("mallory", &Secret::new("pw")))).expect("a full table takes it");
            if number % 1000 == 0 {
                assert!(issued.seen(&Secret::new("Bearer alices")).is_some(), "{number}");
                assert!(issued.local(&registry, &own).is_some_and(|token| token.is_some()), "{number}");
            }
        }
    }
}
