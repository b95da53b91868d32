//! What the admin API answers about imports of a tree of Docker's registry.

use serde::{Deserialize, Serialize};

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
