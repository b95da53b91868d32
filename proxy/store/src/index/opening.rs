//! Opens the index: as it is, new, brought to the present format (`upgrade`), or set aside and new.
//!
//! An index of a later format is refused by name: this program cannot know what its rows mean. An index of a format
//! before the number existed has none. The programs of that time take an index of today for a damaged one and set it
//! aside; they make a new one from the files, which this program then brings to its format.

use std::time::SystemTime;

use redb::{Database, Error, ReadableDatabase};

use super::file::{self, ailment_of, guarded};
use super::queue::Ailment;
use super::tables::{self, FORMAT_NOW, FORMAT_UNNUMBERED, Totals};
use super::upgrade;
use crate::errors::StoreError;
use crate::paths::Paths;
use crate::times::ms_of;

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

/// The outcome of an attempt to open the index.
pub(super) enum Tried {
    Opened(Opened),
    /// The disk refuses now, for this reason.
    Refused(String),
}

/// Opens the index. A file whose content makes no sense is set aside.
pub(super) fn open(paths: &Paths) -> Result<Tried, StoreError> {
    match guarded(|| try_open(paths)) {
        Ok(Found::Usable(opened)) => Ok(Tried::Opened(opened)),
        Ok(Found::Newer(found)) => Err(StoreError::NewerFormat { path: paths.index(), found, known: FORMAT_NOW }),
        Err(Error::DatabaseAlreadyOpen) => Err(StoreError::Locked { path: paths.index() }),
        Err(error) if ailment_of(&error) == Ailment::Reopen => Ok(Tried::Refused(error.to_string())),
        Err(error) => {
            tracing::warn!(%error, "the cache's index is damaged; it is set aside and rebuilt from the files");
            set_aside(paths);
            Ok(match guarded(|| try_open(paths)) {
                Ok(Found::Usable(opened)) => Tried::Opened(opened),
                Ok(Found::Newer(number)) => Tried::Refused(format!("a new index has the format {number}")),
                Err(error) => Tried::Refused(error.to_string()),
            })
        }
    }
}

fn try_open(paths: &Paths) -> Result<Found, Error> {
    let database = file::open(&paths.index())?;
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
