//! The state of a set-up: the journal compared with the machine as it is now.

use std::net::ToSocketAddrs;

use serde::Serialize;

use super::host::Host;
use super::journal::Journal;
use super::{Mode, Runtime, trust};
use crate::discovery::probe;

/// The set-up of a runtime, and its state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    pub runtime: Runtime,
    pub mode: Mode,
    /// `host:port` of the appliance's proxy.
    pub appliance: String,
    /// The fingerprint of the set-up, which the appliance should still have.
    pub ca_sha256: String,
    pub files: Vec<FileStatus>,
    /// Whether this machine trusts the appliance's certificate; None if that is not known.
    pub trusted: Option<bool>,
    /// `ok`, or the trouble with the appliance.
    pub health: String,
}

/// A file of a set-up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileStatus {
    /// Absolute.
    pub path: String,
    pub state: FileState,
}

/// A file compared with the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    InPlace,
    Changed,
    Missing,
}

impl Status {
    /// Whether both this machine and the appliance are in order.
    pub fn is_well(&self) -> bool {
        self.is_in_place() && self.health == OK
    }

    /// Whether the set-up of this machine is in place.
    pub fn is_in_place(&self) -> bool {
        self.files.iter().all(|file| file.state == FileState::InPlace) && self.trusted != Some(false)
    }
}

const OK: &str = "ok";

/// Compares the files, and asks the appliance for its certificate.
pub async fn status(host: &Host, journal: &Journal) -> Status {
    let files = journal.files.iter().map(|entry| {
        let state = match host.sha256_of(&entry.path) {
            None => FileState::Missing,
            Some(now) if now == entry.after_sha256 => FileState::InPlace,
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

/// The appliance's health, and its certificate if that is still the one of the set-up.
async fn ask(journal: &Journal) -> (String, Option<String>) {
    let resolved = (journal.appliance.as_str(), journal.proxy_port).to_socket_addrs();
    let Some(proxy) = resolved.ok().and_then(|mut addresses| addresses.next()) else {
        return (format!("{} does not resolve here", journal.appliance), None);
    };
    match probe::ca_certificate(proxy).await {
        Ok(ca) if ca.sha256 == journal.ca_sha256 => (OK.to_owned(), Some(ca.pem)),
        Ok(ca) => (
            format!("the appliance has another certificate now, SHA-256 {}; set this machine up again", ca.sha256),
            None,
        ),
        Err(error) => (error.to_string(), None),
    }
}
