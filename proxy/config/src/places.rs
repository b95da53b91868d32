//! The default places of the data directory and the CA.
//!
//! If docker-registry-proxy's volumes, `/docker_mirror_cache` and `/ca`, exist, they are used, unless they appear beside
//! a place that this server has used before. Then that place stays, because clients know its CA and its content, and a
//! notice says so. The facts about the host come in through [`HostFacts`], so that the rules can be tested without being
//! root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access, geteuid};

use super::environment::Environment;
use super::provenance::{ConfigError, Place, Provenance, Refusal};
use super::raw::{RawCa, Text};
use super::ready::CaFiles;
use super::resolver::{AtStart, Resolver};
use super::values;

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
/// The folder of the CA in the data directory.
const CA_FOLDER: &str = "ca";
/// The file that every data directory has from its first start.
const INDEX: &str = "index.redb";
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

    /// Whether a folder has a complete CA.
    fn has_ca(&self, folder: &Path) -> bool {
        self.is_file(&folder.join(CERTIFICATE)) && self.is_file(&folder.join(KEY))
    }

    /// Whether a server has used this data directory.
    fn is_in_use(&self, data_dir: &Path) -> bool {
        self.is_file(&data_dir.join(INDEX)) || self.has_ca(&data_dir.join(CA_FOLDER))
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
    let default = if named { Chosen::plainly(PathBuf::new()) } else { default_data_dir(env, host)? };
    if default.passed_over {
        let used = default.path.display();
        resolver.warn(format!(
            "{DOCKER_REGISTRY_PROXY_CACHE} is not used, because the data of this server is in {used}; to use it, set \
             data_dir = \"{DOCKER_REGISTRY_PROXY_CACHE}\""
        ));
    }
    Ok(resolver.path("data_dir", given, default.path))
}

/// A default place.
#[derive(PartialEq, Eq, Debug)]
struct Chosen {
    path: PathBuf,
    /// Whether docker-registry-proxy's volume could be used instead.
    passed_over: bool,
}

impl Chosen {
    fn plainly(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), passed_over: false }
    }
}

fn default_data_dir(env: &dyn Environment, host: &HostFacts) -> Result<Chosen, ConfigError> {
    let (own, volume) = (own_data_dir(env, host), Path::new(DOCKER_REGISTRY_PROXY_CACHE));
    if !host.is_directory(volume) {
        return own.map(Chosen::plainly);
    }
    match own {
        Ok(path) if host.is_in_use(&path) && !host.is_in_use(volume) => Ok(Chosen { path, passed_over: true }),
        _ => Ok(Chosen::plainly(volume)),
    }
}

/// The data directory of a host that docker-registry-proxy has no volume on.
fn own_data_dir(env: &dyn Environment, host: &HostFacts) -> Result<PathBuf, ConfigError> {
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
    let Chosen { path: folder, passed_over } = ca_folder(data_dir, host);
    let (default_certificate, default_key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let certificate = resolver.path("ca.cert", &raw.cert, default_certificate.clone());
    let key = resolver.path("ca.key", &raw.key, default_key.clone());
    // A user who only names the default place does not bring a CA of its own: the files of docker-registry-proxy's
    // users name these paths.
    let provided = certificate != default_certificate || key != default_key;
    if passed_over && !provided {
        let used = folder.display();
        resolver.warn(format!(
            "{DOCKER_REGISTRY_PROXY_CA} is not used, because clients know the CA in {used}; to use {CERTIFICATE} and {KEY} \
             of {DOCKER_REGISTRY_PROXY_CA}, name them in ca.cert and ca.key"
        ));
    }
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

fn ca_folder(data_dir: &Path, host: &HostFacts) -> Chosen {
    let (volume, own) = (Path::new(DOCKER_REGISTRY_PROXY_CA), data_dir.join(CA_FOLDER));
    let is_usable = host.has_ca(volume) || (host.look)(volume) == Found::Directory { writable: true };
    match is_usable && !host.has_ca(&own) {
        true => Chosen::plainly(volume),
        false => Chosen { path: own, passed_over: is_usable },
    }
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
            assert_eq!(found, Chosen::plainly(expected), "{uid} {paths:?} {variables:?}");
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
            (&["/ca/", "/data/ca/ca.crt"], "/ca"),
        ] {
            let expected = Chosen::plainly(expected);
            assert_eq!(ca_folder(Path::new("/data"), &host(0, paths)), expected, "{paths:?}");
        }
    }

    #[test]
    fn a_volume_that_appears_beside_a_place_in_use_is_passed_over() {
        const OWN: [&str; 2] = ["/data/ca/ca.crt", "/data/ca/ca.key"];
        const THEIRS: [&str; 2] = ["/ca/ca.crt", "/ca/ca.key"];
        for (paths, passed_over) in [
            (&[OWN[0], OWN[1]][..], false),
            (&[OWN[0], OWN[1], "/ca/"], true),
            (&[OWN[0], OWN[1], "/ca/", THEIRS[0]], true),
            (&[OWN[0], OWN[1], "/ca/!", THEIRS[0]], false),
            (&[OWN[0], OWN[1], "/ca/", THEIRS[0], THEIRS[1]], true),
            (&[OWN[0], OWN[1], "/ca/!", THEIRS[0], THEIRS[1]], true),
        ] {
            let paths: &'static [&'static str] = paths.to_vec().leak();
            let chosen = ca_folder(Path::new("/data"), &host(0, paths));
            assert_eq!(chosen, Chosen { path: "/data/ca".into(), passed_over }, "{paths:?}");
        }
        for (paths, expected, passed_over) in [
            (&["/docker_mirror_cache/", "/var/lib/entrepot/index.redb"][..], "/var/lib/entrepot", true),
            (
                &["/docker_mirror_cache/", "/var/lib/entrepot/ca/ca.crt", "/var/lib/entrepot/ca/ca.key"],
                "/var/lib/entrepot",
                true,
            ),
            (&["/docker_mirror_cache/", "/var/lib/entrepot/"], "/docker_mirror_cache", false),
            (
                &["/docker_mirror_cache/", "/docker_mirror_cache/index.redb", "/var/lib/entrepot/index.redb"],
                "/docker_mirror_cache",
                false,
            ),
        ] {
            let chosen = default_data_dir(&|_: &str| None, &host(0, paths)).expect("a place");
            assert_eq!(chosen, Chosen { path: expected.into(), passed_over }, "{paths:?}");
        }
    }
}
