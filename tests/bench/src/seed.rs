//! A store with a million entries, made without a million pulls: files without bytes, from which the store makes rows of
//! its own, and links, types and tags by the calls that a pull makes. Nothing here knows the tables of the index.
//!
//! Images have eight blobs and repositories sixteen images, about as in life. The files have no content, so that they take
//! inodes and no blocks; nobody asks for them. Their folders look two hours old, as those of a store do that has been at
//! rest: a start compares only folders that changed lately.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::media::{AcceptClass, ManifestType};
use entrepot_store::{Limits, Place, Store, TagEntry, TagKey};
use futures_util::future::join_all;

use crate::BoxError;

/// How many entries the figures of start and memory are for.
pub(crate) const ENTRIES: u64 = 1_000_000;

/// Names noted at once: the index takes all that wait into one transaction.
const CHUNK: u64 = 4096;
/// Blobs of one image, its manifest included.
const IMAGE_BLOBS: u64 = 8;
/// Images of one repository, each with a tag.
const REPOSITORY_IMAGES: u64 = 16;
const FOLDER_AGE: Duration = Duration::from_secs(7200);
const REGISTRIES: [&str; 4] = ["registry-1.docker.io", "ghcr.io", "quay.io", "registry.k8s.io"];

/// Fills a data directory that nobody has used yet with `count` entries.
pub(crate) async fn fill_index(data_directory: &Path, count: u64) -> Result<(), BoxError> {
    let folder = data_directory.to_owned();
    let limits =
        Limits { max_size_bytes: u64::MAX / 2, min_free_bytes: 0, inactive: Duration::MAX, proofs: Duration::ZERO };
    let opened = tokio::task::spawn_blocking(move || {
        make_files(&folder, count)?;
        let store = Store::open(&folder, limits)?;
        store.wait_for_rebuild();
        Ok::<_, BoxError>(store)
    });
    let store = opened.await??;
    for start in (0..count).step_by(CHUNK as usize) {
        let noted = join_all((start..count.min(start + CHUNK)).map(|number| note(&store, number))).await;
        noted.into_iter().collect::<Result<(), BoxError>>()?;
    }
    let blobs = store.usage().blobs;
    if blobs != count {
        return Err(format!("the index has {blobs} entries instead of {count}").into());
    }
    tokio::task::spawn_blocking(move || drop(store)).await?;
    Ok(())
}

fn digest(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

fn make_files(data_directory: &Path, count: u64) -> Result<(), BoxError> {
    let folder = |first_byte: u8| -> PathBuf { data_directory.join(format!("blobs/sha256/{first_byte:02x}")) };
    for first_byte in 0..=u8::MAX {
        fs::create_dir_all(folder(first_byte))?;
    }
    for digest in (0..count).map(digest) {
        File::create(folder(digest.bytes()[0]).join(digest.hex()))?;
    }
    for first_byte in 0..=u8::MAX {
        File::open(folder(first_byte))?.set_modified(SystemTime::now() - FOLDER_AGE)?;
    }
    Ok(())
}

/// What a pull notes of one blob; the first of an image is its manifest.
async fn note(store: &Arc<Store>, number: u64) -> Result<(), BoxError> {
    let image = number / IMAGE_BLOBS;
    let origin = REGISTRIES[(image % REGISTRIES.len() as u64) as usize].parse()?;
    let place = Place::new(origin, format!("library/project-{}", image / REPOSITORY_IMAGES).parse()?);
    let digest = digest(number);
    store.names.link(&place, &digest, None).await;
    if number.is_multiple_of(IMAGE_BLOBS) {
        let media_type = ManifestType::OciManifest.name().to_owned();
        store.names.set_media_type(&digest, &media_type).await;
        let accept_class = AcceptClass::of(ManifestType::ALL.map(ManifestType::name)).bits();
        let key = TagKey { place, tag: format!("1.{image}").parse()?, accept_class };
        let entry = TagEntry { digest, media_type, size_bytes: 1024, validated_at: SystemTime::now() };
        store.names.set_tag(key, entry).await;
    }
    Ok(())
}
