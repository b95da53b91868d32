//! The administrator's door: health, metrics, the contents of the cache, and changes to it.
//!
//! It imports nothing of the cache, and of the registry only the lines of an import: `app` passes an [`AdminBackend`]
//! of closures. A closure begins an operation, which runs as a task of its own and never blocks the event loop.
//!
//! ```text
//! server (two entrances) ─ router (gate, table of paths, parameters) ─► AdminBackend ─► reply (JSON, lines)
//! ```
//!
//! Invariants: a request over TCP names this machine in its Host header (DNS rebinding). A change comes by the unix
//! socket, whose mode is 0600, or with the token; only clearing the cache can be allowed to every program of this
//! machine (`gate`). A web page of another origin cannot change anything. Every request has an id and a span.

pub mod answers;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod parameters;
pub mod registry;
mod reply;
mod router;
pub mod server;

use std::panic;
use std::sync::Arc;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::{RepositoryName, Tag};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tracing::Span;

use answers::{BlobSummary, CacheStats, Freed, Verification, VerifyLine};
use entrepot_observe::metrics::Metrics;
pub use gate::TcpRights;
use registry::RegistryBackend;

/// The state that both entrances of the door share.
pub struct AdminState {
    metrics: Arc<Metrics>,
    backend: AdminBackend,
    /// One verification at a time: it reads the whole store.
    verifying: Arc<Semaphore>,
    /// One import at a time: it reads a whole tree, on one thread of the blocking pool.
    importing: Arc<Semaphore>,
}

/// Begins an operation of the door.
pub type Operation<T> = Box<dyn Fn() -> BoxFuture<'static, T> + Send + Sync>;
/// Begins an operation with an argument.
pub type OperationOn<A, T> = Box<dyn Fn(A) -> BoxFuture<'static, T> + Send + Sync>;
/// Begins an operation that reports while it runs. A report that cannot be sent means that the client has left.
pub type Reporting<A, Report, T> = Box<dyn Fn(A, mpsc::Sender<Report>) -> BoxFuture<'static, T> + Send + Sync>;
/// The result of an operation.
pub type OperationResult<T> = Result<T, OperationError>;

/// The operations of the door.
pub struct AdminBackend {
    /// Whether requests can be served, and what is wrong meanwhile. The error is the reason why not.
    pub ready: Operation<Result<Vec<String>, String>>,
    /// The numbers of the cache.
    pub stats: Operation<CacheStats>,
    /// Drops every blob that is neither pinned nor being read.
    pub clear: Operation<OperationResult<Freed>>,
    /// A page of blobs, in the order of their digests.
    pub list: OperationOn<ListRequest, OperationResult<Vec<BlobSummary>>>,
    /// Drops one blob. `None` if the cache does not have it.
    pub remove: OperationOn<Digest, OperationResult<Option<Freed>>>,
    /// Reads every blob and compares it with its digest. It ends if the client leaves.
    pub verify: OperationOn<mpsc::Sender<VerifyLine>, OperationResult<Verification>>,
    /// Forgets the digest of a tag, so that the next pull asks upstream. False if the cache does not know the tag.
    pub forget_tag: OperationOn<TagName, OperationResult<bool>>,
    /// The operations on our own registry.
    pub registry: RegistryBackend,
    /// Reads the configuration again. If it is bad, nothing changes and the error is [`OperationError::Refused`].
    pub reload: Operation<OperationResult<()>>,
    /// The configuration in force, with secrets masked.
    pub effective_config: Operation<serde_json::Value>,
}

/// The page of blobs that a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// The page begins after this blob. `None` begins with the first.
    pub after: Option<Digest>,
    /// The most blobs on the page.
    pub limit: usize,
}

/// A tag in a repository of a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagName {
    /// The host of the registry.
    pub registry: RegistryHost,
    pub repository: RepositoryName,
    pub tag: Tag,
}

/// The reason why an operation did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The state does not allow it: the configuration is bad, or the blob is in use.
    #[error("{0}")]
    Refused(String),
    /// A failure of ours: the disk or the index.
    #[error("{0}")]
    Failed(String),
}

impl OperationError {
    /// A failure of ours.
    pub fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the blocking part of an operation. Its events are those of the request. A panic goes on in the operation.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}

impl AdminState {
    /// The state of the door. All its entrances share one.
    pub fn new(metrics: Arc<Metrics>, backend: AdminBackend) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { metrics, backend, verifying: one(), importing: one() }
    }
}
