//! The io_uring of one disk thread: its runtime, and the calls that are made by it. This is the only module that uses
//! tokio-uring, which is no longer maintained: another library can take its place here, and nothing else changes.
//!
//! A call works on a duplicate of the file's descriptor, because tokio-uring owns and closes the descriptor that it
//! works on. That costs two short system calls for each piece. The duplicate and the bytes belong to the call until the
//! kernel is done with them, even if the caller has stopped waiting. The calls work within [`Ring::block_on`] only, and
//! reach the kernel when the thread has nothing else to do. So nothing but disk jobs may run on that thread.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

/// A ring that does not answer the simplest call in this time counts as no ring.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A path of a file that cannot exist. The answer to a call on it shows whether an old kernel's ring lacks the call.
const NOWHERE: &str = "/nonexistent/entrepot";

/// The runtime of this thread. It runs tokio's tasks and blocking pool as well.
pub(super) struct Ring(tokio_uring::Runtime);

impl Ring {
    /// A ring that can make all the calls of this module. None if the kernel refuses it or lacks calls.
    pub(super) fn new() -> Option<Self> {
        let ring = tokio_uring::Runtime::new(&tokio_uring::builder());
        let ring = ring.inspect_err(|error| tracing::debug!("the kernel refuses an io_uring: {error}")).ok()?;
        let answered = ring.block_on(async { tokio::time::timeout(PROBE_TIMEOUT, has_calls()).await });
        if answered == Ok(true) {
            return Some(Self(ring));
        }
        tracing::debug!("the kernel's io_uring lacks calls or does not answer");
        // Dropping the ring would wait for answers that do not come.
        std::mem::forget(ring);
        None
    }

    /// Runs a future to its end on this thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

async fn has_calls() -> bool {
    let is_known = |error: io::Error| error.kind() == ErrorKind::NotFound;
    let nowhere = Path::new(NOWHERE);
    tokio_uring::no_op().await.is_ok()
        && rename(nowhere, nowhere).await.is_err_and(is_known)
        && remove_file(nowhere).await.is_err_and(is_known)
}

/// Sets blocks aside for `len` bytes from `offset` on; `mode` is that of fallocate(2).
pub(super) async fn allocate(file: &File, offset: u64, len: u64, mode: i32) -> io::Result<()> {
    duplicate(file)?.fallocate(offset, len, mode).await
}

/// Writes all of `bytes` at `offset`.
pub(super) async fn write_all_at(file: &File, bytes: Bytes, offset: u64) -> io::Result<()> {
    duplicate(file)?.write_all_at(bytes, offset).await.0
}

/// Brings the file's content to the medium.
pub(super) async fn sync_data(file: &File) -> io::Result<()> {
    duplicate(file)?.sync_data().await
}

/// Brings a file, or a folder's entries, to the medium, and closes it.
pub(super) async fn sync_all(file: File) -> io::Result<()> {
    tokio_uring::fs::File::from_std(file).sync_all().await
}

/// Gives a file another name, replacing the file that had it.
pub(super) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    tokio_uring::fs::rename(from, to).await
}

/// Removes a file.
pub(super) async fn remove_file(path: &Path) -> io::Result<()> {
    tokio_uring::fs::remove_file(path).await
}

fn duplicate(file: &File) -> io::Result<tokio_uring::fs::File> {
    Ok(tokio_uring::fs::File::from_std(file.try_clone()?))
}
