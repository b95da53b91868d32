//! The CA's two files. They are replaced so that a crash at any moment leaves the old pair or the new one.
//!
//! ```text
//! ca.key       mode 0600         ca.crt       mode 0644
//! ca.key.new   being installed   ca.crt.new   being installed
//! ca.key.old   the pair before   ca.crt.old   the pair before
//! ```
//!
//! An installation writes `ca.key.new`, then `ca.crt.new`, then renames in that order. So `ca.crt.new` without
//! `ca.key.new` can only mean that it was cut short between the two renames; the next start finishes it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::error::CaError;

/// The contents of the two files.
pub(super) struct PairText {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Reads both files. None if neither exists.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<Option<PairText>, CaError> {
    match (read(certificate)?, read(key)?) {
        (Some(certificate), Some(key_text)) => {
            warn_when_readable_by_others(key);
            Ok(Some(PairText { certificate, key: key_text }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(CaError::HalfPair { present: certificate.into(), missing: key.into() }),
        (None, Some(_)) => Err(CaError::HalfPair { present: key.into(), missing: certificate.into() }),
    }
}

/// Keeps other processes from changing the pair. The system releases it when the process dies.
pub(super) struct PairLock {
    _directory: File,
}

/// Makes missing directories (0700), waits for the lock on the key's, and finishes an installation that was cut short.
pub(super) fn lock(certificate: &Path, key: &Path) -> Result<PairLock, CaError> {
    for directory in [directory_of(key), directory_of(certificate)] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| CaError::Unwritable { path: directory.into(), source })?;
    }
    let path = directory_of(key);
    let locked = File::open(path).and_then(|directory| directory.lock().map(|()| directory));
    let directory = locked.map_err(|source| CaError::Unwritable { path: path.into(), source })?;
    if is_unfinished(certificate) && !beside(key, ".new").exists() {
        rename(&beside(certificate, ".new"), certificate)?;
    }
    Ok(PairLock { _directory: directory })
}

/// Whether an installation is running, or was cut short.
pub(super) fn is_unfinished(certificate: &Path) -> bool {
    beside(certificate, ".new").exists()
}

/// Puts a pair in place, key first. The present files are kept as `.old`.
pub(super) fn install(
    _held: &PairLock,
    (certificate, certificate_text): (&Path, &str),
    (key, key_text): (&Path, &str),
) -> Result<(), CaError> {
    let (new_certificate, new_key) = (beside(certificate, ".new"), beside(key, ".new"));
    // A leftover of the certificate is removed first: alone it would mean that an installation has to be finished.
    remove(&new_certificate)?;
    remove(&new_key)?;
    write(&new_key, key_text, 0o600)?;
    write(&new_certificate, certificate_text, 0o644)?;
    for path in [key, certificate] {
        keep_old(path)?;
    }
    rename(&new_key, key)?;
    rename(&new_certificate, certificate)
}

/// Writes a file that only this user may read, whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CaError> {
    let new = beside(path, ".new");
    remove(&new)?;
    write(&new, text, 0o600)?;
    rename(&new, path)
}

/// Writes a file that holds no secret.
pub fn write_public(path: &Path, text: &str) -> Result<(), CaError> {
    fs::write(path, text).map_err(|source| CaError::Unwritable { path: path.into(), source })
}

/// Reads a file that must exist.
pub fn read_existing(path: &Path) -> Result<Vec<u8>, CaError> {
    fs::read(path).map_err(|source| CaError::Unreadable { path: path.into(), source })
}

/// `ca.key` with `.old` is `ca.key.old`.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Reads a file; None if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::Unreadable { path: path.into(), source }),
    }
}

fn warn_when_readable_by_others(key: &Path) {
    let mode = fs::metadata(key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(path = %key.display(), "the CA's key is readable by others; run `chmod 600` on it");
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The umask may have cut the mode above. Every user may read a certificate.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        belong_where_it_is(&file, directory_of(path))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|source| CaError::Unwritable { path: path.into(), source })?;
    sync_directory(directory_of(path))
}

/// Gives a file that root writes to the owner of the directory, because the server runs as its own user. In a container
/// root may lack that power (CAP_CHOWN): then the server is this root, and the file stays its own.
fn belong_where_it_is(file: &File, directory: &Path) -> io::Result<()> {
    let owner = fs::metadata(directory)?;
    if !geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    match fchown(file, Some(owner.uid()), Some(owner.gid())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

fn keep_old(path: &Path) -> Result<(), CaError> {
    if !path.exists() {
        return Ok(());
    }
    let old = beside(path, ".old");
    remove(&old)?;
    // This makes a second link and does not rename, so the file stays in place until its successor takes the name.
    fs::hard_link(path, &old).map_err(|source| CaError::Unwritable { path: old, source })
}

fn remove(path: &Path) -> Result<(), CaError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(CaError::Unwritable { path: path.into(), source }),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    fs::rename(from, to).map_err(|source| CaError::Unwritable { path: to.into(), source })?;
    sync_directory(directory_of(to))
}

fn sync_directory(directory: &Path) -> Result<(), CaError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| CaError::Unwritable { path: directory.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        folder: tempfile::TempDir,
    }

    impl Pair {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().expect("a folder") }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join("ca").join(name)
        }

        fn install(&self, certificate: &str, key: &str) {
            let (certificate_path, key_path) = (self.path("ca.crt"), self.path("ca.key"));
            let held = lock(&certificate_path, &key_path).expect("the lock");
            install(&held, (&certificate_path, certificate), (&key_path, key)).expect("installed");
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.path(name)).ok()
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.path(name)).expect("there").permissions().mode() & 0o777
        }
    }

    #[test]
    fn an_installation_keeps_the_old_pair_and_the_modes() {
        let pair = Pair::new();
        for (round, old) in [("1", None), ("2", Some("1")), ("3", Some("2"))] {
            pair.install(&format!("crt{round}"), &format!("key{round}"));
            assert_eq!(pair.text("ca.crt"), Some(format!("crt{round}")));
            assert_eq!(pair.text("ca.key"), Some(format!("key{round}")));
            assert_eq!(pair.text("ca.crt.old"), old.map(|old| format!("crt{old}")));
            assert_eq!(pair.text("ca.key.old"), old.map(|old| format!("key{old}")));
            assert_eq!((pair.mode(""), pair.mode("ca.key"), pair.mode("ca.crt")), (0o700, 0o600, 0o644));
        }
        assert_eq!(pair.mode("ca.key.old"), 0o600);
        assert_eq!((pair.text("ca.crt.new"), pair.text("ca.key.new")), (None, None));
    }

    /// Every state on disk that a crash can leave, as the files that exist: `(key, crt, key.new, crt.new)` → outcome.
    #[test]
    fn a_crash_leaves_the_old_pair_or_the_new_one() {
        let table = [
            (["old", "old", "cut", ""], ("old", "old")),
            (["old", "old", "new", "cut"], ("old", "old")),
            (["old", "old", "new", "new"], ("old", "old")),
            (["new", "old", "", "new"], ("new", "new")),
            (["new", "new", "", ""], ("new", "new")),
            (["new", "", "", "new"], ("new", "new")),
        ];
        for (state, (key, certificate)) in table {
            let pair = Pair::new();
            fs::create_dir(pair.path("")).expect("a folder");
            for (name, text) in ["ca.key", "ca.crt", "ca.key.new", "ca.crt.new"].into_iter().zip(state) {
                if !text.is_empty() {
                    fs::write(pair.path(name), text).expect("written");
                }
            }
            drop(lock(&pair.path("ca.crt"), &pair.path("ca.key")).expect("the lock"));
            assert_eq!(pair.text("ca.key").as_deref(), Some(key), "{state:?}");
            assert_eq!(pair.text("ca.crt").as_deref(), Some(certificate), "{state:?}");
            pair.install("next", "next");
            assert_eq!((pair.text("ca.key"), pair.text("ca.crt")), (Some("next".into()), Some("next".into())));
            assert!(!is_unfinished(&pair.path("ca.crt")));
        }
    }

    #[test]
    fn the_lock_holds_others_off() {
        let pair = Pair::new();
        let held = lock(&pair.path("ca.crt"), &pair.path("ca.key")).expect("the lock");
        let other = File::open(pair.path("")).expect("the folder");
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(held);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn one_of_two_is_an_error() {
        let pair = Pair::new();
        let (certificate, key) = (pair.path("ca.crt"), pair.path("ca.key"));
        assert!(matches!(read_pair(&certificate, &key), Ok(None)));
        pair.install("crt", "key");
        assert!(matches!(read_pair(&certificate, &key), Ok(Some(_))));
        fs::remove_file(&key).expect("removed");
        assert!(matches!(read_pair(&certificate, &key), Err(CaError::HalfPair { missing, .. }) if missing == key));
        pair.install("crt", "key");
        fs::remove_file(&certificate).expect("removed");
        assert!(matches!(read_pair(&certificate, &key), Err(CaError::HalfPair { present, .. }) if present == key));
        let folder = pair.path("");
        assert!(matches!(read_pair(&folder, &folder), Err(CaError::Unreadable { path, .. }) if path == folder));
    }
}
