//! Taking away: one way for the protocol's DELETE, the web page and the administrator, so each deletion is durable, and
//! is told to the receivers of events.

use std::sync::Arc;

use entrepot_core::digest::Digest;
use entrepot_core::name::{Reference, RepositoryName, Tag};

use super::LocalRegistry;
use super::access::{AccessControl, AccessRefusal};
use super::events::{Deed, Event};
use super::request::LocalRequest;
use entrepot_store::{Repository, StoreError};

/// The part of a repository that is to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemovalTarget {
    /// A tag; its manifest stays.
    Tag(Tag),
    /// A tag, if it points to this manifest; the manifest stays.
    TagAt(Tag, Digest),
    /// A tag, with the manifests that nothing else leads to.
    Image(Tag),
    /// A manifest, with the tags that point to it.
    Manifest(Digest),
    /// All of it.
    Everything,
}

/// The tags and manifests that were deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub tags: Vec<Tag>,
    pub manifests: Vec<Digest>,
}

/// Why nothing went.
#[derive(Debug)]
pub(super) enum NotRemoved {
    /// It is not there.
    Missing,
    /// An immutable tag would have gone with it.
    Refused(AccessRefusal),
    /// The disk did not do it.
    Failed(StoreError),
}

impl LocalRegistry {
    /// Removes it, immutable or not. None if it is not there.
    pub async fn remove(
        &self,
        repository: &RepositoryName,
        target: &RemovalTarget,
    ) -> Result<Option<Removed>, StoreError> {
        let repository = self.store.repositories.at(repository);
        Ok(match target {
            RemovalTarget::Tag(tag) => repository.remove_tag(tag).await?.then(|| removed(vec![tag.clone()], vec![])),
            RemovalTarget::TagAt(tag, digest) => {
                repository.remove_tag_at(tag, digest).await?.then(|| removed(vec![tag.clone()], vec![]))
            }
            RemovalTarget::Image(tag) => {
                repository.remove_tagged(tag).await?.map(|manifests| removed(vec![tag.clone()], manifests))
            }
            RemovalTarget::Manifest(digest) => {
                repository.remove_manifest(digest).await?.map(|tags| removed(tags, vec![*digest]))
            }
            RemovalTarget::Everything => {
                let (tagged, manifests) = (repository.tagged().await?, repository.manifests().await?);
                let tags = tagged.into_iter().map(|tagged| tagged.tag).collect();
                repository.remove().await?.then(|| removed(tags, manifests))
            }
        })
    }
}

impl From<StoreError> for NotRemoved {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

fn removed(tags: Vec<Tag>, manifests: Vec<Digest>) -> Removed {
    Removed { tags, manifests }
}

impl RemovalTarget {
    /// The event of the deletion.
    pub fn about(&self, event: Event) -> Event {
        match self {
            Self::Tag(tag) | Self::TagAt(tag, _) | Self::Image(tag) => Event { tag: Some(tag.clone()), ..event },
            Self::Manifest(digest) => Event { digest: Some(*digest), ..event },
            Self::Everything => event,
        }
    }

    /// An immutable tag that would go.
    pub(super) async fn kept(
        &self,
        store: &Repository,
        access: &Arc<AccessControl>,
        repository: &RepositoryName,
    ) -> Result<Option<AccessRefusal>, StoreError> {
        let would_go: Vec<Tag> = match self {
            Self::Tag(tag) | Self::TagAt(tag, _) | Self::Image(tag) => {
                store.tag(tag).await?.map(|_| tag.clone()).into_iter().collect()
            }
            Self::Manifest(digest) => return kept_content(store, access, repository, digest).await,
            Self::Everything => store.tagged().await?.into_iter().map(|tagged| tagged.tag).collect(),
        };
        Ok(would_go.iter().find_map(|tag| access.may_change(repository, tag).err()))
    }
}

/// The refusal to remove a manifest or a blob that an immutable tag leads to.
pub(super) async fn kept_content(
    store: &Repository,
    access: &Arc<AccessControl>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<AccessRefusal>, StoreError> {
    if !access.has_immutable_tags(repository) {
        return Ok(None);
    }
    let (rules, named) = (access.clone(), repository.clone());
    let tag = store.tag_leading_to(digest, move |tag| rules.may_change(&named, tag).is_err()).await?;
    Ok(tag.and_then(|tag| access.may_change(repository, &tag).err()))
}

impl From<&Reference> for RemovalTarget {
    /// The meaning of the protocol's DELETE.
    fn from(reference: &Reference) -> Self {
        match reference {
            Reference::Tag(tag) => Self::Tag(tag.clone()),
            Reference::Digest(digest) => Self::Manifest(*digest),
        }
    }
}

impl LocalRequest {
    /// Removes it, unless an immutable tag would go, and tells of it. Whether the visitor may was asked before.
    pub(super) async fn remove(
        &self,
        repository: &RepositoryName,
        target: &RemovalTarget,
    ) -> Result<Removed, NotRemoved> {
        let (store, access) = (self.registry.store.repositories.at(repository), self.registry.access());
        if let Some(refusal) = target.kept(&store, &access, repository).await? {
            return Err(NotRemoved::Refused(refusal));
        }
        let removed = self.registry.remove(repository, target).await?.ok_or(NotRemoved::Missing)?;
        self.tell(Deed::Delete, repository, |event| target.about(event));
        Ok(removed)
    }
}
