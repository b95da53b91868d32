//! For benchmarks and tests only: fills the index of a new data directory with a great many plausible rows, without
//! the files that they would stand for, so that "a million entries" takes seconds to make. Nothing else calls it.
//!
//! One small image is real: its manifest and layer have files, so that a hit can be served. The other rows survive
//! starts because a start only compares folders that changed after the index was last made durable (see `rebuild`),
//! and all folders are made to look two hours old here. A benchmark that publishes into a folder and then kills the
//! server sees the rows of that one folder go, rightly: they have no files.

use std::fmt::Debug;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::host::RegistryHost;
use entrepot_core::media::{AcceptClass, ManifestType};
use entrepot_core::name::{RepositoryName, Tag};
use redb::{Database, Error};

use super::errors::StoreError;
use super::index::tables::{self, Tables};
use super::index::{ms_of, opening};
use super::paths::{ALGORITHMS, Paths};
use super::{Limits, Store, TagEntry, TagKey, disk};

/// Rows of blobs written in one transaction.
const CHUNK: u64 = 100_000;
/// Memory for the pages of the index while it is filled; far more than a server takes.
const PAGE_CACHE_BYTES: usize = 512 << 20;
/// How old the folders look.
const FOLDER_AGE: Duration = Duration::from_secs(7200);
/// Blobs of one image, its manifest included.
const IMAGE_BLOBS: u64 = 8;
/// Images of one repository, each with a tag.
const REPOSITORY_IMAGES: u64 = 16;

/// The one image that is really there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seeded {
    /// Where it was pulled from.
    pub registry: RegistryHost,
    /// Its repository, which is marked as public.
    pub repository: RepositoryName,
    /// Its tag.
    pub tag: Tag,
    /// Its manifest, of about 1.5 KiB.
    pub manifest: Digest,
    /// Its only layer that has a file.
    pub layer: Digest,
    /// Rows of blobs in the index, those of this image included.
    pub blobs: u64,
}

/// Fills a new data directory with the rows of `count` blobs, with a link for each, a media type for each manifest, and
/// a tag for each image. Sizes are made small, so that no limit of a server evicts them.
pub fn fill_index(data_dir: &Path, count: u64) -> Result<Seeded, StoreError> {
    let mut seeded = publish_image(data_dir)?;
    let paths = Paths::new(data_dir);
    make_old_folders(&paths)?;
    let filled = fill(&paths, count.saturating_sub(2));
    seeded.blobs = filled.map_err(|error| StoreError::from_io("fill", &paths.index(), std::io::Error::other(error)))?;
    Ok(seeded)
}

/// The image that has files, made as a pull makes it.
fn publish_image(data_dir: &Path) -> Result<Seeded, StoreError> {
    let limits = Limits { max_size_bytes: u64::MAX / 2, min_free_bytes: 0, inactive: Duration::MAX };
    let store = Store::open(data_dir, limits)?;
    let now = SystemTime::now();
    let layer_bytes = vec![7; 64 << 10];
    let layer = Digest::of(Algorithm::Sha256, &layer_bytes);
    let text = manifest_text(&layer, layer_bytes.len());
    let manifest = Digest::of(Algorithm::Sha256, text.as_bytes());
    let (registry, repository, tag) = (registry(0), repository(0), tag(0));
    store.put(&layer, &layer_bytes)?;
    store.put(&manifest, text.as_bytes())?;
    store.set_media_type(&manifest, ManifestType::OciManifest.name());
    for digest in [&layer, &manifest] {
        store.link(&registry, &repository, digest);
    }
    store.mark_public(&registry, &repository, now);
    let key = |accept_class| TagKey {
        registry: registry.clone(),
        repository: repository.clone(),
        tag: tag.clone(),
        accept_class,
    };
    let entry = TagEntry {
        digest: manifest,
        media_type: ManifestType::OciManifest.name().to_owned(),
        size_bytes: text.len() as u64,
        validated_at: now,
    };
    for class in accept_classes() {
        store.set_tag(key(class), entry.clone());
    }
    store.wait_for_rebuild();
    Ok(Seeded { registry, repository, tag, manifest, layer, blobs: 2 })
}

/// A manifest with eight layers, of which the first is the real one: about 1.5 KiB, as most are.
fn manifest_text(layer: &Digest, layer_bytes: usize) -> String {
    let descriptor = |media_type: &str, digest: &Digest, size_bytes: usize| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"{digest}","size":{size_bytes}}}"#)
    };
    let mut layers = vec![descriptor("layer.v1.tar+gzip", layer, layer_bytes)];
    layers.extend((1..8).map(|number| descriptor("layer.v1.tar+gzip", &digest_of_row(u64::MAX - number), 1 << 20)));
    let config = descriptor("config.v1+json", &digest_of_row(u64::MAX), 1 << 10);
    let media_type = ManifestType::OciManifest.name();
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{}]}}"#, layers.join(","))
}

/// Makes every folder, looking as if nothing had happened in it for long.
fn make_old_folders(paths: &Paths) -> Result<(), StoreError> {
    let then = SystemTime::now() - FOLDER_AGE;
    for algorithm in ALGORITHMS {
        for first_byte in 0..=u8::MAX {
            let folder = paths.shard(algorithm, first_byte);
            disk::make_dir(&folder)?;
            let aged = File::open(&folder).and_then(|folder| folder.set_modified(then));
            aged.map_err(|error| StoreError::from_io("set the time of", &folder, error))?;
        }
    }
    Ok(())
}

fn fill(paths: &Paths, count: u64) -> Result<u64, Error> {
    let database = opening::open_with_cache(paths, PAGE_CACHE_BYTES)?.database;
    let now_ms = ms_of(SystemTime::now());
    for start in (0..count).step_by(CHUNK as usize) {
        // In the order of the keys, which is what makes it fast.
        let mut rows: Vec<_> =
            (start..count.min(start + CHUNK)).map(|number| (digest_of_row(number), number)).collect();
        rows.sort_unstable();
        // Durable each, as only that frees the pages that the one before has replaced.
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let mut tables = Tables::open(&transaction, paths, 0)?;
        rows.iter().try_for_each(|(digest, number)| add_row(&mut tables, digest, *number, now_ms))?;
        tables.finish()?;
        transaction.commit()?;
    }
    finish(database, paths)
}

fn finish(database: Database, paths: &Paths) -> Result<u64, Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    tables::set_check_from(&transaction, SystemTime::now())?;
    let (totals, _) = Tables::open(&transaction, paths, 0)?.finish()?;
    transaction.commit()?;
    database.close()?;
    Ok(totals.blobs)
}

fn add_row(tables: &mut Tables<'_>, digest: &Digest, number: u64, now_ms: u64) -> Result<(), Error> {
    let image = 1 + number / IMAGE_BLOBS;
    let (registry, repository) = (registry(image), repository(1 + image / REPOSITORY_IMAGES));
    let size_bytes = 512 + number % 1024;
    tables.published(digest, size_bytes, now_ms)?;
    tables.link(&registry, &repository, digest, now_ms)?;
    if number.is_multiple_of(IMAGE_BLOBS) {
        let media_type = ManifestType::OciManifest.name().to_owned();
        tables.set_media_type(digest, &media_type)?;
        let [accept_class, _] = accept_classes();
        let key = TagKey { registry, repository, tag: tag(image), accept_class };
        let validated_at = SystemTime::now();
        tables.set_tag(&key, &TagEntry { digest: *digest, media_type, size_bytes, validated_at })?;
    }
    Ok(())
}

/// What docker asks with, and what curl asks with.
fn accept_classes() -> [u16; 2] {
    [AcceptClass::of(ManifestType::ALL.map(ManifestType::name)), AcceptClass::ANY].map(AcceptClass::bits)
}

fn digest_of_row(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

fn registry(image: u64) -> RegistryHost {
    let names = ["registry-1.docker.io", "ghcr.io", "quay.io", "registry.k8s.io"];
    parsed(names[(image % 4) as usize])
}

fn repository(number: u64) -> RepositoryName {
    parsed(&format!("library/project-{number}"))
}

fn tag(image: u64) -> Tag {
    parsed(&format!("1.{image}"))
}

fn parsed<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a name of this module's own making")
}
