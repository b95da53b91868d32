//! The calls that change content on disk, made by the ring or by ordinary system calls. Both give the same answers, so
//! the steps of `partial_blobs` are written once.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use tracing::Span;

use super::ring;
use crate::disk;
use crate::errors::StoreError;

/// How the calls are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Calls {
    /// By the ring of this disk thread.
    Ring,
    /// On the blocking pool of this disk thread.
    Pool,
}

impl Calls {
    /// Runs blocking work without blocking a disk thread.
    pub(crate) async fn aside<T: Send + 'static>(self, run: impl FnOnce() -> T + Send + 'static) -> T {
        let span = Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(run)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The pool refuses work only when its runtime ends, and the runtime waits for this work.
                Err(error) => panic!("{error}"),
            },
        }
    }

    /// See [`disk::allocate`].
    pub(crate) async fn allocate(
        self,
        file: &Arc<File>,
        path: &Path,
        offset: u64,
        len: u64,
    ) -> Result<bool, StoreError> {
        let fits = i64::try_from(offset).is_ok() && i64::try_from(len).is_ok();
        if self != Self::Ring || len == 0 || !fits {
            let (file, path) = (file.clone(), path.to_owned());
            return self.aside(move || disk::allocate(&file, &path, offset, len)).await;
        }
        let allocated = ring::allocate(file, offset, len, FallocateFlags::FALLOC_FL_KEEP_SIZE.bits()).await;
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        disk::allocated(allocated.map_err(errno), path, len)
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) async fn write_at(
        self,
        file: &Arc<File>,
        path: &Path,
        offset: u64,
        bytes: &Bytes,
    ) -> Result<(), StoreError> {
        if self != Self::Ring {
            let (file, path, bytes) = (file.clone(), path.to_owned(), bytes.clone());
            return self.aside(move || disk::write_at(&file, &path, offset, &bytes)).await;
        }
        let written = ring::write_all_at(file, bytes.clone(), offset).await;
        written.map_err(|error| StoreError::from_io("write", path, error).needing(bytes.len() as u64))
    }

    /// The file's content is on the medium when this returns.
    pub(crate) async fn sync(self, file: &Arc<File>, path: &Path) -> Result<(), StoreError> {
        if self != Self::Ring {
            let (file, path) = (file.clone(), path.to_owned());
            return self.aside(move || disk::sync(&file, &path)).await;
        }
        ring::sync_data(file).await.map_err(|error| StoreError::from_io("sync", path, error))
    }

    /// The folder's entries are on the medium when this returns.
    pub(crate) async fn sync_dir(self, path: &Path) -> Result<(), StoreError> {
        let folder = path.to_owned();
        if self != Self::Ring {
            return self.aside(move || disk::sync_dir(&folder)).await;
        }
        let synced = match self.aside(move || File::open(folder)).await {
            Ok(opened) => ring::sync_all(opened).await,
            Err(error) => Err(error),
        };
        synced.map_err(|error| StoreError::from_io("sync the directory", path, error))
    }

    /// Gives a file its final name, replacing the file that had it.
    pub(crate) async fn rename(self, from: &Path, to: &Path) -> Result<(), StoreError> {
        if self != Self::Ring {
            let (from, to) = (from.to_owned(), to.to_owned());
            return self.aside(move || disk::rename(&from, &to)).await;
        }
        ring::rename(from, to).await.map_err(|error| StoreError::from_io("rename", from, error))
    }

    /// Removes a file; false if there was none.
    pub(crate) async fn unlink(self, path: &Path) -> Result<bool, StoreError> {
        if self != Self::Ring {
            let path = path.to_owned();
            return self.aside(move || disk::unlink(&path)).await;
        }
        disk::unlinked(ring::remove_file(path).await, path)
    }
}
