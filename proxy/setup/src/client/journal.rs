//! What was changed on this machine, and what was there before: one file a runtime, written before the first change.
//!
//! ```text
//! /var/lib/entrepot-client/docker.json      mode 0600: configuration files may hold passwords
//! ```
//!
//! A file that two runtimes share (the certificate) is in both journals with the same "before"; the last one restores.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::plan::Command;
use super::{Mode, Runtime};

/// The folder of journals.
pub const FOLDER: &str = "/var/lib/entrepot-client";
/// A journal of another version is not touched.
const VERSION: u32 = 1;

/// A runtime's set-up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// Which runtime.
    pub runtime: Runtime,
    /// Which way.
    pub mode: Mode,
    /// The appliance's host, as it was written into files.
    pub appliance: String,
    /// The explicit proxy's port there.
    pub proxy_port: u16,
    /// The fingerprint that was checked.
    pub ca_sha256: String,
    /// The files, in the order of writing.
    pub files: Vec<Entry>,
    /// Folders that were made, in the order of making.
    pub made_folders: Vec<String>,
    /// What ran after the files were written.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// To run after the files are as they were.
    pub undo_commands: Vec<Command>,
}

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute.
    pub path: String,
    /// What was there; none where nothing was.
    pub before: Option<Before>,
    /// SHA-256 of what was written.
    pub after_sha256: String,
    /// SHA-256 of what an earlier set-up wrote there, while it is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_sha256: Option<String>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    content_base64: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Why the journals cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk, or somebody who may not.
    #[error("{path}: {source}; what is set up is noted there, for root only", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not a journal, or another version's.
    #[error("{path} is not a journal of this version: {reason}; restore the files that it lists by hand, then remove it", path = path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Journal {
    /// An empty one.
    pub fn new(runtime: Runtime, mode: Mode, appliance: &str, proxy_port: u16, ca_sha256: &str) -> Self {
        let (appliance, ca_sha256) = (appliance.to_owned(), ca_sha256.to_owned());
        let (files, made_folders, version) = (Vec::new(), Vec::new(), VERSION);
        let (commands, undo_commands) = (Vec::new(), Vec::new());
        Self { version, runtime, mode, appliance, proxy_port, ca_sha256, files, made_folders, commands, undo_commands }
    }

    /// Every journal of this machine.
    pub fn all(host: &Host) -> Result<Vec<Self>, JournalError> {
        host.files(FOLDER, ".json").iter().map(|path| read(&host.at(path))).collect()
    }

    /// Writes it in one step; it is on the disk afterwards.
    pub fn save(&self, host: &Host) -> Result<(), JournalError> {
        let path = host.at(self.path());
        let failed = |source| JournalError::Io { path: path.clone(), source };
        fs::create_dir_all(host.at(FOLDER)).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        replace(&path, &text, 0o600, None).map_err(failed)
    }

    /// Takes it away, and the folder with the last one.
    pub fn remove(&self, host: &Host) -> Result<(), JournalError> {
        let path = host.at(self.path());
        fs::remove_file(&path).map_err(|source| JournalError::Io { path, source })?;
        // Not empty where other runtimes are set up.
        let _ = fs::remove_dir(host.at(FOLDER));
        Ok(())
    }

    fn path(&self) -> String {
        format!("{FOLDER}/{}.json", self.runtime.word())
    }
}

/// What was at each path before any of these set-ups.
pub fn before(journals: &[Journal]) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = journals.iter().flat_map(|journal| &journal.files);
    entries.map(|entry| (entry.path.clone(), entry.before.as_ref().map(Before::content))).collect()
}

impl Entry {
    /// SHA-256 of what was there; none where nothing was.
    pub fn before_sha256(&self) -> Option<String> {
        self.before.as_ref().map(Before::sha256)
    }

    /// Whether what is there `now` was written by us.
    pub fn wrote(&self, now: Option<&str>) -> bool {
        now.is_some() && (now == Some(&*self.after_sha256) || now == self.earlier_sha256.as_deref())
    }
}

impl Before {
    /// The file at `path` now; none where there is none.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = fs::metadata(path)?;
        let content_base64 = STANDARD.encode(content);
        Ok(Some(Self { content_base64, mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }))
    }

    /// Its bytes.
    pub fn content(&self) -> Vec<u8> {
        STANDARD.decode(&self.content_base64).unwrap_or_default()
    }

    /// Their digest.
    pub fn sha256(&self) -> String {
        sha256(&self.content())
    }

    /// Puts it back.
    pub fn restore(&self, path: &Path) -> io::Result<()> {
        replace(path, &self.content(), self.mode, Some((self.uid, self.gid)))
    }

    /// Writes other bytes in its place, for the same owner.
    pub fn rewrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        replace(path, content, self.mode, Some((self.uid, self.gid)))
    }
}

/// The hex digest that tells a file of ours.
pub fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file in one step, through a symbolic link where there is one.
pub fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
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
        // What could not be completed is not left about; the first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    written
}

fn read(path: &Path) -> Result<Journal, JournalError> {
    let text = fs::read(path).map_err(|source| JournalError::Io { path: path.into(), source })?;
    let unusable = |reason: String| JournalError::Unusable { path: path.into(), reason };
    let journal: Journal = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
    if journal.version != VERSION {
        return Err(unusable(format!("version {}", journal.version)));
    }
    Ok(journal)
}
