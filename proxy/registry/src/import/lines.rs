//! The report of an import, which the admin API sends line by line.

use serde::{Deserialize, Serialize};

/// The result of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Imported {
    pub repositories: u64,
    /// The imported manifests, with those that the registry had already.
    pub manifests: u64,
    /// The imported tags, with those that the registry had already.
    pub tags: u64,
    /// The blobs that the store did not have.
    pub blobs: u64,
    /// The size of these blobs.
    pub bytes: u64,
    /// The number of `Skipped` lines.
    pub skipped: u64,
}

/// The way in which a blob came into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brought {
    /// The store had it.
    Present,
    /// By a clone that shares the blocks.
    Cloned,
    /// By a hard link.
    Linked,
    Copied,
}

/// A line of `POST /api/registry/import`. The last line is `finished` or `failed`; without either, the answer was cut
/// off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ImportLine {
    /// The size of the tree. `blobs` includes the manifests.
    Planned {
        repositories: u64,
        blobs: u64,
        bytes: u64,
    },
    /// A blob was read and compared with its digest, or the store had it. `size` is in bytes.
    Blob {
        digest: String,
        size: u64,
        how: Brought,
    },
    /// A repository is done, with this many manifests and tags.
    Repository {
        name: String,
        manifests: u64,
        tags: u64,
    },
    /// A blob, manifest, tag or repository could not be imported.
    Skipped {
        what: String,
        why: String,
    },
    /// An index was imported without one of its manifests, which the tree lacks too.
    Incomplete {
        what: String,
        missing: String,
    },
    Finished(Imported),
    Failed {
        error: String,
    },
}
