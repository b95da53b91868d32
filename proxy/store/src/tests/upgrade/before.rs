//! A data directory as the release before made it: its tables by their definitions of that time, its files by hand.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Digest};
use redb::{Database, TableDefinition};
use rustix::fs::{XattrFlags, fsetxattr};
use tempfile::TempDir;

use crate::times::ms_of;
use crate::{Place, TagKey};

/// Cached blobs.
pub(in crate::tests) const BLOBS: usize = 10_000;
/// Links of each of them that are kept.
pub(in crate::tests) const LINKED_EACH: usize = 2;
pub(in crate::tests) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &[u8] = b"a layer that was pushed";
const MANIFEST: &[u8] = b"{\"schemaVersion\":2}";

const BLOB_ROWS: TableDefinition<'_, &[u8], (u64, u8, u64, u64, u32)> = TableDefinition::new("blobs");
const ORDER_ROWS: TableDefinition<'_, (u8, u64), (&[u8], u64)> = TableDefinition::new("order");
const MEDIA_TYPE_ROWS: TableDefinition<'_, &[u8], &str> = TableDefinition::new("media_types");
const LINK_ROWS: TableDefinition<'_, (&[u8], &str, &str), u64> = TableDefinition::new("links");
type TagKeyRow = (&'static str, &'static str, &'static str, u16);
const TAG_ROWS: TableDefinition<'_, TagKeyRow, (&[u8], &str, u64, u64)> = TableDefinition::new("tags");
const PUBLIC_ROWS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("public");
type ArtefactRow = (&'static [u8], u64, &'static str, Vec<(&'static str, &'static str)>);
const ARTEFACT_ROWS: TableDefinition<'_, (&str, &str), ArtefactRow> = TableDefinition::new("artefacts");
const TOTALS_ROW: TableDefinition<'_, (), (u64, u64, u64, u64, u64)> = TableDefinition::new("totals");
const CHECK_FROM_ROW: TableDefinition<'_, (), u64> = TableDefinition::new("check_from");

pub(in crate::tests) struct Before {
    dir: TempDir,
    pub(in crate::tests) blobs: Vec<Digest>,
    /// A layer and its manifest.
    pub(in crate::tests) pushed: [Digest; 2],
    /// The digest of a paused fetch.
    pub(in crate::tests) paused: Digest,
    /// Blobs, cached bytes, pushed bytes.
    pub(in crate::tests) totals: (u64, u64, u64),
}

impl Before {
    pub(in crate::tests) fn make() -> Self {
        let dir = TempDir::new().unwrap();
        let blobs: Vec<_> = (0..BLOBS).map(|number| sha256(&bytes(number))).collect();
        let pushed = [sha256(LAYER), sha256(MANIFEST)];
        let used_bytes = (0..BLOBS).map(size).sum();
        let totals = (BLOBS as u64 + 2, used_bytes, (LAYER.len() + MANIFEST.len()) as u64);
        let before = Self { dir, blobs, pushed, paused: Digest::Sha256([9; 32]), totals };
        before.write_blobs();
        before.write_pushed();
        before.write_paused();
        before.write_index();
        before
    }

    pub(in crate::tests) fn root(&self) -> &Path {
        self.dir.path()
    }

    fn write_blobs(&self) {
        for first_byte in 0..=u8::MAX {
            fs::create_dir_all(self.root().join(format!("blobs/sha256/{first_byte:02x}"))).unwrap();
        }
        for (number, digest) in self.blobs.iter().enumerate() {
            fs::write(self.blob(digest), bytes(number)).unwrap();
        }
        let marked = File::options().write(true).open(self.blob(&self.blobs[0])).unwrap();
        fsetxattr(&marked, "user.entrepot.registry", b"ghcr.io", XattrFlags::empty()).unwrap();
    }

    fn write_pushed(&self) {
        let repository = self.root().join("pushed/team+app");
        for (digest, bytes) in self.pushed.iter().zip([LAYER, MANIFEST]) {
            fs::write(self.blob(digest), bytes).unwrap();
            let pins = self.root().join(format!("pins/sha256/{:02x}", digest.bytes()[0]));
            fs::create_dir_all(&pins).unwrap();
            fs::write(pins.join(digest.hex()), "").unwrap();
        }
        for folder in ["blobs", "manifests", "tags"] {
            fs::create_dir_all(repository.join(folder)).unwrap();
        }
        let [layer, manifest] = self.pushed;
        fs::write(repository.join(format!("blobs/sha256-{}", layer.hex())), "").unwrap();
        let kept = format!("{{\"mediaType\":\"{MANIFEST_TYPE}\"}}");
        fs::write(repository.join(format!("manifests/sha256-{}", manifest.hex())), kept).unwrap();
        fs::write(repository.join("tags/v1"), manifest.to_string()).unwrap();
    }

    fn write_paused(&self) {
        let path = self.root().join(format!("fill/sha256-{}.00000000000000aa", self.paused.hex()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [7; 100]).unwrap();
        fs::write(path.with_extension("00000000000000aa.extents"), "{\"size\":1000,\"extents\":[[0,100]]}").unwrap();
    }

    fn write_index(&self) {
        let database = Database::create(self.root().join("index.redb")).unwrap();
        let mut transaction = database.begin_write().unwrap();
        transaction.set_quick_repair(true);
        {
            let mut blobs = transaction.open_table(BLOB_ROWS).unwrap();
            let mut order = transaction.open_table(ORDER_ROWS).unwrap();
            let mut media_types = transaction.open_table(MEDIA_TYPE_ROWS).unwrap();
            let mut links = transaction.open_table(LINK_ROWS).unwrap();
            let mut tags = transaction.open_table(TAG_ROWS).unwrap();
            let mut public = transaction.open_table(PUBLIC_ROWS).unwrap();
            let mut artefacts = transaction.open_table(ARTEFACT_ROWS).unwrap();
            let mut enter = |digest: &Digest, size: u64, segment: u8, rank: u64, last_use_ms: u64, uses: u32| {
                blobs.insert(&*key(digest), (size, segment, rank, last_use_ms, uses)).unwrap();
                order.insert((segment, rank), (&*key(digest), size)).unwrap();
            };
            for (number, digest) in self.blobs.iter().enumerate() {
                let at_ms = ms_of(time(number));
                enter(digest, size(number), (number % 2) as u8, number as u64 + 1, at_ms, 1 + number as u32 % 3);
                if let Some(media_type) = media_type(number) {
                    media_types.insert(&*key(digest), media_type).unwrap();
                }
                for place in places(number) {
                    let row = (&*key(digest), &*place.origin().host.to_string(), place.repository().as_str());
                    links.insert(row, at_ms).unwrap();
                    public.insert((row.1, row.2), at_ms).unwrap();
                }
                let tag = tag(number);
                let host = tag.place.origin().host.to_string();
                let row = (&*host, tag.place.repository().as_str(), tag.tag.as_str(), tag.accept_class);
                tags.insert(row, (&*key(digest), MANIFEST_TYPE, size(number), at_ms)).unwrap();
            }
            for (digest, (rank, size)) in self.pushed.iter().zip([(10_001, LAYER.len()), (10_002, MANIFEST.len())]) {
                enter(digest, size as u64, 2, rank, 0, 1);
            }
            let plain = key(&self.blobs[0]);
            links.insert((&*plain, "plain.example:80", "a/b"), 1).unwrap();
            tags.insert(("plain.example:80", "a/b", "latest", 1), (&*plain, MANIFEST_TYPE, 1, 1)).unwrap();
            let artefact = (&*plain, size(0), "application/gzip", vec![("etag", "x")]);
            artefacts.insert(("npm.example", "/a.tgz"), artefact).unwrap();
            let protected_bytes = (1..BLOBS).step_by(2).map(size).sum();
            let (blobs, used_bytes, pinned_bytes) = self.totals;
            let totals = (used_bytes, blobs, pinned_bytes, protected_bytes, 10_002);
            transaction.open_table(TOTALS_ROW).unwrap().insert((), totals).unwrap();
            let check_from_ms = ms_of(SystemTime::now());
            transaction.open_table(CHECK_FROM_ROW).unwrap().insert((), check_from_ms).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn blob(&self, digest: &Digest) -> std::path::PathBuf {
        self.root().join(format!("blobs/sha256/{:02x}/{}", digest.bytes()[0], digest.hex()))
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A digest as the keys of rows have it.
fn key(digest: &Digest) -> Vec<u8> {
    [&[0], digest.bytes()].concat()
}

pub(in crate::tests) fn bytes(number: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + number % 5)
}

pub(in crate::tests) fn size(number: usize) -> u64 {
    bytes(number).len() as u64
}

pub(in crate::tests) fn media_type(number: usize) -> Option<&'static str> {
    number.is_multiple_of(10).then_some(MANIFEST_TYPE)
}

/// When the row of that number was made.
pub(in crate::tests) fn time(number: usize) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number as u64)
}

/// The places of a blob, in the order of their keys.
pub(in crate::tests) fn places(number: usize) -> Vec<Place> {
    ["ghcr.io", "reg.example:5000"]
        .map(|host| Place::new(host.parse().unwrap(), format!("a/repository{}", number / 10).parse().unwrap()))
        .into()
}

pub(in crate::tests) fn tag(number: usize) -> TagKey {
    let [place, _] = places(number).try_into().unwrap();
    TagKey { place, tag: format!("v{number}").parse().unwrap(), accept_class: (number % 4) as u16 }
}
