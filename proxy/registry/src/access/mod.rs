//! Access control of the push registry: accounts, tokens, rules, read-only mode, immutable tags and quotas.
//!
//! ```text
//! request ─► login ─► users (htpasswd, bcrypt) or token (our own signer) ─► Visitor
//! Visitor + Wish ─► policy (pure) ─► allowed, or AccessRefusal ─► an entry of the error table, with a challenge
//! /token ─► endpoint ─► a signed token for the part of the requested scopes that the policy allows
//! ```
//!
//! Invariants: everything that is not allowed is denied. A token only narrows what its account may do now, so a change
//! of the rules or of the htpasswd file also applies to tokens that were issued before. A refusal never depends on
//! whether the repository exists.

mod comparers;
mod endpoint;
mod login;
mod policy;
mod refusal;
#[cfg(test)]
mod tests;
pub(crate) mod token;
mod users;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::client::ClientKey;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::quantity::Size;
use entrepot_core::scope::{Actions, Scope};

pub use endpoint::FORM_MAX_BYTES;
pub use entrepot_core::scope::Action;
pub use policy::{Held, Principal};
pub use refusal::AccessRefusal;
pub use refusal::TOKEN_PATH;

use entrepot_config::ready::rights::{AuthMethod, Rights};
use entrepot_core::secret::Secret;
use entrepot_store::PushedBy;
use login::Login;
use policy::{actions, login_matters, something_for_anonymous};
use token::{Signer, Ticket};
use users::{NotRecognised, Users};

/// The file of the signing key, in the data directory.
const TOKEN_KEY: &str = "registry-token.key";

/// The access rules of one configuration.
pub struct AccessControl {
    rights: Arc<Rights>,
    signer: Arc<Signer>,
    users: Option<Arc<Users>>,
}

/// A client after its `Authorization` was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    pub principal: Principal,
    /// None if the client sent a password or no login.
    ticket: Option<Ticket>,
}

/// The permission that a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish<'a> {
    /// `GET /v2/`, by which clients find out whether they have to log in.
    Ping,
    /// The list of repositories. It shows those that [`AccessControl::may_see`] allows.
    Catalog,
    /// A collection of unreferenced content. It needs the right to delete in some repository.
    Collect,
    /// An action in one repository.
    In(&'a RepositoryName, Action),
}

impl AccessControl {
    /// Reads the accounts of the htpasswd file, if there is one, and the signing key in the data directory. Makes a key
    /// if it is missing. Blocks: not for the event loop.
    pub fn open(rights: Arc<Rights>, data_dir: &Path) -> io::Result<Self> {
        let signer = Arc::new(Signer::open_or_create(&data_dir.join(TOKEN_KEY))?);
        let users = rights.htpasswd.as_deref().map(Users::open);
        Ok(Self { rights, signer, users })
    }

    /// Access control whose tokens hold until this process ends, where the disk does not take the file of the key.
    pub fn with_passing_key(rights: Arc<Rights>) -> io::Result<Self> {
        let signer = Arc::new(Signer::passing()?);
        let users = rights.htpasswd.as_deref().map(Users::open);
        Ok(Self { rights, signer, users })
    }

    /// Access control under another configuration. Issued tokens stay valid. If the htpasswd file is the same,
    /// passwords that were verified stay remembered. Blocks.
    pub fn renewed(&self, rights: Arc<Rights>) -> Self {
        let users = rights.htpasswd.as_deref().map(|path| match &self.users {
            Some(kept) if kept.path() == path => kept.clone(),
            _ => Users::open(path),
        });
        Self { rights, signer: self.signer.clone(), users }
    }

    /// The method by which clients are asked to log in.
    pub fn auth(&self) -> AuthMethod {
        self.rights.auth
    }

    /// The account of the client that sent this `Authorization`. A wrong login is refused even if none is needed.
    pub async fn identify(&self, client: ClientKey, authorization: Option<&Secret>) -> Result<Visitor, AccessRefusal> {
        // Without accounts no client can log in: the login is meant for another server.
        let Some(users) = &self.users else { return Ok(Visitor::anonymous()) };
        match Login::read(authorization) {
            Login::None => Ok(Visitor::anonymous()),
            Login::Basic { name, password } => {
                let principal = self.recognise(client, &name, Some(&password)).await?;
                Ok(Visitor { principal, ticket: None })
            }
            Login::Bearer(token) => {
                let ticket = self.signer.read(token.expose(), SystemTime::now());
                let ticket = ticket.map_err(|_| AccessRefusal::WrongLogin)?;
                match &ticket.principal {
                    Principal::User(name) if !users.has(name).await => Err(AccessRefusal::WrongLogin),
                    _ => Ok(Visitor { principal: ticket.principal.clone(), ticket: Some(ticket) }),
                }
            }
            Login::Unreadable => Err(AccessRefusal::WrongLogin),
        }
    }

    /// Whether the client has the permission.
    pub fn may(&self, visitor: &Visitor, wish: &Wish<'_>) -> Result<(), AccessRefusal> {
        match *wish {
            Wish::Ping => self.may_ping(visitor),
            Wish::Catalog => self.may_list(visitor),
            Wish::Collect => self.may_collect(visitor),
            Wish::In(repository, action) => self.may_act(visitor, repository, action),
        }
    }

    /// Whether the client sees a repository in a list, or gets content that another repository shares with it. Only the
    /// rules count, not the scope of a token.
    pub fn may_see(&self, visitor: &Visitor, repository: &RepositoryName) -> bool {
        actions(&self.rights, &visitor.principal, repository).contains(Action::Pull)
    }

    /// Whether an existing tag may change at all: move, or be deleted, by itself or with its manifest.
    pub fn may_change(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), AccessRefusal> {
        match policy::is_immutable(&self.rights, repository, tag) {
            true => Err(AccessRefusal::ImmutableTag { tag: tag.clone() }),
            false => Ok(()),
        }
    }

    /// Whether tags of the repository may be immutable.
    pub fn has_immutable_tags(&self, repository: &RepositoryName) -> bool {
        policy::has_immutable_tags(&self.rights, repository)
    }

    /// Whether a client that may push may move an existing tag, which was set in that way, to other content.
    pub fn may_move(
        &self,
        principal: &Principal,
        repository: &RepositoryName,
        tag: &Tag,
        was: PushedBy,
    ) -> Result<(), AccessRefusal> {
        self.may_change(repository, tag)?;
        match policy::may_move(&self.rights, principal, repository, was) {
            true => Ok(()),
            false => Err(AccessRefusal::TagOfAnAccount { tag: tag.clone() }),
        }
    }

    /// Whether a quota applies to the repository, so that its content has to be counted.
    pub fn has_quota(&self, repository: &RepositoryName) -> bool {
        policy::has_quota(&self.rights, repository)
    }

    /// Whether there is a quota for all pushed content together.
    pub fn has_total_quota(&self) -> bool {
        self.rights.max_size.is_some()
    }

    /// The quota of a repository; None if there is none.
    pub fn quota(&self, repository: &RepositoryName) -> Option<Size> {
        policy::quota(&self.rights, repository)
    }

    /// The quota of all pushed content together; None if there is none.
    pub fn max_size(&self) -> Option<Size> {
        self.rights.max_size
    }

    /// Whether pushes and deletions are refused (`registry.read_only`).
    pub fn is_read_only(&self) -> bool {
        self.rights.read_only
    }

    /// Whether there is an htpasswd file.
    pub fn has_accounts(&self) -> bool {
        self.users.is_some()
    }

    /// Whether the quotas allow these sizes.
    pub fn room(&self, repository: &RepositoryName, after: Held) -> Result<(), AccessRefusal> {
        policy::room(&self.rights, repository, after).map_err(AccessRefusal::Overdrawn)
    }

    /// A summary of the rules, for the log at the start.
    pub fn told(&self) -> String {
        let anonymous = match self.rights.anonymous {
            Actions::NONE => "none may pull or push without a login",
            Actions::PULL => "everyone may pull without a login",
            Actions::PULL_AND_PUSH => "everyone may pull and push without a login, and move tags of such pushes",
            _ => "everyone may pull, push and delete without a login",
        };
        let rules = match self.rights.rules.len() {
            0 => String::new(),
            rules => format!(", but for what {rules} rules say"),
        };
        let read_only = if self.rights.read_only { "; read-only for now" } else { "" };
        format!("{anonymous}{rules}{read_only}")
    }

    fn may_act(&self, visitor: &Visitor, repository: &RepositoryName, action: Action) -> Result<(), AccessRefusal> {
        if self.rights.read_only && action != Action::Pull {
            return Err(AccessRefusal::ReadOnly);
        }
        let allowed = actions(&self.rights, &visitor.principal, repository).contains(action);
        let scope = |actions| Scope::Repository { name: repository.clone(), actions };
        match (allowed, &visitor.principal, &visitor.ticket) {
            (false, Principal::Anonymous, _) if self.users.is_some() => {
                Err(AccessRefusal::Unauthenticated { scope: Some(scope(asked_with(action))) })
            }
            (false, principal, _) => {
                let who = principal.user().unwrap_or("nobody").to_owned();
                Err(AccessRefusal::Denied { who, action, repository: repository.clone() })
            }
            (true, _, Some(ticket)) if !ticket.covers(&scope(action.into())) => {
                Err(AccessRefusal::InsufficientScope { scope: scope(asked_with(action)) })
            }
            (true, ..) => Ok(()),
        }
    }

    fn may_ping(&self, visitor: &Visitor) -> Result<(), AccessRefusal> {
        let refused = match (&visitor.principal, &visitor.ticket) {
            (Principal::User(_), _) => false,
            (Principal::Anonymous, None) => login_matters(&self.rights),
            (Principal::Anonymous, Some(_)) => !something_for_anonymous(&self.rights),
        };
        if refused { Err(AccessRefusal::Unauthenticated { scope: None }) } else { Ok(()) }
    }

    fn may_list(&self, visitor: &Visitor) -> Result<(), AccessRefusal> {
        let scope = Scope::Catalog;
        match (&visitor.principal, &visitor.ticket) {
            (Principal::Anonymous, _) if self.users.is_some() && !something_for_anonymous(&self.rights) => {
                Err(AccessRefusal::Unauthenticated { scope: Some(scope) })
            }
            (_, Some(ticket)) if !ticket.covers(&scope) => Err(AccessRefusal::InsufficientScope { scope }),
            _ => Ok(()),
        }
    }

    fn may_collect(&self, visitor: &Visitor) -> Result<(), AccessRefusal> {
        let allowed = policy::deletes_somewhere(&self.rights, &visitor.principal);
        match (allowed, &visitor.principal) {
            _ if self.rights.read_only => Err(AccessRefusal::ReadOnly),
            // The scope of a token names repositories, and a collection is for none, so a token does not suffice.
            (true, _) if visitor.ticket.is_none() => Ok(()),
            (false, Principal::Anonymous) if self.users.is_some() => {
                Err(AccessRefusal::Unauthenticated { scope: None })
            }
            _ => Err(AccessRefusal::MayNotCollect),
        }
    }

    async fn recognise(
        &self,
        client: ClientKey,
        name: &str,
        password: Option<&Secret>,
    ) -> Result<Principal, AccessRefusal> {
        let (Some(users), Some(password)) = (&self.users, password) else { return Err(AccessRefusal::WrongLogin) };
        match users.check(client, name, password).await {
            Ok(()) => Ok(Principal::User(name.into())),
            Err(NotRecognised::Wrong) => Err(AccessRefusal::WrongLogin),
            Err(NotRecognised::Busy) => Err(AccessRefusal::Busy),
        }
    }
}

impl Visitor {
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, ticket: None }
    }
}

/// The scope that a client should request for an action: to push or delete, a client also has to read.
fn asked_with(action: Action) -> Actions {
    Actions::from(Action::Pull).or(action.into())
}
