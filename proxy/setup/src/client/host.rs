//! This machine's files, as plans look at them: below a root that is `/` except in tests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A machine, by its files.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    /// Files that are looked at as they were: their bytes, or none where there were none.
    before: BTreeMap<String, Option<Vec<u8>>>,
}

/// A file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}", path = path.display())]
pub struct HostError {
    /// Which.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Where programs are.
const PROGRAM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Where systemd reads units and their drop-ins.
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

    /// Where an absolute path of the machine is.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's bytes; none where there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, HostError> {
        if let Some(before) = self.before.get(path) {
            return Ok(before.clone());
        }
        match fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(source) => Err(HostError { path: path.into(), source }),
        }
    }

    /// A file's text; bytes that are not UTF-8 are replaced, for looking only.
    pub fn text(&self, path: &str) -> Result<Option<String>, HostError> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether anything is at that path.
    pub fn exists(&self, path: &str) -> bool {
        self.before.get(path).map_or_else(|| self.at(path).symlink_metadata().is_ok(), Option::is_some)
    }

    /// The files of a folder whose names end so, sorted; none where there is no such folder.
    pub fn files(&self, folder: &str, ending: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(folder)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<String> =
            names.filter(|name| name.ends_with(ending)).map(|name| format!("{folder}/{name}")).collect();
        files.retain(|path| self.exists(path));
        files.sort();
        files
    }

    /// Whether a program is installed.
    pub fn has_program(&self, name: &str) -> bool {
        PROGRAM_FOLDERS.iter().any(|folder| self.at(format!("{folder}/{name}")).is_file())
    }

    /// The first of these units that is installed.
    pub fn unit<'a>(&self, units: &[&'a str]) -> Option<&'a str> {
        units.iter().copied().find(|unit| UNIT_FOLDERS.iter().any(|folder| self.exists(&format!("{folder}/{unit}"))))
    }

    /// Whether systemd runs this machine.
    pub fn runs_systemd(&self) -> bool {
        self.at("/run/systemd/system").is_dir()
    }
}
