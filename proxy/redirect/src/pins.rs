//! Links that stay after the agent ends: only if the administrator enforces, and until `entrepot redirect off`.
//!
//! ```text
//! /sys/fs/bpf/entrepot-redirect/<network namespace>/<process>/connect4-0 …
//! ```
//!
//! A network namespace has at most one agent. An agent that starts removes the links of those before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError};
use entrepot_kernel::namespace::network_namespace_cookie;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::RedirectError;
use super::programs::chain;

/// The mount point of the kernel's file system for pinned links.
const FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The folder of one agent's links.
pub(super) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// An empty folder for this process.
    pub(super) fn new() -> Result<Self, RedirectError> {
        let path = PathBuf::from(FILE_SYSTEM);
        if !statfs(&path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
            return Err(RedirectError::NoPins { path });
        }
        let folder = of_namespace().join(std::process::id().to_string());
        fs::create_dir_all(&folder).map_err(|error| failed("make", &folder, &error))?;
        Ok(Self { folder })
    }

    /// Pins a link of a program that may have several.
    pub(super) fn keep(
        &self,
        link: Result<FdLink, LinkError>,
        name: &'static str,
        number: usize,
    ) -> Result<(), RedirectError> {
        self.keep_named(link, &format!("{name}-{number}"))
    }

    /// Pins a link under a name of its own.
    pub(super) fn keep_named(&self, link: Result<FdLink, LinkError>, name: &str) -> Result<(), RedirectError> {
        let path = self.folder.join(name);
        let link = link.map_err(|error| failed("pin", &path, &error))?;
        link.pin(&path).map(drop).map_err(|error| failed("pin", &path, &error))
    }

    /// Removes the links of earlier agents.
    pub(super) fn replace_others(&self) -> Result<(), RedirectError> {
        remove_below(&of_namespace(), Some(&self.folder)).map(drop)
    }
}

/// Removes every pinned link of this network namespace. Returns how many there were.
pub(super) fn remove_all() -> Result<usize, RedirectError> {
    remove_below(&of_namespace(), None)
}

/// The number of pinned links in this network namespace.
pub fn count() -> usize {
    let agents = fs::read_dir(of_namespace()).into_iter().flatten().flatten();
    agents.map(|agent| fs::read_dir(agent.path()).map_or(0, |links| links.flatten().count())).sum()
}

fn of_namespace() -> PathBuf {
    let namespace = network_namespace_cookie().unwrap_or(0);
    Path::new(FILE_SYSTEM).join("entrepot-redirect").join(namespace.to_string())
}

fn remove_below(folder: &Path, except: Option<&Path>) -> Result<usize, RedirectError> {
    let mut removed = 0;
    let agents = match fs::read_dir(folder) {
        Ok(agents) => agents,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("read", folder, &error)),
    };
    for agent in agents.flatten().map(|agent| agent.path()).filter(|agent| Some(agent.as_path()) != except) {
        let links = fs::read_dir(&agent).map_err(|error| failed("read", &agent, &error))?;
        for link in links.flatten().map(|link| link.path()) {
            fs::remove_file(&link).map_err(|error| failed("remove", &link, &error))?;
            removed += 1;
        }
        fs::remove_dir(&agent).map_err(|error| failed("remove", &agent, &error))?;
    }
    if except.is_none() {
        // This fails only if another agent starts at this moment; then the folder belongs to that agent.
        let _ = fs::remove_dir(folder);
    }
    Ok(removed)
}

fn failed(what: &'static str, path: &Path, error: &dyn std::error::Error) -> RedirectError {
    RedirectError::Attach { program: what, place: path.display().to_string(), reason: chain(error) }
}
