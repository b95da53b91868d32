//! Every call of the store that changes content on disk: create, allocate, write, sync, rename, unlink. All of them
//! block. `disk_threads::calls` makes those of partial blobs by io_uring if there is one.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use entrepot_core::digest::{Algorithm, Digest};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::statvfs::statvfs;

use super::errors::StoreError;
use super::paths::{Paths, digest_of_file};

/// The published files of one folder. A folder that cannot be read has none.
pub(super) fn blobs_in(paths: &Paths, algorithm: Algorithm, first_byte: u8) -> Vec<(Digest, Metadata)> {
    let entries = std::fs::read_dir(paths.shard(algorithm, first_byte)).into_iter().flatten().flatten();
    let blobs = entries.filter_map(|entry| {
        let digest = digest_of_file(algorithm, first_byte, entry.file_name().to_str()?)?;
        entry.metadata().ok().filter(Metadata::is_file).map(|file| (digest, file))
    });
    blobs.collect()
}

/// Whether content has a pin. If the disk cannot tell, it has one, so that it stays.
pub(super) fn has_pin(paths: &Paths, digest: &Digest) -> bool {
    paths.pin(digest).try_exists().unwrap_or(true)
}

/// Makes a file that did not exist.
pub(super) fn create(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| StoreError::from_io("create", path, error))
}

/// Opens a file for reading. None if there is none. A link is never followed out of the store.
pub(super) fn open(path: &Path) -> Result<Option<File>, StoreError> {
    match OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::from_io("open", path, error)),
    }
}

/// Opens a file for reading. A missing file is an error.
pub(super) fn open_existing(path: &Path) -> Result<File, StoreError> {
    open(path)?.ok_or_else(|| StoreError::from_io("open", path, io::ErrorKind::NotFound.into()))
}

/// Opens a paused partial blob to add bytes.
pub(super) fn reopen(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
    file.map_err(|error| StoreError::from_io("open", path, error))
}

/// Takes blocks for `len` bytes from `offset` on without changing the file's length. False if the file system
/// cannot; its writes may then run out of space later.
pub(super) fn allocate(file: &File, path: &Path, offset: u64, len: u64) -> Result<bool, StoreError> {
    let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(StoreError::NoSpace { needed_bytes: len });
    };
    if length == 0 {
        return Ok(true);
    }
    allocated(fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, length), path, len)
}

/// Reads the kernel's answer to an allocation: false if the file system cannot allocate.
pub(super) fn allocated(answer: Result<(), Errno>, path: &Path, len: u64) -> Result<bool, StoreError> {
    match answer {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        Err(Errno::EFBIG) => Err(StoreError::NoSpace { needed_bytes: len }),
        Err(errno) => Err(StoreError::from_io("allocate", path, errno.into()).needing(len)),
    }
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_at(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let written = file.write_all_at(bytes, offset);
    written.map_err(|error| StoreError::from_io("write", path, error).needing(bytes.len() as u64))
}

/// Gives blocks beyond `len` back and fixes the length.
pub(super) fn truncate(file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
    file.set_len(len).map_err(|error| StoreError::from_io("truncate", path, error))
}

/// The file's content is on the medium when this returns.
pub(super) fn sync(file: &File, path: &Path) -> Result<(), StoreError> {
    file.sync_data().map_err(|error| StoreError::from_io("sync", path, error))
}

/// The folder's entries are on the medium when this returns.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| StoreError::from_io("sync the directory", path, error))
}

/// Gives a file its final name, replacing the file that had it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|error| StoreError::from_io("rename", from, error))
}

/// Removes a file; false if there was none.
pub(super) fn unlink(path: &Path) -> Result<bool, StoreError> {
    unlinked(std::fs::remove_file(path), path)
}

/// Reads the kernel's answer to an unlink: false if there was no file.
pub(super) fn unlinked(answer: io::Result<()>, path: &Path) -> Result<bool, StoreError> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::from_io("remove", path, error)),
    }
}

/// The room of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// Bytes that unprivileged writers may still use.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub size_bytes: u64,
}

impl DiskSpace {
    /// The room of the file system that holds `path`. Blocks.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        match statvfs(path) {
            // The fields' widths differ between architectures.
            #[allow(clippy::unnecessary_cast)]
            Ok(stat) => {
                let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size() as u64);
                Ok(Self { free_bytes: bytes(stat.blocks_available() as u64), size_bytes: bytes(stat.blocks() as u64) })
            }
            Err(errno) => Err(StoreError::from_io("ask for the free space of", path, errno.into())),
        }
    }
}

/// Bytes that unprivileged writers may still use of the file system.
pub(super) fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    DiskSpace::of(path).map(|space| space.free_bytes)
}
