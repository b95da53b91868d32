//! `[registry]`: the rights to pushed content, the limits of its size, and the receivers of events about it.

use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::quantity::Size;
use entrepot_core::scope::Actions;
use entrepot_core::secret::Secret;
use globset::GlobSet;
use http::{HeaderName, HeaderValue};

/// The rights to pushed content.
pub struct Rights {
    /// The actions that a client without a login may do if no rule says otherwise.
    pub anonymous: Actions,
    /// The file of accounts. None if no client can log in.
    pub htpasswd: Option<PathBuf>,
    /// The way in which a client is asked to log in.
    pub auth: AuthMethod,
    /// From a minute to an hour.
    pub token_lifetime: Duration,
    /// For a repository that a rule names, only the rules decide.
    pub rules: Vec<Rule>,
    /// If true, nothing is pushed or deleted.
    pub read_only: bool,
    /// Tags that can never point to another manifest than their first.
    pub immutable_tags: Vec<TagPattern>,
    /// The most bytes that all pushed content may take. None means no limit.
    pub max_size: Option<Size>,
    /// The most bytes that single repositories may hold. The first entry that matches wins.
    pub quotas: Vec<Quota>,
}

/// How clients log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// With a short-lived token, which clients get for name and password. Clients without a login get one too.
    Token,
    /// With name and password on each request.
    Basic,
}

/// `[[registry.rules]]`
pub struct Rule {
    /// The repositories that the rule decides about.
    pub repositories: GlobSet,
    /// The clients that the rule allows something.
    pub subjects: Vec<RuleSubject>,
    /// The actions that these clients may do there.
    pub actions: Actions,
}

/// A client that a rule allows something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleSubject {
    /// `anonymous`: a client without a login.
    Anonymous,
    /// `*`: any client with a login.
    AnyAccount,
    /// One account, by its name.
    Account(String),
}

/// A glob over tags.
pub struct TagPattern {
    /// The repositories in which the glob holds. None means all.
    pub repositories: Option<GlobSet>,
    pub tags: GlobSet,
}

/// `[[registry.quotas]]`
pub struct Quota {
    /// The quota holds for each repository that matches, on its own.
    pub repositories: GlobSet,
    /// The most bytes that one of them may hold.
    pub max_size: Size,
}

/// `[[registry.notifications]]`
#[derive(Clone, PartialEq, Eq)]
pub struct Notification {
    /// The http or https address that events are posted to. It is often a secret itself.
    pub url: Secret,
    /// The part of the address that may be shown: scheme, host and port.
    pub name: String,
    /// Headers of each event. They often contain secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The deadline of one try.
    pub timeout: Duration,
    /// The time for which an event is tried again.
    pub retry_for: Duration,
    /// The most events that wait for the receiver.
    pub queue: usize,
}
