//! The administrator's door: health, metrics, what the cache holds, and changes to it.
//!
//! It knows no other room: whoever composes the program hands over [`Powers`], plain closures. They may block; they
//! are called on the blocking pool, never on the event loop.
//!
//! Invariants: a request over TCP names this machine in its Host header (DNS rebinding); a change comes by the unix
//! socket, whose mode is 0600, or with the token; a browser's page of another origin changes nothing.

pub mod answers;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod handle;
pub mod registry;
mod routes;
pub mod server;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::{RepositoryName, Tag};

use answers::{BlobEntry, CacheStats, Freed, VerifiedBlob};
use entrepot_observe::metrics::Metrics;
use registry::RegistryPowers;

/// What both entrances of the door share.
pub struct AdminState {
    metrics: Arc<Metrics>,
    powers: Powers,
    /// One verification at a time: it reads the whole store.
    verifying: Arc<AtomicBool>,
}

/// A closure that the door calls on the blocking pool.
pub type Power<T> = Box<dyn Fn() -> T + Send + Sync>;
/// The same, about something.
pub type PowerOver<A, T> = Box<dyn Fn(A) -> T + Send + Sync>;
/// What a power came to.
pub type Outcome<T> = Result<T, PowerError>;
/// Takes one verified blob; a break ends the verification.
pub type OnVerified<'a> = &'a mut dyn FnMut(VerifiedBlob) -> ControlFlow<()>;

/// What the door can do.
pub struct Powers {
    /// Whether requests can be served; the reason where not.
    pub ready: Power<Result<(), String>>,
    /// The numbers of the cache.
    pub stats: Power<CacheStats>,
    /// Drops everything that is not pinned or being read.
    pub clear: Power<Outcome<Freed>>,
    /// A page of blobs, in the order of their digests.
    pub list: PowerOver<ListRequest, Outcome<Vec<BlobEntry>>>,
    /// Drops one blob; none where it is not there.
    pub remove: PowerOver<Digest, Outcome<Option<Freed>>>,
    /// Reads every blob and compares it with its digest.
    pub verify: Box<dyn Fn(OnVerified<'_>) -> Outcome<()> + Send + Sync>,
    /// Forgets what a tag pointed to, so that the next pull asks upstream.
    pub forget_tag: PowerOver<TagName, Outcome<()>>,
    /// What can be done about our own registry.
    pub registry: RegistryPowers,
    /// Reads the configuration anew; a bad one changes nothing and is [`PowerError::Refused`].
    pub reload: Power<Outcome<()>>,
    /// The configuration in use, secrets masked.
    pub effective_config: Power<serde_json::Value>,
}

/// Which page of blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Those after this one; from the first where there is none.
    pub after: Option<Digest>,
    /// At most so many.
    pub limit: usize,
}

/// A tag of a repository of a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagName {
    /// The registry.
    pub registry: RegistryHost,
    /// Its repository.
    pub repository: RepositoryName,
    /// The tag there.
    pub tag: Tag,
}

/// Why a power did nothing.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// Not possible as things are: the configuration is bad, the blob is in use.
    #[error("{0}")]
    Refused(String),
    /// Our own failure: disk, index.
    #[error("{0}")]
    Failed(String),
}

impl AdminState {
    /// The door's state; one for all its entrances.
    pub fn new(metrics: Arc<Metrics>, powers: Powers) -> Self {
        Self { metrics, powers, verifying: Arc::new(AtomicBool::new(false)) }
    }
}
