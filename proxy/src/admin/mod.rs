//! The administrator's door: health, metrics, what the cache holds, and changes to it.
//!
//! It knows no other room: `app` hands over an [`AdminBackend`] of plain closures. They may block, so they are called on
//! the blocking pool and never on the event loop.
//!
//! ```text
//! server (two entrances) ─ router (gate, table of paths, parameters) ─► AdminBackend ─► reply (JSON, lines)
//! ```
//!
//! Invariants: a request over TCP names this machine in its Host header (DNS rebinding); a change comes by the unix
//! socket, whose mode is 0600, or with the token; a browser's page of another origin changes nothing.

pub mod answers;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod parameters;
pub mod registry;
mod reply;
mod router;
pub mod server;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::{RepositoryName, Tag};

use answers::{BlobSummary, CacheStats, Freed, VerifiedBlob};
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
/// The result of an operation.
pub type OperationResult<T> = Result<T, OperationError>;
/// Takes one verified blob. A break ends the verification.
pub type OnVerified<'a> = &'a mut dyn FnMut(VerifiedBlob) -> ControlFlow<()>;

/// What the door can do.
pub struct AdminBackend {
    /// Whether requests can be served; if not, why.
    pub ready: Operation<Result<(), String>>,
    /// The numbers of the cache.
    pub stats: Operation<CacheStats>,
    /// Drops everything that is not pinned or being read.
    pub clear: Operation<OperationResult<Freed>>,
    /// A page of blobs, in the order of their digests.
    pub list: OperationOn<ListRequest, OperationResult<Vec<BlobSummary>>>,
    /// Drops one blob. `None` if the cache does not have it.
    pub remove: OperationOn<Digest, OperationResult<Option<Freed>>>,
    /// Reads every blob and compares it with its digest.
    pub verify: Box<dyn Fn(OnVerified<'_>) -> OperationResult<()> + Send + Sync>,
    /// Forgets the digest of a tag, so that the next pull asks upstream.
    pub forget_tag: OperationOn<TagName, OperationResult<()>>,
    /// The operations on our own registry.
    pub registry: RegistryBackend,
    /// Reads the configuration again. A bad one changes nothing and is [`OperationError::Refused`].
    pub reload: Operation<OperationResult<()>>,
    /// The configuration in use, secrets masked.
    pub effective_config: Operation<serde_json::Value>,
}

/// Which page of blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Blobs after this one. `None` begins with the first.
    pub after: Option<Digest>,
    /// At most so many.
    pub limit: usize,
}

/// A tag of a repository of a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagName {
    /// The registry, by its host.
    pub registry: RegistryHost,
    /// The repository there.
    pub repository: RepositoryName,
    /// The tag in it.
    pub tag: Tag,
}

/// Why an operation did nothing.
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
