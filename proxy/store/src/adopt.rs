//! Content from a file of somebody else's, without copying its bytes: as a clone that shares the blocks, or as a hard
//! link, where both are on one file system. The bytes are read and compared with the digest all the same.
//!
//! A clone is tried first: it is nobody else's file. A link is one with the original, which its owner must not write to.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use entrepot_core::digest::{Digest, Hasher};
use rustix::fs::ioctl_ficlone;
use tokio::sync::RwLock;

use super::disk_threads::calls::Calls;
use super::disk_threads::wait;
use super::errors::StoreError;
use super::extents::Extents;
use super::partial_blob::{PartialBlob, random};
use super::paths::FillName;
use super::space::Purpose;
use super::{Store, disk};

/// How a file became content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// With blocks that both share until one is written to.
    Cloned,
    /// As another name of the same file.
    Linked,
}

const PIECE_BYTES: usize = 1 << 20;

impl Store {
    /// Makes a file content of that digest, durably; none where the file system can neither clone nor link it. Pin it
    /// before (`hold`), so that it is there when it is linked to a repository. Blocks.
    pub fn adopt(self: &Arc<Self>, digest: &Digest, source: &Path) -> Result<Option<Adopted>, StoreError> {
        let name = FillName { digest: Some(*digest), random: random() };
        let path = self.paths.fill(name);
        let Some(adopted) = take(source, &path) else { return Ok(None) };
        let file = disk::open_existing(&path)?;
        let measured = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error));
        let size_bytes = measured.inspect_err(|_| drop(disk::unlink(&path)))?.len();
        let fill = PartialBlob {
            store: self.clone(),
            name,
            path,
            file: Arc::new(file),
            size: Some(size_bytes),
            extents: Extents::new(),
            purpose: Purpose::Upload,
            turn: None,
            // What it takes, the file system has given already.
            reservation: RwLock::new(Some(self.space.adopt(size_bytes, Purpose::Upload))),
        };
        // From here on a failure drops the fill, and that removes our name of the file.
        let actual = hash(&fill, digest, size_bytes)?;
        if actual != *digest {
            return Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) });
        }
        fill.publish(None, &[])?;
        Ok(Some(adopted))
    }

    /// Begins content that is pushed, and counts as that. Blocks.
    pub fn begin_pushed(self: &Arc<Self>, digest: &Digest, size_bytes: u64) -> Result<PartialBlob, StoreError> {
        wait(self.begin_new(Calls::Inline, Some(*digest), Some(size_bytes), Purpose::Upload))
    }
}

/// Gives our name to the file; none where that is not possible. A symbolic link is not the file that it leads to.
fn take(source: &Path, path: &Path) -> Option<Adopted> {
    if !fs::symlink_metadata(source).ok()?.is_file() {
        return None;
    }
    if let (Ok(from), Ok(to)) = (File::open(source), disk::create(path)) {
        if ioctl_ficlone(&to, &from).is_ok() {
            return Some(Adopted::Cloned);
        }
        disk::unlink(path).ok()?;
    }
    fs::hard_link(source, path).is_ok().then_some(Adopted::Linked)
}

fn hash(fill: &PartialBlob, digest: &Digest, size_bytes: u64) -> Result<Digest, StoreError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut offset = 0;
    while offset < size_bytes {
        let piece = fill.read_at(offset, PIECE_BYTES).map_err(|error| fill.unreadable(error))?;
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
    Ok(hasher.finish())
}
