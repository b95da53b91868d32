//! The content of the pages, read from the store. Every function here reads a bounded amount.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::media::{ManifestInfo, ManifestType};
use entrepot_core::name::{Reference, RepositoryName, Tag};
use entrepot_core::platform::Platform;
use entrepot_core::quantity::Size;

use crate::access::{AccessControl, Action, Visitor, Wish};
use entrepot_store::{Repository, Store, StoreError, StoredManifest};

/// The repositories or tags on one page.
const PAGE_ROWS: usize = 50;
/// A longer config is not read.
const CONFIG_MAX_BYTES: u64 = 1 << 20;
/// The most manifests of an index that are read, and the most pieces of content that are counted.
const CHILDREN_MAX: usize = 64;
const PIECES_MAX: usize = 4096;

/// A part of a list.
pub(super) struct Part<T> {
    pub(super) rows: Vec<T>,
    /// The next part begins after this name. None for the last part.
    pub(super) next: Option<String>,
}

/// A repository in the list.
pub(super) struct RepositoryRow {
    pub(super) name: RepositoryName,
    pub(super) tags: usize,
    pub(super) held_bytes: u64,
    pub(super) quota: Option<Size>,
    pub(super) may_delete: bool,
}

/// A tag in the list.
pub(super) struct TagRow {
    pub(super) tag: Tag,
    pub(super) digest: Digest,
    pub(super) set_at: Option<SystemTime>,
    /// The size of all local content that the tag needs. Each piece counts once.
    pub(super) size_bytes: u64,
    pub(super) platforms: Vec<Platform>,
    pub(super) is_immutable: bool,
}

/// Reads the store for one request, within its visitor's rights.
pub(super) struct Look<'a> {
    pub(super) store: &'a Store,
    pub(super) access: Arc<AccessControl>,
    pub(super) visitor: &'a Visitor,
    /// Whether the page has any buttons.
    pub(super) may_change: bool,
}

impl Look<'_> {
    pub(super) async fn repositories(&self, after: Option<&str>) -> Result<Part<RepositoryRow>, StoreError> {
        let (access, visitor) = (self.access.clone(), self.visitor.clone());
        let is_seen = move |name: &RepositoryName| access.may_see(&visitor, name);
        let (names, more) = self.store.repositories.list(after, PAGE_ROWS, is_seen).await?;
        let next = names.last().filter(|_| more).map(ToString::to_string);
        let mut rows = Vec::with_capacity(names.len());
        for name in names {
            let repository = self.store.repositories.at(&name);
            let (tags, _) = repository.tags(None, usize::MAX).await?.unwrap_or_default();
            let held_bytes = repository.held_bytes().await?;
            let (quota, may_delete) = (self.access.quota(&name), self.may_delete(&name));
            rows.push(RepositoryRow { tags: tags.len(), held_bytes, quota, may_delete, name });
        }
        Ok(Part { rows, next })
    }

    /// None if there is no such repository.
    pub(super) async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
    ) -> Result<Option<Part<TagRow>>, StoreError> {
        let Some((tags, more)) = self.store.repositories.at(repository).tags(after, PAGE_ROWS).await? else {
            return Ok(None);
        };
        let next = tags.last().filter(|_| more).map(|tag| tag.as_str().to_owned());
        let mut rows = Vec::with_capacity(tags.len());
        for tag in tags {
            // A tag that was deleted meanwhile is left out.
            rows.extend(self.tag(repository, tag).await?);
        }
        Ok(Some(Part { rows, next }))
    }

    /// None if there is no such tag.
    pub(super) async fn tag(&self, repository: &RepositoryName, tag: Tag) -> Result<Option<TagRow>, StoreError> {
        let kept = self.store.repositories.at(repository);
        let found = kept.manifest(&Reference::Tag(tag.clone())).await?;
        let Some(manifest) = found else { return Ok(None) };
        let mut size_bytes = 0;
        for digest in &pieces(&kept, &manifest).await? {
            size_bytes += self.store.repositories.content_bytes(digest).await.unwrap_or(0);
        }
        Ok(Some(TagRow {
            set_at: kept.tag_set_at(&tag).await,
            size_bytes,
            platforms: platforms(&kept, &manifest).await?,
            is_immutable: self.access.may_change(repository, &tag).is_err(),
            digest: manifest.digest,
            tag,
        }))
    }

    fn may_delete(&self, repository: &RepositoryName) -> bool {
        self.may_change && self.access.may(self.visitor, &Wish::In(repository, Action::Delete)).is_ok()
    }
}

/// The content that a manifest needs, including itself. For an index, also the content of its manifests.
async fn pieces(repository: &Repository, manifest: &StoredManifest) -> Result<HashSet<Digest>, StoreError> {
    let mut pieces = HashSet::new();
    let children = gather(manifest, &mut pieces);
    if is_index(manifest) {
        for child in children.into_iter().take(CHILDREN_MAX) {
            if let Some(inner) = repository.manifest(&Reference::Digest(child)).await? {
                gather(&inner, &mut pieces);
            }
        }
    }
    Ok(pieces)
}

/// Adds a manifest and its children to `pieces`. Returns the children.
fn gather(manifest: &StoredManifest, pieces: &mut HashSet<Digest>) -> Vec<Digest> {
    pieces.insert(manifest.digest);
    let children = ManifestInfo::inspect(&manifest.bytes).map(|info| info.children).unwrap_or_default();
    let children: Vec<Digest> = children.into_iter().map(|child| child.digest).collect();
    let room = PIECES_MAX.saturating_sub(pieces.len());
    pieces.extend(children.iter().take(room));
    children
}

async fn platforms(repository: &Repository, manifest: &StoredManifest) -> Result<Vec<Platform>, StoreError> {
    if is_index(manifest) {
        return Ok(Platform::of_index(&manifest.bytes));
    }
    let children = ManifestInfo::inspect(&manifest.bytes).map(|info| info.children).unwrap_or_default();
    // The config comes first.
    let Some(config) = children.first() else { return Ok(Vec::new()) };
    let blob = repository.blob(&config.digest).await?;
    let Some(blob) = blob.filter(|blob| blob.size_bytes <= CONFIG_MAX_BYTES) else { return Ok(Vec::new()) };
    // Unreadable content counts as unknown. A pull reports the error.
    let bytes = blob.read(0, blob.size_bytes as usize).await.unwrap_or_default();
    Ok(Platform::of_config(&bytes).into_iter().collect())
}

fn is_index(manifest: &StoredManifest) -> bool {
    ManifestType::of(&manifest.media_type).is_some_and(ManifestType::is_index)
}
