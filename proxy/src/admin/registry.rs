//! The admin operations on our own registry, and their JSON. The command line reads the same types.

use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::answers::{ImportLine, Imported};
use super::{OperationOn, OperationResult, Reporting};

/// The operations on the registry.
pub struct RegistryBackend {
    /// A page of repositories, in the order of their names.
    pub repositories: OperationOn<RepositoriesRequest, OperationResult<RepositoryPage>>,
    /// The tags of a repository. `None` if there is no such repository.
    pub tags: OperationOn<RepositoryName, OperationResult<Option<TagPage>>>,
    /// Removes something. `None` if it does not exist.
    pub remove: OperationOn<RemoveRequest, OperationResult<Option<RemovedNames>>>,
    /// Frees content that no manifest needs. It goes on if the client leaves. A client that reads slowly misses steps.
    pub collect: Reporting<CollectRequest, GcLine, OperationResult<CollectionReport>>,
    /// Imports a tree of Docker's registry. It ends if the client leaves.
    pub import: Reporting<PathBuf, ImportLine, OperationResult<Imported>>,
}

/// The page of repositories that a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositoriesRequest {
    /// The page begins after this name. `None` begins with the first.
    pub after: Option<String>,
    /// The most repositories on the page.
    pub limit: usize,
}

/// The thing to remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoveRequest {
    /// A tag. Its manifest goes too, unless another tag points to it.
    Tag(RepositoryName, Tag),
    /// A manifest, and the tags that point to it.
    Manifest(RepositoryName, Digest),
    /// A repository with everything in it.
    Repository(RepositoryName),
}

/// The options of a collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollectRequest {
    /// If true, the collection counts and frees nothing.
    pub dry_run: bool,
    /// If true, the collection also removes manifests without a tag.
    pub untagged: bool,
    /// The time that a pushed blob waits for its manifest. `None` means the configured time.
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
    pub name: String,
    pub tags: u64,
    pub manifests: u64,
    /// Bytes of its content, including content that other repositories share.
    pub size: u64,
}

/// `GET /api/registry/tags`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagPage {
    pub name: String,
    /// Its tags, in their order.
    pub tags: Vec<TagSummary>,
}

/// One tag in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagSummary {
    pub tag: String,
    /// The digest of the manifest that the tag points to.
    pub digest: String,
    /// The type of that manifest.
    pub media_type: String,
    /// The bytes of that manifest alone, without its layers.
    pub size: u64,
}

/// The names of the removed tags and manifests, and when their layers go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RemovedNames {
    pub tags: Vec<String>,
    /// The digests of the manifests.
    pub manifests: Vec<String>,
    /// Collections from this time on free the layers that nothing else needs. `None` if no layers wait.
    #[serde(default)]
    pub freed_from_unix_seconds: Option<u64>,
    /// The interval of collections. 0 if they run on request only.
    #[serde(default)]
    pub collected_every_seconds: u64,
}

/// A line of `POST /api/registry/gc`. A reply that does not end with `finished` or `failed` was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GcLine {
    /// Progress through the repositories.
    Repositories {
        /// The repositories that are done so far.
        done: u64,
        /// The number of all repositories.
        total: u64,
    },
    /// Progress through the content.
    Content {
        /// The pieces of content that are done so far.
        done: u64,
        /// The number of all of them.
        total: u64,
    },
    /// The collection is complete.
    Finished(CollectionReport),
    /// The collection stopped early.
    Failed { error: String },
}

/// The amount that a collection freed, or would free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CollectionReport {
    /// True if the collection only counted.
    pub dry_run: bool,
    /// The repositories that the collection looked at.
    pub repositories: u64,
    /// The repositories that were skipped because a manifest in them cannot be read.
    pub skipped: u64,
    /// Manifests without a tag.
    pub manifests: u64,
    /// Blobs that repositories no longer have.
    pub unlinked: u64,
    /// Blobs without a manifest that are still in their grace period.
    pub waiting: u64,
    /// Blobs that left the disk.
    pub freed_blobs: u64,
    /// The bytes of these blobs.
    pub freed_bytes: u64,
    /// Blobs that only the cache needs now.
    pub kept_by_cache: u64,
}
