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
use serde_json::Value;
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

/// A token server's answer.
pub struct Token {
    /// The token.
    pub secret: Secret,
    /// The lifetime in seconds that the server told. None if it told none that makes sense.
    told: Option<u64>,
}

/// The fields that are read of a token server's answer.
#[derive(Deserialize)]
struct Fields {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Value,
}

/// The same if the lifetime is not even a JSON value that can be read, such as 1e999.
#[derive(Deserialize)]
struct FieldsWithoutLifetime {
    token: Option<String>,
    access_token: Option<String>,
}

type Slot = Arc<tokio::sync::Mutex<Option<(Secret, Instant)>>>;

/// Tokens and the schemes by which registries ask for them.
pub struct TokenCache {
    slots: Mutex<Recent<TokenKey, Slot>>,
    schemes: Mutex<Recent<Origin, AuthScheme>>,
    /// The scopes that registries asked for where the path suggests another: by the registry and the path's scope.
    scopes: Mutex<Recent<(Origin, String), Vec<String>>>,
    /// The registries with token servers that are not theirs, as far as that was said.
    untrusted: Mutex<Recent<(Origin, Origin), ()>>,
}

/// Limits of the tables. What was not used for the longest time goes first, so a stranger who asks for many repositories
/// pushes out no token that is in use.
const TOKENS_MAX: usize = 4096;
const SCHEMES_MAX: usize = 1024;
const SCOPES_MAX: usize = 4096;

impl Default for TokenCache {
    fn default() -> Self {
        Self {
            slots: Mutex::new(Recent::new(TOKENS_MAX)),
            schemes: Mutex::new(Recent::new(SCHEMES_MAX)),
            scopes: Mutex::new(Recent::new(SCOPES_MAX)),
            untrusted: Mutex::new(Recent::new(SCHEMES_MAX)),
        }
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

    /// The scopes that `registry` asked for where its path suggests `own`. None if it asked for that one.
    pub(crate) fn scopes(&self, registry: &Origin, own: &str) -> Option<Vec<String>> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.get(&(registry.clone(), own.to_owned())).map(|told| told.clone())
    }

    /// Remembers the scopes that `registry` asked for where its path suggests `own`.
    pub(crate) fn learn_scopes(&self, registry: &Origin, own: String, told: &[String]) {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = told == [own.as_str()];
        let key = (registry.clone(), own);
        if is_same {
            scopes.remove(&key);
        } else {
            scopes.insert(&key, told.to_vec());
        }
    }

    /// Notes that a token server is not the registry's. Returns whether that is new.
    pub(crate) fn note_untrusted(&self, registry: &Origin, realm: &Origin) -> bool {
        let mut untrusted = self.untrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (registry.clone(), realm.clone());
        let is_new = untrusted.get(&key).is_none();
        if is_new {
            untrusted.insert(&key, ());
        }
        is_new
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

/// The lifetime of a token whose server tells none (Docker token authentication, "Token Response Fields"), and the least
/// time for which Go's client uses one, whatever its server tells.
const DEFAULT_LIFETIME_SECONDS: u64 = 60;
const LIFETIME_MAX_SECONDS: u64 = 24 * 3600;

impl Token {
    /// Reads a token server's answer. None if it has no token.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let with_lifetime = serde_json::from_slice(body).ok();
        let Fields { token, access_token, expires_in } = with_lifetime.or_else(|| {
            let FieldsWithoutLifetime { token, access_token } = serde_json::from_slice(body).ok()?;
            Some(Fields { token, access_token, expires_in: Value::Null })
        })?;
        let token = [token, access_token].into_iter().flatten().find(|token| !token.is_empty())?;
        Some(Self { secret: Secret::new(token), told: seconds(&expires_in) })
    }

    /// How long the token holds, as far as its server tells. What a client may do with it ends then.
    pub fn holds_for(&self) -> Duration {
        Duration::from_secs(self.told.unwrap_or(DEFAULT_LIFETIME_SECONDS))
    }

    /// How long entrepot itself uses it. A registry that no longer takes it says so.
    pub(crate) fn reused_for(&self) -> Duration {
        self.holds_for().max(Duration::from_secs(DEFAULT_LIFETIME_SECONDS))
    }
}

/// A lifetime in seconds, at most a day. None if it is no number above zero.
fn seconds(told: &Value) -> Option<u64> {
    let number = told.as_f64().or_else(|| told.as_str()?.trim().parse().ok()).filter(|number| *number >= 1.0)?;
    // The cast of a number that is too large gives the largest one.
    Some((number as u64).min(LIFETIME_MAX_SECONDS))
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

    /// Each `expires_in`, how long the token holds, and how long entrepot uses it. Go's client uses none for less than a
    /// minute.
    #[test]
    fn a_token_is_never_lost_for_what_is_told_of_its_lifetime() {
        const DAY: u64 = 24 * 3600;
        for (told, holds, reused) in [
            ("300", 300, 300),
            ("60", 60, 60),
            ("59", 59, 60),
            ("1", 1, 60),
            ("0", 60, 60),
            ("-1", 60, 60),
            ("-9223372036854775808", 60, 60),
            ("9223372036854775807", DAY, DAY),
            ("99999999999999999999999999", DAY, DAY),
            ("1e300", DAY, DAY),
            ("1e999", 60, 60),
            ("-1e999", 60, 60),
            ("3599.7", 3599, 3599),
            ("0.5", 60, 60),
            ("\"900\"", 900, 900),
            ("\" 900 \"", 900, 900),
            ("\"-5\"", 60, 60),
            ("\"soon\"", 60, 60),
            ("\"NaN\"", 60, 60),
            ("\"inf\"", DAY, DAY),
            ("null", 60, 60),
            ("true", 60, 60),
            ("[300]", 60, 60),
            ("{}", 60, 60),
        ] {
            let text = format!(r#"{{"token":"a","expires_in":{told}}}"#);
            let token = Token::parse(text.as_bytes()).unwrap_or_else(|| panic!("{told}: the token is lost"));
            let times = (token.holds_for().as_secs(), token.reused_for().as_secs());
            assert_eq!((token.secret.expose(), times), ("a", (holds, reused)), "{told}");
            assert!(renew_at(Instant::now(), token.reused_for()) > Instant::now(), "{told}");
        }
    }

    #[test]
    fn token_answers() {
        let parse = |text: &str| Token::parse(text.as_bytes()).map(|token| token.secret.expose().to_owned());
        for (answer, token) in [
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":"a","access_token":"b"}"#, Some("a")),
            (r#"{"token":"","access_token":"c","expires_in":0}"#, Some("c")),
            (r#"{"token":null,"access_token":"c"}"#, Some("c")),
            (r#"{"token":"","access_token":""}"#, None),
            (r#"{"error":"no"}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(parse(answer).as_deref(), token, "{answer}");
        }
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
