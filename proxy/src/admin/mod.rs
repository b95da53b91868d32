//! The administrator's door: health, metrics, what the cache holds, and changes to it.
//!
//! It knows no other room: whoever composes the program hands over [`AdminBackend`], plain closures. They may block; they
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
use registry::RegistryBackend;

/// What both entrances of the door share.
pub struct AdminState {
    metrics: Arc<Metrics>,
    backend: AdminBackend,
    /// One verification at a time: it reads the whole store.
    verifying: Arc<AtomicBool>,
}

/// A closure that the door calls on the blocking pool.
pub type Operation<T> = Box<dyn Fn() -> T + Send + Sync>;
/// The same, about something.
pub type OperationOn<A, T> = Box<dyn Fn(A) -> T + Send + Sync>;
/// What a power came to.
pub type Outcome<T> = Result<T, OperationError>;
/// Takes one verified blob; a break ends the verification.
pub type OnVerified<'a> = &'a mut dyn FnMut(VerifiedBlob) -> ControlFlow<()>;

/// What the door can do.
pub struct AdminBackend {
    /// Whether requests can be served; the reason where not.
    pub ready: Operation<Result<(), String>>,
    /// The numbers of the cache.
    pub stats: Operation<CacheStats>,
    /// Drops everything that is not pinned or being read.
    pub clear: Operation<Outcome<Freed>>,
    /// A page of blobs, in the order of their digests.
    pub list: OperationOn<ListRequest, Outcome<Vec<BlobEntry>>>,
    /// Drops one blob; none where it is not there.
    pub remove: OperationOn<Digest, Outcome<Option<Freed>>>,
    /// Reads every blob and compares it with its digest.
    pub verify: Box<dyn Fn(OnVerified<'_>) -> Outcome<()> + Send + Sync>,
    /// Forgets what a tag pointed to, so that the next pull asks upstream.
    pub forget_tag: OperationOn<TagName, Outcome<()>>,
    /// What can be done about our own registry.
    pub registry: RegistryBackend,
    /// Reads the configuration anew; a bad one changes nothing and is [`OperationError::Refused`].
    pub reload: Operation<Outcome<()>>,
    /// The configuration in use, secrets masked.
    pub effective_config: Operation<serde_json::Value>,
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
pub enum OperationError {
    /// Not possible as things are: the configuration is bad, the blob is in use.
    #[error("{0}")]
    Refused(String),
    /// Our own failure: disk, index.
    #[error("{0}")]
    Failed(String),
}

impl AdminState {
    /// The door's state; one for all its entrances.
    pub fn new(metrics: Arc<Metrics>, backend: AdminBackend) -> Self {
        Self { metrics, backend, verifying: Arc::new(AtomicBool::new(false)) }
    }
}
