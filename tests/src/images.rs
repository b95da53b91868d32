//! Images that the tests make themselves: blobs and manifests. Small ones are in memory, the large one is generated
//! while it is sent. Layers are plain tars of one file, so a layer's digest is also its DiffID.

use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{self, SHA256};
use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use serde_json::json;

use crate::serve::BoxError;

/// Docker's manifest type.
pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list type.
pub const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const CHUNK: usize = 1 << 20;

/// The architecture of this machine, as images call it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A named piece of content.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    pub size: u64,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Ready(Bytes),
    Generated { seed: u64, file_size: u64 },
}

/// A manifest and its blobs.
#[derive(Clone)]
pub struct Image {
    /// The config first, then the layers.
    pub blobs: Vec<Blob>,
    pub manifest: Bytes,
    pub digest: String,
}

/// A list of images for several architectures.
#[derive(Clone)]
pub struct Index {
    pub images: Vec<Image>,
    pub manifest: Bytes,
    pub digest: String,
}

/// Debian's busybox-static in one layer. It can be run.
pub fn busybox() -> Image {
    let binary = std::fs::read("/bin/busybox").expect("busybox-static is installed (tests/run installs it)");
    Image::of(vec![Blob::ready(tar("bin/busybox", 0o755, &binary))], ARCHITECTURE)
}

/// An image of `layers` layers of `file_size` random bytes each; the same seed makes the same image.
pub fn random(seed: u64, layers: u64, file_size: usize) -> Image {
    random_for(seed, layers, file_size, ARCHITECTURE)
}

/// Like `random`, for another architecture.
pub fn random_for(seed: u64, layers: u64, file_size: usize, architecture: &str) -> Image {
    let layer = |number| {
        let mut block = vec![0; file_size];
        fill(seed.wrapping_mul(1009).wrapping_add(number), &mut block);
        Blob::ready(tar(&format!("data-{number}"), 0o644, &block))
    };
    Image::of((0..layers).map(layer).collect(), architecture)
}

/// An image with one layer of `file_size` bytes that is never in memory as a whole.
pub fn large(seed: u64, file_size: u64) -> Image {
    Image::of(vec![Blob::generated(seed, file_size)], ARCHITECTURE)
}

/// A list for this machine's architecture and two others.
pub fn index(seed: u64) -> Index {
    let architectures = [ARCHITECTURE, "s390x", "riscv64"];
    let images: Vec<Image> =
        (seed..).zip(architectures).map(|(seed, name)| random_for(seed, 2, 20_000, name)).collect();
    let entries: Vec<_> = images
        .iter()
        .zip(architectures)
        .map(|(image, name)| {
            json!({ "mediaType": MANIFEST, "size": image.manifest.len(), "digest": image.digest,
                    "platform": { "architecture": name, "os": "linux" } })
        })
        .collect();
    let list = json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": entries });
    let manifest = Bytes::from(list.to_string());
    Index { images, digest: sha256(&manifest), manifest }
}

impl Image {
    fn of(layers: Vec<Blob>, architecture: &str) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": { "Cmd": ["/bin/busybox", "echo", "hello"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created": "2026-01-01T00:00:00Z" })).collect::<Vec<_>>(),
        });
        let config = Blob::ready(Bytes::from(config.to_string()));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "size": config.size, "digest": config.digest },
            "layers": layers.iter()
                .map(|layer| json!({ "mediaType": LAYER, "size": layer.size, "digest": layer.digest }))
                .collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let blobs = std::iter::once(config).chain(layers).collect();
        Self { blobs, digest: sha256(&manifest), manifest }
    }

    pub fn layers(&self) -> &[Blob] {
        &self.blobs[1..]
    }

    /// Bytes of all blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

impl Blob {
    /// A blob of these bytes.
    pub fn ready(bytes: Bytes) -> Self {
        Self { digest: sha256(&bytes), size: bytes.len() as u64, content: Content::Ready(bytes) }
    }

    fn generated(seed: u64, file_size: u64) -> Self {
        let content = Content::Generated { seed, file_size };
        let mut hash = digest::Context::new(&SHA256);
        let size = Chunks::of(&content).inspect(|chunk| hash.update(chunk)).map(|chunk| chunk.len() as u64).sum();
        Self { digest: named(hash.finish().as_ref()), size, content }
    }

    /// All bytes, which must be in memory.
    pub fn bytes(&self) -> Bytes {
        match &self.content {
            Content::Ready(bytes) => bytes.clone(),
            generated @ Content::Generated { .. } => {
                let mut all = BytesMut::new();
                Chunks::of(generated).for_each(|chunk| all.extend_from_slice(&chunk));
                all.freeze()
            }
        }
    }

    /// The digest of a part of it.
    pub fn digest_of(&self, part: impl std::ops::RangeBounds<usize>) -> String {
        sha256(&self.bytes().slice(part))
    }

    /// The bytes, piece by piece. Also usable as a body.
    pub fn chunks(&self) -> Chunks {
        Chunks::of(&self.content)
    }
}

/// Content, one piece at a time.
pub struct Chunks {
    content: Content,
    next: u64,
}

impl Chunks {
    fn of(content: &Content) -> Self {
        Self { content: content.clone(), next: 0 }
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    /// Ready content is one piece; generated content is the tar's header, 1 MiB pieces, and the tar's end.
    fn next(&mut self) -> Option<Bytes> {
        let number = self.next;
        self.next += 1;
        match &self.content {
            Content::Ready(bytes) => (number == 0).then(|| bytes.clone()),
            Content::Generated { file_size, .. } if number == 0 => {
                Some(Bytes::from(tar_header("data", 0o644, *file_size)))
            }
            Content::Generated { seed, file_size } => {
                let start = (number - 1) * CHUNK as u64;
                match file_size.checked_sub(start) {
                    Some(left) if left > 0 => {
                        let mut block = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                        fill(seed.wrapping_mul(1009).wrapping_add(number), &mut block);
                        Some(block.into())
                    }
                    _ if number == 1 + file_size.div_ceil(CHUNK as u64) => Some(Bytes::from(tar_end(*file_size))),
                    _ => None,
                }
            }
        }
    }
}

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.next().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// The digest of `bytes`, as registries write it.
pub fn sha256(bytes: &[u8]) -> String {
    named(digest::digest(&SHA256, bytes).as_ref())
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Fills `block` with cheap noise (xorshift), 8 bytes at a time.
pub fn fill(seed: u64, block: &mut [u8]) {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    for word in block.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

fn tar(name: &str, mode: u32, content: &[u8]) -> Bytes {
    let size = content.len() as u64;
    let mut archive = tar_header(name, mode, size);
    archive.extend_from_slice(content);
    archive.extend_from_slice(&tar_end(size));
    archive.into()
}

/// A ustar header. The checksum is computed with spaces in its own place.
fn tar_header(name: &str, mode: u32, size: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}\0"));
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn tar_end(size: u64) -> Vec<u8> {
    let padding = usize::try_from(size.next_multiple_of(512) - size).expect("less than 512");
    vec![0; padding + 1024]
}
