//! Small files, made and removed so that after a power cut each is whole or absent.

use std::fs::{DirBuilder, File, FileTimes};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;

use crate::disk;
use crate::errors::StoreError;

/// No fact is longer. A longer file was not made by us.
const FILE_MAX_BYTES: u64 = 8 << 20;

/// Makes a file with this content, replacing the file that had its name.
pub(crate) fn put(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let folder = folder_of(path);
    make_folder(folder)?;
    let draft = folder.join(format!(".{:016x}", random()));
    let written = disk::create(&draft).and_then(|file| {
        disk::write_at(&file, &draft, 0, content)?;
        disk::sync(&file, &draft)?;
        disk::rename(&draft, path)
    });
    if let Err(error) = written {
        // A draft that cannot be removed now is swept later.
        let _ = disk::unlink(&draft);
        return Err(error);
    }
    disk::sync_dir(folder)
}

/// Makes an empty file, or renews the time of an existing one.
pub(crate) fn mark(folder: &Path, path: &Path) -> Result<(), StoreError> {
    if !touch(path)? {
        make(folder, path)?;
    }
    // The thread that made the file may not have synced the folder yet.
    disk::sync_dir(folder)
}

/// Makes an empty file, which is durable once its folder is synced.
pub(crate) fn make(folder: &Path, path: &Path) -> Result<(), StoreError> {
    make_folder(folder)?;
    match disk::create(path) {
        Err(error) if !path.exists() => Err(error),
        _ => Ok(()),
    }
}

/// Renews the time of a file; false if there is none.
pub(crate) fn touch(path: &Path) -> Result<bool, StoreError> {
    let Some(file) = disk::open(path)? else { return Ok(false) };
    let touched = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
    touched.map(|()| true).map_err(|error| StoreError::from_io("renew the time of", path, error))
}

/// The content of a file. None if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = disk::open(path)? else { return Ok(None) };
    let mut content = Vec::new();
    let read = file.take(FILE_MAX_BYTES).read_to_end(&mut content);
    read.map(|_| Some(content)).map_err(|error| StoreError::from_io("read", path, error))
}

/// Removes a file; false if there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, StoreError> {
    let removed = disk::unlink(path)?;
    if removed {
        disk::sync_dir(folder_of(path))?;
    }
    Ok(removed)
}

/// The names in a folder, without those of files that are being written. Empty if there is no such folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::from_io("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::from_io("list", folder, error))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
    }
    Ok(names)
}

/// Whether a folder has a file, other than those that are being written.
pub(crate) fn has_any(folder: &Path) -> Result<bool, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::from_io("list", folder, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::from_io("list", folder, error))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes an empty folder; false if it has content or does not exist.
pub(crate) fn remove_folder_if_empty(folder: &Path) -> bool {
    std::fs::remove_dir(folder).is_ok_and(|()| folder.parent().is_some_and(|parent| disk::sync_dir(parent).is_ok()))
}

/// Makes a folder and those above it, each durably. A folder that is there already stays as it is.
pub(crate) fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() { Ok(()) } else { make_folder_durable(folder) }
}

/// Makes a folder and those above it. Its entry is on the medium when this returns, even if another thread has just
/// made it and not synced it yet.
pub(crate) fn make_folder_durable(folder: &Path) -> Result<(), StoreError> {
    let above = folder_of(folder);
    if above != folder {
        make_folder(above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::from_io("create the directory", folder, error)),
        Ok(()) => {}
    }
    disk::sync_dir(above)
}

/// When a file was last marked. None if the disk cannot tell.
pub(crate) fn marked_at(path: &Path) -> Option<SystemTime> {
    File::open(path).and_then(|file| file.metadata()).and_then(|file| file.modified()).ok()
}

/// The folder that a path lies in. A bare name lies in the working directory.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Tells two files of one purpose apart. Not a secret; `create` refuses a name that is taken.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_those_above_them() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = dir.path().join("a/b/c");
        for _ in 0..2 {
            make_folder(&folder).unwrap();
            make_folder_durable(&folder).unwrap();
        }
        assert!(folder.is_dir());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_folder(&dir.path().join("file/a")).is_err());
        assert_eq!(folder_of(Path::new("data")), Path::new("."));
    }
}
