//! One published blob: its open file, read whole or a window at a time without blocking the thread that serves it. A
//! window is a slice of the mapped file if the page cache has it. Otherwise it is a read under way.
//!
//! Published content is immutable, so it may be mapped, and a reader may keep its slice. `blobs` opens and keeps the
//! files; `entrepot-kernel` makes the calls that need the kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::origin::Origin;
use entrepot_kernel::mapping::MappedFile;
use entrepot_kernel::{buffers, read, residency};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use crate::blocking::blocking;
use crate::space::{Counters, count};

/// The attribute of a file that names the origin which gave it.
const ORIGIN_ATTRIBUTE: &str = "user.entrepot.registry";
/// The longest value of that attribute: a scheme, a host name and a port.
const ORIGIN_MAX_BYTES: usize = 512;
/// A smaller blob is copied rather than mapped.
const MAPPED_MIN_BYTES: u64 = 64 * 1024;
/// The most bytes that one window of a mapping has.
const MAPPED_WINDOW_BYTES: u64 = 1 << 20;
/// The most bytes that are copied out of the page cache in place.
const COPIED_MAX_BYTES: u64 = 64 * 1024;

/// Published, verified, immutable content.
pub struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
    /// The open file. It stays readable after the blob was evicted.
    pub file: Arc<File>,
    counters: Arc<Counters>,
    /// Made when it is first asked for. None if the file cannot be mapped.
    mapped: OnceLock<Option<Arc<MappedFile>>>,
}

/// Some bytes of a blob.
pub enum Window {
    /// They are here.
    Here(Bytes),
    /// They are being read.
    Coming(read::Reading),
}

impl Blob {
    pub(crate) fn new(digest: Digest, size_bytes: u64, file: Arc<File>, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { digest, size_bytes, file, counters, mapped: OnceLock::new() })
    }

    /// A window that starts at `offset` and ends at `end` or before.
    pub fn window(&self, offset: u64, end: u64) -> Window {
        let left = end.min(self.size_bytes).saturating_sub(offset);
        if left <= COPIED_MAX_BYTES
            && let Some(bytes) = residency::read_now(&self.file, offset, left as usize)
        {
            return Window::Here(bytes);
        }
        let mapped_bytes = left.min(MAPPED_WINDOW_BYTES);
        if let Some(mapped) = self.mapped()
            && residency::is_resident(&self.file, offset, mapped_bytes as usize)
        {
            return Window::Here(mapped.slice(offset..offset + mapped_bytes));
        }
        Window::Coming(read::start(&self.file, offset, left.min(buffers::window_bytes() as u64) as usize))
    }

    /// The bytes of a window. It is an error if the disk or the file does not have them. The error is counted and calls
    /// for [`crate::Blobs::unreadable`].
    pub async fn finish(&self, window: &mut Window) -> io::Result<Bytes> {
        let bytes = match window {
            Window::Here(bytes) => Ok(bytes.clone()),
            Window::Coming(reading) => reading.finish().await,
        };
        let bytes =
            bytes.and_then(|bytes| if bytes.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) });
        bytes.inspect_err(|_| count(&self.counters.read_errors))
    }

    fn mapped(&self) -> Option<&Arc<MappedFile>> {
        if self.size_bytes < MAPPED_MIN_BYTES {
            return None;
        }
        let mapped = self.mapped.get_or_init(|| {
            let mapped = MappedFile::new(self.file.clone(), self.size_bytes);
            mapped.inspect_err(|error| tracing::debug!(digest = %self.digest, "not mapped: {error}")).ok()
        });
        mapped.as_ref()
    }

    /// Reads up to `len` bytes from `offset` on; fewer only at the end of the blob. It is an error if the file is
    /// shorter than the blob or the disk refuses; both are counted. Use windows for large blobs.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        let blob = self.clone();
        let lost = || Err(io::Error::other("the read broke off"));
        blocking(move || blob.read_blocking(offset, len)).await.unwrap_or_else(lost)
    }

    /// [`Self::read`] on this thread.
    pub(crate) fn read_blocking(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let left = self.size_bytes.saturating_sub(offset);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        let mut buffer = vec![0; len];
        let read = self.file.read_exact_at(&mut buffer, offset);
        read.inspect_err(|_| count(&self.counters.read_errors))?;
        Ok(Bytes::from(buffer))
    }

    /// The origin that gave the bytes, as written on the file itself, which outlives the index. None if the file system
    /// keeps no attributes.
    pub async fn first_origin(&self) -> Option<Origin> {
        let file = self.file.clone();
        let value = blocking(move || {
            let mut value = vec![0; ORIGIN_MAX_BYTES];
            let length = fgetxattr(&file, ORIGIN_ATTRIBUTE, &mut value[..]).ok()?;
            value.truncate(length);
            Some(value)
        });
        std::str::from_utf8(&value.await.flatten()?).ok()?.parse().ok()
    }

    /// When the blob was published: the file's time, which the open file's inode tells without asking the disk.
    pub fn stored_at(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.modified().ok()
    }
}

/// Writes on the file which origin gave it. Without the attribute, the blob is fetched once more after the index was
/// lost. Blocks.
pub(crate) fn mark_origin(file: &File, origin: &Origin) {
    if let Err(error) = fsetxattr(file, ORIGIN_ATTRIBUTE, origin.to_string().as_bytes(), XattrFlags::empty()) {
        tracing::debug!("the file system keeps no attributes: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_at_the_end_and_a_short_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let counters: Arc<Counters> = Arc::default();
        let blob = Blob::new(Digest::Sha256([0; 32]), 10, Arc::new(file), counters.clone());
        assert_eq!(blob.read_blocking(8, 100).unwrap(), "89");
        assert_eq!(blob.read_blocking(10, 100).unwrap(), "");
        assert_eq!(blob.read_blocking(u64::MAX, 1).unwrap(), "");
        blob.file.set_len(5).unwrap();
        assert_eq!(blob.read_blocking(0, 10).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(counters.read_errors.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
