//! The admin operations on our own registry, and their JSON. The command line reads the same types.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::answers::{ImportLine, Imported};
use super::{OperationOn, OperationResult};

/// Takes one step of a collection. A break ends the reports and not the collection.
pub type OnStep<'a> = &'a mut dyn FnMut(GcLine) -> ControlFlow<()>;

/// A collection that reports each step.
pub type Collect = dyn Fn(CollectRequest, OnStep<'_>) -> OperationResult<CollectionReport> + Send + Sync;

/// Takes one line of an import. A break ends the import.
pub type OnImported<'a> = &'a mut dyn FnMut(ImportLine) -> ControlFlow<()>;

/// An import of the tree in a directory that reports line by line.
pub type Import = dyn Fn(&Path, OnImported<'_>) -> OperationResult<Imported> + Send + Sync;

/// The operations on the registry.
pub struct RegistryBackend {
    /// A page of repositories, in the order of their names.
    pub repositories: OperationOn<RepositoriesRequest, OperationResult<RepositoryPage>>,
    /// The tags of a repository. `None` if there is no such repository.
    pub tags: OperationOn<RepositoryName, OperationResult<Option<TagPage>>>,
    /// Removes something. `None` if it does not exist.
    pub remove: OperationOn<RemoveRequest, OperationResult<Option<RemovedNames>>>,
    /// Frees content that no manifest needs.
    pub collect: Box<Collect>,
    /// Imports a tree of Docker's registry.
    pub import: Box<Import>,
}

/// Which page of repositories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositoriesRequest {
    /// Repositories after this name. `None` begins with the first.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// What to remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoveRequest {
    /// A tag, and its manifest unless another tag leads to it.
    Tag(RepositoryName, Tag),
    /// A manifest, with the tags that point to it.
    Manifest(RepositoryName, Digest),
    /// A repository with everything in it.
    Repository(RepositoryName),
}

/// How to collect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollectRequest {
    /// Counts and frees nothing.
    pub dry_run: bool,
    /// Removes manifests without a tag as well.
    pub untagged: bool,
    /// How long a pushed blob waits for its manifest. `None` takes the configured time.
    pub grace: Option<Duration>,
}

/// `GET /api/registry/repositories`: one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryPage {
    /// In the order of their names.
    pub repositories: Vec<RepositorySummary>,
    /// The `after` of the next page. `None` on the last one.
    pub next: Option<String>,
}

/// One repository in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositorySummary {
    /// Its name.
    pub name: String,
    /// Number of tags.
    pub tags: u64,
    /// Number of manifests.
    pub manifests: u64,
    /// Bytes of its content, including content that other repositories share.
    pub size: u64,
}

/// `GET /api/registry/tags`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagPage {
    /// The repository.
    pub name: String,
    /// Its tags, in their order.
    pub tags: Vec<TagSummary>,
}

/// One tag in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagSummary {
    /// Its name.
    pub tag: String,
    /// The manifest that it points to.
    pub digest: String,
    /// The type of that manifest.
    pub media_type: String,
    /// The bytes of that manifest alone.
    pub size: u64,
}

/// The names of what was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RemovedNames {
    /// The tags.
    pub tags: Vec<String>,
    /// The digests of the manifests.
    pub manifests: Vec<String>,
}

/// A line of `POST /api/registry/gc`. A reply that does not end with `finished` or `failed` was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GcLine {
    /// Progress through the repositories.
    Repositories {
        /// Looked at so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// Progress through the content.
    Content {
        /// Looked at so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// The collection is complete.
    Finished(CollectionReport),
    /// The collection stopped early.
    Failed {
        /// The reason.
        error: String,
    },
}

/// What a collection freed, or would free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CollectionReport {
    /// True if it only counted.
    pub dry_run: bool,
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Repositories that were left alone because a manifest in them cannot be read.
    pub skipped: u64,
    /// Manifests without a tag.
    pub manifests: u64,
    /// Blobs that repositories no longer have.
    pub unlinked: u64,
    /// Blobs without a manifest that are still in their grace period.
    pub waiting: u64,
    /// Blobs that left the disk.
    pub freed_blobs: u64,
    /// Bytes of these blobs.
    pub freed_bytes: u64,
    /// Blobs that only the cache needs now.
    pub kept_by_cache: u64,
}
