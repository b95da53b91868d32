//! The errors of the store, sorted by what the caller does next: pass the body through uncached (`NoSpace`,
//! `LargerThanCache`, `ReadOnly`, `Io`), or tell the client (`WrongDigest`, `WrongSize`). None of them is the client's
//! fault unless it says so, and none may fail a pull (invariant 7 of ARCHITECTURE.md).

use entrepot_observe::labels::Bypass;
use std::io;
use std::path::{Path, PathBuf};

use entrepot_core::digest::Digest;
use nix::errno::Errno;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither eviction nor the file system has room.
    #[error(
        "no room in the cache for {needed_bytes} more bytes, even after eviction; raise cache.max_size, lower \
         cache.min_free or free disk space"
    )]
    NoSpace { needed_bytes: u64 },
    /// The content is larger than the cache may be.
    #[error(
        "{needed_bytes} bytes are more than the whole cache may hold ({max_size_bytes} bytes); raise cache.max_size to \
         keep such content"
    )]
    LargerThanCache { needed_bytes: u64, max_size_bytes: u64 },
    /// The file system or its permissions refuse writes.
    #[error(
        "cannot {doing} {path}: the file system refuses writes ({source}); remount it or correct the owner of data_dir"
    )]
    ReadOnly {
        /// The step that failed.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {doing} {path}: {source}; see the kernel log, the disk may be failing")]
    Io {
        /// The step that failed.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Content was handed in under a digest that it does not have: the sender is at fault.
    #[error("the content was announced as {expected} but is {actual}; it was not stored, fetch it again")]
    WrongDigest {
        expected: Box<Digest>,
        /// The digest that the bytes have.
        actual: Box<Digest>,
    },
    /// Content is longer or shorter than announced: the sender is at fault.
    #[error(
        "the content was announced with {expected_bytes} bytes but has {actual_bytes}; it was not stored, fetch it again"
    )]
    WrongSize { expected_bytes: u64, actual_bytes: u64 },
    /// A partial blob was used after its end, or published without a digest or under another one: a bug of ours.
    #[error(
        "the partial blob is already over, or was to be published without its digest or under another; this is a bug, \
         report it"
    )]
    FillState,
    /// The index does not answer, so there is nothing to list.
    #[error("the cache's index is unavailable; it repairs itself, try again in a few seconds")]
    IndexUnavailable,
    /// A manifest that was pushed is gone or bad.
    #[error("the pushed manifest {digest} cannot be read; push it again, or delete it")]
    ManifestLost { digest: Box<Digest> },
    /// The disk takes too long. The requested work may still happen.
    #[error("the disk did not answer within {seconds} s; see the kernel log, or raise data_plane.disk_timeout")]
    Stalled {
        /// How long the caller waited.
        seconds: f32,
    },
    /// A thread could not be started, or the work panicked.
    #[error("the store's work was not done; the log says why, report it if it is not a lack of threads")]
    DiskThreadGone,
    /// Another process has the same store open.
    #[error("{path} is in use by another process; stop the other entrepot or choose another data_dir")]
    Locked { path: PathBuf },
    /// A later program has changed the layout of the index.
    #[error(
        "{path} has the format {found}, but this entrepot knows formats up to {known} only; start the newer entrepot \
         that wrote it, or choose another data_dir"
    )]
    NewerFormat {
        path: PathBuf,
        found: u64,
        /// The highest number that this program knows.
        known: u64,
    },
}

impl StoreError {
    /// The reason to count if a body is passed through because of this error.
    pub fn bypass(&self) -> Bypass {
        match self {
            StoreError::NoSpace { .. } => Bypass::DiskFull,
            StoreError::LargerThanCache { .. } => Bypass::TooLarge,
            _ => Bypass::IoError,
        }
    }

    /// Sorts an I/O error into the classes above.
    pub(super) fn from_io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Self::NoSpace { needed_bytes: 0 },
            Some(Errno::EROFS | Errno::EACCES | Errno::EPERM) => Self::ReadOnly { doing, path, source },
            _ => Self::Io { doing, path, source },
        }
    }

    /// Adds how many bytes were wanted. The step that ran out of space did not know it.
    pub(super) fn needing(self, bytes: u64) -> Self {
        match self {
            Self::NoSpace { .. } => Self::NoSpace { needed_bytes: bytes },
            other => other,
        }
    }

    /// Whether this process, or the machine, has no file descriptor left.
    pub(super) fn is_out_of_files(&self) -> bool {
        let code = match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        matches!(code.map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
    }

    /// Whether making room could help.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_kernel_answers() {
        let class = |errno: Errno| match StoreError::from_io("write", Path::new("/x"), errno.into()) {
            StoreError::NoSpace { .. } => "no space",
            StoreError::ReadOnly { .. } => "read only",
            _ => "io",
        };
        for (errno, expected) in [
            (Errno::ENOSPC, "no space"),
            (Errno::EDQUOT, "no space"),
            (Errno::EROFS, "read only"),
            (Errno::EACCES, "read only"),
            (Errno::EIO, "io"),
            (Errno::EMFILE, "io"),
        ] {
            assert_eq!(class(errno), expected, "{errno}");
        }
    }
}
