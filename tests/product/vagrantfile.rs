//! The Vagrantfile, read as Vagrant reads it, on hosts made of namespaces: the interface that it chooses, and the
//! program that every provider gets. Machines that start are in `tests/vm`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use entrepot_tests::machine::repository;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A host: its interfaces, made by a shell line in a separate network namespace, and the files beside the Vagrantfile.
struct Host {
    interfaces: &'static str,
    folder: TempDir,
}

const LAN: &str = "ip link add lan0 type veth peer name far0; ip address add 192.0.2.2/24 dev lan0; \
                   ip link set lan0 up; ip link set far0 up; ip route add default via 192.0.2.1 dev lan0 metric 100; \
                   ip link add wlan0 type veth peer name far1; ip address add 198.51.100.2/24 dev wlan0; \
                   ip link set wlan0 up; ip link set far1 up; ip route add default via 198.51.100.1 dev wlan0 metric 600";
const BRIDGE: &str = "ip link add br0 type bridge; ip link add port0 type veth peer name far0; \
                      ip link set port0 master br0; ip address add 192.0.2.2/24 dev br0; ip link set port0 up; \
                      ip link set far0 up; ip link set br0 up; ip route add default via 192.0.2.1 dev br0";

impl Host {
    fn new(interfaces: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(repository().join("Vagrantfile"), folder.path().join("Vagrantfile")).expect("a copy");
        Self { interfaces, folder }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn vagrant(&self, provider: &str, command: &str, environment: &[(&str, &str)]) -> Output {
        let script = format!("mount -t sysfs none /sys; {}; exec ruby \"$@\"", self.interfaces);
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("product/vagrantfile.rb");
        let mut vagrant = Command::new("unshare");
        vagrant.args(["--net", "--mount", "sh", "-euc", &script, "sh"]).arg(stand_in);
        vagrant.arg(self.folder.path().join("Vagrantfile")).arg(provider);
        vagrant.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        vagrant.env("VAGRANT_COMMAND", command).envs(environment.iter().copied());
        vagrant.output().expect("unshare of util-linux is installed")
    }

    /// The result of reading the Vagrantfile.
    #[track_caller]
    fn machine(&self, provider: &str, environment: &[(&str, &str)]) -> Value {
        let output = self.vagrant(provider, "up", environment);
        assert!(output.status.success(), "{provider}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The error line with which reading it ends.
    #[track_caller]
    fn refusal(&self, provider: &str) -> String {
        let output = self.vagrant(provider, "up", &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.lines().count() == 1, "{provider}: {said}");
        said
    }
}

const BINARY: &str = "target/release/entrepot";

fn network(machine: &Value) -> (&Value, &Value, &Value) {
    let network = &machine["networks"][0];
    (&network["kind"], &network["dev"], &network["type"])
}

#[test]
fn libvirt_gets_the_interface_that_leads_out() {
    for (interfaces, dev, kind) in [(LAN, "lan0", "direct"), (BRIDGE, "br0", "bridge")] {
        let host = Host::new(interfaces);
        host.write(BINARY, "");
        let expected = (&json!("public_network"), &json!(dev), &json!(kind));
        assert_eq!(network(&host.machine("libvirt", &[])), expected);
    }
    let host = Host::new(LAN);
    host.write(BINARY, "");
    let named = host.machine("libvirt", &[("ENTREPOT_BRIDGE", "wlan0")]);
    assert_eq!(network(&named), (&json!("public_network"), &json!("wlan0"), &json!("direct")));
    let private = host.machine("libvirt", &[("ENTREPOT_NETWORK", "private")]);
    assert_eq!(network(&private).0, "private_network");
    assert_eq!(network(&host.machine("virtualbox", &[])).1, &Value::Null, "Vagrant asks there");
}

#[test]
fn without_a_default_route_libvirt_needs_a_name() {
    let host = Host::new("true");
    host.write(BINARY, "");
    let said = host.refusal("libvirt");
    assert!(said.contains("ENTREPOT_BRIDGE=NAME"), "{said}");
    host.machine("virtualbox", &[]);
    host.machine("libvirt", &[("ENTREPOT_NETWORK", "private")]);
    for command in ["destroy -f", "halt", "ssh"] {
        assert!(host.vagrant("libvirt", command, &[]).status.success(), "{command} needs no network");
    }
}

#[test]
fn every_provider_gets_the_program_and_our_image_drops_it() {
    let uploads = |machine: &Value| {
        let provisions = machine["provisions"].as_array().expect("a list").iter();
        provisions.filter(|one| one["destination"] == "/tmp/entrepot-upload/target/release/entrepot").count()
    };
    let host = Host::new(LAN);
    assert!(host.refusal("vmware_desktop").contains("run image/build, or cargo build --release"));
    assert!(host.vagrant("vmware_desktop", "destroy", &[]).status.success());
    // A box for libvirt does not work with other providers.
    for architecture in ["amd64", "arm64"] {
        let name = format!("entrepot-{architecture}.libvirt.box");
        host.write(&format!("image/out/{name}"), "");
        let manifest = json!({"files_sha256": {name: "ab".repeat(32)}});
        host.write(&format!("image/out/entrepot-{architecture}.manifest.json"), &manifest.to_string());
    }
    assert_eq!(uploads(&host.machine("libvirt", &[])), 0);
    host.write(BINARY, "");
    for provider in ["libvirt", "virtualbox", "vmware_desktop", "hyperv", "parallels"] {
        assert_eq!(uploads(&host.machine(provider, &[])), 1, "{provider}");
    }

    let machine = host.machine("libvirt", &[]);
    let provisions = machine["provisions"].as_array().expect("a list");
    let appliance = provisions.iter().find(|one| one["name"] == "appliance").expect("provision/appliance");
    let inline = appliance["inline"].as_str().expect("a script");
    for (only_the_image_has, expected) in [(None, "uploaded\n"), (Some("boot-files"), "its own\n")] {
        let guest = tempfile::tempdir().expect("a folder");
        let at = |path: &str| guest.path().join(path);
        for path in ["usr/lib/entrepot/data-disk", "upload/target/release/entrepot"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        if let Some(file) = only_the_image_has {
            assert!(repository().join("image/guest/usr/lib/entrepot").join(file).exists(), "{file} is in the image");
            fs::write(at("usr/lib/entrepot").join(file), "").expect("written");
        }
        fs::create_dir(at("upload/provision")).expect("made");
        let script = "#!/bin/sh\n[ -e target/release/entrepot ] && echo uploaded || echo its own\n";
        fs::write(at("upload/provision/appliance"), script).expect("written");
        let root = guest.path().display().to_string();
        let inline = inline.replace("/tmp/entrepot-upload", &format!("{root}/upload"));
        let inline = inline.replace("/usr/lib/entrepot", &format!("{root}/usr/lib/entrepot"));
        let output = Command::new("sh").args(["-c", &inline]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
