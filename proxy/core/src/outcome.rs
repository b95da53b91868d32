//! How a request was classified and answered: the words of the access log, the response headers and the metrics.
//! They are docker-registry-proxy's words, because its users' log pipelines look for them.

/// How the cache took part in an answer (`upstream_cache_status`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheStatus {
    /// The cache had no part in it: pings, tokens, tunnels, refused requests.
    None,
    /// Fetched from upstream for this request or with others that wait for the same fetch.
    Miss,
    /// Answered without asking upstream.
    Hit,
    /// A tag whose time was over was fetched anew.
    Expired,
    /// Upstream failed, the last known answer was given.
    Stale,
    /// Upstream confirmed with a HEAD what the cache has.
    Revalidated,
    /// Passed through without being stored, for a reason that is counted.
    Bypass,
    /// The answer came from a fetch that another request had already started.
    Updating,
}

impl CacheStatus {
    /// Every status, for tables of metrics.
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

    /// The word in logs and headers; empty where the cache had no part.
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

/// What kind of request it was (`request_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestType {
    /// Anything that is not a blob or a manifest.
    Unknown,
    /// A blob named by digest.
    BlobByDigest,
    /// A path under `blobs/` that names no digest, or an artefact that a configured pattern caches.
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
    /// Every type, for tables of metrics.
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

    /// The word in logs and headers.
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
