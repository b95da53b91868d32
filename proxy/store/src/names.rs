//! Names that lead to content: which repository has it (links), since when and with which public proof, the manifests
//! of repositories, tags, artefacts.
//!
//! A look-up asks memory first and is ready at once if memory knows. Otherwise it reads the index, and the file of a
//! manifest, on the blocking pool, and its result is remembered. All of these are answers of upstream, kept as rows of
//! the index. If the rows are lost, upstream is asked again. A change that returned is seen by every look-up that
//! begins after it.
//!
//! "Public" belongs to one link: this content, in this repository, was served to an anonymous client. A refusal of an
//! anonymous client ends the proofs of all links of its repository. An artefact has a proof and a standing of its own,
//! under keys that no repository has.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::media::{AcceptClass, ManifestInfo};
use entrepot_core::name::Tag;
use entrepot_core::origin::Origin;
use redb::ReadTransaction;

use crate::blobs::{Blobs, PLACES_MAX};
use crate::blocking::blocking;
use crate::entries::{ArtefactEntry, Link, TagEntry, TagKey};
use crate::index::tables::Tables;
use crate::index::{Index, Job, names as rows};
use crate::memory::{Memory, StoredManifest};
use crate::place::{Holder, Place};
use crate::times::ms_of;

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

    /// The link of the repository to the content. None if it is not known to have it.
    pub async fn link_of(&self, place: &Place, digest: &Digest) -> Option<Link> {
        if let Some(link) = self.memory.link_of(place, digest) {
            return Some(link);
        }
        let since = self.memory.epoch();
        let (wanted, digest) = (place.clone(), *digest);
        let link = self.index.ask(move |index| rows::link_of(index, &wanted, &digest)).await.flatten()?;
        self.memory.remember_link(since, place, &digest, link);
        Some(self.memory.as_it_counts(&place.into(), link))
    }

    /// Notes that the repository has the content, because its upstream has shown that. `public_at` is when it showed
    /// that to an anonymous client, None if it did not. A link that exists keeps its age, and a later proof.
    pub async fn link(&self, place: &Place, digest: &Digest, public_at: Option<SystemTime>) {
        let (place, digest) = (place.clone(), *digest);
        let (at_ms, public_ms) = (ms_of(SystemTime::now()), public_at.map_or(0, ms_of));
        self.note(move |tables| tables.link(&place, &digest, at_ms, public_ms)).await;
    }

    /// Notes that an anonymous client was served this content in this repository. Without effect if there is no link,
    /// if the link was made after `at`, or if it has a later proof. Each call that has an effect is a write.
    pub async fn prove_public(&self, place: &Place, digest: &Digest, at: SystemTime) {
        let (place, digest, public_ms) = (place.clone(), *digest, ms_of(at));
        self.note(move |tables| tables.prove_public(&place, &digest, public_ms)).await;
    }

    /// Notes that upstream refused the repository to an anonymous client: every public proof of its links that was made
    /// at `at` or before ends at once. Repeating it writes nothing.
    pub async fn refuse_public(&self, place: &Place, at: SystemTime) {
        let at_ms = ms_of(at);
        let asked = place.clone();
        let may_count = self.may_count(place.into(), at_ms, move |index| rows::proofs_count(index, &asked)).await;
        if may_count {
            let place = place.clone();
            self.note(move |tables| tables.refuse_public(&place, at_ms)).await;
        }
    }

    /// Whether one of the first 64 repositories that have the content has a public proof of it that was made at `since`
    /// or later.
    pub async fn public_places(&self, digest: &Digest, since: SystemTime) -> bool {
        let digest = *digest;
        let links = self.index.ask(move |index| rows::links(index, &digest, PLACES_MAX)).await.unwrap_or_default();
        links.into_iter().any(|(place, link)| self.memory.as_it_counts(&(&place).into(), link).public_at >= Some(since))
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

    /// The manifest, with the repository's link to it. None if the repository is not known to have it. Counts as a use.
    /// Bytes of another digest are thrown away.
    pub async fn manifest(&self, place: &Place, digest: &Digest) -> Option<(StoredManifest, Link)> {
        if let Some(known) = self.remembered_manifest(place, digest) {
            return Some(known);
        }
        let link = self.link_of(place, digest).await?;
        // Memory may have lacked only the link.
        if let Some(known) = self.remembered_manifest(place, digest) {
            return Some(known);
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
        Some((manifest, self.memory.as_it_counts(&place.into(), link)))
    }

    /// Notes the type of a manifest and [links](Self::link) it, both at once.
    pub async fn keep_manifest(&self, place: &Place, digest: &Digest, media_type: &str, public_at: Option<SystemTime>) {
        let (place, digest, media_type) = (place.clone(), *digest, media_type.to_owned());
        let (at_ms, public_ms) = (ms_of(SystemTime::now()), public_at.map_or(0, ms_of));
        self.note(move |tables| {
            tables.set_media_type(&digest, &media_type)?;
            tables.link(&place, &digest, at_ms, public_ms)
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

    /// The first `limit` tags of the repository after `after`, by name, each with the manifests that it pointed to.
    pub async fn tags_after(&self, place: &Place, after: &str, limit: usize) -> Vec<(Tag, Vec<Digest>)> {
        let (place, after) = (place.clone(), after.to_owned());
        self.index.ask(move |index| rows::tags_after(index, &place, &after, limit)).await.unwrap_or_default()
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

    /// The content that the path of an artefact gave.
    pub async fn artefact(&self, origin: &Origin, path_and_query: &str) -> Option<ArtefactEntry> {
        let (asked, path) = (origin.clone(), path_and_query.to_owned());
        let entry = self.index.ask(move |index| rows::artefact(index, &asked, &path)).await.flatten()?;
        let link = self.memory.as_it_counts(&Holder::artefact(origin, path_and_query), entry.link);
        Some(ArtefactEntry { link, ..entry })
    }

    /// Notes the content that the path of an artefact gave. An artefact with very long headers is not remembered. A
    /// public proof from before the last refusal is left out.
    pub async fn set_artefact(&self, origin: &Origin, path_and_query: &str, entry: ArtefactEntry) {
        let headers_bytes: usize = entry.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if path_and_query.len() + entry.content_type.len() + headers_bytes > ARTEFACT_MAX_BYTES {
            return;
        }
        let (origin, path) = (origin.clone(), path_and_query.to_owned());
        self.note(move |tables| tables.set_artefact(&origin, &path, entry)).await;
    }

    /// Notes that an anonymous client was served the artefact. Without effect if it is not known, was linked after `at`,
    /// was refused since or has a later proof.
    pub async fn prove_artefact_public(&self, origin: &Origin, path_and_query: &str, at: SystemTime) {
        let (origin, path, public_ms) = (origin.clone(), path_and_query.to_owned(), ms_of(at));
        self.note(move |tables| tables.prove_artefact_public(&origin, &path, public_ms)).await;
    }

    /// Notes that upstream refused the artefact to an anonymous client: a public proof that was made at `at` or before
    /// ends at once, also one that is noted later. Repeating it writes nothing.
    pub async fn refuse_artefact(&self, origin: &Origin, path_and_query: &str, at: SystemTime) {
        let (origin, path, at_ms) = (origin.clone(), path_and_query.to_owned(), ms_of(at));
        let asked = (origin.clone(), path.clone());
        let is_public = move |index: &ReadTransaction| {
            Ok(rows::artefact(index, &asked.0, &asked.1)?.is_some_and(|entry| entry.link.public_at.is_some()))
        };
        if self.may_count(Holder::artefact(&origin, &path), at_ms, is_public).await {
            self.note(move |tables| tables.refuse_artefact(&origin, &path, at_ms)).await;
        }
    }

    /// Takes a refusal at `at_ms`, from which on no earlier public proof counts. Whether one may have counted until now,
    /// so that its row has to hear of the refusal; `counts` reads that from the index.
    async fn may_count(
        &self,
        holder: Holder,
        at_ms: u64,
        counts: impl FnOnce(&ReadTransaction) -> Result<bool, redb::Error> + Send + 'static,
    ) -> bool {
        let since = self.memory.epoch();
        if let Some(may_count) = self.memory.refuse(&holder, at_ms) {
            return may_count;
        }
        let counts = self.index.ask(counts).await;
        if counts == Some(false) {
            self.memory.remember_no_proofs(since, &holder);
        }
        counts.unwrap_or(true)
    }

    /// The manifest, if memory has it and its link.
    fn remembered_manifest(&self, place: &Place, digest: &Digest) -> Option<(StoredManifest, Link)> {
        let (manifest, link, touch) = self.memory.manifest(place, digest)?;
        if touch {
            self.blobs.touch(digest);
        }
        Some((manifest, link))
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
