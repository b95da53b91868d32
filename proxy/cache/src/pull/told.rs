//! Tags whose digest upstream told by HEAD, while the manifest is not here. Docker asks for the tag by HEAD and then for
//! the manifest by digest; the tag is remembered once that has come.
//!
//! The digest may be the word of a host that a redirect led to, as registry.k8s.io's leads to pkg.dev. It is confirmed
//! by the registry itself, which gives the manifest by that digest in the same repository. Nothing here gives a right.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::recent::Recent;
use http::HeaderMap;

use crate::pull::Pull;
use crate::pull::manifest::Manifest;
use crate::pull::request::TagRequest;
use entrepot_store::{Place, TagEntry, TagKey};

/// A tag, and the time at which its digest was told.
type Told = (TagKey, SystemTime);

/// The tags of each digest.
pub(super) struct ToldTags {
    told: Mutex<Recent<(Place, Digest), Vec<Told>>>,
}

const DIGESTS_MAX: usize = 4096;
/// The tags of one manifest that are remembered at once.
const TAGS_MAX: usize = 16;

impl Default for ToldTags {
    fn default() -> Self {
        Self { told: Mutex::new(Recent::new(DIGESTS_MAX)) }
    }
}

impl ToldTags {
    fn note(&self, place: &Place, digest: Digest, key: TagKey) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let tags = told.get_or_insert_with(&(place.clone(), digest), Vec::new);
        tags.retain(|(known, _)| *known != key);
        if tags.len() >= TAGS_MAX {
            tags.remove(0);
        }
        tags.push((key, SystemTime::now()));
    }

    fn take(&self, place: &Place, digest: &Digest) -> Vec<Told> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.remove(&(place.clone(), *digest)).unwrap_or_default()
    }
}

impl Pull {
    /// Upstream's HEAD told that the tag is this digest. If the manifest is known in the repository, the tag is known now.
    pub(super) async fn told(&self, tag: &TagRequest<'_>, digest: Digest) {
        match self.stored_manifest(tag.request, tag.repository, &digest).await {
            Some((manifest, _)) => self.keep_tag(tag, &manifest).await,
            None => self.told_tags.note(&tag.request.place(tag.repository), digest, tag.key()),
        }
    }

    /// The repository has this manifest: the tags that were told to be it are known, unless a younger answer is.
    pub(super) async fn confirm_told(&self, place: &Place, manifest: &Manifest) {
        for (key, validated_at) in self.told_tags.take(place, &manifest.digest) {
            if self.store.names.tag(&key).await.is_some_and(|known| known.validated_at >= validated_at) {
                continue;
            }
            let (digest, media_type) = (manifest.digest, manifest.media_type.clone());
            let entry = TagEntry { digest, media_type, size_bytes: manifest.bytes.len() as u64, validated_at };
            self.store.names.set_tag(key, entry).await;
        }
    }
}

/// The digest in a head, whoever sent it.
pub(super) fn digest_in(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}
