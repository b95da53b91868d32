//! Opens the index file: as it is, new, brought to the present format (`upgrade`), or set aside and new. Also judges from
//! a failure what is wrong with the index.
//!
//! An index of a later format is refused by name: this program cannot know what its rows mean. An index of a format
//! before the number existed has none. The programs of that time take an index of today for a damaged one and set it
//! aside; they make a new one from the files, which this program then brings to its format.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use std::path::Path;

use redb::{Database, DatabaseError, Error, ReadableDatabase};

use super::queue::Ailment;
use super::tables::{self, FORMAT_NOW, FORMAT_UNNUMBERED, Totals};
use super::upgrade;
use crate::errors::StoreError;
use crate::paths::Paths;
use crate::times::ms_of;

/// Memory for pages of the index, about a fifth less than these pages take of the heap. The upper levels of all tables
/// fit with a million blobs. Other leaves are in the kernel's page cache, one read away.
const PAGE_CACHE_BYTES: usize = 16 << 20;

/// An index that can be used.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) totals: Totals,
    /// Folders that changed since this time may hold files that the index does not know. None if the index is new: then
    /// all folders may.
    pub(super) check_from: Option<SystemTime>,
}

/// A file that could be read.
enum Found {
    Usable(Opened),
    /// Its format has a higher number than this program knows.
    Newer(u64),
}

/// Opens the index. A file whose content makes no sense is set aside. `Ok(None)` means that the disk refuses now.
pub(super) fn open(paths: &Paths) -> Result<Option<Opened>, StoreError> {
    match guarded(|| try_open(paths)) {
        Ok(Found::Usable(opened)) => Ok(Some(opened)),
        Ok(Found::Newer(found)) => Err(StoreError::NewerFormat { path: paths.index(), found, known: FORMAT_NOW }),
        Err(Error::DatabaseAlreadyOpen) => Err(StoreError::Locked { path: paths.index() }),
        Err(error) if ailment_of(&error) == Ailment::Reopen => {
            tracing::warn!(%error, "the cache's index cannot be opened; hits go on, new content is not counted");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, "the cache's index is damaged; it is set aside and rebuilt from the files");
            set_aside(paths);
            Ok(guarded(|| try_open(paths)).ok().and_then(|found| match found {
                Found::Usable(opened) => Some(opened),
                Found::Newer(_) => None,
            }))
        }
    }
}

fn try_open(paths: &Paths) -> Result<Found, Error> {
    let database = open_file(&paths.index())?;
    let database = match tables::format_of(&database)? {
        Some(FORMAT_NOW) => database,
        Some(FORMAT_UNNUMBERED) => upgrade::upgrade(database, paths)?,
        Some(number) if number > FORMAT_NOW => return Ok(Found::Newer(number)),
        Some(number) => return Err(Error::Corrupted(format!("no index has the format {number}"))),
        None => {
            tables::create(&database)?;
            database
        }
    };
    // The lock on the index says that no other process writes a draft.
    upgrade::remove_draft(paths)?;
    let (totals, check_from) = tables::check(&database.begin_read()?)?;
    Ok(Found::Usable(Opened { database, totals, check_from }))
}

/// Opens the file of an index, or makes it.
pub(super) fn open_file(path: &Path) -> Result<Database, Error> {
    let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create(path);
    database.map_err(|error| match error {
        // A file that is shorter than its header says is damaged; the disk did not refuse it.
        DatabaseError::Storage(redb::StorageError::Io(io)) if io.raw_os_error().is_none() => {
            Error::Corrupted(io.to_string())
        }
        other => other.into(),
    })
}

/// Closes an index, also one that fails.
pub(super) fn close(database: Database) {
    if let Err(error) = guarded(|| Ok(database.close()?)) {
        tracing::warn!(%error, "the cache's index was not closed in good order; it repairs itself");
    }
}

/// Keeps a damaged index for examination. Only the last one is kept.
pub(super) fn set_aside(paths: &Paths) {
    for entry in std::fs::read_dir(paths.root()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(Paths::is_broken_index) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let time_s = ms_of(SystemTime::now()) / 1000;
    if let Err(error) = std::fs::rename(paths.index(), paths.broken_index(time_s)) {
        tracing::warn!(%error, "the damaged index could not be set aside");
    }
}

/// Judges from a failed operation what is wrong with the index.
pub(super) fn ailment_of(error: &Error) -> Ailment {
    match error {
        Error::Io(io) if io.raw_os_error().is_some() => Ailment::Reopen,
        Error::PreviousIo | Error::DatabaseClosed | Error::DatabaseAlreadyOpen | Error::Unsupported => Ailment::Reopen,
        _ => Ailment::Replace,
    }
}

/// Runs a job on the database. redb may panic on a file that was damaged from outside. That is an error here, because
/// the index must never take a request down.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Error::Corrupted(message_of(&*panic))))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_disk_is_not_taken_for_damage() {
        let disk = Error::Io(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        assert_eq!(ailment_of(&disk), Ailment::Reopen);
        assert_eq!(ailment_of(&Error::PreviousIo), Ailment::Reopen);
        assert_eq!(ailment_of(&Error::Io(io::ErrorKind::InvalidData.into())), Ailment::Replace);
        assert_eq!(ailment_of(&Error::Corrupted(String::new())), Ailment::Replace);
        let panicked = guarded::<()>(|| panic!("page {} is bad", 7)).unwrap_err();
        assert!(matches!(panicked, Error::Corrupted(text) if text == "page 7 is bad"));
    }
}
