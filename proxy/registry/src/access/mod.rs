//! Who may: accounts, tokens, rules, read-only mode, immutable tags and quotas of the push registry.
//!
//! ```text
//! request ─ login ─► users (htpasswd, bcrypt) │ token (our own signer) ─► Visitor
//!           Visitor + Wish ─► policy (pure) ─► granted │ Refusal ─► row of the error table and challenge
//! /v2/token ─► endpoint ─► what the policy allows of what was asked, signed
//! ```
//!
//! Invariants: what is not allowed is denied; a token only narrows what its account may do now, so a change of the rules
//! or of the htpasswd file is in force for tokens that are out already; a refusal never depends on whether the repository
//! exists.

mod endpoint;
mod login;
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

use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::quantity::Size;
use entrepot_core::scope::{Actions, Scope};

pub use endpoint::{FORM_MAX_BYTES, TOKEN_PATH};
pub use entrepot_core::scope::Action;
pub use policy::{Held, Principal};
pub use refusal::Refusal;

use entrepot_config::ready::rights::{AuthMethod, Rights};
use entrepot_core::secret::Secret;
use login::Login;
use policy::{actions, login_matters, something_for_anonymous};
use token::{Signer, Ticket};
use users::{NotRecognised, Users};

/// In the data directory.
const TOKEN_KEY: &str = "registry-token.key";

/// Who may, as one configuration has it.
pub struct Access {
    rights: Arc<Rights>,
    signer: Arc<Signer>,
    users: Option<Arc<Users>>,
}

/// A client as the door knows it after its `Authorization` was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Who it is.
    pub principal: Principal,
    /// The token that it came with; none with a password or without a login.
    ticket: Option<Ticket>,
}

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish<'a> {
    /// `GET /v2/`, where clients find out whether they have to log in.
    Ping,
    /// The list of repositories; of them it shows those that [`Access::may_see`] lets through.
    Catalog,
    /// A collection, which takes nothing that anybody needs, but is for those who may delete somewhere.
    Collect,
    /// Something in one repository.
    In(&'a RepositoryName, Action),
}

impl Access {
    /// With the accounts of the htpasswd file, where there is one, and the key of the data directory, which is made where
    /// it is missing. Works with files: not for the event loop.
    pub fn open(rights: Arc<Rights>, data_dir: &Path) -> io::Result<Self> {
        let signer = Arc::new(Signer::open_or_create(&data_dir.join(TOKEN_KEY))?);
        let users = rights.htpasswd.as_deref().map(Users::open);
        Ok(Self { rights, signer, users })
    }

    /// The same under another configuration: tokens that are out hold on, and so does who was recognised, where the
    /// htpasswd file is the same. Works with files.
    pub fn renewed(&self, rights: Arc<Rights>) -> Self {
        let users = rights.htpasswd.as_deref().map(|path| match &self.users {
            Some(kept) if kept.path() == path => kept.clone(),
            _ => Users::open(path),
        });
        Self { rights, signer: self.signer.clone(), users }
    }

    /// How clients are asked to log in.
    pub fn auth(&self) -> AuthMethod {
        self.rights.auth
    }

    /// Who sent a request with this `Authorization`. A login that is wrong is refused, also where none is needed.
    pub async fn identify(&self, authorization: Option<&Secret>) -> Result<Visitor, Refusal> {
        // Nobody can log in, so whatever was sent is meant for somebody else.
        let Some(users) = &self.users else { return Ok(Visitor::anonymous()) };
        match Login::read(authorization) {
            Login::None => Ok(Visitor::anonymous()),
            Login::Basic { name, password } => {
                let principal = self.recognise(&name, Some(&password)).await?;
                Ok(Visitor { principal, ticket: None })
            }
            Login::Bearer(token) => {
                let ticket = self.signer.read(token.expose(), SystemTime::now());
                let ticket = ticket.map_err(|_| Refusal::WrongLogin)?;
                match &ticket.principal {
                    Principal::User(name) if !users.has(name).await => Err(Refusal::WrongLogin),
                    _ => Ok(Visitor { principal: ticket.principal.clone(), ticket: Some(ticket) }),
                }
            }
            Login::Unreadable => Err(Refusal::WrongLogin),
        }
    }

    /// Whether the visitor may.
    pub fn may(&self, visitor: &Visitor, wish: &Wish<'_>) -> Result<(), Refusal> {
        match *wish {
            Wish::Ping => self.may_ping(visitor),
            Wish::Catalog => self.may_list(visitor),
            Wish::Collect => self.may_collect(visitor),
            Wish::In(repository, action) => self.may_act(visitor, repository, action),
        }
    }

    /// Whether a repository is shown to a visitor in a list, or answers for another one that he may pull: the rules alone,
    /// whatever his token is for.
    pub fn may_see(&self, visitor: &Visitor, repository: &RepositoryName) -> bool {
        actions(&self.rights, &visitor.principal, repository).contains(Action::Pull)
    }

    /// Whether a tag that exists may be moved to other content, or go, by itself or with its manifest.
    pub fn may_move(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), Refusal> {
        match policy::is_immutable(&self.rights, repository, tag) {
            true => Err(Refusal::ImmutableTag { tag: tag.clone() }),
            false => Ok(()),
        }
    }

    /// Whether a quota covers the repository, so that counting what is held is worth its while.
    pub fn has_quota(&self, repository: &RepositoryName) -> bool {
        policy::has_quota(&self.rights, repository)
    }

    /// Whether all pushed content together has a quota.
    pub fn has_total_quota(&self) -> bool {
        self.rights.max_size.is_some()
    }

    /// What a repository may hold by itself, where that is limited.
    pub fn quota(&self, repository: &RepositoryName) -> Option<Size> {
        policy::quota(&self.rights, repository)
    }

    /// What all pushed content may take, where that is limited.
    pub fn max_size(&self) -> Option<Size> {
        self.rights.max_size
    }

    /// Whether nothing is pushed or deleted for now.
    pub fn is_read_only(&self) -> bool {
        self.rights.read_only
    }

    /// Whether there are accounts at all.
    pub fn has_accounts(&self) -> bool {
        self.users.is_some()
    }

    /// Whether so much may be held.
    pub fn room(&self, repository: &RepositoryName, after: Held) -> Result<(), Refusal> {
        policy::room(&self.rights, repository, after).map_err(Refusal::Overdrawn)
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

    fn may_act(&self, visitor: &Visitor, repository: &RepositoryName, action: Action) -> Result<(), Refusal> {
        if self.rights.read_only && action != Action::Pull {
            return Err(Refusal::ReadOnly);
        }
        let allowed = actions(&self.rights, &visitor.principal, repository).contains(action);
        let scope = |actions| Scope::Repository { name: repository.clone(), actions };
        match (allowed, &visitor.principal, &visitor.ticket) {
            (false, Principal::Anonymous, _) if self.users.is_some() => {
                Err(Refusal::Unauthenticated { scope: Some(scope(asked_with(action))) })
            }
            (false, principal, _) => {
                let who = principal.user().unwrap_or("nobody").to_owned();
                Err(Refusal::Denied { who, action, repository: repository.clone() })
            }
            (true, _, Some(ticket)) if !ticket.covers(&scope(action.into())) => {
                Err(Refusal::InsufficientScope { scope: scope(asked_with(action)) })
            }
            (true, ..) => Ok(()),
        }
    }

    fn may_ping(&self, visitor: &Visitor) -> Result<(), Refusal> {
        let refused = match (&visitor.principal, &visitor.ticket) {
            (Principal::User(_), _) => false,
            (Principal::Anonymous, None) => login_matters(&self.rights),
            (Principal::Anonymous, Some(_)) => !something_for_anonymous(&self.rights),
        };
        if refused { Err(Refusal::Unauthenticated { scope: None }) } else { Ok(()) }
    }

    fn may_list(&self, visitor: &Visitor) -> Result<(), Refusal> {
        let scope = Scope::Catalog;
        match (&visitor.principal, &visitor.ticket) {
            (Principal::Anonymous, _) if self.users.is_some() && !something_for_anonymous(&self.rights) => {
                Err(Refusal::Unauthenticated { scope: Some(scope) })
            }
            (_, Some(ticket)) if !ticket.covers(&scope) => Err(Refusal::InsufficientScope { scope }),
            _ => Ok(()),
        }
    }

    fn may_collect(&self, visitor: &Visitor) -> Result<(), Refusal> {
        let allowed = policy::deletes_somewhere(&self.rights, &visitor.principal);
        match (allowed, &visitor.principal) {
            _ if self.rights.read_only => Err(Refusal::ReadOnly),
            // A token is for repositories, and this is for none.
            (true, _) if visitor.ticket.is_none() => Ok(()),
            (false, Principal::Anonymous) if self.users.is_some() => Err(Refusal::Unauthenticated { scope: None }),
            _ => Err(Refusal::MayNotCollect),
        }
    }

    async fn recognise(&self, name: &str, password: Option<&Secret>) -> Result<Principal, Refusal> {
        let (Some(users), Some(password)) = (&self.users, password) else { return Err(Refusal::WrongLogin) };
        match users.check(name, password).await {
            Ok(()) => Ok(Principal::User(name.into())),
            Err(NotRecognised::Wrong) => Err(Refusal::WrongLogin),
            Err(NotRecognised::Busy) => Err(Refusal::Busy),
        }
    }
}

impl Visitor {
    /// Somebody without a login.
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, ticket: None }
    }
}

/// What a token for an action is asked for with: who pushes or deletes looks first.
fn asked_with(action: Action) -> Actions {
    Actions::from(Action::Pull).or(action.into())
}
