//! The partial files of pushes. Unlike a partial blob of the cache, an upload outlives the request that writes it, and
//! the process. Its bytes lie in a file under its id until it is published or discarded. A note beside them says which
//! repository the upload goes to and which user it belongs to; the registry writes and reads the note.
//!
//! One request at a time has the file. The next request gets it when the last write of the one before has ended,
//! whether or not that request still waits for the write ([`UploadFile`]). A late write would change bytes that were
//! hashed.
//!
//! Neither bytes nor note are synced along the way. A kill loses nothing; after a power cut the client begins anew. The
//! bytes are checked as a whole before they are published.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Mutex;

use crate::blocking::{blocking, try_blocking};
use crate::disk;
use crate::disk_threads::Lane;
use crate::errors::StoreError;
use crate::extents::Extents;
use crate::partial_blobs::{Begun, PartialBlob, PartialBlobs, UploadTurn};
use crate::paths::{FillName, Paths, upload_of_session};
use crate::space::Purpose;
use crate::upload_id::UploadId;

/// The handle of an upload's file. It gives requests their turns at the file, so each upload must have only one. Clones
/// are the same handle.
#[derive(Clone, Debug)]
pub struct UploadFile {
    /// The upload that the file belongs to.
    pub id: UploadId,
    pub(crate) turns: Arc<Mutex<()>>,
}

impl UploadFile {
    /// The handle of an upload's file that no request has open.
    pub fn of(id: UploadId) -> Self {
        Self { id, turns: Arc::default() }
    }
}

/// An upload that was found at start.
pub struct FoundUpload {
    pub id: UploadId,
    /// The registry's note about the upload.
    pub note: Vec<u8>,
    /// How many bytes it has so far.
    pub length: u64,
    /// When the upload began.
    pub begun_at: SystemTime,
    /// When bytes were last added.
    pub last_use: SystemTime,
}

/// The uploads of one store.
pub struct Uploads {
    partial_blobs: Arc<PartialBlobs>,
}

impl Uploads {
    pub(crate) fn new(partial_blobs: Arc<PartialBlobs>) -> Self {
        Self { partial_blobs }
    }

    /// Opens the file of an upload for more bytes, once no write to it runs. Makes the file if it does not exist. Each
    /// of the two waits at most for the disk's deadline.
    pub async fn open(&self, file: &UploadFile) -> Result<PartialBlob, StoreError> {
        let (home, id) = (self.partial_blobs.clone(), file.id);
        let turn = home.disk.in_time(file.turns.clone().lock_owned()).await?;
        let disk = &self.partial_blobs.disk;
        let opened = disk
            .run_in_time(lane(id), move |calls| async move { calls.aside(move || open_now(&home, id, turn)).await });
        opened.await?
    }

    /// Cuts the file of an upload back to its first bytes, once no write to it runs: what a failed request wrote behind
    /// them is gone.
    pub async fn cut(&self, file: &UploadFile, length: u64) -> Result<(), StoreError> {
        let (path, id) = (self.partial_blobs.paths.upload(file.id), file.id);
        let disk = &self.partial_blobs.disk;
        let turn = disk.in_time(file.turns.clone().lock_owned()).await?;
        let cut = move || {
            let _turn = turn;
            cut_now(&path, length)
        };
        disk.run_in_time(lane(id), move |calls| async move { calls.aside(cut).await }).await?
    }

    /// Writes the note of an upload.
    pub async fn note(&self, id: UploadId, note: Vec<u8>) -> Result<(), StoreError> {
        let path = self.partial_blobs.paths.session(id);
        try_blocking(move || {
            let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
            let written = open.and_then(|mut file| file.write_all(&note));
            written.map_err(|error| StoreError::from_io("write", &path, error).needing(note.len() as u64))
        })
        .await
    }

    /// Removes an upload with its note. Failures are logged; the next start tries again.
    pub async fn discard(&self, id: UploadId) {
        let paths = self.partial_blobs.paths.clone();
        blocking(move || discard_now(&paths, id)).await;
    }

    /// Takes over the uploads that an earlier process left. Removes uploads for which `read` gives None, and files that
    /// belong to no upload. For the start; blocks.
    pub fn take_over<T>(&self, read: impl Fn(FoundUpload) -> Option<T>) -> Result<Vec<T>, StoreError> {
        let paths = &self.partial_blobs.paths;
        let folder = paths.uploads();
        let entries = std::fs::read_dir(&folder).map_err(|error| StoreError::from_io("list", &folder, error))?;
        let (mut taken, mut known, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(upload_of_session) else {
                others.push(entry.path());
                continue;
            };
            known.push(paths.upload(id));
            // An upload that cannot be read now is left to the next start.
            let Some(found) = find(paths, id) else { continue };
            match read(found) {
                Some(upload) => taken.push(upload),
                None => discard_now(paths, id),
            }
        }
        for stray in others.iter().filter(|path| !known.contains(path)) {
            // A file that cannot be removed stays until the next start.
            let _ = disk::unlink(stray);
        }
        Ok(taken)
    }
}

fn open_now(home: &Arc<PartialBlobs>, id: UploadId, turn: UploadTurn) -> Result<PartialBlob, StoreError> {
    let path = home.paths.upload(id);
    let file = match disk::create(&path) {
        Ok(file) => file,
        Err(_) if path.exists() => disk::reopen(&path)?,
        Err(error) => return Err(error),
    };
    let length = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?.len();
    let (name, purpose) = (FillName { digest: None, random: id.number() }, Purpose::Upload);
    let (file, extents) = (Arc::new(file), Extents::new());
    let begun = Begun { name, file, size: None, extents, purpose, key: None, validator: None, turn: Some(turn) };
    Ok(PartialBlob::new(home, path, begun, home.room.adopt(length, purpose)))
}

fn cut_now(path: &Path, length: u64) -> Result<(), StoreError> {
    if length == 0 {
        return disk::unlink(path).map(drop);
    }
    let file = disk::reopen(path)?;
    let known = file.metadata().map_err(|error| StoreError::from_io("measure", path, error))?.len();
    let cut = if known > length { file.set_len(length) } else { Ok(()) };
    cut.map_err(|error| StoreError::from_io("cut", path, error))
}

/// The disk thread of an upload.
fn lane(id: UploadId) -> Lane {
    Lane::of(None, id.number())
}

fn discard_now(paths: &Paths, id: UploadId) {
    for path in [paths.session(id), paths.upload(id)] {
        if let Err(error) = disk::unlink(&path) {
            tracing::warn!(%error, "an upload could not be removed");
        }
    }
}

fn find(paths: &Paths, id: UploadId) -> Option<FoundUpload> {
    let note = std::fs::read(paths.session(id)).ok()?;
    // The note is written once, at the beginning.
    let noted_at = std::fs::metadata(paths.session(id)).and_then(|file| file.modified());
    let (length, modified) = match std::fs::metadata(paths.upload(id)) {
        Ok(file) => (file.len(), file.modified()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (0, std::fs::metadata(paths.session(id)).and_then(|file| file.modified()))
        }
        Err(_) => return None,
    };
    let last_use = modified.unwrap_or(SystemTime::UNIX_EPOCH);
    Some(FoundUpload { id, note, length, begun_at: noted_at.unwrap_or(last_use), last_use })
}
