//! `[registry]`: who may do what with pushed content, how much there may be of it, and who hears of it.

use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::quantity::Size;
use entrepot_core::scope::Actions;
use entrepot_core::secret::Secret;
use globset::GlobSet;
use http::{HeaderName, HeaderValue};

/// Who may do what.
pub struct Rights {
    /// What a client without a login may do where no rule says otherwise.
    pub anonymous: Actions,
    /// The file of accounts. None if nobody can log in.
    pub htpasswd: Option<PathBuf>,
    /// How a client is asked to log in.
    pub auth: AuthMethod,
    /// From a minute to an hour.
    pub token_lifetime: Duration,
    /// For the repositories that a rule names, the rules decide alone.
    pub rules: Vec<Rule>,
    /// If true, nothing is pushed or deleted.
    pub read_only: bool,
    /// Tags that keep the manifest that they were first set to.
    pub immutable_tags: Vec<TagPattern>,
    /// The most bytes that all pushed content may take. None means no limit.
    pub max_size: Option<Size>,
    /// The most bytes that single repositories may hold; the first that matches wins.
    pub quotas: Vec<Quota>,
}

/// How clients log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// With a short-lived token, for which they give name and password. Clients without a login get one too.
    Token,
    /// With name and password on each request.
    Basic,
}

/// `[[registry.rules]]`
pub struct Rule {
    /// The repositories that it decides about.
    pub repositories: GlobSet,
    /// The clients that it allows something.
    pub subjects: Vec<RuleSubject>,
    /// What they may do there.
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
    /// The repositories it holds in. None means all.
    pub repositories: Option<GlobSet>,
    /// The tags it matches.
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
    /// The http or https address that events are posted to; often a secret in itself.
    pub url: Secret,
    /// The part of the address that may be shown: scheme, host and port.
    pub name: String,
    /// Sent along; secrets are usual here.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For one try.
    pub timeout: Duration,
    /// How long an event is tried again.
    pub retry_for: Duration,
    /// The most events that wait for the receiver.
    pub queue: usize,
}
