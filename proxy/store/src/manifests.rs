//! Manifests as pulls ask for them: bytes, type and the right repository in one question. `*_now` answers from memory
//! and never waits (see `hot`); the other forms read the index and the file, and remember what they find.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::{MANIFEST_MAX_BYTES, ManifestInfo};
use entrepot_core::name::RepositoryName;

use super::hot::StoredManifest;
use super::names::{TagEntry, TagKey};
use super::{Blob, Store};

impl Store {
    /// The manifest, if the repository is known to have it and both are in memory; counts as a use. Never blocks, and
    /// `None` only means that [`Store::manifest`] is to be asked.
    pub fn manifest_now(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<StoredManifest> {
        let (manifest, touch) = self.hot.manifest(registry, repository, digest)?;
        if touch {
            self.touch(digest);
        }
        Some(manifest)
    }

    /// Whether memory knows that the repository has the content. Never blocks, and false only means that
    /// [`Store::linked`] is to be asked.
    pub fn linked_now(&self, registry: &RegistryHost, repository: &RepositoryName, digest: &Digest) -> bool {
        self.hot.linked(registry, repository, digest)
    }

    /// What the tag pointed to, if that is in memory. Never blocks, and `None` only means that [`Store::tag`] is to be
    /// asked.
    pub fn tag_now(&self, key: &TagKey) -> Option<TagEntry> {
        self.hot.tag(key)
    }

    /// The manifest, if the repository is known to have it; counts as a use. Bytes that are not what their digest says
    /// are thrown away.
    pub fn manifest(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<StoredManifest> {
        if !self.linked(registry, repository, digest) {
            return None;
        }
        if let Some(manifest) = self.manifest_now(registry, repository, digest) {
            return Some(manifest);
        }
        let since = self.hot.epoch();
        let blob = self.blob(digest).ok()??;
        let manifest = self.read_manifest(&blob)?;
        self.hot.remember_manifest(since, manifest.clone());
        Some(manifest)
    }

    /// The manifest as content of this type, whoever has it; counts as a use.
    pub(super) fn manifest_as(&self, digest: &Digest, media_type: &str) -> Option<StoredManifest> {
        let blob = self.blob(digest).ok()??;
        let bytes = self.checked_bytes(&blob)?;
        Some(StoredManifest { digest: *digest, media_type: media_type.into(), stored_at: blob.stored_at(), bytes })
    }

    fn read_manifest(&self, blob: &Blob) -> Option<StoredManifest> {
        let digest = blob.digest;
        let bytes = self.checked_bytes(blob)?;
        let told = || ManifestInfo::inspect(&bytes).ok()?.media_type;
        let media_type = Arc::from(self.media_type(&digest).or_else(told)?);
        Some(StoredManifest { digest, media_type, stored_at: blob.stored_at(), bytes })
    }

    /// A manifest's bytes, compared with their digest.
    fn checked_bytes(&self, blob: &Blob) -> Option<Bytes> {
        let digest = blob.digest;
        if blob.size_bytes > MANIFEST_MAX_BYTES as u64 {
            return None;
        }
        let bytes = blob.read_at(0, blob.size_bytes as usize).ok()?;
        if bytes.len() as u64 != blob.size_bytes || Digest::of(digest.algorithm(), &bytes) != digest {
            self.quarantine(&digest);
            return None;
        }
        Some(bytes)
    }
}
