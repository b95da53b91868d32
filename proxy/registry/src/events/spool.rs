//! The events that wait for one receiver, as files below the data directory, so that they outlive the process. A file is
//! there from the moment that an event is told until the receiver has taken it, or it is given up. An event that was
//! taken just before the process died is sent again, with the same id.
//!
//! Names of files sort by time and end with the event's id. Everything here blocks.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use entrepot_config::ready::rights::Notification;
use entrepot_core::digest::{Algorithm, Digest};

/// The folder below the data directory.
const FOLDER: &str = "notifications";
/// The ending of a file that is not complete.
const INCOMPLETE: &str = "new";

/// The folder of one receiver.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

/// An event that waits.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: String,
    pub(super) body: Bytes,
    /// None if the disk did not take it.
    pub(super) file: Option<PathBuf>,
}

impl Spool {
    /// The receiver is told by its address, which is a secret, so the folder's name is a digest of it.
    pub(super) fn of(data_dir: &Path, receiver: &Notification) -> Self {
        let digest = Digest::of(Algorithm::Sha256, receiver.url.expose().as_bytes());
        Self { folder: data_dir.join(FOLDER).join(digest.hex()) }
    }

    /// The events of an earlier process, in their order.
    pub(super) fn left(&self) -> Vec<Kept> {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_none_or(|ending| ending != INCOMPLETE))
            .collect();
        files.sort();
        let kept = |file: PathBuf| {
            let id = file.file_name()?.to_str()?.split_once('-')?.1.to_owned();
            Some(Kept { id, body: fs::read(&file).ok()?.into(), file: Some(file) })
        };
        files.into_iter().filter_map(kept).collect()
    }

    /// Keeps an event. If the disk does not take it, it waits in memory only.
    pub(super) fn keep(&self, id: String, body: Bytes) -> Kept {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let file = self.folder.join(format!("{:020}-{id}", since.as_nanos()));
        match self.write(&file, &body) {
            Ok(()) => Kept { id, body, file: Some(file) },
            Err(error) => {
                tracing::warn!(
                    "an event for a receiver waits in memory only, and is lost if the process ends: {error}"
                );
                Kept { id, body, file: None }
            }
        }
    }

    fn write(&self, file: &Path, body: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let incomplete = file.with_extension(INCOMPLETE);
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&incomplete)?;
        out.write_all(body)?;
        out.sync_data()?;
        fs::rename(&incomplete, file)
    }
}

impl Kept {
    /// The event waits no longer.
    pub(super) fn drop_file(&self) {
        if let Some(file) = &self.file
            && let Err(error) = fs::remove_file(file)
        {
            tracing::warn!("an event that was sent is kept, and will be sent again at the next start: {error}");
        }
    }
}

/// Drops the events of receivers that the configuration no longer names, at the start.
pub(super) fn forget_others(data_dir: &Path, receivers: &[Notification]) {
    let known: Vec<PathBuf> = receivers.iter().map(|receiver| Spool::of(data_dir, receiver).folder).collect();
    for entry in fs::read_dir(data_dir.join(FOLDER)).into_iter().flatten().flatten() {
        if !known.contains(&entry.path())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!("events for a receiver that is not configured any more stay in the data directory: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn events_come_back_in_their_order_until_they_are_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool { folder: folder.path().join("deep/er") };
        assert!(spool.left().is_empty());
        let first = spool.keep("id-1".into(), Bytes::from_static(b"one"));
        let second = spool.keep("id-2".into(), Bytes::from_static(b"two"));
        fs::write(spool.folder.join("00000000000000000000-id-3.new"), "torn").expect("written");
        let left: Vec<_> = spool.left().into_iter().map(|kept| (kept.id, kept.body)).collect();
        assert_eq!(left, [("id-1".to_owned(), first.body.clone()), ("id-2".to_owned(), second.body.clone())]);
        let mode = fs::metadata(second.file.as_ref().expect("a file")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        first.drop_file();
        assert_eq!(spool.left().len(), 1);
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_the_event_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "").expect("written");
        let spool = Spool { folder: folder.path().join("file/below") };
        let kept = spool.keep("id".into(), Bytes::from_static(b"one"));
        assert!(kept.file.is_none() && kept.body == "one");
    }
}
