//! The same inputs make the same files: all forms of the image, built twice.

use std::path::Path;

use entrepot_tests::image::{build, target};
use entrepot_tests::images::ARCHITECTURE;

const ALL: &str = "qcow2,raw,libvirt,virtualbox";

#[test]
fn two_builds_are_identical() {
    let _alone = super::alone();
    let folder = tempfile::tempdir_in(target()).expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    build(&first, ALL);
    build(&second, ALL);
    for ending in ["qcow2", "raw.zst", "libvirt.box", "virtualbox.box", "manifest.json"] {
        let name = format!("entrepot-{ARCHITECTURE}.{ending}");
        let read = |folder: &Path| std::fs::read(folder.join(&name)).expect("built");
        let (one, other) = (read(&first), read(&second));
        assert!(one == other, "{name} differs");
        assert!(one.len() <= 200_000_000, "{name} has {} bytes", one.len());
    }
}
