//! Who may: accounts, tokens, rules, read-only mode, immutable tags and quotas of the push registry.
//!
//! ```text
//! request ─ credentials ─► users (htpasswd, bcrypt) │ token (our own signer) ─► Visitor
//!           Visitor + action + repository ─► policy (pure) ─► yes │ Refusal ─► row of the error table and challenge
//! /v2/token ─► endpoint ─► what the policy allows of what was asked, signed
//! ```
//!
//! Invariants: what is not allowed is denied; a token only narrows what its account may do now, so a change of the rules
//! or of the htpasswd file is in force for tokens that are out already; a refusal never depends on whether the repository
//! exists.

mod endpoint;
pub mod policy;
pub mod refusal;
#[cfg(test)]
mod tests;
pub mod token;
pub mod users;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::scope::{Action, Actions, Scope};
use http::HeaderMap;
use http::header::AUTHORIZATION;

pub use endpoint::FORM_MAX_BYTES;
pub use policy::{Held, Principal};
pub use refusal::{Reached, Refusal, TOKEN_PATH};

use crate::config::ready::rights::{AuthMethod, Rights};
use crate::secret::Secret;
use policy::{actions, login_matters, something_for_anonymous};
use token::{Signer, Ticket};
use users::{NotRecognised, Users};

/// Who may, as one configuration has it.
pub struct Access {
    rights: Arc<Rights>,
    keys: Arc<Keys>,
    users: Option<Arc<Users>>,
}

/// What outlives a reload of the configuration.
pub struct Keys {
    signer: Signer,
}

/// Somebody who was recognised, or who has no login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Who.
    pub subject: Principal,
    /// The token that they came with; none with a password or without a login.
    ticket: Option<Ticket>,
}

/// What a request has for a login.
enum Credentials {
    None,
    Basic { name: String, password: Secret },
    Bearer(Secret),
    Unreadable,
}

impl Keys {
    /// Those of a data directory; made where they are missing. Works with files: not for the event loop.
    pub fn open_or_create(data_dir: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { signer: Signer::open_or_create(&data_dir.join("registry-token.key"))? }))
    }
}

impl Access {
    /// Reads the htpasswd file, where there is one: not for the event loop. What was recognised under the configuration
    /// `before` stays so, where the file is the same.
    pub fn new(rights: Arc<Rights>, keys: Arc<Keys>, before: Option<&Self>) -> Self {
        let kept = before.and_then(|before| before.users.clone());
        let users = rights.htpasswd.as_deref().map(|path| match kept {
            Some(kept) if kept.path() == path => kept,
            _ => Users::open(path),
        });
        Self { rights, keys, users }
    }

    /// How clients log in.
    pub fn auth(&self) -> AuthMethod {
        self.rights.auth
    }

    /// Recognises who sent a request. Credentials that are wrong are refused, also where none are needed.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        // Nobody can log in, so whatever was sent is meant for somebody else.
        let Some(users) = &self.users else { return Ok(Visitor::anonymous()) };
        match credentials(headers) {
            Credentials::None => Ok(Visitor::anonymous()),
            Credentials::Basic { name, password } => {
                let subject = self.recognise(&name, Some(&password)).await?;
                Ok(Visitor { subject, ticket: None })
            }
            Credentials::Bearer(token) => {
                let wrong = Refusal::WrongCredentials { scope: None };
                let ticket = self.keys.signer.read(token.expose(), SystemTime::now()).map_err(|_| wrong.clone())?;
                let subject = ticket.subject.clone();
                match &subject {
                    Principal::User(name) if !users.has(name).await => Err(wrong),
                    _ => Ok(Visitor { subject, ticket: Some(ticket) }),
                }
            }
            Credentials::Unreadable => Err(Refusal::WrongCredentials { scope: None }),
        }
    }

    /// Whether a caller may do something with a repository.
    pub fn may(&self, caller: &Visitor, action: Action, repository: &RepositoryName) -> Result<(), Refusal> {
        if self.rights.read_only && action != Action::Pull {
            return Err(Refusal::ReadOnly);
        }
        let scope = || Scope::Repository { name: repository.clone(), actions: asked_with(action) };
        let allowed = actions(&self.rights, &caller.subject, repository).contains(action);
        match (allowed, &caller.subject, &caller.ticket) {
            (false, Principal::Anonymous, _) if self.users.is_some() => {
                Err(Refusal::Unauthenticated { scope: Some(scope()) })
            }
            (false, subject, _) => Err(Refusal::Denied {
                subject: if *subject == Principal::Anonymous { "nobody".into() } else { subject.name().to_owned() },
                action,
                repository: repository.clone(),
            }),
            (true, _, Some(ticket)) if !ticket.covers(&single(repository, action)) => {
                Err(Refusal::InsufficientScope { scope: scope() })
            }
            (true, ..) => Ok(()),
        }
    }

    /// Whether a caller is answered at `/v2/`, where clients find out if they have to log in.
    pub fn may_ping(&self, caller: &Visitor) -> Result<(), Refusal> {
        let refused = match (&caller.subject, &caller.ticket) {
            (Principal::User(_), _) => false,
            (Principal::Anonymous, None) => login_matters(&self.rights),
            (Principal::Anonymous, Some(_)) => !something_for_anonymous(&self.rights),
        };
        if refused { Err(Refusal::Unauthenticated { scope: None }) } else { Ok(()) }
    }

    /// Whether a caller may list repositories: those of them that [`Access::may`] let it pull.
    pub fn may_list(&self, caller: &Visitor) -> Result<(), Refusal> {
        let scope = Scope::Catalog;
        match (&caller.subject, &caller.ticket) {
            (Principal::Anonymous, _) if self.users.is_some() && !something_for_anonymous(&self.rights) => {
                Err(Refusal::Unauthenticated { scope: Some(scope) })
            }
            (_, Some(ticket)) if !ticket.covers(&scope) => Err(Refusal::InsufficientScope { scope }),
            _ => Ok(()),
        }
    }

    /// Whether a repository is shown to a caller in a list.
    pub fn may_see(&self, caller: &Visitor, repository: &RepositoryName) -> bool {
        actions(&self.rights, &caller.subject, repository).contains(Action::Pull)
    }

    /// Whether a tag may be set to `manifest`; it points to `current` so far.
    pub fn may_set_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        current: Option<&Digest>,
        manifest: &Digest,
    ) -> Result<(), Refusal> {
        let moves = current.is_some_and(|current| current != manifest);
        if moves { self.may_remove_tag(repository, tag) } else { Ok(()) }
    }

    /// Whether a tag may go, by itself or with the manifest that it points to.
    pub fn may_remove_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), Refusal> {
        match policy::is_immutable(&self.rights, repository, tag) {
            true => Err(Refusal::ImmutableTag { tag: tag.clone() }),
            false => Ok(()),
        }
    }

    /// Whether any quota is set, so that counting what is held is worth its while.
    pub fn has_quotas(&self) -> bool {
        self.rights.max_size.is_some() || !self.rights.quotas.is_empty()
    }

    /// Whether there is room for more bytes in a repository.
    pub fn room(&self, repository: &RepositoryName, held: Held, adding_bytes: u64) -> Result<(), Refusal> {
        policy::room(&self.rights, repository, held, adding_bytes).map_err(Refusal::Overdrawn)
    }

    /// What a person reads at start: who may what.
    pub fn told(&self) -> String {
        let anonymous = match self.rights.anonymous {
            Actions::NONE => "nobody may pull or push without a login".to_owned(),
            everything if everything == Actions::ALL => {
                "everybody may pull, push and delete without a login (registry.anonymous = \"push\")".to_owned()
            }
            some => format!("everybody may {some} without a login"),
        };
        let rules = match self.rights.rules.len() {
            0 => String::new(),
            rules => format!(", but for what {rules} rules say"),
        };
        let read_only = if self.rights.read_only { "; read-only for now" } else { "" };
        format!("{anonymous}{rules}{read_only}")
    }

    async fn recognise(&self, name: &str, password: Option<&Secret>) -> Result<Principal, Refusal> {
        let wrong = Refusal::WrongCredentials { scope: None };
        let (Some(users), Some(password)) = (&self.users, password) else { return Err(wrong) };
        match users.check(name, password).await {
            Ok(()) => Ok(Principal::User(name.into())),
            Err(NotRecognised::Wrong) => Err(wrong),
            Err(NotRecognised::Busy) => Err(Refusal::Busy),
        }
    }
}

impl Visitor {
    /// Somebody without a login.
    pub fn anonymous() -> Self {
        Self { subject: Principal::Anonymous, ticket: None }
    }
}

/// What a token for an action is asked for with: who pushes or deletes looks first.
fn asked_with(action: Action) -> Actions {
    Actions::from(Action::Pull).or(action.into())
}

fn single(repository: &RepositoryName, action: Action) -> Scope {
    Scope::Repository { name: repository.clone(), actions: action.into() }
}

fn credentials(headers: &HeaderMap) -> Credentials {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Credentials::None,
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    let read = || {
        let (scheme, given) = value?.split_once(' ')?;
        let given = given.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Credentials::Bearer(Secret::new(given)));
        }
        let text = String::from_utf8(STANDARD.decode(given).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        let basic = || Credentials::Basic { name: name.to_owned(), password: Secret::new(password) };
        scheme.eq_ignore_ascii_case("basic").then(basic)
    };
    read().unwrap_or(Credentials::Unreadable)
}
