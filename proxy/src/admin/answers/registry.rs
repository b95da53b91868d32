//! What the admin API answers about the push registry.

use serde::{Deserialize, Serialize};

/// One repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryEntry {
    /// Its name.
    pub name: String,
    /// How many tags it has.
    pub tags: u64,
    /// How many manifests it has.
    pub manifests: u64,
    /// Bytes of its content; what it shares with others is in each.
    pub size: u64,
}

/// `GET /api/registry/repositories`: one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryPage {
    /// In the order of their names.
    pub repositories: Vec<RepositoryEntry>,
    /// What to ask for as `after` next; none on the last page.
    pub next: Option<String>,
}

/// A tag and where it points.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagEntry {
    /// Its name.
    pub tag: String,
    /// The manifest.
    pub digest: String,
    /// Bytes of the manifest and of what it names; of an index, of its own.
    pub size: u64,
    /// The manifest's type.
    pub media_type: String,
}

/// `GET /api/registry/tags`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagList {
    /// The repository.
    pub name: String,
    /// In the order of their names.
    pub tags: Vec<TagEntry>,
}

/// What a deletion took away. Its bytes go with the next collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
}

/// What a collection took away, or would.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Manifests that no tag leads to.
    pub manifests: u64,
    /// Blobs that a repository had and none of its manifests needs.
    pub links: u64,
    /// Blobs that nobody needs any more.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that the cache goes on with.
    pub kept_by_cache: u64,
    /// What is not needed, but younger than the grace period.
    pub waiting: u64,
    /// Repositories that were left alone because a manifest of theirs cannot be read.
    pub skipped: u64,
}

/// A line of `POST /api/registry/gc`. An answer without `finished` or `failed` at its end was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GcLine {
    /// How far it is.
    Progress {
        /// Steps done.
        done: u64,
        /// Steps in all, as far as they are known.
        total: u64,
    },
    /// It is over.
    Finished(Collected),
    /// It went no further.
    Failed {
        /// Why.
        error: String,
    },
}

/// What an import took over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Repositories looked at.
    pub repositories: u64,
    /// Manifests that are here now.
    pub manifests: u64,
    /// Tags that are here now.
    pub tags: u64,
    /// Blobs that were not here before.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be taken over.
    pub skipped: u64,
}

/// How a blob came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brought {
    /// It was here.
    Present,
    /// As a clone that shares the blocks.
    Cloned,
    /// As a hard link.
    Linked,
    /// Byte by byte.
    Copied,
}

/// A line of `POST /api/registry/import`. An answer without `finished` or `failed` at its end was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ImportLine {
    /// What there is.
    Planned {
        /// Repositories.
        repositories: u64,
        /// Blobs, manifests included.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// One more blob was read and compared with its digest, or was here.
    Blob {
        /// Which one.
        digest: String,
        /// Its bytes.
        size: u64,
        /// How it came.
        how: Brought,
    },
    /// A repository is done.
    Repository {
        /// Which one.
        name: String,
        /// Its manifests that are here now.
        manifests: u64,
        /// Its tags that are here now.
        tags: u64,
    },
    /// Something could not be taken over.
    Skipped {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// An index came without one of its manifests, as it was in the tree.
    Incomplete {
        /// Which one.
        what: String,
        /// The manifest that is missing.
        missing: String,
    },
    /// All of it is done.
    Finished(Imported),
    /// It went no further.
    Failed {
        /// Why.
        error: String,
    },
}
