//! What is wrong with the disk of the store, remembered, so that it is said once and can be asked for. Hits and
//! pass-through go on meanwhile.

use std::fmt;
use std::sync::Mutex;

use entrepot_core::disk_refusal::DiskRefusal;

use crate::errors::StoreError;
use crate::lock;

/// Something that is wrong at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The disk has not answered in time, and still does not.
    DiskHangs,
    /// The disk refused the last content that was to be stored, for this reason.
    DiskRefuses(String),
    /// The index cannot be opened, for this reason.
    IndexClosed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskHangs => out.write_str("the disk of data_dir does not answer; see the kernel log"),
            Self::DiskRefuses(why) => write!(out, "content is not stored: {why}"),
            Self::IndexClosed(why) => write!(out, "the cache's index cannot be opened: {why}"),
        }
    }
}

/// The last refusal of the disk. None since content was stored.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Option<String>>);

impl Refusals {
    /// Notes what came of an attempt to store content. Says the first refusal, and the end of the refusals.
    pub(crate) fn note<T>(&self, outcome: &Result<T, StoreError>) {
        let why = match outcome {
            Ok(_) => None,
            Err(error @ (StoreError::NoSpace { .. } | StoreError::ReadOnly { .. } | StoreError::Io { .. })) => {
                Some(error.to_string())
            }
            // These say nothing about the disk, or are told by its threads.
            Err(_) => return,
        };
        let mut refusal = lock(&self.0);
        match (&*refusal, &why) {
            (None, Some(why)) => tracing::warn!("content passes through without being stored: {why}"),
            (Some(_), None) => tracing::info!("content is stored again"),
            _ => {}
        }
        *refusal = why;
    }

    pub(crate) fn last(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}

/// Whether the start goes on after this error: the file system takes no writes now, and may again.
pub(crate) fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::NoSpace { .. } => true,
        StoreError::ReadOnly { source, .. } => DiskRefusal::of(source).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_refusal_is_remembered_until_content_is_stored() {
        let refusals = Refusals::default();
        let of = |code| StoreError::from_io("create", Path::new("/data/fill/x"), io::Error::from_raw_os_error(code));
        for code in [30, 28, 5] {
            refusals.note::<()>(&Err(of(code)));
            assert!(refusals.last().is_some(), "{code}");
            refusals.note::<()>(&Err(StoreError::LargerThanCache { needed_bytes: 2, max_size_bytes: 1 }));
            assert!(refusals.last().is_some(), "large content says nothing about the disk");
            refusals.note(&Ok(()));
            assert_eq!(refusals.last(), None);
        }
    }

    #[test]
    fn only_a_disk_that_takes_no_writes_passes_at_the_start() {
        for (code, passes) in [(30, true), (28, true), (122, true), (13, false), (5, false), (20, false)] {
            let error =
                StoreError::from_io("create the directory", Path::new("/data"), io::Error::from_raw_os_error(code));
            assert_eq!(is_passing(&error), passes, "{code}");
        }
    }
}
