//! What the administrator's door can do about our own registry, and how that is said in JSON. The command line reads the
//! same types.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::answers::{ImportLine, Imported};
use super::{OperationOn, Outcome};

/// Takes one step of a collection; a break only ends the telling.
pub type OnStep<'a> = &'a mut dyn FnMut(GcLine) -> ControlFlow<()>;

/// A collection, told step by step.
pub type Collect = dyn Fn(CollectRequest, OnStep<'_>) -> Outcome<Collection> + Send + Sync;

/// Takes one line of an import; a break ends it.
pub type OnImported<'a> = &'a mut dyn FnMut(ImportLine) -> ControlFlow<()>;

/// An import of the tree in a directory, told line by line.
pub type Import = dyn Fn(&Path, OnImported<'_>) -> Outcome<Imported> + Send + Sync;

/// The backend over the registry.
pub struct RegistryBackend {
    /// A page of repositories, in their order.
    pub repositories: OperationOn<RepositoriesRequest, Outcome<RepositoryPage>>,
    /// The tags of a repository; none where there is no such repository.
    pub tags: OperationOn<RepositoryName, Outcome<Option<TagPage>>>,
    /// Removes something; none where it is not there.
    pub remove: OperationOn<RemoveRequest, Outcome<Option<Removed>>>,
    /// Collects what nothing needs.
    pub collect: Box<Collect>,
    /// Takes over a tree of Docker's registry.
    pub import: Box<Import>,
}

/// Which page of repositories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositoriesRequest {
    /// Those after this name.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// What is to be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoveRequest {
    /// A tag, with its manifest where nothing else leads to it.
    Tag(RepositoryName, Tag),
    /// A manifest, with the tags that point to it.
    Manifest(RepositoryName, Digest),
    /// All of a repository.
    Repository(RepositoryName),
}

/// What a collection is to do; what is not said is the configuration's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollectRequest {
    /// Only count.
    pub dry_run: bool,
    /// Manifests that no tag leads to go as well.
    pub untagged: bool,
    /// How long what was pushed waits for its manifest.
    pub grace: Option<Duration>,
}

/// `GET /api/registry/repositories`: one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryPage {
    /// In the order of their names.
    pub repositories: Vec<RepositoryEntry>,
    /// What to ask for as `after` next; none on the last page.
    pub next: Option<String>,
}

/// One repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryEntry {
    /// Its name.
    pub name: String,
    /// How many tags it has.
    pub tags: u64,
    /// How many manifests.
    pub manifests: u64,
    /// Bytes of its content, what it shares with others included.
    pub size: u64,
}

/// `GET /api/registry/tags`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagPage {
    /// The repository.
    pub name: String,
    /// Its tags, in their order.
    pub tags: Vec<TagEntry>,
}

/// One tag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagEntry {
    /// Its name.
    pub tag: String,
    /// The manifest that it points to.
    pub digest: String,
    /// That manifest's type.
    pub media_type: String,
    /// That manifest's bytes.
    pub size: u64,
}

/// What was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Tags.
    pub tags: Vec<String>,
    /// Manifests.
    pub manifests: Vec<String>,
}

/// A line of `POST /api/registry/gc`. An answer without `finished` or `failed` at its end was cut off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GcLine {
    /// So many of so many repositories were looked at.
    Repositories {
        /// So many.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// So many of so many parts of the content were looked at.
    Content {
        /// So many.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// All of it.
    Finished(Collection),
    /// It went no further.
    Failed {
        /// Why.
        error: String,
    },
}

/// What a collection took away, or would.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Collection {
    /// Nothing was taken away, only counted.
    pub dry_run: bool,
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Of them, those left alone because a manifest of theirs cannot be read.
    pub skipped: u64,
    /// Manifests that no tag led to.
    pub manifests: u64,
    /// Blobs taken from repositories.
    pub unlinked: u64,
    /// Blobs that no manifest names, in their grace period.
    pub waiting: u64,
    /// Blobs that left the disk.
    pub freed_blobs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Blobs that only the cache has a use for now.
    pub kept_by_cache: u64,
}
