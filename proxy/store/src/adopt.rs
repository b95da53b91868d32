//! Turns a file that another program owns into content without copying its bytes: as a clone that shares the blocks, or
//! as a hard link if both are on one file system. The bytes are read and compared with the digest in either case.
//!
//! A clone is tried first, because it is a file of our own. A hard link is the original file under another name, so the
//! owner of the original must not write to it.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use entrepot_core::digest::{Digest, Hasher};
use rustix::fs::ioctl_ficlone;

use crate::blocking::try_blocking;
use crate::disk;
use crate::errors::StoreError;
use crate::extents::Extents;
use crate::partial_blobs::{Begun, PartialBlob, PartialBlobs};
use crate::paths::FillName;
use crate::small_files::random;
use crate::space::Purpose;

/// How a file became content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// Its blocks are shared with the original until one of the two is written to.
    Cloned,
    /// It is another name of the original.
    Linked,
}

/// Read at once while hashing.
const PIECE_BYTES: usize = 1 << 20;

/// Makes a file content of that digest, durably. None if the file system can neither clone nor link the file.
pub(crate) async fn adopt(
    home: &Arc<PartialBlobs>,
    digest: &Digest,
    source: &Path,
) -> Result<Option<Adopted>, StoreError> {
    let (taken_into, digest, source) = (home.clone(), *digest, source.to_owned());
    let taken = try_blocking(move || take(&taken_into, &digest, &source)).await?;
    let Some((adopted, partial)) = taken else { return Ok(None) };
    partial.publish(None, &[]).await?;
    Ok(Some(adopted))
}

/// Gives the file a name of ours and checks its bytes. Blocks.
fn take(
    home: &Arc<PartialBlobs>,
    digest: &Digest,
    source: &Path,
) -> Result<Option<(Adopted, Arc<PartialBlob>)>, StoreError> {
    let name = FillName { digest: Some(*digest), random: random() };
    let path = home.paths.fill(name);
    let Some(adopted) = name_anew(source, &path) else { return Ok(None) };
    let file = disk::open_existing(&path)?;
    let measured = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error));
    let size_bytes = measured.inspect_err(|_| drop(disk::unlink(&path)))?.len();
    let (file, size, purpose) = (Arc::new(file), Some(size_bytes), Purpose::Upload);
    let begun = Begun { name, file, size, extents: Extents::new(), purpose, key: None, validator: None, turn: None };
    // The file system has given the blocks already. From here on a failure drops this, which removes our name of the
    // file.
    let partial = PartialBlob::new(home, path, begun, home.room.adopt(size_bytes, purpose));
    let actual = hash(&partial, digest, size_bytes)?;
    if actual != *digest {
        return Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) });
    }
    Ok(Some((adopted, Arc::new(partial))))
}

/// None if neither way is possible. A symbolic link is not the file that it leads to.
fn name_anew(source: &Path, path: &Path) -> Option<Adopted> {
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

fn hash(partial: &PartialBlob, digest: &Digest, size_bytes: u64) -> Result<Digest, StoreError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < size_bytes {
        let length = usize::try_from(size_bytes - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        partial.read_into(offset, &mut piece[..length]).map_err(|error| partial.unreadable(error))?;
        hasher.update(&piece[..length]);
        offset += length as u64;
    }
    Ok(hasher.finish())
}
