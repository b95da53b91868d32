//! A file of the index: opened, closed, and what a failure says about it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, DatabaseError, Error};

use super::queue::Ailment;

/// Memory for pages of the index, about a fifth less than these pages take of the heap. The upper levels of all tables
/// fit with a million blobs. Other leaves are in the kernel's page cache, one read away.
const PAGE_CACHE_BYTES: usize = 16 << 20;

/// Opens the file of an index, or makes it.
pub(super) fn open(path: &Path) -> Result<Database, Error> {
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
