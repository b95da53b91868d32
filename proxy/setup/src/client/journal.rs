//! The record of what was changed on this machine and what was there before: one file for each runtime, written before
//! the first change.
//!
//! ```text
//! /var/lib/entrepot-client/docker.json      mode 0600: configuration files may hold passwords
//! ```
//!
//! A file that two runtimes share (the certificate) is in both journals with the same earlier content; the last undo
//! restores it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::host::{Host, replace, sha256};
use super::plan::Command;
use super::{Mode, Runtime};

const FOLDER: &str = "/var/lib/entrepot-client";
/// The format of the files. A journal of another version is not touched.
const VERSION: u32 = 1;

/// The set-up of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    pub runtime: Runtime,
    pub(super) mode: Mode,
    /// The appliance's host as it is written into files.
    pub(super) appliance: String,
    /// The explicit proxy's port.
    pub(super) proxy_port: u16,
    /// The fingerprint that was checked, lower-case hex.
    pub(super) ca_sha256: String,
    /// In the order of writing.
    pub(super) files: Vec<Entry>,
    /// In the order of making.
    pub(super) made_folders: Vec<String>,
    /// They run after the files are written.
    #[serde(default)]
    pub(super) commands: Vec<Command>,
    /// They run after the files are restored.
    pub(super) undo_commands: Vec<Command>,
}

/// A changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Absolute.
    pub(super) path: String,
    /// None if the file did not exist.
    pub(super) before: Option<Before>,
    /// SHA-256 of the content that was written.
    pub(super) after_sha256: String,
    /// SHA-256 of the content that an earlier set-up wrote, while that is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) earlier_sha256: Option<String>,
}

/// The earlier content of a file, with its owner and mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    content_base64: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Why the journals cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}: {source}; the journal of the set-up is there, and only root may read it", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a journal of this version: {reason}; restore the files that it lists by hand, then remove it", path = path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl Journal {
    /// A journal without files.
    pub fn new(runtime: Runtime, mode: Mode, appliance: &str, proxy_port: u16, ca_sha256: &str) -> Self {
        let (appliance, ca_sha256) = (appliance.to_owned(), ca_sha256.to_owned());
        let (files, made_folders, version) = (Vec::new(), Vec::new(), VERSION);
        let (commands, undo_commands) = (Vec::new(), Vec::new());
        Self { version, runtime, mode, appliance, proxy_port, ca_sha256, files, made_folders, commands, undo_commands }
    }

    /// The journals of this machine.
    pub fn all(host: &Host) -> Result<Vec<Self>, JournalError> {
        host.files(FOLDER, ".json").iter().map(|path| read(&host.at(path))).collect()
    }

    /// Writes the journal in one step, synced to the disk.
    pub(super) fn save(&self, host: &Host) -> Result<(), JournalError> {
        let path = host.at(self.path());
        let failed = |source| JournalError::Io { path: path.clone(), source };
        fs::create_dir_all(host.at(FOLDER)).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        replace(&path, &text, 0o600, None).map_err(failed)
    }

    /// Removes the journal, and the folder of journals with the last one.
    pub(super) fn remove(&self, host: &Host) -> Result<(), JournalError> {
        let path = host.at(self.path());
        fs::remove_file(&path).map_err(|source| JournalError::Io { path, source })?;
        host.remove_if_empty(&[FOLDER.to_owned()]);
        Ok(())
    }

    fn path(&self) -> String {
        format!("{FOLDER}/{}.json", self.runtime.word())
    }
}

/// The content of each file before any of these set-ups.
pub fn before(journals: &[Journal]) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = journals.iter().flat_map(|journal| &journal.files);
    entries.map(|entry| (entry.path.clone(), entry.before.as_ref().map(Before::content))).collect()
}

impl Entry {
    /// None if the file did not exist.
    pub(super) fn before_sha256(&self) -> Option<String> {
        self.before.as_ref().map(Before::sha256)
    }

    /// Whether the digest `now` is of content that a set-up wrote.
    pub(super) fn wrote(&self, now: Option<&str>) -> bool {
        now.is_some() && (now == Some(&*self.after_sha256) || now == self.earlier_sha256.as_deref())
    }
}

impl Before {
    /// The file at `path`; None if there is none.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
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

    pub(super) fn content(&self) -> Vec<u8> {
        STANDARD.decode(&self.content_base64).unwrap_or_default()
    }

    /// The digest of the content.
    pub(super) fn sha256(&self) -> String {
        sha256(&self.content())
    }

    pub(super) fn restore(&self, path: &Path) -> io::Result<()> {
        replace(path, &self.content(), self.mode, Some((self.uid, self.gid)))
    }

    /// Writes other content with the same owner and mode.
    pub(super) fn rewrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        replace(path, content, self.mode, Some((self.uid, self.gid)))
    }
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
