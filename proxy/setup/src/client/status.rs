//! How a set-up stands: the journal against the machine as it is now.

use std::net::ToSocketAddrs;

use serde::Serialize;

use super::host::Host;
use super::journal::{Journal, sha256};
use super::{Mode, Runtime, trust};
use crate::discovery::probe;

/// A runtime's set-up and what has become of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    /// Which runtime.
    pub runtime: Runtime,
    /// Which way.
    pub mode: Mode,
    /// The appliance, `host:port` of its proxy.
    pub appliance: String,
    /// The fingerprint it was set up with.
    pub ca_sha256: String,
    /// Its files.
    pub files: Vec<FileStatus>,
    /// Whether this machine trusts the appliance's certificate; none where that cannot be told.
    pub trusted: Option<bool>,
    /// `ok`, or what is wrong with the appliance.
    pub health: String,
}

/// One file of a set-up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileStatus {
    /// Absolute.
    pub path: String,
    /// Against the journal.
    pub state: FileState,
}

/// A file against the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// As it was written.
    InPlace,
    /// Somebody has worked on it.
    Changed,
    /// Gone.
    Missing,
}

impl Status {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.is_in_place() && self.health == OK
    }

    /// Whether this machine is as it was set up.
    pub fn is_in_place(&self) -> bool {
        self.files.iter().all(|file| file.state == FileState::InPlace) && self.trusted != Some(false)
    }
}

const OK: &str = "ok";

/// Looks at the machine, and asks the appliance.
pub async fn status(host: &Host, journal: &Journal) -> Status {
    let files = journal.files.iter().map(|entry| {
        let state = match host.read(&entry.path).ok().flatten() {
            None => FileState::Missing,
            Some(content) if sha256(&content) == entry.after_sha256 => FileState::InPlace,
            Some(_) => FileState::Changed,
        };
        FileStatus { path: entry.path.clone(), state }
    });
    let (health, pem) = ask(journal).await;
    Status {
        runtime: journal.runtime,
        mode: journal.mode,
        appliance: match journal.appliance.contains(':') {
            true => format!("[{}]:{}", journal.appliance, journal.proxy_port),
            false => format!("{}:{}", journal.appliance, journal.proxy_port),
        },
        ca_sha256: journal.ca_sha256.clone(),
        files: files.collect(),
        trusted: pem.and_then(|pem| trust::is_trusted(host, &pem)),
        health,
    }
}

/// The appliance's health, and its certificate where it is still the one.
async fn ask(journal: &Journal) -> (String, Option<String>) {
    let resolved = (journal.appliance.as_str(), journal.proxy_port).to_socket_addrs();
    let Some(proxy) = resolved.ok().and_then(|mut addresses| addresses.next()) else {
        return (format!("{} does not resolve here", journal.appliance), None);
    };
    match probe::ca_certificate(proxy).await {
        Ok(ca) if ca.sha256 == journal.ca_sha256 => (OK.to_owned(), Some(ca.pem)),
        Ok(ca) => (format!("its certificate is another one now: SHA-256 {}; set it up again", ca.sha256), None),
        Err(error) => (error.to_string(), None),
    }
}
