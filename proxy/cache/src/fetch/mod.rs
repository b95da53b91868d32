//! One fetch per missing digest: it writes a partial blob, and every client that wants the blob reads that as it grows.
//!
//! ```text
//! table ─► inflight          finds the fetch of a digest or starts it; what driver, fetchers and readers share
//!   └► driver ─ open ─ begin ─┬─ plan ─► fetcher ─► stream ─► source     which bytes next; them into the file
//!                             ├─ hashing                                 the same bytes in order, on hash threads
//!                             └─ publish | pause | hand over
//! reader                     a client's view of a fetch    through      a client's bytes past the store
//! ```
//!
//! Invariants: the last bytes of a whole blob reach no client before length and digest are right. A client that leaves
//! stops nothing. A fetch ends as published, paused, failed or handed over, never silently.

mod driver;
mod fetcher;
pub mod hashing;
pub mod inflight;
mod plan;
pub mod reader;
pub mod source;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;
pub mod through;

use std::sync::Arc;

use entrepot_core::digest::Digest;

use entrepot_observe::labels::FetchFailure;
use entrepot_upstream::error::UpstreamError;

/// The most bytes that a client gets in one piece, and that a hash thread reads at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How many bytes at a blob's end wait for the digest to be right.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// Why a blob could not be completed. Every client that waited for it gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// Upstream failed, and went on failing.
    #[error("fetching {digest} failed: {error}")]
    Upstream {
        digest: Digest,
        /// The last failure.
        error: Arc<UpstreamError>,
    },
    /// Upstream answered a request for a part of the blob with something else.
    #[error("fetching {digest}: upstream answered {status}")]
    Status { digest: Digest, status: u16 },
    /// Upstream's bytes are not those of the digest.
    #[error("upstream sent {got} for {digest}; nothing was stored, and the next pull asks again")]
    WrongDigest {
        digest: Digest,
        /// The digest of the bytes that came.
        got: Box<Digest>,
    },
    /// Upstream's length changed, or was not the announced one.
    #[error("upstream's length for {digest} is wrong: {why}")]
    WrongLength {
        digest: Digest,
        /// How it showed.
        why: &'static str,
    },
    /// Upstream compressed a body that was asked for as it is: it says so, and the digest does not contradict.
    #[error("upstream encoded {digest} as {coding} although identity was asked")]
    Encoded { digest: Digest, coding: &'static str },
    /// The file could not be read, and the bytes could not be had from upstream instead.
    #[error("reading the stored bytes of {digest} failed: {error}")]
    Read { digest: Digest, error: Arc<std::io::Error> },
    /// The process stops.
    #[error("the fetch of {digest} was interrupted, entrepot is stopping")]
    Interrupted { digest: Digest },
}

impl FetchError {
    /// The bytes, which upstream said have this coding, have the digest `got` instead.
    fn wrong(digest: Digest, got: Digest, coding: Option<&'static str>) -> Self {
        match coding {
            Some(coding) => Self::Encoded { digest, coding },
            None => Self::WrongDigest { digest, got: Box::new(got) },
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
            | FetchError::Encoded { .. } => false,
        }
    }

    /// The failure's word in metrics and logs.
    pub fn reason(&self) -> FetchFailure {
        match self {
            FetchError::Upstream { error, .. } if error.is_timeout() => FetchFailure::Timeout,
            FetchError::Upstream { .. } => FetchFailure::Broken,
            FetchError::Status { .. } => FetchFailure::Refused,
            FetchError::WrongDigest { .. } => FetchFailure::WrongDigest,
            FetchError::WrongLength { .. } => FetchFailure::WrongLength,
            FetchError::Encoded { .. } => FetchFailure::Encoded,
            FetchError::Read { .. } => FetchFailure::IoError,
            FetchError::Interrupted { .. } => FetchFailure::Interrupted,
        }
    }
}
