//! A separate root directory for one command. It has the machine's files, and directories that the machine does not
//! have, such as `/ca`. `/etc`, `/usr` and `/var` are writable there, without a change to the machine's. `root.sh`
//! makes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;

/// `command` in a root in which `binds` (directory, place) are mounted. Places are created as needed. The process keeps
/// its id.
pub fn in_own_root(world: &World, command: &Command, binds: &[(PathBuf, &str)]) -> Command {
    let root = world.make_directory("root");
    let layers = world.make_directory("root-layers");
    let mut outer = Command::new("unshare");
    outer
        .args(["--mount", "--propagation", "private", "sh", "-c", include_str!("root.sh"), "sh"])
        .arg(&root)
        .arg(&layers);
    outer.arg(binds.len().to_string());
    for (directory, place) in binds {
        outer.arg(directory).arg(Path::new(place));
    }
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer
}
