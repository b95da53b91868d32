//! Docker token authentication for the fake upstream: accounts, the repositories that each may read, and tokens that
//! name their account.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entrepot_core::route::Route;
use http::Method;

use super::{Answer, Seen, Upstream};

/// The accounts of a registry and what they may read. Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct TokenServer {
    allowed: Arc<Mutex<HashSet<(String, String)>>>,
}

/// The name in tokens for clients without a login.
pub(crate) const NOBODY: &str = "nobody";

impl TokenServer {
    /// Puts a registry under token authentication. Its realm is `/token` of the registry itself. A user's password is
    /// `<user>-password`.
    pub(crate) fn protect(upstream: &Upstream) -> Self {
        let server = Self::default();
        upstream.on("/token", |seen| match user_of(seen.header("authorization")) {
            Some(user) => Answer::json(200, format!(r#"{{"token":"token-of-{user}","expires_in":300}}"#)),
            None => Answer::json(401, r#"{"details":"wrong login"}"#),
        });
        server.guard_again(upstream);
        server
    }

    /// Judges requests again, after another guard did.
    pub(crate) fn guard_again(&self, upstream: &Upstream) {
        let (judge, realm) = (self.clone(), upstream.url("/token"));
        upstream.guard(move |seen| judge.refusal(seen, &realm));
    }

    pub(crate) fn allow(&self, user: &str, repository: &str) {
        self.table().insert((user.to_owned(), repository.to_owned()));
    }

    pub(crate) fn revoke(&self, user: &str, repository: &str) {
        self.table().remove(&(user.to_owned(), repository.to_owned()));
    }

    /// The refusal of a request below `/v2/`. None if its token is good for it.
    pub(crate) fn refusal(&self, seen: &Seen, realm: &str) -> Option<Answer> {
        if !seen.path.starts_with("/v2/") {
            return None;
        }
        let route = Route::parse(&Method::GET, &seen.path, None).expect("a route");
        let repository = route.repository().map(ToString::to_string);
        let user = seen.header("authorization").strip_prefix("Bearer token-of-");
        let permitted = match (user, &repository) {
            (Some(user), Some(repository)) => self.table().contains(&(user.to_owned(), repository.clone())),
            (user, _) => user.is_some(),
        };
        let scope = repository.map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"{scope}");
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"the fake wants a token"}]}"#;
        (!permitted).then(|| Answer::json(401, body).header("www-authenticate", &challenge))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
        self.allowed.lock().expect("no test panics while it holds this")
    }
}

fn user_of(authorization: &str) -> Option<String> {
    if authorization.is_empty() {
        return Some(NOBODY.to_owned());
    }
    let pair = STANDARD.decode(authorization.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (user, password) = pair.split_once(':')?;
    (password == format!("{user}-password")).then(|| user.to_owned())
}
