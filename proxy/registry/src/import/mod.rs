//! Imports the directory tree of Docker's registry: first its blobs, by clone or hard link if the file system allows
//! that, each read and compared with its digest; then its manifests; then its tags.
//!
//! ```text
//! tree ─► plan ─► each repository: blobs ─► images ─► indexes ─► tags          `lines` report the progress
//! ```
//!
//! Invariants: the tree is only read. A tag comes last, so no tag leads to missing content. Content that the store has
//! is not copied again, so an interrupted import continues where it was. Content that cannot be imported is reported
//! and left out. A tag that points to something else here stays. The tree is read on the calling thread, so an import
//! is not for the event loop.

mod content;
mod lines;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::path::Path;

use entrepot_core::digest::Digest;
use entrepot_core::docker_hub;
use entrepot_core::media::{MANIFEST_MAX_BYTES, ManifestInfo, ManifestType};
use entrepot_core::name::{RepositoryName, Tag};

use tokio::sync::mpsc;

use entrepot_store::{PushedBy, PushedManifest, Store, StoreError};
pub use lines::{Brought, ImportLine, Imported};
use tree::{Tree, TreeError};

/// The reason why an import ends early.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody receives the report any more.
    #[error("the import was interrupted; the same command continues it")]
    Interrupted,
}

/// Imports the tree below a directory. `lines` takes the report; if nobody receives it any more, the import ends.
pub async fn import(store: &Store, directory: &Path, lines: mpsc::Sender<ImportLine>) -> Result<Imported, ImportError> {
    let tree = Tree::open(directory)?;
    let repositories = tree.repositories()?;
    let mut import = Import { store, tree, lines, seen: HashSet::new(), done: Imported::default() };
    import.plan(&repositories).await?;
    for repository in &repositories {
        import.repository(repository).await?;
    }
    Ok(import.done)
}

struct Import<'a> {
    store: &'a Store,
    tree: Tree,
    lines: mpsc::Sender<ImportLine>,
    /// The digests that were reported.
    seen: HashSet<Digest>,
    done: Imported,
}

/// A manifest of the tree that is valid here.
struct Found {
    manifest: PushedManifest,
    info: ManifestInfo,
}

impl Found {
    fn is_index(&self) -> bool {
        ManifestType::of(&self.manifest.media_type).is_some_and(ManifestType::is_index)
    }
}

impl Import<'_> {
    async fn say(&self, line: ImportLine) -> Result<(), ImportError> {
        self.lines.send(line).await.map_err(|_| ImportError::Interrupted)
    }

    async fn skip(&mut self, what: String, why: impl ToString) -> Result<(), ImportError> {
        self.done.skipped += 1;
        self.say(ImportLine::Skipped { what, why: why.to_string() }).await
    }

    /// Counts the work, for a progress bar.
    async fn plan(&mut self, repositories: &[RepositoryName]) -> Result<(), ImportError> {
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        for repository in repositories {
            for digest in self.tree.layers(repository)?.into_iter().chain(self.tree.manifests(repository)?) {
                let size = || fs::metadata(self.tree.data(&digest)).map_or(0, |file| file.len());
                sizes.entry(digest).or_insert_with(size);
            }
        }
        let (repositories, blobs) = (repositories.len() as u64, sizes.len() as u64);
        self.say(ImportLine::Planned { repositories, blobs, bytes: sizes.values().sum() }).await
    }

    async fn repository(&mut self, repository: &RepositoryName) -> Result<(), ImportError> {
        if repository.as_str().starts_with(docker_hub::OFFICIAL) {
            let why = "library/ is Docker Hub's here, so nothing would be given from it; push it under another name";
            return self.skip(repository.to_string(), why).await;
        }
        for digest in self.tree.layers(repository)? {
            self.blob(repository, &digest).await?;
        }
        let mut tags: HashMap<Digest, Vec<Tag>> = HashMap::new();
        for (tag, digest) in self.tree.tags(repository)? {
            tags.entry(digest).or_default().push(tag);
        }
        let (before, mut waiting) = (self.done, Vec::new());
        for digest in self.tree.manifests(repository)? {
            match self.read_manifest(repository, &digest).await? {
                Some(found) if found.is_index() => waiting.push(found),
                Some(found) => self.manifest(repository, &found, tags.remove(&digest).unwrap_or_default()).await?,
                None => {}
            }
        }
        // An index comes after the indexes that it refers to.
        while !waiting.is_empty() {
            let others: HashSet<Digest> = waiting.iter().map(|found| found.manifest.digest).collect();
            let refers = |found: &Found| found.info.children.iter().any(|child| others.contains(&child.digest));
            let (later, now): (Vec<Found>, Vec<Found>) = waiting.into_iter().partition(refers);
            if now.is_empty() {
                return self.skip(repository.to_string(), "its manifests refer to each other in a circle").await;
            }
            for found in now {
                let own = tags.remove(&found.manifest.digest).unwrap_or_default();
                self.manifest(repository, &found, own).await?;
            }
            waiting = later;
        }
        for tag in tags.into_values().flatten() {
            self.skip(format!("{repository}:{tag}"), "the manifest it points to was not imported").await?;
        }
        self.done.repositories += 1;
        let (manifests, tags) = (self.done.manifests - before.manifests, self.done.tags - before.tags);
        self.say(ImportLine::Repository { name: repository.to_string(), manifests, tags }).await
    }

    /// Brings the bytes like those of a blob, then parses them. None if they are not a usable manifest, which was
    /// reported.
    async fn read_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Found>, ImportError> {
        let what = format!("{repository}@{digest}");
        let _hold = self.store.repositories.hold(digest).await?;
        if !self.bring(&what, digest).await? {
            return Ok(None);
        }
        let Some(blob) = self.store.blobs.get(digest).await? else {
            return self.skip(what, "it was evicted meanwhile").await.map(|()| None);
        };
        let len = usize::try_from(blob.size_bytes).unwrap_or(usize::MAX).min(MANIFEST_READ_MAX_BYTES);
        let read = blob.read(0, len).await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return self.skip(what, error).await.map(|()| None),
        };
        let info = match ManifestInfo::inspect(&bytes) {
            Ok(info) => info,
            Err(error) => return self.skip(what, error).await.map(|()| None),
        };
        let Some(media_type) = info.media_type.as_deref().filter(|_| !info.ambiguous) else {
            return self.skip(what, "its type is ambiguous, or it is not a manifest").await.map(|()| None);
        };
        let manifest = PushedManifest::of(*digest, media_type, &info, &bytes, PushedBy::Anyone);
        Ok(Some(Found { manifest, info }))
    }

    /// Adds a manifest with its tags. An image must be complete. An index may lack platforms, as it does in the tree,
    /// since the others can be pulled.
    async fn manifest(
        &mut self,
        repository: &RepositoryName,
        found: &Found,
        tags: Vec<Tag>,
    ) -> Result<(), ImportError> {
        let digest = found.manifest.digest;
        let is_index = found.is_index();
        let kept = self.store.repositories.at(repository);
        for child in found.info.children.iter().filter(|child| !child.is_foreign) {
            let here = kept.has(&child.digest).await;
            if here || (!is_index && self.blob(repository, &child.digest).await?) {
                continue;
            }
            let what = format!("{repository}@{digest}");
            if !is_index {
                for tag in &tags {
                    self.skip(format!("{repository}:{tag}"), format!("{} is missing", child.digest)).await?;
                }
                return self.skip(what, format!("{} is missing", child.digest)).await;
            }
            self.say(ImportLine::Incomplete { what, missing: child.digest.to_string() }).await?;
        }
        let mut free = Vec::with_capacity(tags.len());
        for tag in tags {
            match kept.tag(&tag).await? {
                Some(other) if other != digest => {
                    self.skip(format!("{repository}:{tag}"), "the tag points to something else here and stays").await?;
                }
                _ => free.push(tag),
            }
        }
        let tags = free.len() as u64;
        let moves = |_: &Tag, _| Ok::<(), Infallible>(());
        // Nothing is needed that was not looked for above, and a tag may move: so it is put.
        let put = kept.put_manifest(found.manifest.clone(), free, Vec::new(), moves).await?;
        self.done.manifests += u64::from(put.is_ok());
        self.done.tags += tags;
        Ok(())
    }
}

/// One byte more than a manifest may have, so that a larger one is noticed.
const MANIFEST_READ_MAX_BYTES: usize = MANIFEST_MAX_BYTES + 1;
