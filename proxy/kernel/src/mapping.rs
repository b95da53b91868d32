//! Immutable files mapped read-only. A slice of a mapping is an ordinary [`Bytes`]. The writer of a slice asks by its
//! address which file it came from ([`locate`]), and sends or reads the file instead of touching the memory. All of
//! this product does so: a page that a failing disk or another hand took away is an error to the reader of the file,
//! but SIGBUS for the whole process if the mapping is touched.
//!
//! Invariants: only published content is mapped, which nothing writes to or truncates; a mapping stays in the table for
//! as long as any slice of it lives, so an address that is found names an open file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// A mapped file.
pub struct MappedFile {
    map: Mmap,
    file: Arc<File>,
}

/// The place of a slice in its file.
pub struct Located {
    mapped: Arc<MappedFile>,
    /// The offset of its first byte.
    pub offset: u64,
}

/// The owner of a slice's bytes: it keeps the mapping alive.
struct Slice {
    mapped: Arc<MappedFile>,
    range: Range<usize>,
}

/// Live mappings by address. Weak, so that the table keeps nothing alive.
static TABLE: RwLock<Vec<(usize, usize, std::sync::Weak<MappedFile>)>> = RwLock::new(Vec::new());

impl MappedFile {
    /// Maps `size_bytes` of `file`, which must be that long, and immutable from now on.
    pub fn new(file: Arc<File>, size_bytes: u64) -> io::Result<Arc<Self>> {
        let length = usize::try_from(size_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if length == 0 || file.metadata()?.len() < size_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the mapping is shared and read-only. Memory that Rust calls immutable must not change: the caller
        // vouches that the file is published content, which nothing writes to. Its bytes serve as an address
        // (`locate`) and are read from the file.
        let map = unsafe { MmapOptions::new().len(length).map(&*file)? };
        let mapped = Arc::new(Self { map, file });
        let start = mapped.map.as_ptr() as usize;
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        let at = table.partition_point(|(known, ..)| *known < start);
        table.insert(at, (start, start + length, Arc::downgrade(&mapped)));
        Ok(mapped)
    }

    /// The bytes of `range`, which must lie in the file.
    pub fn slice(self: &Arc<Self>, range: Range<u64>) -> Bytes {
        let whole = self.map.len() as u64;
        let range = range.start.min(whole) as usize..range.end.min(whole) as usize;
        Bytes::from_owner(Slice { mapped: self.clone(), range })
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        let start = self.map.as_ptr() as usize;
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|(known, ..)| *known != start);
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.mapped.map[self.range.clone()]
    }
}

/// The file that `bytes` are mapped from. None if they are not mapped.
pub fn locate(bytes: &[u8]) -> Option<Located> {
    let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
    let (from, found) = {
        let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
        let after = table.partition_point(|(known, ..)| *known <= start);
        let (from, to, mapped) = table.get(after.checked_sub(1)?)?;
        if end > *to {
            return None;
        }
        (*from, mapped.clone())
    };
    // Outside of the lock: to drop a last reference takes it.
    let mapped = found.upgrade()?;
    Some(Located { mapped, offset: (start - from) as u64 })
}

impl Located {
    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.mapped.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        Arc::new(file)
    }

    #[test]
    fn a_slice_knows_its_file_for_as_long_as_it_lives() {
        let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mapped = MappedFile::new(file(&content), 100_000).expect("mapped");
        let other = MappedFile::new(file(&content), 100_000).expect("mapped");
        let slice = mapped.slice(5000..70_000);
        assert_eq!(slice, content[5000..70_000]);
        drop((mapped, other));
        let part = &slice[1000..];
        let located = locate(part).expect("mapped");
        assert_eq!(located.offset, 6000);
        assert!(locate(&content).is_none());
        let address = (slice.as_ptr(), slice.len());
        drop(located);
        drop(slice);
        // The table is asked by numbers only: nothing is read at the address.
        let table = TABLE.read().expect("table");
        assert!(!table.iter().any(|(start, end, _)| (*start..*end).contains(&(address.0 as usize))));
    }

    #[test]
    fn a_file_that_is_too_short_or_empty_is_not_mapped() {
        assert!(MappedFile::new(file(&[1; 10]), 11).is_err());
        assert!(MappedFile::new(file(&[]), 0).is_err());
    }
}
