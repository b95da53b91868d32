//! The content that is pulled: blobs of any size that cost nothing to serve, and small manifests.
//!
//! A blob is one tile of random bytes, repeated; the first bytes of each tile are replaced by the blob's seed and the
//! tile's number, so no two blobs and no two tiles are alike. Used by `upstream` and by the sections.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde_json::json;

use crate::BoxError;

/// One tile's length; every slice that is served lies within one.
pub(crate) const TILE_BYTES: u64 = 1 << 20;
const STAMP_BYTES: u64 = 16;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of the manifests.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A named blob.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
    pub(crate) content: Content,
}

/// Where a blob's bytes are.
#[derive(Clone)]
pub(crate) enum Content {
    Ready(Bytes),
    Tiled { tile: Bytes, seed: u64 },
}

/// The one tile that all blobs share, different in every run.
pub(crate) fn random_tile() -> Result<Bytes, BoxError> {
    let mut tile = vec![0; TILE_BYTES as usize];
    aws_lc_rs::rand::fill(&mut tile).map_err(|_| "the system gives no random bytes")?;
    Ok(tile.into())
}

impl Blob {
    /// A blob of whole or broken tiles.
    pub(crate) fn tiled(tile: &Bytes, seed: u64, size_bytes: u64) -> Self {
        let mut blob = Self { digest: String::new(), size_bytes, content: Content::Tiled { tile: tile.clone(), seed } };
        let mut hash = Hash::new();
        let mut at = 0;
        while at < size_bytes {
            let piece = blob.piece(at, size_bytes);
            hash.update(&piece);
            at += piece.len() as u64;
        }
        blob.digest = hash.finish();
        blob
    }

    /// A blob that is in memory.
    pub(crate) fn ready(bytes: Bytes) -> Self {
        Self { digest: sha256(&bytes), size_bytes: bytes.len() as u64, content: Content::Ready(bytes) }
    }

    /// Some bytes from `at` on, at least one and none beyond `end`; never a copy of more than a stamp.
    pub(crate) fn piece(&self, at: u64, end: u64) -> Bytes {
        match &self.content {
            Content::Ready(bytes) => bytes.slice(at as usize..end as usize),
            Content::Tiled { tile, seed } => {
                let (number, within) = (at / TILE_BYTES, at % TILE_BYTES);
                let room = end - at;
                if within < STAMP_BYTES {
                    let stamp: Vec<u8> = [seed.to_le_bytes(), number.to_le_bytes()].concat();
                    let stop = STAMP_BYTES.min(within + room);
                    return Bytes::from(stamp).slice(within as usize..stop as usize);
                }
                tile.slice(within as usize..TILE_BYTES.min(within + room) as usize)
            }
        }
    }
}

/// An image manifest of about 1.5 KiB, as those of images with a few layers are.
pub(crate) fn manifest(config: &Blob, layers: &[Blob]) -> Blob {
    let entry = |blob: &Blob, media_type: &str| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": entry(config, CONFIG),
        "layers": layers.iter().map(|layer| entry(layer, LAYER)).collect::<Vec<_>>(),
    });
    Blob::ready(manifest.to_string().into())
}

/// A config that names the layers, which are plain and so have their digests as DiffIDs.
pub(crate) fn config(layers: &[Blob]) -> Blob {
    let ids: Vec<_> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids },
    });
    Blob::ready(config.to_string().into())
}

/// A SHA-256 that is fed piece by piece.
pub(crate) struct Hash(Context);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// `sha256:…`
    pub(crate) fn finish(self) -> String {
        self.0.finish().as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

fn sha256(bytes: &[u8]) -> String {
    let mut hash = Hash::new();
    hash.update(bytes);
    hash.finish()
}
