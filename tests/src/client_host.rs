//! A client's host that sets itself up: this machine's real files in a separate root, real trust tools, and a real
//! dockerd that a substitute for systemctl restarts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::entrepot::binary;
use crate::process::{Finished, finish};
use crate::root::in_own_root;
use crate::world::World;

const LONG: Duration = Duration::from_secs(240);

/// Shell functions that every such host has. `systemctl` records its arguments, and restarts dockerd with the
/// environment of its drop-ins, as systemd would.
const FUNCTIONS: &str = include_str!("client_host.sh");

/// A client's host in its own root. The files in `/out` can be read afterwards.
pub struct ClientHost<'w> {
    world: &'w World,
    out: PathBuf,
}

impl<'w> ClientHost<'w> {
    /// A host with the product's binary in `/out`.
    pub fn new(world: &'w World) -> Self {
        let out = world.make_directory("out");
        std::fs::create_dir(out.join("home")).expect("a directory");
        std::fs::copy(binary(), out.join("entrepot")).expect("the product");
        Self { world, out }
    }

    /// Runs a shell script there to its end. Its processes die with it.
    pub fn run(&self, script: &str, variables: &[(&str, &str)]) -> Finished {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{FUNCTIONS}\n{script}")]).env("HOME", "/out/home");
        shell.env("PATH", "/out/bin:/out:/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in variables {
            shell.env(name, value);
        }
        let systemd = self.world.make_directory("systemd");
        std::fs::create_dir_all(systemd.join("system")).expect("a directory");
        let binds = [(self.out.clone(), "/out"), (systemd, "/run/systemd")];
        let rooted = in_own_root(self.world, &shell, &binds);
        let mut alone = Command::new("unshare");
        alone.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"]).arg(rooted.get_program());
        alone.args(rooted.get_args());
        for (name, value) in rooted.get_envs() {
            if let Some(value) = value {
                alone.env(name, value);
            }
        }
        finish(&self.world.client, alone, LONG)
    }

    /// A file of `/out`.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Asserts that the files that set-up may touch are as they were when `before` was made.
    #[track_caller]
    pub fn assert_as_before(&self, what: &str) {
        let (before, after) = (self.read("before"), self.read("after"));
        let (was, is): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), after.lines().collect());
        let changed: Vec<_> = was.symmetric_difference(&is).collect();
        assert!(changed.is_empty() && was.len() > 100, "{what}: not byte for byte as before: {changed:#?}");
    }
}
