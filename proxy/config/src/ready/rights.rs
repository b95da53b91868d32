//! `[registry]`: who may do what with pushed content, how much there may be of it, and who hears of it.

use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::quantity::Size;
use entrepot_core::scope::Actions;
use globset::GlobSet;
use http::{HeaderName, HeaderValue};

use entrepot_core::secret::Secret;

/// Who may do what.
pub struct Rights {
    /// What anybody may do without a login, where no rule says otherwise.
    pub anonymous: Actions,
    /// The accounts; none: nobody can log in.
    pub htpasswd: Option<PathBuf>,
    /// What a client that has to log in is asked for.
    pub auth: AuthMethod,
    /// How long a token holds.
    pub token_lifetime: Duration,
    /// For the repositories that a rule names, the rules decide alone.
    pub rules: Vec<Rule>,
    /// Nothing is pushed or deleted.
    pub read_only: bool,
    /// Tags that keep the manifest that they were first set to.
    pub immutable_tags: Vec<TagPattern>,
    /// The most bytes that all pushed content may take.
    pub max_size: Option<Size>,
    /// The most bytes that single repositories may hold, first match wins.
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
    /// Which repositories.
    pub repositories: GlobSet,
    /// Whom it is about.
    pub subjects: Vec<RuleSubject>,
    /// What they may do there.
    pub actions: Actions,
}

/// Whom a rule is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleSubject {
    /// `anonymous`: who has no login.
    Anonymous,
    /// `*`: who has one.
    AnyAccount,
    /// One account.
    Account(String),
}

/// A glob over tags, of all repositories or of some.
pub struct TagPattern {
    /// Only in these, where set.
    pub repositories: Option<GlobSet>,
    /// Which tags.
    pub tags: GlobSet,
}

/// `[[registry.quotas]]`
pub struct Quota {
    /// Each repository that matches.
    pub repositories: GlobSet,
    /// What it may hold.
    pub max_size: Size,
}

/// `[[registry.notifications]]`
#[derive(Clone, PartialEq, Eq)]
pub struct Notification {
    /// Where events are posted to, http or https; often a secret in itself.
    pub url: Secret,
    /// The same as far as it may be told: scheme, host and port.
    pub name: String,
    /// Sent along; secrets are usual here.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For one try.
    pub timeout: Duration,
    /// How long an event is tried again.
    pub retry_for: Duration,
    /// Events that wait for the receiver at most.
    pub queue: usize,
}
