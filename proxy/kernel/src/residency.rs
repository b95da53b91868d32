//! Whether a window of a file is in the page cache: by `cachestat(2)` (Linux 6.5), else by `preadv2(2)` with
//! `RWF_NOWAIT`. An answer is a hint, because pages may leave the cache the moment after.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use nix::errno::Errno;
use nix::libc;

/// x86-64 and arm64 share the number.
const SYS_CACHESTAT: libc::c_long = 451;

/// Set once the kernel has said that it has no cachestat.
static IS_OLD: AtomicBool = AtomicBool::new(false);

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The part of a window that is looked at for its first bytes, if the whole is not known to be cached.
const PROBE_MAX_BYTES: usize = 256 * 1024;

/// Whether `length` bytes at `offset` can be read without waiting for a disk. False if it is unknown.
pub fn is_resident(file: &File, offset: u64, length: usize) -> bool {
    is_cached(file, offset, length).unwrap_or_else(|| readable_now(file, offset, length) == length)
}

/// How many of `length` bytes at `offset`, from the first on, can be read without waiting for a disk. It may be too low
/// unless all can, and is zero if it is unknown.
pub fn resident_bytes(file: &File, offset: u64, length: usize) -> usize {
    match is_cached(file, offset, length) {
        Some(true) => length,
        _ => readable_now(file, offset, length.min(PROBE_MAX_BYTES)),
    }
}

/// Whether the window is cached, as the kernel counts pages. None if it does not count them.
fn is_cached(file: &File, offset: u64, length: usize) -> Option<bool> {
    if length == 0 {
        return Some(true);
    }
    let first_page = offset / PAGE_BYTES;
    let last_page = (offset + length as u64 - 1) / PAGE_BYTES;
    let cached = cached_pages(file, first_page * PAGE_BYTES, (last_page - first_page + 1) * PAGE_BYTES)?;
    // A page that is still being read counts as cached; the last of a window is the last to arrive.
    Some(cached > last_page - first_page && readable_now(file, offset + length as u64 - 1, 1) == 1)
}

const PAGE_BYTES: u64 = 4096;

/// How many pages of the window are cached. None if the kernel does not tell.
fn cached_pages(file: &File, offset: u64, length: u64) -> Option<u64> {
    if IS_OLD.load(Ordering::Relaxed) {
        return None;
    }
    let (range, mut counts) = (Range { offset, length }, Counts::default());
    // SAFETY: both structures live on this stack until the call returns, have the kernel's layout (`struct
    // cachestat_range`, `struct cachestat`), and the kernel keeps neither. The descriptor is open as `file` is
    // borrowed.
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0u32) };
    match Errno::result(answer) {
        Ok(_) => Some(counts.cached),
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => {
            IS_OLD.store(true, Ordering::Relaxed);
            None
        }
        Err(_) => Some(0),
    }
}

/// The bytes, if all of them can be read without waiting for a disk.
pub fn read_now(file: &File, offset: u64, length: usize) -> Option<Bytes> {
    let mut bytes = vec![0; length];
    let read = read_nowait(file, offset, &mut bytes).ok()?;
    (read == length).then(|| Bytes::from(bytes))
}

/// How many of the bytes a read gives now.
fn readable_now(file: &File, offset: u64, length: usize) -> usize {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < length {
            scratch.resize(length, 0);
        }
        read_nowait(file, offset, &mut scratch[..length]).unwrap_or(0)
    })
}

/// Reads bytes that are in the page cache. `WouldBlock` if there are none.
fn read_nowait(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    read_scattered_now(file, offset, &mut [IoSliceMut::new(into)])
}

/// Fills `slices` one after the other with the bytes that the page cache has from `offset` on. They may be fewer than
/// the slices have room for, and are none at the file's end. `WouldBlock` if the cache has nothing or cannot be asked.
pub fn read_scattered_now(file: &File, offset: u64, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let count = libc::c_int::try_from(slices.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `IoSliceMut` has the layout of `iovec` (std guarantees it), the slices are borrowed until the call
    // returns, and the kernel keeps nothing of them.
    let read =
        unsafe { libc::preadv2(file.as_fd().as_raw_fd(), slices.as_mut_ptr().cast(), count, offset, libc::RWF_NOWAIT) };
    match Errno::result(read) {
        Ok(read) => Ok(usize::try_from(read).unwrap_or(0)),
        Err(Errno::EOPNOTSUPP) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

    /// Content on a disk: what a memory file system holds is always resident.
    fn on_disk(pages: usize) -> File {
        let folder = std::env::current_dir().expect("a folder");
        let mut file = tempfile::tempfile_in(folder).expect("a file");
        file.write_all(&vec![7; pages * 4096]).expect("written");
        file.sync_all().expect("synced");
        file
    }

    fn drop_cache(file: &File) {
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
    }

    #[test]
    fn scattered_reads_give_what_is_there_and_say_what_is_missing() {
        let file = on_disk(4);
        let (mut first, mut second) = ([0; 5000], [0; 20_000]);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 4 * 4096], 0).expect("read");
        let mut slices = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(read_scattered_now(&file, 100, &mut slices).expect("cached"), 4 * 4096 - 100);
        assert_eq!((first[4999], second[4 * 4096 - 5101], second[4 * 4096 - 5100]), (7, 7, 0));
        assert_eq!(read_scattered_now(&file, 4 * 4096, &mut [IoSliceMut::new(&mut second)]).expect("the end"), 0);
        drop_cache(&file);
        let missing = read_scattered_now(&file, 0, &mut [IoSliceMut::new(&mut second)]).expect_err("on disk only");
        assert_eq!(missing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_was_just_written_is_there_and_what_was_dropped_is_not() {
        let file = on_disk(64);
        for old in [false, true] {
            IS_OLD.store(old, Ordering::Relaxed);
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 64 * 4096], 0).expect("read");
            assert!(is_resident(&file, 0, 64 * 4096), "old: {old}");
            assert!(is_resident(&file, 5000, 10_000) && is_resident(&file, 0, 0));
            assert!(resident_bytes(&file, 5000, 60 * 4096) == 60 * 4096 && resident_bytes(&file, 0, 0) == 0);
            drop_cache(&file);
            assert!(!is_resident(&file, 0, 64 * 4096), "old: {old}");
            assert_eq!(resident_bytes(&file, 0, 64 * 4096), 0, "old: {old}");
            assert!(!is_resident(&file, 63 * 4096, 4096));
            // Asking may have begun to read ahead, which this ends.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).expect("advised");
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 64 * 4096], 0).expect("read");
            drop_cache(&file);
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 4096).expect("read");
            assert_eq!(resident_bytes(&file, 5000, 20 * 4096), 2 * 4096 - 5000, "old: {old}");
        }
        IS_OLD.store(false, Ordering::Relaxed);
        assert!(!is_resident(&file, 64 * 4096, 1), "past the end is nothing to read");
        assert_eq!(resident_bytes(&file, 64 * 4096, 1), 0);
    }
}
