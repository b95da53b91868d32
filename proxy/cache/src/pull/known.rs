//! The store's knowledge of a tag or a blob, as the phases of `pipeline` ask for it and add to it.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::media::AcceptClass;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::pull::Pull;
use crate::pull::manifest::Manifest;
use crate::pull::request::{BlobRequest, TagRequest};
use crate::pull::rights::Right;
use entrepot_store::{Blob, TagEntry};

impl Pull {
    /// The digests that are known of the tag: first the one that clients of this Accept class were told, then those of
    /// other classes that this client takes as well, the latest first.
    pub(super) async fn known_digests(&self, tag: &TagRequest<'_>, known: Option<&TagEntry>) -> Vec<Digest> {
        let entries = self.store.names.tag_in_all_classes(&tag.request.place(tag.repository), tag.tag).await;
        let shared = |(class, entry): &(AcceptClass, TagEntry)| tag.class.shares_answer_of(*class, &entry.media_type);
        let others = entries.into_iter().filter(shared).map(|(_, entry)| entry);
        known.cloned().into_iter().chain(others).map(|entry| entry.digest).collect()
    }

    pub(super) async fn tag_entry(&self, tag: &TagRequest<'_>) -> Option<TagEntry> {
        self.store.names.tag(&tag.key()).await
    }

    pub(super) async fn keep_told_tag(&self, tag: &TagRequest<'_>, digest: Digest, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let (Some(media_type), Some(Ok(size))) = (text(CONTENT_TYPE), text(CONTENT_LENGTH).map(str::parse)) {
            self.keep_tag_entry(tag, digest, media_type.to_owned(), size).await;
        }
    }

    pub(super) async fn keep_tag(&self, tag: &TagRequest<'_>, manifest: &Manifest) {
        let size_bytes = manifest.bytes.len() as u64;
        self.keep_tag_entry(tag, manifest.digest, manifest.media_type.clone(), size_bytes).await;
    }

    async fn keep_tag_entry(&self, tag: &TagRequest<'_>, digest: Digest, media_type: String, size_bytes: u64) {
        if !tag.request.snapshot.config.cache.enabled {
            return;
        }
        let entry = TagEntry { digest, media_type, size_bytes, validated_at: SystemTime::now() };
        self.store.names.set_tag(tag.key(), entry).await;
    }

    pub(super) async fn stored_blob(&self, blob: &BlobRequest<'_>) -> Option<Arc<Blob>> {
        self.store.blobs.get(&blob.digest).await.unwrap_or_else(|error| {
            tracing::warn!(digest = %blob.digest, "the store cannot be read, asking upstream: {error}");
            None
        })
    }

    pub(super) async fn offline_copy(&self, blob: &BlobRequest<'_>) -> Option<(Arc<Blob>, Right)> {
        let place = blob.place();
        let link = self.store.names.link_of(&place, &blob.digest).await?;
        let right = self.right_offline(blob.request, &place, &blob.digest, &link).await?;
        Some((self.stored_blob(blob).await?, right))
    }

    /// Notes that the repository has the blob: upstream has just shown it to this request.
    pub(super) async fn link(&self, blob: &BlobRequest<'_>) {
        self.store.names.link(&blob.place(), &blob.digest, self.public_now(blob.request)).await;
    }
}
