//! The JSON of the admin API about the cache. The command line reads the same types.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use entrepot_registry::import::{Brought, ImportLine, Imported};

/// `GET /api/cache/stats`. Clients depend on the order: discobot-proxy's seven fields come first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CacheStats {
    /// Requests answered from the store.
    pub hits: u64,
    /// Requests answered with bytes from upstream.
    pub misses: u64,
    /// Blobs and manifests put into the store.
    pub stores: u64,
    /// Blobs dropped to make room, or because they were unused for too long.
    pub evictions: u64,
    /// Failures of fetches, disk and index.
    pub errors: u64,
    /// Bytes of blobs and partial blobs.
    pub current_size: u64,
    /// Hits by requests, from 0 to 1; see [`hit_rate`].
    pub hit_rate: f64,
    /// Blobs in the store.
    pub blobs: u64,
    /// The most bytes that the cache may take.
    pub max_size: u64,
    /// Bytes set aside for running fetches.
    pub reserved: u64,
    /// The pull limits, as upstream registries last stated them.
    pub rate_limits: Vec<RateLimit>,
    /// Fetches that run now.
    pub fills_running: u64,
    /// Bytes that were pushed to the registry here. They are not the cache's.
    #[serde(default)]
    pub pushed_size: u64,
    /// The file system that holds all of this. None if the system does not tell.
    #[serde(default)]
    pub disk: Option<Disk>,
}

/// The file system of the data directory, as `df` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// The data directory.
    pub path: PathBuf,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes of the whole file system.
    pub size: u64,
    /// Bytes that the cache leaves free (`cache.min_free`).
    pub min_free: u64,
}

/// One registry's pull limit for one credential, as the registry last stated it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    /// The host of the registry.
    pub registry: String,
    /// A short name for the credential. It contains no part of the credential itself.
    pub credential: String,
    /// The pulls that one window allows.
    pub limit: u64,
    /// The pulls that are left in the current window.
    pub remaining: u64,
    /// The length of a window.
    pub window_seconds: u64,
    /// The age of these numbers.
    pub seen_seconds_ago: u64,
}

/// The amount that an operation freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Freed {
    /// Blobs that left the disk.
    pub freed_blobs: u64,
    /// The bytes of these blobs.
    pub freed_bytes: u64,
}

/// The reply to a change that was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done<T> {
    /// `ok`, the word that discobot-proxy uses.
    pub status: String,
    /// More about the change, beside `status`.
    #[serde(flatten)]
    pub details: T,
}

/// One blob of the cache in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlobSummary {
    /// `algorithm:hex`.
    pub digest: String,
    /// The size in bytes.
    pub size: u64,
    /// The time when the blob was last served or stored.
    pub last_used_unix_seconds: u64,
    /// Whether a pushed manifest needs the blob, or a client is reading it.
    pub pinned: bool,
    /// The repositories that the blob was pulled from, as `registry/repository`.
    pub repositories: Vec<String>,
}

/// `GET /api/cache/blobs`: one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlobPage {
    /// In the order of their digests.
    pub blobs: Vec<BlobSummary>,
    /// The `after` of the next page. `None` on the last one.
    pub next: Option<String>,
}

/// A blob that was read and compared with its digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifiedBlob {
    /// `algorithm:hex`.
    pub digest: String,
    /// The size in bytes.
    pub size: u64,
    /// The result of the comparison.
    pub state: BlobState,
}

/// The result of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// The bytes have the digest.
    Ok,
    /// The bytes have another digest. The blob was removed.
    Corrupt,
    /// The bytes cannot be read. The blob was removed.
    Unreadable,
}

/// The result of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verification {
    /// Blobs that were read.
    pub checked: u64,
    /// The number of these blobs that were corrupt or unreadable.
    pub bad: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A line of `POST /api/cache/verify`. A reply that does not end with `finished` or `failed` was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum VerifyLine {
    /// One blob was compared.
    Blob(VerifiedBlob),
    /// All blobs were compared.
    Finished(Verification),
    /// The verification stopped early.
    Failed { error: String },
}

/// The body of every reply that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The failure, and the remedy.
    pub error: String,
}

/// The share of hits; 0 before the first request.
pub fn hit_rate(hits: u64, misses: u64) -> f64 {
    match hits.saturating_add(misses) {
        0 => 0.0,
        requests => hits as f64 / requests as f64,
    }
}

impl<T> Done<T> {
    /// `ok` with these details.
    pub fn ok(details: T) -> Self {
        Self { status: "ok".to_owned(), details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_begin_with_the_seven_fields_in_order() {
        let stats = CacheStats { hits: 42, misses: 8, hit_rate: hit_rate(42, 8), ..CacheStats::default() };
        let text = serde_json::to_string(&stats).expect("JSON");
        let seven = r#"{"hits":42,"misses":8,"stores":0,"evictions":0,"errors":0,"current_size":0,"hit_rate":0.84,"#;
        assert!(text.starts_with(seven), "{text}");
    }

    #[test]
    fn done_and_verify_lines() {
        let done = Done::ok(Freed { freed_blobs: 2, freed_bytes: 9 });
        let text = serde_json::to_string(&done).expect("JSON");
        assert_eq!(text, r#"{"status":"ok","freed_blobs":2,"freed_bytes":9}"#);
        let line = VerifyLine::Blob(VerifiedBlob { digest: "d".into(), size: 1, state: BlobState::Corrupt });
        let text = serde_json::to_string(&line).expect("JSON");
        assert_eq!(text, r#"{"event":"blob","digest":"d","size":1,"state":"corrupt"}"#);
        assert_eq!(serde_json::from_str::<VerifyLine>(&text).expect("the same"), line);
    }

    #[test]
    fn hit_rates() {
        assert_eq!((hit_rate(0, 0), hit_rate(0, 3), hit_rate(3, 1)), (0.0, 0.0, 0.75));
    }
}
