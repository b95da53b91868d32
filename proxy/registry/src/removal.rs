//! Taking away: one way for the protocol's DELETE, the web page and the administrator, so each deletion is durable, and is
//! told to those who want to hear of it.

use entrepot_core::digest::Digest;
use entrepot_core::name::{Reference, RepositoryName, Tag};

use super::LocalRegistry;
use super::access::{Access, AccessRefusal};
use super::events::{Deed, Event};
use super::request::LocalRequest;
use entrepot_cache::pull::offload;
use entrepot_store::{Store, StoreError};

/// What of a repository is to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A tag; its manifest stays.
    Tag(Tag),
    /// A tag, with the manifests that nothing else leads to.
    Image(Tag),
    /// A manifest, with the tags that point to it.
    Manifest(Digest),
    /// All of it.
    Everything,
}

/// What went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Tags.
    pub tags: Vec<Tag>,
    /// Manifests.
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
    /// The operation itself broke off; the log says why.
    BrokenOff,
}

impl LocalRegistry {
    /// Removes it, immutable or not; none where it is not there. Blocks.
    pub fn remove(&self, repository: &RepositoryName, target: &Target) -> Result<Option<Removed>, StoreError> {
        let store = &self.store;
        Ok(match target {
            Target::Tag(tag) => store.remove_pushed_tag(repository, tag)?.then(|| removed(vec![tag.clone()], vec![])),
            Target::Image(tag) => {
                store.remove_tagged(repository, tag)?.map(|manifests| removed(vec![tag.clone()], manifests))
            }
            Target::Manifest(digest) => {
                store.remove_pushed_manifest(repository, digest)?.map(|tags| removed(tags, vec![*digest]))
            }
            Target::Everything => {
                let (tagged, manifests) = (store.tagged(repository)?, store.pushed_manifests(repository)?);
                let tags = tagged.into_iter().map(|tagged| tagged.tag).collect();
                store.remove_repository(repository)?.then(|| removed(tags, manifests))
            }
        })
    }
}

fn removed(tags: Vec<Tag>, manifests: Vec<Digest>) -> Removed {
    Removed { tags, manifests }
}

impl Target {
    /// What an event of the deletion says of it.
    pub fn about(&self, event: Event) -> Event {
        match self {
            Self::Tag(tag) | Self::Image(tag) => Event { tag: Some(tag.clone()), ..event },
            Self::Manifest(digest) => Event { digest: Some(*digest), ..event },
            Self::Everything => event,
        }
    }

    /// An immutable tag that would go.
    pub(super) fn kept(
        &self,
        store: &Store,
        access: &Access,
        repository: &RepositoryName,
    ) -> Result<Option<AccessRefusal>, StoreError> {
        let would_go: Vec<Tag> = match self {
            Self::Tag(tag) | Self::Image(tag) => {
                store.pushed_tag(repository, tag)?.map(|_| tag.clone()).into_iter().collect()
            }
            Self::Manifest(digest) => {
                let tagged = store.tagged(repository)?.into_iter().filter(|tagged| tagged.digest == *digest);
                tagged.map(|tagged| tagged.tag).collect()
            }
            Self::Everything => store.tagged(repository)?.into_iter().map(|tagged| tagged.tag).collect(),
        };
        Ok(would_go.iter().find_map(|tag| access.may_move(repository, tag).err()))
    }
}

impl From<&Reference> for Target {
    /// What the protocol's DELETE means.
    fn from(reference: &Reference) -> Self {
        match reference {
            Reference::Tag(tag) => Self::Tag(tag.clone()),
            Reference::Digest(digest) => Self::Manifest(*digest),
        }
    }
}

impl LocalRequest {
    /// Removes it, unless an immutable tag would go, and tells of it. Whether the visitor may was asked before.
    pub(super) async fn remove(&self, repository: &RepositoryName, target: &Target) -> Result<Removed, NotRemoved> {
        let (registry, access) = (self.registry.clone(), self.registry.access());
        let (named, wanted) = (repository.clone(), target.clone());
        let done = offload(move || match wanted.kept(&registry.store, &access, &named)? {
            Some(refusal) => Ok(Err(NotRemoved::Refused(refusal))),
            None => Ok(registry.remove(&named, &wanted)?.ok_or(NotRemoved::Missing)),
        });
        let removed = match done.await {
            Some(Ok(outcome)) => outcome?,
            Some(Err(error)) => return Err(NotRemoved::Failed(error)),
            None => return Err(NotRemoved::BrokenOff),
        };
        self.tell(Deed::Delete, repository, |event| target.about(event));
        Ok(removed)
    }
}
