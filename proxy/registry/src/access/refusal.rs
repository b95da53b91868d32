//! Why somebody may not, as the client is told: a row of the one error table, and what would help.

use entrepot_core::error::ErrorCode;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::scope::{Action, Scope};
use http::StatusCode;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use super::endpoint::TOKEN_PATH;
use super::policy::Overdrawn;
use super::token::SERVICE;
use entrepot_config::ready::rights::AuthMethod;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;

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
    WrongLogin,
    /// A token that is good, but not for this.
    #[error("the token is not for this; ask for one with the scope {scope}")]
    InsufficientScope {
        /// What it would have to be for.
        scope: Scope,
    },
    /// The account may not.
    #[error("{who} may not {action} {repository}; the administrator's rules ([[registry.rules]]) say who may", action = action.word())]
    Denied {
        /// Who.
        who: String,
        /// What.
        action: Action,
        /// Where.
        repository: RepositoryName,
    },
    /// The account may delete nowhere.
    #[error("a collection is for those who may delete; the administrator's rules ([[registry.rules]]) say who may")]
    MayNotCollect,
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
    /// The answer. `base` is the door as the client reached it, such as `https://host:5443`: what it is told to log in
    /// at is reached the same way.
    pub fn reply(&self, base: &str, auth: AuthMethod) -> Reply {
        match self.challenge(base, auth) {
            Some(challenge) => self.plain().with(WWW_AUTHENTICATE, &challenge),
            None => self.plain(),
        }
    }

    /// The same where no login would help.
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
        // Hosts and scopes are of grammars without quotes.
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
    fn statuses_are_the_tables_but_for_quotas() {
        let tag = || "v1".parse().unwrap();
        let denied = Refusal::Denied { who: "bob".into(), action: Action::Push, repository: "a".parse().unwrap() };
        for (refusal, status, part) in [
            (Refusal::Unauthenticated { scope: None }, 401, "docker login"),
            (Refusal::WrongLogin, 401, "wrong"),
            (Refusal::InsufficientScope { scope: scope() }, 401, "repository:a/b"),
            (denied, 403, "bob may not push a;"),
            (Refusal::MayNotCollect, 403, "may delete"),
            (Refusal::ReadOnly, 405, "read-only"),
            (Refusal::ImmutableTag { tag: tag() }, 403, "v1"),
            (Refusal::Overdrawn(Overdrawn::Repository(Size(1 << 30))), 413, "quota of 1g"),
            (Refusal::Overdrawn(Overdrawn::Total(Size(1 << 30))), 507, "more than 1g"),
            (Refusal::Busy, 429, "again"),
        ] {
            let reply = refusal.reply("https://reg.example", AuthMethod::Token);
            assert_eq!(reply.status, status, "{refusal}");
            assert!(refusal.to_string().contains(part), "{refusal}");
            assert_eq!(reply.headers.contains_key(WWW_AUTHENTICATE), status == 401, "{refusal}");
            assert_eq!(reply.headers.contains_key(RETRY_AFTER), status == 429);
        }
    }

    #[test]
    fn challenges_lead_back_to_where_the_client_came_in() {
        let refusal = Refusal::InsufficientScope { scope: scope() };
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
