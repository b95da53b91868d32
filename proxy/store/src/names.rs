//! Names that lead to content: which repository has it (links), the manifests of repositories, tags, artefacts, and
//! which repositories were seen public.
//!
//! A look-up asks memory first and is ready at once if memory knows. Otherwise it reads the index, and the file of a
//! manifest, on the blocking pool, and its result is remembered. All of these are answers of upstream, kept as rows of
//! the index. If the rows are lost, upstream is asked again. A change that returned is seen by every look-up that
//! begins after it.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::{AcceptClass, ManifestInfo};
use entrepot_core::name::Tag;

use crate::blobs::{Blobs, PLACES_MAX};
use crate::blocking::blocking;
use crate::entries::{ArtefactEntry, TagEntry, TagKey};
use crate::index::tables::Tables;
use crate::index::{Index, Job, ms_of, names as rows, time_of};
use crate::memory::{Memory, StoredManifest};
use crate::place::Place;

/// An artefact whose path, type and headers are longer than this together is not remembered.
const ARTEFACT_MAX_BYTES: usize = 16 << 10;

/// The names of one store.
pub struct Names {
    index: Arc<Index>,
    memory: Arc<Memory>,
    blobs: Arc<Blobs>,
}

impl Names {
    pub(crate) fn new(index: Arc<Index>, memory: Arc<Memory>, blobs: Arc<Blobs>) -> Self {
        Self { index, memory, blobs }
    }

    /// Whether the repository is known to have the content.
    pub async fn linked(&self, place: &Place, digest: &Digest) -> bool {
        if self.memory.linked(place, digest) {
            return true;
        }
        let since = self.memory.epoch();
        let (wanted, digest) = (place.clone(), *digest);
        let linked = self.index.ask(move |index| rows::linked(index, &wanted, &digest)).await.unwrap_or(false);
        if linked {
            self.memory.remember_link(since, place, &digest);
        }
        linked
    }

    /// Notes that the repository has the content. Its upstream showed that by serving it.
    pub async fn link(&self, place: &Place, digest: &Digest) {
        let (place, digest, at_ms) = (place.clone(), *digest, ms_of(SystemTime::now()));
        self.note(move |tables| tables.link(&place, &digest, at_ms)).await;
    }

    /// Forgets that the repository has the content.
    pub async fn unlink(&self, place: &Place, digest: &Digest) {
        let (place, digest) = (place.clone(), *digest);
        self.note(move |tables| tables.unlink(&place, &digest)).await;
    }

    /// The repositories known to have the content, at most the first 64.
    pub async fn places(&self, digest: &Digest) -> Vec<Place> {
        let digest = *digest;
        self.index.ask(move |index| rows::places(index, &digest, PLACES_MAX)).await.unwrap_or_default()
    }

    /// The manifest. None if the repository is not known to have it. Counts as a use. Bytes of another digest are
    /// thrown away.
    pub async fn manifest(&self, place: &Place, digest: &Digest) -> Option<StoredManifest> {
        if let Some(manifest) = self.remembered_manifest(place, digest) {
            return Some(manifest);
        }
        if !self.linked(place, digest).await {
            return None;
        }
        // Memory may have lacked only the link.
        if let Some(manifest) = self.remembered_manifest(place, digest) {
            return Some(manifest);
        }
        let since = self.memory.epoch();
        let (index, blobs, digest) = (self.index.clone(), self.blobs.clone(), *digest);
        let manifest = blocking(move || {
            let (blob, bytes) = blobs.manifest_blocking(&digest)?;
            let noted = index.read(|index| rows::media_type(index, &digest)).flatten();
            let media_type = noted.or_else(|| ManifestInfo::inspect(&bytes).ok()?.media_type)?;
            Some(StoredManifest { digest, media_type: media_type.into(), stored_at: blob.stored_at(), bytes })
        });
        let manifest = manifest.await.flatten()?;
        self.memory.remember_manifest(since, manifest.clone());
        Some(manifest)
    }

    /// Notes the type of a manifest and that the repository has it, both at once.
    pub async fn keep_manifest(&self, place: &Place, digest: &Digest, media_type: &str) {
        let (place, digest, media_type) = (place.clone(), *digest, media_type.to_owned());
        let at_ms = ms_of(SystemTime::now());
        self.note(move |tables| {
            tables.set_media_type(&digest, &media_type)?;
            tables.link(&place, &digest, at_ms)
        })
        .await;
    }

    /// Notes the type of a manifest.
    pub async fn set_media_type(&self, digest: &Digest, media_type: &str) {
        let (digest, media_type) = (*digest, media_type.to_owned());
        self.note(move |tables| tables.set_media_type(&digest, &media_type)).await;
    }

    /// The manifest that the tag pointed to when upstream was last asked.
    pub async fn tag(&self, key: &TagKey) -> Option<TagEntry> {
        if let Some(entry) = self.memory.tag(key) {
            return Some(entry);
        }
        let since = self.memory.epoch();
        let wanted = key.clone();
        let entry = self.index.ask(move |index| rows::tag(index, &wanted)).await.flatten()?;
        self.memory.remember_tag(since, key, &entry);
        Some(entry)
    }

    /// The manifests that the tag pointed to, one for each class of Accept that was asked for, the last seen first.
    pub async fn tag_in_all_classes(&self, place: &Place, tag: &Tag) -> Vec<(AcceptClass, TagEntry)> {
        let (place, tag) = (place.clone(), tag.clone());
        let entries = self.index.ask(move |index| rows::tag_in_all_classes(index, &place, &tag));
        let mut entries = entries.await.unwrap_or_default();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.validated_at));
        entries
    }

    /// Notes the manifest that a tag points to.
    pub async fn set_tag(&self, key: TagKey, entry: TagEntry) {
        self.note(move |tables| tables.set_tag(&key, &entry)).await;
    }

    /// Forgets a tag in all its Accept classes.
    pub async fn forget_tag(&self, place: &Place, tag: &Tag) {
        let (place, tag) = (place.clone(), tag.clone());
        self.note(move |tables| tables.forget_tag(&place, &tag)).await;
    }

    /// When upstream last served the repository to a client without credentials, to the millisecond. None if it never
    /// did, or if the mark was taken away.
    pub async fn last_public(&self, place: &Place) -> Option<SystemTime> {
        let place = place.clone();
        self.index.ask(move |index| rows::last_public(index, &place)).await.flatten().map(time_of)
    }

    /// Notes that upstream served the repository to a client without credentials.
    pub async fn mark_public(&self, place: &Place, at: SystemTime) {
        let place = place.clone();
        self.note(move |tables| tables.set_public(&place, Some(ms_of(at)))).await;
    }

    /// Takes the mark of [`Self::mark_public`] away.
    pub async fn unmark_public(&self, place: &Place) {
        let place = place.clone();
        self.note(move |tables| tables.set_public(&place, None)).await;
    }

    /// The content that the path of an artefact gave.
    pub async fn artefact(&self, registry: &RegistryHost, path_and_query: &str) -> Option<ArtefactEntry> {
        let (registry, path) = (registry.clone(), path_and_query.to_owned());
        self.index.ask(move |index| rows::artefact(index, &registry, &path)).await.flatten()
    }

    /// Notes the content that the path of an artefact gave. An artefact with very long headers is not remembered.
    pub async fn set_artefact(&self, registry: &RegistryHost, path_and_query: &str, entry: ArtefactEntry) {
        let headers_bytes: usize = entry.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if path_and_query.len() + entry.content_type.len() + headers_bytes > ARTEFACT_MAX_BYTES {
            return;
        }
        let (registry, path) = (registry.clone(), path_and_query.to_owned());
        self.note(move |tables| tables.set_artefact(&registry, &path, &entry)).await;
    }

    /// The manifest, if memory has it and its link.
    fn remembered_manifest(&self, place: &Place, digest: &Digest) -> Option<StoredManifest> {
        let (manifest, touch) = self.memory.manifest(place, digest)?;
        if touch {
            self.blobs.touch(digest);
        }
        Some(manifest)
    }

    async fn note(&self, change: impl FnOnce(&mut Tables<'_>) -> Result<(), redb::Error> + Send + 'static) {
        self.index.note(Job::new(change)).await;
    }
}

#[cfg(test)]
impl Names {
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}
