//! The default places of the data directory and the CA.
//!
//! If docker-registry-proxy's volumes, `/docker_mirror_cache` and `/ca`, exist, they are used. The facts about the host
//! come in through [`HostFacts`], so that the rules can be tested without being root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access, geteuid};

use super::provenance::{ConfigError, Place, Provenance, Refusal};
use super::raw::{RawCa, Text};
use super::ready::CaFiles;
use super::resolver::{AtStart, Resolver};
use super::values;
use super::variables::Environment;

/// The facts about the host that the defaults depend on.
pub struct HostFacts {
    /// The effective user.
    pub uid: u32,
    /// The kind of thing that is at a path.
    pub look: Box<dyn Fn(&Path) -> Found + Send + Sync>,
}

/// The kind of thing that is at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing, or nothing that this process may see.
    Nothing,
    /// Anything but a directory.
    File,
    /// A directory.
    Directory {
        /// Whether this process may create files in it.
        writable: bool,
    },
}

const DOCKER_REGISTRY_PROXY_CACHE: &str = "/docker_mirror_cache";
const DOCKER_REGISTRY_PROXY_CA: &str = "/ca";
const SYSTEM_DATA: &str = "/var/lib/entrepot";
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Leaves are renewed while the server runs. With a shorter life, signing them would take most of the processor's time.
const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(3600);

impl HostFacts {
    /// The facts of this host and this process.
    pub fn real() -> Self {
        Self { uid: geteuid().as_raw(), look: Box::new(look) }
    }

    fn is_file(&self, path: &Path) -> bool {
        (self.look)(path) == Found::File
    }

    fn is_directory(&self, path: &Path) -> bool {
        matches!((self.look)(path), Found::Directory { .. })
    }
}

fn look(path: &Path) -> Found {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Found::Directory { writable: access(path, AccessFlags::W_OK).is_ok() },
        Ok(_) => Found::File,
        Err(_) => Found::Nothing,
    }
}

pub(super) fn data_dir(
    resolver: &mut Resolver<'_, AtStart>,
    given: &Text,
    env: &dyn Environment,
    host: &HostFacts,
) -> Result<PathBuf, ConfigError> {
    let named = given.as_ref().is_some_and(|given| !given.value.is_empty());
    let default = if named { PathBuf::new() } else { default_data_dir(env, host)? };
    Ok(resolver.path("data_dir", given, default))
}

fn default_data_dir(env: &dyn Environment, host: &HostFacts) -> Result<PathBuf, ConfigError> {
    let taken_over = Path::new(DOCKER_REGISTRY_PROXY_CACHE);
    if host.is_directory(taken_over) {
        return Ok(taken_over.to_owned());
    }
    if host.uid == 0 {
        return Ok(PathBuf::from(SYSTEM_DATA));
    }
    // Relative paths are ignored (XDG Base Directory Specification).
    let absolute = |name| env.value(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("entrepot")).ok_or_else(|| {
        Refusal::new("not set, so there is no place for the data")
            .hint("set data_dir, --data-dir or XDG_STATE_HOME")
            .at(Provenance::Environment("HOME"))
    })
}

pub(super) fn ca(
    resolver: &mut Resolver<'_, AtStart>,
    raw: &RawCa,
    data_dir: &Path,
    host: &HostFacts,
) -> Result<CaFiles, ConfigError> {
    let folder = ca_folder(data_dir, host);
    let (default_certificate, default_key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let certificate = resolver.path("ca.cert", &raw.cert, default_certificate.clone());
    let key = resolver.path("ca.key", &raw.key, default_key.clone());
    // A user who only names the default place does not bring a CA of its own: the files of docker-registry-proxy's
    // users name these paths.
    let provided = certificate != default_certificate || key != default_key;
    if provided {
        let whose = |own: &Text, other: &Text| own.as_ref().or(other.as_ref()).map(|given| given.place);
        readable(resolver, "ca.cert", &certificate, whose(&raw.cert, &raw.key), |path| {
            values::certificates(path).map(drop)
        })?;
        readable(resolver, "ca.key", &key, whose(&raw.key, &raw.cert), |path| {
            values::private_key_file(path).map(drop)
        })?;
    }
    for (key, path) in [("ca.cert", &certificate), ("ca.key", &key)] {
        // The first start has no files yet: the server makes them.
        if let Some(content) = values::text_file(path) {
            resolver.record_content(key, content.expose().as_bytes());
        }
    }
    Ok(CaFiles {
        certificate,
        key,
        passphrase: resolver.secret_file("ca.passphrase_file", &raw.passphrase_file)?,
        leaf_lifetime: resolver.text("ca.leaf_lifetime", &raw.leaf_lifetime, "7d", leaf_lifetime)?,
        provided,
    })
}

fn ca_folder(data_dir: &Path, host: &HostFacts) -> PathBuf {
    let volume = Path::new(DOCKER_REGISTRY_PROXY_CA);
    let has_ca = host.is_file(&volume.join(CERTIFICATE)) && host.is_file(&volume.join(KEY));
    let can_have_ca = (host.look)(volume) == Found::Directory { writable: true };
    if has_ca || can_have_ca { volume.to_owned() } else { data_dir.join("ca") }
}

/// `blame` is the place that named the path, or the path that goes with it.
fn readable(
    resolver: &Resolver<'_, AtStart>,
    key: &str,
    path: &Path,
    blame: Option<Place>,
    check: impl Fn(&str) -> Result<(), Refusal>,
) -> Result<(), ConfigError> {
    check(&path.to_string_lossy()).map_err(|refusal| match blame {
        Some(place) => resolver.refuse(key, place, refusal),
        None => refusal.at(Provenance::Default),
    })
}

fn leaf_lifetime(text: &str) -> Result<Duration, Refusal> {
    let lifetime = values::duration_up_to("7d")(text)?;
    if lifetime >= LEAF_LIFETIME_MIN { Ok(lifetime) } else { Err(Refusal::new(format!("{text:?} is less than 1h"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with the given paths. A path that ends in `/` is a directory. A `!` behind it makes it read-only.
    fn host(uid: u32, paths: &'static [&'static str]) -> HostFacts {
        let look = move |path: &Path| {
            let path = path.to_string_lossy();
            let found = paths.iter().find(|have| have.trim_end_matches(['/', '!']) == path);
            match found {
                None => Found::Nothing,
                Some(have) if have.contains("/!") => Found::Directory { writable: false },
                Some(have) if have.ends_with('/') => Found::Directory { writable: true },
                Some(_) => Found::File,
            }
        };
        HostFacts { uid, look: Box::new(look) }
    }

    #[test]
    fn data_lives_where_the_host_suggests() {
        type Variables = &'static [(&'static str, &'static str)];
        const HOME: Variables = &[("HOME", "/home/u")];
        const XDG: Variables = &[("HOME", "/home/u"), ("XDG_STATE_HOME", "/state")];
        const RELATIVE: Variables = &[("HOME", "/home/u"), ("XDG_STATE_HOME", "state")];
        for (uid, paths, variables, expected) in [
            (0, &[][..], HOME, "/var/lib/entrepot"),
            (0, &["/docker_mirror_cache/"], HOME, "/docker_mirror_cache"),
            (0, &["/docker_mirror_cache"], HOME, "/var/lib/entrepot"),
            (1000, &[], HOME, "/home/u/.local/state/entrepot"),
            (1000, &[], XDG, "/state/entrepot"),
            (1000, &[], RELATIVE, "/home/u/.local/state/entrepot"),
        ] {
            let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            let found = default_data_dir(&env, &host(uid, paths)).expect("a place");
            assert_eq!(found, Path::new(expected), "{uid} {paths:?} {variables:?}");
        }
        let error = default_data_dir(&|_: &str| None, &host(1000, &[])).expect_err("no home");
        assert_eq!(
            error.to_string(),
            "environment variable HOME: not set, so there is no place for the data; set data_dir, --data-dir or \
             XDG_STATE_HOME"
        );
    }

    #[test]
    fn the_ca_lives_in_the_volume_where_that_is_usable() {
        for (paths, expected) in [
            (&[][..], "/data/ca"),
            (&["/ca/"], "/ca"),
            (&["/ca/!"], "/data/ca"),
            (&["/ca/!", "/ca/ca.crt", "/ca/ca.key"], "/ca"),
            (&["/ca/!", "/ca/ca.crt"], "/data/ca"),
        ] {
            assert_eq!(ca_folder(Path::new("/data"), &host(0, paths)), Path::new(expected), "{paths:?}");
        }
    }
}
