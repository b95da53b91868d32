//! A root directory of its own for one command: the machine's files, with `/etc`, `/usr` and `/var` writable without touching
//! the machine's, and directories that the machine does not have, such as `/ca`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;

/// `command` in a root where `binds` (directory, place) are mounted, places made as needed. The process keeps its id.
pub fn in_own_root(world: &World, command: &Command, binds: &[(PathBuf, &str)]) -> Command {
    let root = world.make_directory("root");
    let layers = world.make_directory("root-layers");
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation", "private", "sh", "-euc", SCRIPT, "sh"]).arg(&root).arg(&layers);
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

/// Arguments: root, layers, number of binds, their pairs, then the command.
const SCRIPT: &str = r#"
root=$1 layers=$2 count=$3
shift 3
mount -t tmpfs none "$root"
mount -t tmpfs none "$layers"
for entry in /*; do
  place=$root$entry
  case $entry in /ca | /docker_mirror_cache) continue ;; esac
  if [ -L "$entry" ]; then
    cp -a "$entry" "$place"
  elif [ -d "$entry" ]; then
    mkdir "$place"
    case $entry in
      /etc | /usr | /var)
        mkdir -p "$layers$entry/upper" "$layers$entry/work"
        mount -t overlay none -o "lowerdir=$entry,upperdir=$layers$entry/upper,workdir=$layers$entry/work" "$place" ;;
      *) mount --rbind "$entry" "$place" ;;
    esac
  fi
done
for file in /etc/hosts /etc/resolv.conf; do
  mount --bind "$file" "$root$file"
done
while [ "$count" -gt 0 ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  shift 2
  count=$((count - 1))
done
exec chroot "$root" "$@"
"#;
