//! How a request was classified and answered, in the words of the access log, the response headers and the metrics.
//!
//! The words are docker-registry-proxy's, because the log pipelines of its users search for them.

/// The cache's part in an answer (`upstream_cache_status`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheStatus {
    /// The cache had no part: pings, tokens, tunnels, refused requests.
    None,
    /// The content was fetched from upstream for this request.
    Miss,
    /// The answer came from the store, and upstream was not asked.
    Hit,
    /// The tag's caching time was over, and it was fetched again.
    Expired,
    /// Upstream failed, and the client got the last known answer.
    Stale,
    /// Upstream confirmed the cached content with a HEAD.
    Revalidated,
    /// The content passed through without being stored, for a reason that is counted.
    Bypass,
    /// The answer came from a fetch that another request had started.
    Updating,
}

impl CacheStatus {
    /// All statuses, for the labels of metrics.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Miss,
        Self::Hit,
        Self::Expired,
        Self::Stale,
        Self::Revalidated,
        Self::Bypass,
        Self::Updating,
    ];

    /// The word in logs and headers. Empty if the cache had no part.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Miss => "MISS",
            Self::Hit => "HIT",
            Self::Expired => "EXPIRED",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
            Self::Bypass => "BYPASS",
            Self::Updating => "UPDATING",
        }
    }

    /// Whether the bytes came from the store.
    pub fn served_from_store(self) -> bool {
        matches!(self, Self::Hit | Self::Stale | Self::Revalidated)
    }
}

/// The kind of a request (`request_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestType {
    /// Neither a blob nor a manifest.
    Unknown,
    /// A blob named by digest.
    BlobByDigest,
    /// A path under `blobs/` without a digest, or an artefact that a configured pattern caches.
    BlobMutable,
    /// A manifest named by digest.
    ManifestByDigest,
    /// A tag of the primary tier.
    ManifestPrimary,
    /// A tag of the secondary tier.
    ManifestSecondary,
    /// Any other tag while the tiers are on.
    ManifestDefault,
    /// A tag while the tiers are off (`revalidate`).
    ManifestDefaultDisabled,
}

impl RequestType {
    /// All types, for the labels of metrics.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::BlobByDigest,
        Self::BlobMutable,
        Self::ManifestByDigest,
        Self::ManifestPrimary,
        Self::ManifestSecondary,
        Self::ManifestDefault,
        Self::ManifestDefaultDisabled,
    ];

    /// The word in logs and headers, never empty.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::BlobByDigest => "blob-by-digest",
            Self::BlobMutable => "blob-mutable",
            Self::ManifestByDigest => "manifest-by-digest",
            Self::ManifestPrimary => "manifest-primary",
            Self::ManifestSecondary => "manifest-secondary",
            Self::ManifestDefault => "manifest-default",
            Self::ManifestDefaultDisabled => "manifest-default-disabled",
        }
    }
}
