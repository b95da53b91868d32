//! The files of this machine, below a root that is `/` except in tests. Plans read them; journals and changes restore
//! them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// A machine, seen through its files.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    /// Files that are shown with earlier content; None if the file did not exist.
    before: BTreeMap<String, Option<Vec<u8>>>,
}

/// A file that cannot be used, for another reason than that it does not exist.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

const PROGRAM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The folders that systemd reads units and their drop-ins from.
pub(super) const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

impl Host {
    /// The machine below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), before: BTreeMap::new() }
    }

    /// The same machine as it was before these files were written.
    #[must_use]
    pub fn before(&self, files: BTreeMap<String, Option<Vec<u8>>>) -> Self {
        Self { root: self.root.clone(), before: files }
    }

    /// The place of an absolute path of the machine.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// None if there is no such file.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, HostError> {
        if let Some(before) = self.before.get(path) {
            return Ok(before.clone());
        }
        match fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(source) => Err(HostError::Read { path: path.into(), source }),
        }
    }

    /// A file's text, to look at only: bytes that are not UTF-8 are replaced. None if there is no such file.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, HostError> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The digest of a file's content; None if it cannot be read.
    pub(super) fn sha256_of(&self, path: &str) -> Option<String> {
        self.read(path).ok().flatten().map(|content| sha256(&content))
    }

    /// Whether there is a file. A symbolic link to nowhere counts too.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.before.get(path).map_or_else(|| self.at(path).symlink_metadata().is_ok(), Option::is_some)
    }

    /// The files of a folder whose names have this ending, sorted; empty if there is no such folder.
    pub(super) fn files(&self, folder: &str, ending: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(folder)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<String> =
            names.filter(|name| name.ends_with(ending)).map(|name| format!("{folder}/{name}")).collect();
        files.retain(|path| self.exists(path));
        files.sort();
        files
    }

    /// The folders above `path` that do not exist, the uppermost first.
    pub(super) fn missing_folders(&self, path: &str) -> Vec<String> {
        let above = Path::new(path).ancestors().skip(1);
        let missing = above.take_while(|folder| !self.at(folder).exists());
        let mut missing: Vec<String> = missing.map(|folder| folder.to_string_lossy().into_owned()).collect();
        missing.reverse();
        missing
    }

    /// Removes folders that were made for a set-up, the last one first. A folder that has other files in it stays.
    pub(super) fn remove_if_empty(&self, folders: &[String]) {
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(self.at(folder));
        }
    }

    pub(super) fn has_program(&self, name: &str) -> bool {
        PROGRAM_FOLDERS.iter().any(|folder| self.at(format!("{folder}/{name}")).is_file())
    }

    /// The first of these systemd units that is installed.
    pub(super) fn unit<'a>(&self, units: &[&'a str]) -> Option<&'a str> {
        units.iter().copied().find(|unit| UNIT_FOLDERS.iter().any(|folder| self.exists(&format!("{folder}/{unit}"))))
    }

    pub(super) fn runs_systemd(&self) -> bool {
        self.at("/run/systemd/system").is_dir()
    }
}

/// The hex digest by which a file of ours is recognised.
pub(super) fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file in one step (a new file, renamed), through a symbolic link if there is one.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.entrepot-new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if written.is_err() {
        // An incomplete file does not stay. The first error is the one to report.
        let _ = fs::remove_file(&new);
    }
    written
}
