//! What is to be done to a machine, and why it is not done: plain data between the runtimes' pure functions, the
//! executor, and `--dry-run`.

use std::net::IpAddr;

use super::host::HostError;
use super::{Mode, Runtime};

/// Files to write, commands to run after it, and how to take both back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In the order of writing.
    pub files: Vec<NewFile>,
    /// After the files.
    pub commands: Vec<Command>,
    /// After the files are as they were.
    pub undo_commands: Vec<Command>,
    /// For the person: what is left to do by hand.
    pub notes: Vec<String>,
}

/// A whole file as it is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFile {
    /// Absolute.
    pub path: String,
    /// All of it, what was there included.
    pub content: Vec<u8>,
    /// Whether the content begins from what was there. Any other file that is there already is somebody's.
    pub extends: bool,
}

/// A program and its arguments; no shell reads them.
pub type Command = Vec<String>;

/// The appliance as it is written into files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// The explicit proxy's port.
    pub proxy_port: u16,
    /// The registry door's ports, where it is open.
    pub registry_http_port: Option<u16>,
    /// The registry door's ports, where it is open.
    pub registry_https_port: Option<u16>,
    /// The certificate to trust.
    pub ca_pem: String,
    /// Its SHA-256, lower-case hex.
    pub ca_sha256: String,
    /// Registries to mirror besides those that everybody uses.
    pub registries: Vec<String>,
}

/// Why a machine cannot be set up that way. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Somebody configured it already.
    #[error("{path} {what}; it is left as it is: {hint}")]
    Foreign {
        /// Where.
        path: String,
        /// What stands there.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The runtime is not there.
    #[error("{runtime} is not installed here: no {missing}", runtime = runtime.word())]
    NotInstalled {
        /// Which.
        runtime: Runtime,
        /// What was looked for.
        missing: String,
    },
    /// No trust store that we know.
    #[error("no known trust store: install the package ca-certificates, then run this again")]
    NoTrustStore,
    /// The appliance has no registry door.
    #[error("the appliance tells of no open registry door, which a mirror needs; use --mode proxy")]
    NoRegistryDoor,
    /// This runtime has no such way.
    #[error("{runtime} cannot be set up with --mode {mode}: {reason}", runtime = runtime.word(), mode = mode.word())]
    Impossible {
        /// Which runtime.
        runtime: Runtime,
        /// Which way.
        mode: Mode,
        /// Why, and what else.
        reason: &'static str,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Target {
    /// The value of HTTPS_PROXY.
    pub fn proxy_url(&self) -> String {
        format!("http://{}:{}/", self.authority_host(), self.proxy_port)
    }

    /// What is reached without the proxy: this machine, and the appliance itself.
    pub fn no_proxy(&self) -> String {
        self.and_itself("localhost,127.0.0.0/8,::1")
    }

    /// These hosts and the appliance's, unless that is a name under `.local`: by it the proxy answers for the registry,
    /// whichever ports that has.
    pub fn and_itself(&self, hosts: &str) -> String {
        if is_local_name(&self.host) { hosts.to_owned() } else { format!("{hosts},{}", self.host) }
    }

    /// The registry door: by TLS where it has it, since the CA is trusted anyway.
    pub fn mirror(&self) -> Result<Mirror, PlanError> {
        let host = self.authority_host();
        match (self.registry_https_port, self.registry_http_port) {
            (Some(443), _) => Ok(Mirror { scheme: "https", authority: host }),
            (Some(port), _) => Ok(Mirror { scheme: "https", authority: format!("{host}:{port}") }),
            (None, Some(80)) => Ok(Mirror { scheme: "http", authority: host }),
            (None, Some(port)) => Ok(Mirror { scheme: "http", authority: format!("{host}:{port}") }),
            (None, None) => Err(PlanError::NoRegistryDoor),
        }
    }

    fn authority_host(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        }
    }
}

/// Whether only mDNS knows this name.
pub(super) fn is_local_name(host: &str) -> bool {
    host.trim_end_matches('.').to_ascii_lowercase().ends_with(".local")
}

/// The registry door as a mirror.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host, and the port where it is not the scheme's own.
    pub authority: String,
}

impl Mirror {
    /// As a URL without a path.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Whether clients must be told that it has no TLS.
    pub fn is_plain(&self) -> bool {
        self.scheme == "http"
    }
}

/// A command from its words.
pub(super) fn command(words: &[&str]) -> Command {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Plan {
    /// Adds a file of our own.
    pub(super) fn write(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.push(NewFile { path: path.into(), content: content.into(), extends: false });
    }

    /// Adds a file that may have been there, with its text and more.
    pub(super) fn extend(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.push(NewFile { path: path.into(), content: content.into(), extends: true });
    }

    /// Runs a command now and again at undo.
    pub(super) fn run_both_ways(&mut self, words: &[&str]) {
        self.commands.push(command(words));
        self.undo_commands.push(command(words));
    }
}
