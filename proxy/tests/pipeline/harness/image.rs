//! Content to pull: bytes that look random, and a minimal image with a manifest.

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};

use super::Upstream;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// `length` bytes that differ for each `seed` and do not repeat themselves soon.
pub(crate) fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

/// The sha256 digest.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// An image of one layer.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) repository: String,
    pub(crate) manifest: Bytes,
    pub(crate) manifest_digest: Digest,
    pub(crate) layer: Bytes,
    pub(crate) layer_digest: Digest,
}

impl Image {
    /// An image of `repository`; another `seed` is another image.
    pub(crate) fn new(repository: &str, seed: u64) -> Self {
        let layer = bytes(seed, 70_000);
        let layer_digest = digest_of(&layer);
        let manifest = Bytes::from(format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{layer_digest}","size":{size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{size}}}]}}"#,
            size = layer.len()
        ));
        let manifest_digest = digest_of(&manifest);
        Self { repository: repository.to_owned(), manifest, manifest_digest, layer, layer_digest }
    }

    /// Puts the image into a registry under `tag`.
    pub(crate) fn publish(&self, upstream: &Upstream, tag: &str) {
        upstream.manifest(&self.repository, tag, MANIFEST_TYPE, &self.manifest);
        upstream.blob(&self.repository, &self.layer);
    }

    pub(crate) fn tag_path(&self, tag: &str) -> String {
        format!("/v2/{}/manifests/{tag}", self.repository)
    }

    pub(crate) fn manifest_path(&self) -> String {
        self.tag_path(&self.manifest_digest.to_string())
    }

    pub(crate) fn layer_path(&self) -> String {
        format!("/v2/{}/blobs/{}", self.repository, self.layer_digest)
    }
}
