//! The refusals of access control as replies: an entry of the error table with a message and a challenge.

use entrepot_core::error::ErrorCode;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::scope::{Action, Scope};
use http::StatusCode;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use super::policy::Overdrawn;
use super::token::SERVICE;
use entrepot_config::ready::rights::AuthMethod;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;

/// The path of the endpoint, beside `/v2/`.
pub const TOKEN_PATH: &str = "/token";

/// The reason why a request is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessRefusal {
    /// The client sent no login, and one might help.
    #[error("authentication required: log in with an account of this registry (docker login)")]
    Unauthenticated {
        /// The scope that a token needs; None if any token suffices.
        scope: Option<Scope>,
    },
    #[error("the name, password or token is wrong, or the token has expired; log in again")]
    WrongLogin,
    /// The token is valid, but for another scope than this one.
    #[error("the scope of the token is too narrow; request a token with the scope {scope}")]
    InsufficientScope { scope: Scope },
    #[error("{who} may not {action} {repository}; the administrator's rules ([[registry.rules]]) decide that", action = action.word())]
    Denied { who: String, action: Action, repository: RepositoryName },
    #[error("a collection needs the right to delete; the administrator's rules ([[registry.rules]]) decide that")]
    MayNotCollect,
    #[error("this registry is read-only for now (registry.read_only); pushes and deletions are refused")]
    ReadOnly,
    #[error("the tag {tag} is immutable (registry.immutable_tags) and keeps its manifest; push under another tag")]
    ImmutableTag { tag: Tag },
    #[error(
        "the tag {tag} was pushed with a login, so moving it needs one too (docker login), or registry.anonymous = \
         \"delete\"; push under another tag"
    )]
    TagOfAnAccount { tag: Tag },
    #[error("{}", overdrawn(.0))]
    Overdrawn(Overdrawn),
    /// Too many passwords wait for their comparison.
    #[error("too many logins at once; try again in a moment")]
    Busy,
}

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

impl AccessRefusal {
    /// The reply. `base` is the URL by which the client reached the door, such as `https://host:5443`; the challenge
    /// names the token endpoint below it.
    pub fn reply(&self, base: &str, auth: AuthMethod) -> Reply {
        match self.challenge(base, auth) {
            Some(challenge) => self.plain().with(WWW_AUTHENTICATE, &challenge),
            None => self.plain(),
        }
    }

    /// The reply without a challenge, for callers for which a login would not help.
    pub fn plain(&self) -> Reply {
        let (status, code, reason) = self.row();
        let reply = Reply::error_with_status(status, code, &self.to_string()).because(reason);
        if *self == Self::Busy { reply.with(RETRY_AFTER, "1") } else { reply }
    }

    fn row(&self) -> (StatusCode, ErrorCode, Refused) {
        let usual = |code: ErrorCode, reason| (code.status(), code, reason);
        match self {
            Self::Unauthenticated { .. } => usual(ErrorCode::Unauthorized, Refused::Unauthenticated),
            Self::WrongLogin => usual(ErrorCode::Unauthorized, Refused::WrongLogin),
            Self::InsufficientScope { .. } => usual(ErrorCode::Unauthorized, Refused::InsufficientScope),
            Self::Denied { .. } | Self::MayNotCollect => usual(ErrorCode::Denied, Refused::Denied),
            Self::ReadOnly => usual(ErrorCode::Unsupported, Refused::ReadOnly),
            Self::TagOfAnAccount { .. } => usual(ErrorCode::Denied, Refused::Denied),
            Self::ImmutableTag { .. } => usual(ErrorCode::Denied, Refused::ImmutableTag),
            Self::Overdrawn(Overdrawn::Repository(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::Denied, Refused::RepositoryQuota)
            }
            Self::Overdrawn(Overdrawn::Total(_)) => {
                (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Denied, Refused::RegistryQuota)
            }
            Self::Busy => usual(ErrorCode::TooManyRequests, Refused::Logins),
        }
    }

    fn challenge(&self, base: &str, auth: AuthMethod) -> Option<String> {
        let (scope, error) = match self {
            Self::Unauthenticated { scope } => (scope.as_ref(), None),
            Self::WrongLogin => (None, Some("invalid_token")),
            Self::InsufficientScope { scope } => (Some(scope), Some("insufficient_scope")),
            _ => return None,
        };
        if auth == AuthMethod::Basic {
            return Some(format!("Basic realm=\"{SERVICE}\""));
        }
        // Hosts and scopes cannot contain quotes.
        let mut challenge = format!("Bearer realm=\"{base}{TOKEN_PATH}\",service=\"{SERVICE}\"");
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

    fn scope() -> Scope {
        Scope::Repository { name: "a/b".parse().unwrap(), actions: Actions::ALL }
    }

    #[test]
    fn statuses_are_those_of_the_table_except_for_quotas() {
        let tag = || "v1".parse().unwrap();
        let denied =
            AccessRefusal::Denied { who: "bob".into(), action: Action::Push, repository: "a".parse().unwrap() };
        for (refusal, status, part) in [
            (AccessRefusal::Unauthenticated { scope: None }, 401, "docker login"),
            (AccessRefusal::WrongLogin, 401, "wrong"),
            (AccessRefusal::InsufficientScope { scope: scope() }, 401, "repository:a/b"),
            (denied, 403, "bob may not push a;"),
            (AccessRefusal::MayNotCollect, 403, "right to delete"),
            (AccessRefusal::ReadOnly, 405, "read-only"),
            (AccessRefusal::ImmutableTag { tag: tag() }, 403, "v1"),
            (AccessRefusal::TagOfAnAccount { tag: tag() }, 403, "v1 was pushed with a login"),
            (AccessRefusal::Overdrawn(Overdrawn::Repository(Size(1 << 30))), 413, "quota of 1g"),
            (AccessRefusal::Overdrawn(Overdrawn::Total(Size(1 << 30))), 507, "more than 1g"),
            (AccessRefusal::Busy, 429, "again"),
        ] {
            let reply = refusal.reply("https://reg.example", AuthMethod::Token);
            assert_eq!(reply.status, status, "{refusal}");
            assert!(refusal.to_string().contains(part), "{refusal}");
            assert_eq!(reply.headers.contains_key(WWW_AUTHENTICATE), status == 401, "{refusal}");
            assert_eq!(reply.headers.contains_key(RETRY_AFTER), status == 429);
        }
    }

    #[test]
    fn challenges_name_the_address_that_the_client_used() {
        let refusal = AccessRefusal::InsufficientScope { scope: scope() };
        for base in ["http://docker-registry.local", "http://localhost:5000", "https://[fd00::1]:5443"] {
            let text = refusal.challenge(base, AuthMethod::Token).unwrap();
            let [Challenge::Bearer { realm: found, service, scope }] = &Challenge::parse([&*text])[..] else {
                panic!("{text}")
            };
            assert_eq!((found.as_str(), service.as_deref()), (&*format!("{base}/token"), Some("entrepot")), "{text}");
            assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push,delete"));
            let basic = refusal.challenge(base, AuthMethod::Basic);
            assert_eq!(basic.as_deref(), Some("Basic realm=\"entrepot\""));
        }
    }
}
