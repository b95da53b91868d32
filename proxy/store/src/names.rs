//! Names that lead to content: which repository has it (links), what a tag points to, what an artefact's path gave,
//! which repositories were seen public. Rows of the index, so all of them may be lost, and then upstream is asked.

use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{RepositoryName, Tag};

use super::Store;
use super::index::{Job, ms_of, names as rows, time_of};

/// Repositories that [`Store::linked_repositories`] names at most.
pub(super) const LINKED_MAX: usize = 64;
/// An artefact whose path, type and headers are longer than this together is not remembered.
const ARTEFACT_MAX_BYTES: usize = 16 << 10;

/// What a tag's answer is kept under.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagKey {
    /// Where.
    pub registry: RegistryHost,
    /// In which repository.
    pub repository: RepositoryName,
    /// Which tag.
    pub tag: Tag,
    /// The class of the request's `Accept`, which changes the answer.
    pub accept_class: u16,
}

/// What a tag pointed to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagEntry {
    /// The manifest.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
    /// Its size.
    pub size_bytes: u64,
    /// When upstream last said so; kept to the millisecond.
    pub validated_at: SystemTime,
}

/// What the path of an artefact gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArtefactEntry {
    /// The content.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Other headers to give back.
    pub headers: Vec<(String, String)>,
}

impl Store {
    /// Notes that a repository has the content, as its upstream said by serving it.
    pub fn link(&self, registry: &RegistryHost, repository: &RepositoryName, digest: &Digest) {
        let (registry, repository, digest) = (registry.clone(), repository.clone(), *digest);
        let at_ms = ms_of(SystemTime::now());
        self.index.change(Job::new(move |tables| tables.link(&registry, &repository, &digest, at_ms)));
    }

    /// Whether the repository is known to have the content.
    pub fn linked(&self, registry: &RegistryHost, repository: &RepositoryName, digest: &Digest) -> bool {
        if self.linked_now(registry, repository, digest) {
            return true;
        }
        let since = self.hot.epoch();
        let linked = self.index.read(|index| rows::linked(index, registry, repository, digest)).unwrap_or(false);
        if linked {
            self.hot.remember_link(since, registry, repository, digest);
        }
        linked
    }

    /// The repositories known to have the content, the first 64.
    pub fn linked_repositories(&self, digest: &Digest) -> Vec<(RegistryHost, String)> {
        self.index.read(|index| rows::linked_repositories(index, digest, LINKED_MAX)).unwrap_or_default()
    }

    /// Takes back that the repository has the content.
    pub fn forget_links(&self, registry: &RegistryHost, repository: &RepositoryName, digest: &Digest) {
        let (registry, repository, digest) = (registry.clone(), repository.clone(), *digest);
        self.index.change(Job::new(move |tables| tables.unlink(&registry, &repository, &digest)));
    }

    /// What the tag pointed to when it was last asked.
    pub fn tag(&self, key: &TagKey) -> Option<TagEntry> {
        if let Some(entry) = self.tag_now(key) {
            return Some(entry);
        }
        let since = self.hot.epoch();
        let entry = self.index.read(|index| rows::tag(index, key)).flatten()?;
        self.hot.remember_tag(since, key, &entry);
        Some(entry)
    }

    /// What the tag pointed to for each class of Accept that asked for it, the last seen first.
    pub fn tag_in_all_classes(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Vec<(AcceptClass, TagEntry)> {
        let mut entries =
            self.index.read(|index| rows::tag_in_all_classes(index, registry, repository, tag)).unwrap_or_default();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.validated_at));
        entries
    }

    /// Notes what a tag points to.
    pub fn set_tag(&self, key: TagKey, entry: TagEntry) {
        self.index.change(Job::new(move |tables| tables.set_tag(&key, &entry)));
    }

    /// Forgets a tag in all its Accept classes.
    pub fn forget_tag(&self, registry: &RegistryHost, repository: &RepositoryName, tag: &Tag) {
        let (registry, repository, tag) = (registry.clone(), repository.clone(), tag.clone());
        self.index.change(Job::new(move |tables| tables.forget_tag(&registry, &repository, &tag)));
    }

    /// The type of a stored manifest.
    pub fn media_type(&self, digest: &Digest) -> Option<String> {
        self.index.read(|index| rows::media_type(index, digest)).flatten()
    }

    /// Notes the type of a manifest.
    pub fn set_media_type(&self, digest: &Digest, media_type: &str) {
        let (digest, media_type) = (*digest, media_type.to_owned());
        self.index.change(Job::new(move |tables| tables.set_media_type(&digest, &media_type)));
    }

    /// Notes that upstream served the repository to somebody without credentials.
    pub fn mark_public(&self, registry: &RegistryHost, repository: &RepositoryName, at: SystemTime) {
        self.set_public(registry, repository, Some(ms_of(at)));
    }

    /// Takes the mark away.
    pub fn unmark_public(&self, registry: &RegistryHost, repository: &RepositoryName) {
        self.set_public(registry, repository, None);
    }

    /// When the repository was last seen public, to the millisecond.
    pub fn last_public(&self, registry: &RegistryHost, repository: &RepositoryName) -> Option<SystemTime> {
        self.index.read(|index| rows::last_public(index, registry, repository)).flatten().map(time_of)
    }

    /// What the path of an artefact gave.
    pub fn artefact(&self, registry: &RegistryHost, path_and_query: &str) -> Option<ArtefactEntry> {
        self.index.read(|index| rows::artefact(index, registry, path_and_query)).flatten()
    }

    /// Notes what the path of an artefact gave; one with very long headers is not remembered.
    pub fn set_artefact(&self, registry: &RegistryHost, path_and_query: &str, entry: ArtefactEntry) {
        let headers_bytes: usize = entry.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if path_and_query.len() + entry.content_type.len() + headers_bytes > ARTEFACT_MAX_BYTES {
            return;
        }
        let (registry, path_and_query) = (registry.clone(), path_and_query.to_owned());
        self.index.change(Job::new(move |tables| tables.set_artefact(&registry, &path_and_query, &entry)));
    }

    fn set_public(&self, registry: &RegistryHost, repository: &RepositoryName, at_ms: Option<u64>) {
        let (registry, repository) = (registry.clone(), repository.clone());
        self.index.change(Job::new(move |tables| tables.set_public(&registry, &repository, at_ms)));
    }
}
