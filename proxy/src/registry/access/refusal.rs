//! Why somebody may not, as the client is told: a row of the one error table, and what would help.

use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::scope::{Action, Scope};
use http::StatusCode;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use super::policy::Overdrawn;
use super::token::SERVICE;
use crate::config::ready::Scheme;
use crate::config::ready::rights::AuthMethod;
use crate::http::reply::Reply;

/// Why not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A login is missing, and might help.
    #[error("authentication required: log in with an account of this registry (docker login)")]
    Unauthenticated {
        /// What a token would have to be for; none where any will do.
        scope: Option<Scope>,
    },
    /// Name, password or token are wrong, or the token's time is over.
    #[error("the name, password or token is wrong, or the token has expired; log in again")]
    WrongCredentials {
        /// What a token would have to be for.
        scope: Option<Scope>,
    },
    /// A token that is good, but not for this.
    #[error("the token is not for this; ask for one with the scope {scope}")]
    InsufficientScope {
        /// What it would have to be for.
        scope: Scope,
    },
    /// The account may not.
    #[error("{subject} may not {action} {repository}; the administrator's rules ([[registry.rules]]) say who may", action = action.word())]
    Denied {
        /// Who.
        subject: String,
        /// What.
        action: Action,
        /// Where.
        repository: RepositoryName,
    },
    /// `read_only`.
    #[error("this registry is read-only for now (registry.read_only); nothing is pushed or deleted")]
    ReadOnly,
    /// `immutable_tags`.
    #[error("the tag {tag} is immutable (registry.immutable_tags) and keeps its manifest; push under another tag")]
    ImmutableTag {
        /// Which one.
        tag: Tag,
    },
    /// A quota.
    #[error("{}", overdrawn(.0))]
    Overdrawn(Overdrawn),
    /// More passwords wait to be compared than may.
    #[error("too many logins at once, try again in a moment")]
    Busy,
}

/// How a client reached the registry: what it is told to log in at must be reached the same way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// What it speaks.
    pub scheme: Scheme,
    /// By which name.
    pub host: RegistryHost,
    /// How it may log in.
    pub auth: AuthMethod,
}

/// Where tokens are had.
pub const TOKEN_PATH: &str = "/v2/token";

fn overdrawn(limit: &Overdrawn) -> String {
    match limit {
        Overdrawn::Repository(limit) => {
            format!(
                "the repository would hold more than its quota of {limit} ([[registry.quotas]]); delete from it first"
            )
        }
        Overdrawn::Total(limit) => {
            format!("pushed content would take more than {limit} (registry.max_size); delete something first")
        }
    }
}

impl Refusal {
    /// The answer.
    pub fn reply(&self, reached: &Reached) -> Reply {
        let (status, code, reason) = self.row();
        let reply = Reply::error_with_status(status, code, &self.to_string()).because(reason);
        match self {
            Self::Busy => reply.with(RETRY_AFTER, "1"),
            _ => match self.challenge(reached) {
                Some(challenge) => reply.with(WWW_AUTHENTICATE, &challenge),
                None => reply,
            },
        }
    }

    fn row(&self) -> (StatusCode, ErrorCode, &'static str) {
        let usual = |code: ErrorCode, reason| (code.status(), code, reason);
        match self {
            Self::Unauthenticated { .. } => usual(ErrorCode::Unauthorized, "unauthenticated"),
            Self::WrongCredentials { .. } => usual(ErrorCode::Unauthorized, "wrong_credentials"),
            Self::InsufficientScope { .. } => usual(ErrorCode::Unauthorized, "insufficient_scope"),
            Self::Denied { .. } => usual(ErrorCode::Denied, "denied"),
            Self::ReadOnly => usual(ErrorCode::Unsupported, "read_only"),
            Self::ImmutableTag { .. } => usual(ErrorCode::Denied, "immutable_tag"),
            Self::Overdrawn(Overdrawn::Repository(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::Denied, "repository_quota")
            }
            Self::Overdrawn(Overdrawn::Total(_)) => {
                (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Denied, "registry_quota")
            }
            Self::Busy => usual(ErrorCode::TooManyRequests, "logins"),
        }
    }

    fn challenge(&self, reached: &Reached) -> Option<String> {
        let (scope, error) = match self {
            Self::Unauthenticated { scope } => (scope.as_ref(), None),
            Self::WrongCredentials { scope } => (scope.as_ref(), Some("invalid_token")),
            Self::InsufficientScope { scope } => (Some(scope), Some("insufficient_scope")),
            _ => return None,
        };
        if reached.auth == AuthMethod::Basic {
            return Some(format!("Basic realm=\"{SERVICE}\""));
        }
        let (scheme, default_port) = match reached.scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let host = reached.host.authority(default_port);
        let mut challenge = format!("Bearer realm=\"{scheme}://{host}{TOKEN_PATH}\",service=\"{SERVICE}\"");
        // Names, hosts and scopes are of grammars without quotes.
        challenge += &scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        challenge += &error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
        Some(challenge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_core::challenge::Challenge;
    use entrepot_core::quantity::Size;
    use entrepot_core::scope::Actions;

    fn reached(scheme: Scheme, host: &str, auth: AuthMethod) -> Reached {
        Reached { scheme, host: RegistryHost::parse(host, 443).unwrap(), auth }
    }

    fn scope() -> Scope {
        Scope::Repository { name: "a/b".parse().unwrap(), actions: Actions::ALL }
    }

    #[test]
    fn statuses_are_the_tables_but_for_quotas() {
        let tag = || "v1".parse().unwrap();
        let denied = Refusal::Denied { subject: "bob".into(), action: Action::Push, repository: "a".parse().unwrap() };
        for (refusal, status, part) in [
            (Refusal::Unauthenticated { scope: None }, 401, "docker login"),
            (Refusal::WrongCredentials { scope: None }, 401, "wrong"),
            (Refusal::InsufficientScope { scope: scope() }, 401, "repository:a/b"),
            (denied, 403, "bob may not push a;"),
            (Refusal::ReadOnly, 405, "read-only"),
            (Refusal::ImmutableTag { tag: tag() }, 403, "v1"),
            (Refusal::Overdrawn(Overdrawn::Repository(Size(1 << 30))), 413, "quota of 1g"),
            (Refusal::Overdrawn(Overdrawn::Total(Size(1 << 30))), 507, "more than 1g"),
            (Refusal::Busy, 429, "again"),
        ] {
            let reply = refusal.reply(&reached(Scheme::Https, "reg.example", AuthMethod::Token));
            assert_eq!(reply.status, status, "{refusal}");
            assert!(refusal.to_string().contains(part), "{refusal}");
            assert_eq!(reply.headers.contains_key(WWW_AUTHENTICATE), status == 401, "{refusal}");
            assert_eq!(reply.headers.contains_key(RETRY_AFTER), status == 429);
        }
    }

    #[test]
    fn challenges_lead_back_to_where_the_client_came_in() {
        let refusal = Refusal::InsufficientScope { scope: scope() };
        for (scheme, host, realm) in [
            (Scheme::Http, "docker-registry.local:80", "http://docker-registry.local/v2/token"),
            (Scheme::Http, "localhost:5000", "http://localhost:5000/v2/token"),
            (Scheme::Https, "docker-registry.local", "https://docker-registry.local/v2/token"),
            (Scheme::Https, "[fd00::1]:5443", "https://[fd00::1]:5443/v2/token"),
        ] {
            let text = refusal.challenge(&reached(scheme, host, AuthMethod::Token)).unwrap();
            let [Challenge::Bearer { realm: found, service, scope }] = &Challenge::parse([&*text])[..] else {
                panic!("{text}")
            };
            assert_eq!((found.as_str(), service.as_deref()), (realm, Some("entrepot")), "{text}");
            assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push,delete"));
            let basic = refusal.challenge(&reached(scheme, host, AuthMethod::Basic));
            assert_eq!(basic.as_deref(), Some("Basic realm=\"entrepot\""));
        }
    }
}
