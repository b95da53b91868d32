//! Who may do what with our own registry. Decisions only: the door asks, and words the refusals.
//!
//! As a LAN appliance is delivered, everybody may pull, push and delete.

use entrepot_core::name::{RepositoryName, Tag};

use crate::secret::Secret;

/// Who asks. Upload sessions belong to one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A user that proved to be one.
    User(Box<str>),
}

/// What is to be done in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Read its content, tags and referrers.
    Pull,
    /// Add content, create and move tags.
    Push,
    /// Take content and tags away.
    Delete,
}

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish<'a> {
    /// `GET /v2/`
    Ping,
    /// The list of repositories.
    Catalog,
    /// Something in one repository.
    In(&'a RepositoryName, Action),
}

/// What becomes of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is granted.
    Allowed,
    /// Another login, or one at all, may get it: 401 with a challenge.
    Challenge,
    /// Nobody gets it by any login: 403, and why.
    Denied(&'static str),
}

/// A client as the door knows it after its `Authorization` was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Who it is.
    pub principal: Principal,
}

/// A login or token that is wrong or over: 401 with a challenge, whatever was wished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongLogin;

/// The rules that hold.
#[derive(Default)]
pub struct Access {}

impl Access {
    /// Who sent the request.
    pub async fn identify(&self, _authorization: Option<&Secret>) -> Result<Visitor, WrongLogin> {
        Ok(Visitor { principal: Principal::Anonymous })
    }

    /// Whether the visitor may.
    pub fn may(&self, _visitor: &Visitor, _wish: &Wish<'_>) -> Verdict {
        Verdict::Allowed
    }

    /// The value of `WWW-Authenticate`; `base` is the door as the client reached it, such as `https://host:5443`.
    pub fn challenge(&self, base: &str, _wish: &Wish<'_>) -> String {
        format!("Basic realm=\"{base}\"")
    }

    /// Whether a tag that exists may be moved to other content, or deleted.
    pub fn may_move(&self, _repository: &RepositoryName, _tag: &Tag) -> bool {
        true
    }
}
