//! One fetch per missing digest or artefact: it writes a partial blob, and every client that wants the content reads that
//! as it grows.
//!
//! ```text
//! table ─► inflight          finds the fetch of some content or starts it; what driver, fetchers and readers share
//!   └► driver ─ open ─ begin ─┬─ plan ─► fetcher ─► stream ─► source     which bytes next; them into the file
//!                             ├─ hashing                                 the same bytes in order, on hash threads
//!                             └─ publish | pause | hand over
//! reader                     a client's view of a fetch    through      a client's bytes past the store
//! passing ─► window          a fetch that nothing is kept of, and its clients
//! ```
//!
//! Invariants: the last bytes of a whole blob reach no client before length and digest are right, those of an artefact
//! not before it is published. Parts of an artefact are put together only under one validator (`artefact`). A client that leaves
//! stops nothing. A fetch ends as published, paused, failed or handed over, never silently.

pub mod artefact;
mod driver;
mod fetcher;
pub mod hashing;
pub mod inflight;
mod passing;
mod plan;
pub mod reader;
pub mod source;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;
pub mod through;
pub mod window;

use std::sync::Arc;

use entrepot_core::digest::Digest;

use entrepot_observe::labels::FetchFailure;
use entrepot_store::ContentName;
use entrepot_upstream::error::UpstreamError;

/// The most bytes that a client gets in one piece, and that a hash thread reads at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How many bytes at a blob's end wait for the digest to be right.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// Why content could not be completed. Every client that waited for it gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// Upstream failed, and went on failing.
    #[error("fetching {content} failed: {error}")]
    Upstream {
        content: ContentName,
        /// The last failure.
        error: Arc<UpstreamError>,
    },
    /// Upstream answered a request for a part of the blob with something else.
    #[error("fetching {content}: upstream answered {status}")]
    Status { content: ContentName, status: u16 },
    /// Upstream's bytes are not those of the digest.
    #[error("upstream sent {got} for {content}; nothing was stored, and the next pull asks again")]
    WrongDigest {
        content: ContentName,
        /// The digest of the bytes that came.
        got: Box<Digest>,
    },
    /// Upstream's length changed, or was not the announced one.
    #[error("upstream's length for {content} is wrong: {why}")]
    WrongLength {
        content: ContentName,
        /// How it showed.
        why: &'static str,
    },
    /// Upstream's artefact is not the one any more that the first bytes are of.
    #[error(
        "upstream has other content at {content} than when the fetch began; nothing was stored, and the next request asks again"
    )]
    Changed { content: ContentName },
    /// Upstream compressed a body that was asked for as it is: it says so, and the digest does not contradict.
    #[error("upstream encoded {content} as {coding} although identity was asked")]
    Encoded { content: ContentName, coding: &'static str },
    /// The file could not be read, and the bytes could not be had from upstream instead.
    #[error("reading the stored bytes of {content} failed: {error}")]
    Read { content: ContentName, error: Arc<std::io::Error> },
    /// The process stops.
    #[error("the fetch of {content} was interrupted, entrepot is stopping")]
    Interrupted { content: ContentName },
}

impl FetchError {
    /// The bytes, which upstream said have this coding, have the digest `got` instead.
    fn wrong(content: ContentName, got: Digest, coding: Option<&'static str>) -> Self {
        match coding {
            Some(coding) => Self::Encoded { content, coding },
            None => Self::WrongDigest { content, got: Box::new(got) },
        }
    }

    /// Whether the cause is on our side: our disk, or our stop. Otherwise it is upstream's.
    pub fn is_ours(&self) -> bool {
        match self {
            FetchError::Read { .. } | FetchError::Interrupted { .. } => true,
            FetchError::Upstream { error, .. } => error.is_ours(),
            FetchError::Status { .. }
            | FetchError::WrongDigest { .. }
            | FetchError::WrongLength { .. }
            | FetchError::Changed { .. }
            | FetchError::Encoded { .. } => false,
        }
    }

    /// The failure's word in metrics and logs.
    pub fn reason(&self) -> FetchFailure {
        match self {
            FetchError::Upstream { error, .. } if error.is_timeout() => FetchFailure::Timeout,
            FetchError::Upstream { .. } => FetchFailure::Broken,
            FetchError::Status { .. } => FetchFailure::Refused,
            FetchError::WrongDigest { .. } | FetchError::Changed { .. } => FetchFailure::WrongDigest,
            FetchError::WrongLength { .. } => FetchFailure::WrongLength,
            FetchError::Encoded { .. } => FetchFailure::Encoded,
            FetchError::Read { .. } => FetchFailure::IoError,
            FetchError::Interrupted { .. } => FetchFailure::Interrupted,
        }
    }
}
