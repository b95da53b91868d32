//! `vagrant up` for real, with Debian's Vagrant and libvirt, from this repository's files, with its box and a .env:
//! emulated, in a namespace of its own with private directories for everything that libvirt keeps.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::namespace::{Bind, Namespace};
use entrepot_tests::process::finish;

/// Three starts of an emulated machine.
const LONG: Duration = Duration::from_secs(2400);
/// The folders of which libvirt has one a machine. The settings and hooks of its networks are the packages' own.
const PLACES: [&str; 4] = ["/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"];

#[test]
fn up_check_halt_up_destroy() {
    let _alone = super::alone();
    let home = tempfile::Builder::new().prefix("ent-vagrant-").tempdir_in("/tmp").expect("a folder");
    let mut binds: Vec<Bind> = PLACES
        .iter()
        .map(|place| {
            let source = home.path().join(place.trim_start_matches('/').replace('/', "-"));
            std::fs::create_dir_all(&source).expect("a folder");
            std::fs::create_dir_all(place).expect("a mount point");
            Bind { source, target: PathBuf::from(place) }
        })
        .collect();
    // QEMU as root: it reads boxes in a folder of root's, and no owner of a file is changed.
    let settings = home.path().join("qemu.conf");
    std::fs::write(&settings, "user = \"root\"\ngroup = \"root\"\nremember_owner = 0\nsecurity_driver = \"none\"\n")
        .expect("libvirt's settings");
    binds.push(Bind { source: settings, target: "/etc/libvirt/qemu.conf".into() });
    let namespace = Namespace::new("vagrant", binds);

    let repository = std::fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).expect("the repository");
    let mut life = Command::new("unshare");
    life.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-euc", include_str!("vagrant.sh")]);
    life.current_dir(home.path())
        .env("REPOSITORY", repository)
        .env("HOME", home.path())
        .env("VAGRANT_HOME", home.path().join("home"));
    life.env("VAGRANT_DOTFILE_PATH", home.path().join("machine")).env("VAGRANT_CHECKPOINT_DISABLE", "1");
    life.env("ENTREPOT_EMULATE", "1").env("ENTREPOT_NETWORK", "private").env("ENTREPOT_DISK_GB", "3");
    life.env("LC_ALL", "C.UTF-8");
    let ended = finish(&namespace, life, LONG).expect_success("vagrant up, ssh, halt, up, destroy");
    let said = [
        "SHOWN cache.max_size",
        "DATA /dev/vd",
        // .env came to the service, and to nobody else; after a change, `vagrant provision` brings it.
        "ENV 600 root",
        "VARIABLE REGISTRIES=fake.test\n",
        "VARIABLE AUTH_REGISTRIES=fake.test:robot:canary-$x\n",
        "SIZE 536870912\n",
        "NOTHING LEFT",
        "SIZE 805306368\n",
        "SAME CA",
        "GONE",
    ];
    for said in said {
        assert!(ended.stdout.contains(said), "{said} is missing:\n{}", ended.stdout);
    }
}
