//! The cache of tokens that entrepot fetches itself (Docker token authentication). There is one entry for each realm,
//! service, scope and credential. A token is renewed before it expires, by one request at a time.
//!
//! Invariant (T2): no token of this cache is sent to a client. The answers to a client's own token requests are relayed
//! and not cached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use serde::Deserialize;
use url::Url;

use crate::credential::CredentialId;
use crate::upstream_registry::origin_of;
use entrepot_core::secret::Secret;

/// The authentication scheme that a registry asks for (RFC 9110 section 11.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthScheme {
    /// A token (Docker token authentication).
    Bearer {
        /// The token server's URL.
        realm: Url,
        /// The `service` parameter. None if the challenge has none.
        service: Option<String>,
    },
    /// The login itself, with each request.
    Basic,
}

/// The key of a token in the cache.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The registry that the token is for. It goes to no other origin.
    pub registry: Origin,
    /// The token server's URL as text.
    pub realm: String,
    /// The `service` parameter. None if the challenge had none.
    pub service: Option<String>,
    /// `repository:NAME:ACTIONS`, several where content is mounted from another repository.
    pub scopes: Vec<String>,
    /// The login that the token was requested with.
    pub credential: CredentialId,
}

/// The JSON body of a token server's answer.
#[derive(Deserialize)]
pub struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

type Slot = Arc<tokio::sync::Mutex<Option<(Secret, Instant)>>>;

/// Tokens and the schemes by which registries ask for them.
pub struct TokenCache {
    slots: Mutex<Recent<TokenKey, Slot>>,
    schemes: Mutex<Recent<Origin, AuthScheme>>,
}

/// Limits of the tables. What was not used for the longest time goes first, so a stranger who asks for many repositories
/// pushes out no token that is in use.
const TOKENS_MAX: usize = 4096;
const SCHEMES_MAX: usize = 1024;

impl Default for TokenCache {
    fn default() -> Self {
        let (slots, schemes) = (Recent::new(TOKENS_MAX), Recent::new(SCHEMES_MAX));
        Self { slots: Mutex::new(slots), schemes: Mutex::new(schemes) }
    }
}

impl TokenCache {
    /// The slot of a token. The caller holds its lock while it looks, fetches and stores, so that only one fetch runs.
    pub(crate) fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get_or_insert_with(key, Slot::default).clone()
    }

    /// The scheme that `registry` asked for last. None if it did not ask.
    pub fn scheme(&self, registry: &Origin) -> Option<AuthScheme> {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(registry).map(|scheme| &*scheme).cloned()
    }

    /// Remembers the scheme that `registry` asks for.
    pub(crate) fn learn_scheme(&self, registry: &Origin, scheme: AuthScheme) {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(registry, scheme);
    }

    /// The registry that sends its clients to this token endpoint. None if none did. Of several, the one with this
    /// `service` is preferred, and among those the endpoint's own origin.
    pub fn registry_of_realm(&self, endpoint: &Origin, path: &str, service: Option<&str>) -> Option<Origin> {
        let schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates = schemes.iter().filter_map(|(registry, scheme)| match scheme {
            AuthScheme::Bearer { realm, service: own } => {
                let same = realm.path() == path && origin_of(realm).as_ref() == Some(endpoint);
                same.then(|| (own.as_deref() == service, registry == endpoint, registry))
            }
            AuthScheme::Basic => None,
        });
        candidates.max().map(|(_, _, registry)| registry.clone())
    }
}

impl TokenAnswer {
    /// The token and its lifetime, which is 60 s by default as in Docker's specification. None if the answer has no token.
    pub fn parse(body: &[u8]) -> Option<(Secret, Duration)> {
        let answer: Self = serde_json::from_slice(body).ok()?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
        let lifetime = Duration::from_secs(answer.expires_in.unwrap_or(60).clamp(1, 24 * 3600));
        Some((Secret::new(token), lifetime))
    }
}

/// When to renew a token with this `lifetime` from `now`: a fifth of it before its end, at most 20 s before.
pub(crate) fn renew_at(now: Instant, lifetime: Duration) -> Instant {
    now + lifetime - (lifetime / 5).min(Duration::from_secs(20))
}

/// The URL that requests the token of `key`. None if its realm is not a URL.
pub fn request_url(key: &TokenKey) -> Option<Url> {
    let mut url = Url::parse(&key.realm).ok()?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        for scope in &key.scopes {
            query.append_pair("scope", scope);
        }
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_answers() {
        let parse = |text: &str| TokenAnswer::parse(text.as_bytes()).map(|(t, d)| (t.expose().to_owned(), d.as_secs()));
        assert_eq!(parse(r#"{"token":"a","expires_in":300}"#), Some(("a".into(), 300)));
        assert_eq!(parse(r#"{"access_token":"b"}"#), Some(("b".into(), 60)));
        assert_eq!(parse(r#"{"token":"","access_token":"c","expires_in":0}"#), Some(("c".into(), 1)));
        assert_eq!(parse(r#"{"error":"no"}"#), None);
        assert_eq!(parse("<html>"), None);
    }

    #[test]
    fn the_request_keeps_what_the_realm_has() {
        let key = TokenKey {
            registry: "reg.example".parse().expect("an origin"),
            realm: "https://auth.example/token?x=1".into(),
            service: Some("reg example".into()),
            scopes: vec!["repository:a/b:pull".into()],
            credential: CredentialId::ANONYMOUS,
        };
        let url = request_url(&key).expect("url");
        assert_eq!(url.query(), Some("x=1&service=reg+example&scope=repository%3Aa%2Fb%3Apull"));
    }

    #[test]
    fn realms_lead_back_to_their_registry() {
        let tokens = TokenCache::default();
        let registry: Origin = "registry-1.docker.io".parse().expect("host");
        let realm = Url::parse("https://auth.docker.io/token").expect("url");
        tokens.learn_scheme(&registry, AuthScheme::Bearer { realm, service: None });
        let auth: Origin = "auth.docker.io".parse().expect("host");
        assert_eq!(tokens.registry_of_realm(&auth, "/token", None), Some(registry.clone()));
        assert_eq!(tokens.registry_of_realm(&auth, "/other", None), None);
        let other: Origin = "mirror.example".parse().expect("host");
        let realm = Url::parse("https://auth.docker.io/token").expect("url");
        tokens.learn_scheme(&other, AuthScheme::Bearer { realm, service: Some("mirror".into()) });
        assert_eq!(tokens.registry_of_realm(&auth, "/token", Some("mirror")), Some(other));
        assert_eq!(tokens.registry_of_realm(&auth, "/token", None), Some(registry.clone()));
    }

    #[test]
    fn what_a_stranger_asks_for_pushes_out_nothing_that_is_in_use() {
        let tokens = TokenCache::default();
        let honest: Origin = "reg.example".parse().expect("an origin");
        let key = |scope: String| TokenKey {
            registry: honest.clone(),
            realm: "https://auth.example/token".into(),
            service: None,
            scopes: vec![scope],
            credential: CredentialId::ANONYMOUS,
        };
        let own = tokens.slot(&key("repository:team/app:pull".into()));
        tokens.learn_scheme(&honest, AuthScheme::Basic);
        for number in 0..TOKENS_MAX * 2 {
            tokens.slot(&key(format!("repository:stranger/{number}:pull")));
            tokens.learn_scheme(&format!("x{number}.example").parse().expect("an origin"), AuthScheme::Basic);
            assert!(Arc::ptr_eq(&tokens.slot(&key("repository:team/app:pull".into())), &own), "after {number}");
            assert!(tokens.scheme(&honest).is_some(), "after {number}");
        }
        let lengths = (tokens.slots.lock().expect("no panic").len(), tokens.schemes.lock().expect("no panic").len());
        assert_eq!(lengths, (TOKENS_MAX, SCHEMES_MAX));
    }
}
