//! The appliance's image as files. `image/build` builds it from the tests' own binary, and the tests read it without
//! starting it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::entrepot::binary;

/// The offset of the root file system in the disk (image/disk).
const ROOT_OFFSET: u64 = 257 << 20;

/// The disk from which every test starts. It contains the binary under test and is built once for each process, unless
/// `ENTREPOT_TEST_IMAGES` names a folder with a disk.
pub fn disk() -> &'static Path {
    static DISK: OnceLock<PathBuf> = OnceLock::new();
    DISK.get_or_init(|| match std::env::var_os("ENTREPOT_TEST_IMAGES") {
        Some(folder) => PathBuf::from(folder).join(format!("{}.qcow2", name())),
        None => build(&target().join("image"), "qcow2"),
    })
}

/// Runs `image/build` into `folder` with the tests' binary, without its debugging symbols. Returns the disk.
pub fn build(folder: &Path, only: &str) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    let stripped = folder.join("entrepot");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(binary()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/build");
    run(Command::new(script).arg("--binary").arg(stripped).arg("--out").arg(folder).args(["--only", only]));
    folder.join(format!("{}.qcow2", name()))
}

/// The root file system of a disk, for `debugfs`.
pub struct Root {
    folder: TempDir,
}

impl Root {
    /// The root file system of a qcow2 file.
    pub fn of(disk: &Path) -> Self {
        let folder = tempfile::tempdir_in(target()).expect("a folder");
        let raw = folder.path().join("disk.raw");
        run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(disk).arg(&raw));
        Self { folder }
    }

    /// The output of `debugfs` for a request.
    pub fn ask(&self, request: &str) -> String {
        let disk = format!("{}?offset={ROOT_OFFSET}", self.folder.path().join("disk.raw").display());
        let output =
            Command::new("debugfs").args(["-R", request, &disk]).output().expect("debugfs (package e2fsprogs)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A copy of a folder of it, with everything below.
    pub fn copy(&self, folder: &str) -> PathBuf {
        let out = self.folder.path().join("copied");
        std::fs::create_dir_all(&out).expect("a folder");
        self.ask(&format!("rdump {folder} {}", out.display()));
        out.join(folder.trim_start_matches('/'))
    }
}

/// The folder for builds of tests, beside the tests' own binary.
pub fn target() -> PathBuf {
    binary().parent().expect("the binary is in a folder").to_owned()
}

fn name() -> String {
    format!("entrepot-{}", crate::images::ARCHITECTURE)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}
