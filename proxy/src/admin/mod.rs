//! The administrator's door: health, metrics, what the cache holds, and changes to it.
//!
//! It knows no other room: whoever composes the program hands over [`Powers`], plain closures. They may block; they
//! are called on the blocking pool, never on the event loop.
//!
//! Invariants: a request over TCP names this machine in its Host header (DNS rebinding); a change comes by the unix
//! socket, whose mode is 0600, or with the token; a browser's page of another origin changes nothing.

pub mod answers;
mod gate;
mod handle;
mod routes;
pub mod server;
pub mod socket;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::{RepositoryName, Tag};

use crate::observe::metrics::Metrics;
use answers::{BlobEntry, CacheStats, Freed, VerifiedBlob};

/// What both entrances of the door share.
pub struct AdminState {
    metrics: Arc<Metrics>,
    powers: Powers,
    /// One verification at a time: it reads the whole store.
    verifying: Arc<AtomicBool>,
}

/// A closure that the door calls on the blocking pool.
pub type Power<T> = Box<dyn Fn() -> T + Send + Sync>;
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
    /// Blobs after a digest, in the order of digests, at most so many.
    pub list: Box<dyn Fn(Option<Digest>, usize) -> Outcome<Vec<BlobEntry>> + Send + Sync>,
    /// Drops one blob; none where it is not there.
    pub remove: Box<dyn Fn(&Digest) -> Outcome<Option<Freed>> + Send + Sync>,
    /// Reads every blob and compares it with its digest.
    pub verify: Box<dyn Fn(OnVerified<'_>) -> Outcome<()> + Send + Sync>,
    /// Forgets what a tag pointed to, so that the next pull asks upstream.
    pub forget_tag: Box<dyn Fn(&RegistryHost, &RepositoryName, &Tag) -> Outcome<()> + Send + Sync>,
    /// Reads the configuration anew; a bad one changes nothing and is [`PowerError::Refused`].
    pub reload: Power<Outcome<()>>,
    /// The configuration in use, secrets masked.
    pub effective_config: Power<serde_json::Value>,
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
