//! A blob's bytes, a window at a time, without blocking the thread that serves them: a slice of the mapped file where
//! the page cache has it, a read under way where it does not.
//!
//! Only published blobs come here: they are immutable, so they may be mapped, and a reader that is handed a slice may
//! keep it. Neighbours: `blobs.rs` opens and keeps the files; `entrepot-kernel` does what needs the kernel.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use entrepot_kernel::mapping::MappedFile;
use entrepot_kernel::{buffers, read, residency};

use super::Blob;
use super::space::count;

/// A smaller blob is copied rather than mapped.
const MAPPED_MIN_BYTES: u64 = 64 * 1024;
/// The most that is handed out of a mapping at once.
const MAPPED_WINDOW_BYTES: u64 = 1 << 20;
/// The most that is copied out of the page cache in place.
const COPIED_MAX_BYTES: u64 = 64 * 1024;

/// Some bytes of a blob.
pub enum Window {
    /// They are here.
    Here(Bytes),
    /// They are being read.
    Coming(read::Reading),
}

impl Blob {
    /// The bytes from `offset` on, as many as are good to have at once, and none from `end` on.
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

    /// The bytes of a window; an error, which is counted and calls for [`super::Store::quarantine`], where the disk or
    /// the file does not have them.
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
}
