//! Partial blobs that were paused in good order, and the clean-up of `fill/` at start.
//!
//! A paused partial blob is its file and a sidecar that says which origin gave it and which bytes of it are on the
//! medium; of an artefact also its path and the state that the bytes are of. The sidecar is written after the bytes were synced and removed before any more are written, so a readable
//! sidecar is right. The content of a file without a sidecar is unknown, so the file is deleted. In any case a digest is
//! checked over the whole at the end.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::validator::Validator;
use serde::{Deserialize, Serialize};

use super::content::{ContentKey, ContentName};
use super::errors::StoreError;
use super::extents::Extents;
use super::paths::{FillName, Paths};
use super::space::{Purpose, Reservation, Space};
use super::{disk, lock};

/// A longer sidecar was not written by us.
const SIDECAR_MAX_BYTES: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    /// A sidecar from before origins has none and cannot be read: its bytes could be anybody's.
    origin: String,
    size: u64,
    extents: Extents,
    /// None for content that a digest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artefact: Option<PausedArtefact>,
}

/// The name of an artefact, and its validator in the field that it came in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PausedArtefact {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
}

/// A partial blob that can be resumed.
pub(super) struct PausedFill {
    pub(super) name: FillName,
    pub(super) size_bytes: u64,
    /// The state of an artefact that the bytes are of.
    pub(super) validator: Option<Validator>,
    pub(super) extents: Extents,
    /// Its blocks are allocated, so its whole size counts.
    pub(super) reservation: Reservation,
    pub(super) paused_at: SystemTime,
}

/// What a paused partial blob lacks, for the fetch that resumes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PausedPart {
    /// The first missing byte.
    pub first_missing: u64,
    /// The length of the whole blob.
    pub size_bytes: u64,
}

/// The paused partial blobs, at most one for each origin and name.
pub(super) struct Paused {
    /// Never held while files are deleted: the serving threads ask as well.
    fills: Mutex<HashMap<ContentKey, PausedFill>>,
}

impl Paused {
    /// Finds the paused partial blobs of an earlier run and deletes everything else in `fill/`.
    pub(super) fn load(paths: &Paths, space: &Arc<Space>) -> Self {
        let entries: Vec<_> = std::fs::read_dir(paths.fills()).into_iter().flatten().flatten().collect();
        let mut fills: HashMap<ContentKey, PausedFill> = HashMap::new();
        for entry in &entries {
            let name = entry.file_name().to_str().and_then(FillName::parse);
            if let Some((key, fill)) = name.and_then(|name| read(paths, space, name))
                && fills.get(&key).is_none_or(|other| other.extents.total() < fill.extents.total())
            {
                fills.insert(key, fill);
            }
        }
        let kept: HashSet<_> =
            fills.values().flat_map(|fill| [paths.fill(fill.name), paths.sidecar(fill.name)]).collect();
        for path in entries.iter().map(|entry| entry.path()).filter(|path| !kept.contains(path)) {
            if let Err(error) = disk::unlink(&path) {
                tracing::warn!(%error, "a leftover of an earlier run could not be removed");
            }
        }
        Self { fills: Mutex::new(fills) }
    }

    /// What the paused partial blob of an origin lacks from `from` on. None if there is none, or it lacks nothing there.
    pub(super) fn part(&self, key: &ContentKey, from: u64) -> Option<(PausedPart, Option<Validator>)> {
        let fills = lock(&self.fills);
        let fill = fills.get(key)?;
        let first_missing = fill.extents.first_gap(from, fill.size_bytes)?.start;
        Some((PausedPart { first_missing, size_bytes: fill.size_bytes }, fill.validator.clone()))
    }

    /// Takes the partial blob of an origin out, to resume it. The sidecar is removed first. One of another size or state
    /// is deleted.
    pub(super) fn take(
        &self,
        paths: &Paths,
        key: &ContentKey,
        size: Option<u64>,
        validator: Option<&Validator>,
    ) -> Option<PausedFill> {
        let fill = lock(&self.fills).remove(key)?;
        let is_same = size == Some(fill.size_bytes) && validator == fill.validator.as_ref();
        if is_same && disk::unlink(&paths.sidecar(fill.name)).is_ok() {
            return Some(fill);
        }
        delete(paths, fill);
        None
    }

    /// Keeps a partial blob whose bytes are synced: writes its sidecar. After an error, the caller has to remove its
    /// files.
    pub(super) fn keep(&self, paths: &Paths, key: ContentKey, fill: PausedFill) -> Result<(), StoreError> {
        let path = paths.sidecar(fill.name);
        let artefact = match &key.name {
            ContentName::Digest(_) => None,
            ContentName::Path(path) => Some(PausedArtefact::of(path, fill.validator.as_ref())),
        };
        let (origin, size, extents) = (key.origin.to_string(), fill.size_bytes, fill.extents.clone());
        let sidecar = Sidecar { origin, size, extents, artefact };
        let text = serde_json::to_vec(&sidecar)
            .map_err(|error| StoreError::from_io("describe the paused partial blob", &path, error.into()))?;
        let file = disk::create(&path)?;
        let written = disk::write_at(&file, &path, 0, &text)
            .and_then(|()| disk::sync(&file, &path))
            .and_then(|()| disk::sync_dir(&paths.fills()));
        if written.is_err() {
            let _ = disk::unlink(&path);
        }
        written?;
        let earlier = lock(&self.fills).insert(key, fill);
        earlier.into_iter().for_each(|earlier| delete(paths, earlier));
        Ok(())
    }

    /// Deletes the partial blob that was paused longest ago, to make room; false if there is none.
    pub(super) fn drop_oldest(&self, paths: &Paths) -> bool {
        let dropped = {
            let mut fills = lock(&self.fills);
            let oldest = fills.iter().min_by_key(|(_, fill)| fill.paused_at).map(|(key, _)| key.clone());
            oldest.and_then(|key| fills.remove(&key))
        };
        dropped.map(|fill| delete(paths, fill)).is_some()
    }

    /// Deletes the partial blobs that were paused before a time.
    pub(super) fn expire(&self, paths: &Paths, before: SystemTime) {
        let expired: Vec<_> = lock(&self.fills).extract_if(|_, fill| fill.paused_at < before).collect();
        expired.into_iter().for_each(|(_, fill)| delete(paths, fill));
    }

    /// Deletes the partial blobs of a digest, of all origins. Returns how many bytes they had; None if there was none.
    pub(super) fn remove(&self, paths: &Paths, digest: &Digest) -> Option<u64> {
        let name = ContentName::Digest(*digest);
        let removed: Vec<_> = lock(&self.fills).extract_if(|key, _| key.name == name).collect();
        let total = |sum: Option<u64>, fill: &PausedFill| Some(sum.unwrap_or(0) + fill.extents.total());
        let bytes = removed.iter().fold(None, |sum, (_, fill)| total(sum, fill));
        removed.into_iter().for_each(|(_, fill)| delete(paths, fill));
        bytes
    }

    /// Deletes all paused partial blobs.
    pub(super) fn clear(&self, paths: &Paths) {
        let all = std::mem::take(&mut *lock(&self.fills));
        all.into_values().for_each(|fill| delete(paths, fill));
    }
}

/// Reads what a sidecar says about a partial blob and checks it against the file.
fn read(paths: &Paths, space: &Arc<Space>, name: FillName) -> Option<(ContentKey, PausedFill)> {
    let mut text = Vec::new();
    File::open(paths.sidecar(name)).ok()?.take(SIDECAR_MAX_BYTES).read_to_end(&mut text).ok()?;
    let Sidecar { origin, size, extents, artefact } = serde_json::from_slice(&text).ok()?;
    let file = std::fs::symlink_metadata(paths.fill(name)).ok().filter(|file| file.is_file())?;
    let sound = extents.end() <= size && extents.end() <= file.len() && file.len() <= size;
    let paused_at = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    sound.then_some(())?;
    let validator = artefact.as_ref().and_then(PausedArtefact::validator);
    let content = match (name.digest, artefact) {
        (Some(digest), None) => ContentName::Digest(digest),
        // Without a validator nothing could be added to it.
        (None, Some(artefact)) if validator.is_some() => ContentName::Path(artefact.path.into()),
        _ => return None,
    };
    let key = ContentKey { origin: origin.parse().ok()?, name: content };
    let reservation = space.adopt(size, Purpose::Cache);
    Some((key, PausedFill { name, size_bytes: size, validator, extents, reservation, paused_at }))
}

impl PausedArtefact {
    fn of(path: &str, validator: Option<&Validator>) -> Self {
        let mut paused = Self { path: path.to_owned(), etag: None, last_modified: None };
        match validator {
            Some(Validator::ETag(text)) => paused.etag = Some(text.to_string()),
            Some(Validator::LastModified(text)) => paused.last_modified = Some(text.to_string()),
            None => {}
        }
        paused
    }

    fn validator(&self) -> Option<Validator> {
        Validator::of(self.etag.as_deref(), self.last_modified.as_deref(), None)
    }
}

/// Removes the files and gives the reservation back.
fn delete(paths: &Paths, fill: PausedFill) {
    for path in [paths.sidecar(fill.name), paths.fill(fill.name)] {
        if let Err(error) = disk::unlink(&path) {
            tracing::warn!(%error, "a paused partial blob could not be removed");
        }
    }
}
