//! The partial files of pushes. Unlike a fill of the cache, an upload outlives the request that writes it, and the
//! process: its bytes lie in a file under its id until it is published or discarded, and beside them a note of whose it
//! is, which `registry::uploads` writes and reads.
//!
//! One request at a time has the file: it is the next one's when the last write of the one before has ended, whether or
//! not that request still waits for it ([`UploadFile`]). A write that came late would change bytes that were hashed.
//!
//! Neither is synced along the way: a kill loses nothing, after a power cut the client begins anew. Bytes are judged as
//! a whole before they are published.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand;
use entrepot_core::digest::Digest;
use tokio::sync::{Mutex, OwnedMutexGuard, RwLock};

use super::blobs::Blob;
use super::disk_threads::Lane;
use super::errors::StoreError;
use super::extents::Extents;
use super::partial_blob::{PartialBlob, Published};
use super::paths::{FillName, upload_of_session};
use super::space::Purpose;
use super::{Store, disk};

/// Names an upload: 128 random bits, so that nobody guesses another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UploadId([u8; 16]);

/// Text is not the id of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an upload's id: 32 lower-case hex digits")]
pub struct NoUploadId;

impl UploadId {
    /// A new one; none where the system gives no randomness.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok().map(|()| Self(bytes))
    }

    fn lane(self) -> Lane {
        let first = self.0.first_chunk().copied().unwrap_or_default();
        Lane::of(None, u64::from_be_bytes(first))
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for UploadId {
    type Err = NoUploadId;

    fn from_str(text: &str) -> Result<Self, NoUploadId> {
        let plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(NoUploadId)
    }
}

/// An upload's file, of which there must be one of these: it gives the turns at the file. Clones are the same.
#[derive(Clone, Debug)]
pub struct UploadFile {
    /// Whose file it is.
    pub id: UploadId,
    pub(super) turns: Arc<Mutex<()>>,
}

/// Held by whoever may write the file of an upload.
pub(super) type UploadTurn = OwnedMutexGuard<()>;

impl UploadFile {
    /// The file of an upload that nobody has open.
    pub fn of(id: UploadId) -> Self {
        Self { id, turns: Arc::default() }
    }
}

/// What was found of an upload at start.
pub struct FoundUpload {
    /// Which one.
    pub id: UploadId,
    /// Its note.
    pub note: Vec<u8>,
    /// Its bytes so far.
    pub length: u64,
    /// When they were last added to.
    pub last_use: SystemTime,
}

impl Store {
    /// Opens the file of an upload for more, making it where it does not exist, once nothing writes it any more. Waits at
    /// most for the disk's deadline, for either.
    pub async fn open_upload(self: &Arc<Self>, file: &UploadFile) -> Result<PartialBlob, StoreError> {
        let (store, id) = (self.clone(), file.id);
        let turn = self.disk.in_time(file.turns.clone().lock_owned()).await?;
        let opened = self.disk.run_in_time(id.lane(), move |calls| async move {
            calls.aside(move || store.open_upload_now(id, turn)).await
        });
        opened.await?
    }

    fn open_upload_now(self: &Arc<Self>, id: UploadId, turn: UploadTurn) -> Result<PartialBlob, StoreError> {
        let path = self.paths.upload(id);
        let file = match disk::create(&path) {
            Ok(file) => file,
            Err(_) if path.exists() => disk::reopen(&path)?,
            Err(error) => return Err(error),
        };
        let length = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?.len();
        let reservation = self.space.adopt(length, Purpose::Upload);
        Ok(PartialBlob {
            store: self.clone(),
            name: FillName { digest: None, random: id.lane().0 },
            path,
            file: Arc::new(file),
            size: None,
            extents: Extents::new(),
            purpose: Purpose::Upload,
            turn: Some(turn),
            reservation: RwLock::new(Some(reservation)),
        })
    }

    /// Writes the note of an upload.
    pub fn note_upload(&self, id: UploadId, note: &[u8]) -> Result<(), StoreError> {
        let path = self.paths.session(id);
        let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = open.and_then(|mut file| file.write_all(note));
        written.map_err(|error| StoreError::from_io("write", &path, error).needing(note.len() as u64))
    }

    /// Removes an upload with its note; failures are logged, the next start tries again.
    pub fn discard_upload(&self, id: UploadId) {
        for path in [self.paths.session(id), self.paths.upload(id)] {
            if let Err(error) = disk::unlink(&path) {
                tracing::warn!(%error, "an upload could not be removed");
            }
        }
    }

    /// The uploads of an earlier process, and removes files that belong to none. For the start.
    pub fn found_uploads(&self) -> Result<Vec<FoundUpload>, StoreError> {
        let folder = self.paths.uploads();
        let entries = std::fs::read_dir(&folder).map_err(|error| StoreError::from_io("list", &folder, error))?;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let name = entry.file_name();
            match name.to_str().and_then(upload_of_session) {
                Some(id) => found.extend(self.found_upload(id)),
                None => others.push(entry.path()),
            }
        }
        let known: Vec<_> = found.iter().map(|upload| self.paths.upload(upload.id)).collect();
        for stray in others.iter().filter(|path| !known.contains(path)) {
            // It stays until the next start.
            let _ = disk::unlink(stray);
        }
        Ok(found)
    }

    fn found_upload(&self, id: UploadId) -> Option<FoundUpload> {
        let note = std::fs::read(self.paths.session(id)).ok()?;
        let (length, modified) = match std::fs::metadata(self.paths.upload(id)) {
            Ok(file) => (file.len(), file.modified()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (0, std::fs::metadata(self.paths.session(id)).and_then(|file| file.modified()))
            }
            Err(_) => return None,
        };
        Some(FoundUpload { id, note, length, last_use: modified.unwrap_or(SystemTime::UNIX_EPOCH) })
    }
}

impl PartialBlob {
    /// The error for bytes that were written and cannot be read back.
    pub fn unreadable(&self, error: io::Error) -> StoreError {
        StoreError::from_io("read", &self.path, error)
    }

    /// Publishes the first `length` bytes of an upload as `digest`, which the caller has compared with them. The upload
    /// is over then, whether or not this succeeds. No deadline: a large file takes a slow disk its time.
    pub async fn publish_upload(self: &Arc<Self>, digest: &Digest, length: u64) -> Result<Arc<Blob>, StoreError> {
        let published = Published { digest: *digest, length: Some(length), media_type: None, links: Vec::new() };
        let fill = self.clone();
        let job =
            self.store.disk.run(self.lane(), move |calls| async move { fill.publish_with(calls, published).await });
        job.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_nothing_else_does() {
        let id = UploadId::random().expect("randomness");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(Some(id), UploadId::random());
        let text = id.to_string();
        for bad in ["", "..", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &"A".repeat(32)] {
            assert_eq!(bad.parse::<UploadId>(), Err(NoUploadId), "{bad}");
        }
    }
}
