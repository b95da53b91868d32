//! Runs the served script: through the two `sed` lines of Kind's recipe, word for word, into bash. The script runs in a
//! mount namespace with an empty `/etc` and `/usr/share`; `curl`, `systemctl` and the trust tools are replaced by
//! recorders.
//!
//! The tests need root or user namespaces. Without either they fail and say so; they never pass without having run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};
use tempfile::TempDir;

use super::{CaPage, page};
use crate::discovery::facts::Facts;

/// The recipe that users have.
const KIND_RECIPE: &str = r#"curl http://docker-registry-proxy:3128/setup/systemd \
      | sed s/docker\.service/containerd\.service/g \
      | sed '/Environment/ s/$/ "NO_PROXY=127.0.0.0\/8,10.0.0.0\/8,172.16.0.0\/12,192.168.0.0\/16"/' \
      | bash
"#;
const PLAIN_RECIPE: &str = "curl http://docker-registry-proxy:3128/setup/systemd | bash\n";

const DEBIAN: &str = "mkdir -p /etc/systemd; printf 'mozilla/A.crt' >/etc/ca-certificates.conf";
const NAMESPACE_REFUSED: i32 = 99;

/// A machine that a shell line prepared, after the script ran.
struct Machine {
    folder: TempDir,
    output: Output,
}

impl Machine {
    /// `prepare` fills `/etc`; `trust_tool` is the only trust tool of this machine.
    fn run(prepare: &str, trust_tool: &str, recipe: &str) -> Self {
        Self::run_with_pinned(prepare, trust_tool, recipe, None)
    }

    fn run_with_pinned(prepare: &str, trust_tool: &str, recipe: &str, pinned: Option<&str>) -> Self {
        Self::run_with(prepare, trust_tool, recipe, pinned, "")
    }

    /// `appended` follows the genuine certificate in the served file.
    fn run_with(prepare: &str, trust_tool: &str, recipe: &str, pinned: Option<&str>, appended: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let key = rcgen::generate_simple_self_signed(["entrepot".to_owned()]).expect("a certificate");
        let fingerprint = entrepot_core::digest::Digest::of(entrepot_core::digest::Algorithm::Sha256, key.cert.der());
        fs::write(root.join("genuine.crt"), key.cert.pem()).expect("written");
        fs::write(root.join("ca.crt"), key.cert.pem() + appended).expect("written");
        let ca = CaPage::new(
            Bytes::from(key.cert.pem()),
            Facts::new(3128, pinned.unwrap_or(&fingerprint.hex())),
            Arc::default(),
        );
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("docker-registry-proxy:3128"))]);
        let script = page(&Method::GET, "/setup/systemd", &headers, &ca).expect("a script");
        fs::write(root.join("systemd"), script.body()).expect("written");
        fs::write(root.join("recipe"), recipe).expect("written");
        fs::write(root.join("calls"), "").expect("written");
        tools(root, trust_tool);
        let body = format!(
            "mount -t tmpfs none /etc && mount -t tmpfs none /usr/share || exit {NAMESPACE_REFUSED}\n\
             {prepare}\n\
             PATH={bin} bash {root}/recipe\n\
             status=$?\n\
             cp -r /etc {root}/etc; cp -r /usr/share {root}/share\n\
             exit $status",
            bin = root.join("bin").display(),
            root = root.display(),
        );
        let output = namespace().arg("-c").arg(body).output().expect("unshare of util-linux is installed");
        let machine = Self { folder, output };
        let refused = machine.said().contains("unshare:") || machine.code() == NAMESPACE_REFUSED;
        assert!(!refused, "this test needs root or user namespaces to mount over /etc: {}", machine.said());
        machine
    }

    fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&[&*self.output.stdout, &*self.output.stderr].concat()).into_owned()
    }

    /// The recorded commands, without curl.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).expect("recorded");
        calls.lines().filter(|call| !call.starts_with("curl")).map(str::to_owned).collect()
    }

    fn file(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join(path)).ok()
    }

    fn certificate_is_at(&self, path: &str) {
        assert!(self.file(path).is_some() && self.file(path) == self.file("genuine.crt"), "{path}: {}", self.said());
    }
}

fn namespace() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "bash"]);
    command
}

/// Makes a folder for PATH with the few tools that every system has, and the recorders.
fn tools(root: &Path, trust_tool: &str) {
    let bin = root.join("bin");
    fs::create_dir(&bin).expect("made");
    let real = "bash base64 cat cut dirname fold grep mkdir mv rm sed sha256sum tail tr";
    for tool in real.split(' ') {
        let found = ["/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.exists());
        symlink(found.unwrap_or_else(|| panic!("{tool} is installed")), bin.join(tool)).expect("linked");
    }
    let root = root.display();
    // It reads its standard input too, as careless hooks do.
    let recorder = format!("echo \"${{0##*/}} $*\" >>{root}/calls; cat >/dev/null");
    let curl = format!(
        "out=/dev/stdout; url=; echo \"curl $*\" >>{root}/calls\n\
         while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift;; http*) url=$1;; esac; shift; done\n\
         cat {root}/${{url##*/}} >$out"
    );
    let write = |name: &str, body: &str| {
        let path: PathBuf = bin.join(name);
        fs::write(&path, format!("#!/bin/bash\n{body}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
    };
    write("curl", &curl);
    write("systemctl", &recorder);
    if !trust_tool.is_empty() {
        write(trust_tool, &recorder);
    }
}

#[test]
fn the_kind_recipe_configures_containerd() {
    let node = Machine::run(DEBIAN, "update-ca-certificates", KIND_RECIPE);
    assert_eq!(node.code(), 0, "{}", node.said());
    assert_eq!(
        node.file("etc/systemd/system/containerd.service.d/http-proxy.conf").as_deref(),
        Some(concat!(
            "[Service]\n",
            "Environment=\"HTTPS_PROXY=http://docker-registry-proxy:3128/\" ",
            "\"NO_PROXY=127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16\"\n"
        ))
    );
    assert_eq!(node.file("etc/systemd/system/docker.service.d/http-proxy.conf"), None);
    node.certificate_is_at("share/ca-certificates/docker_registry_proxy.crt");
    assert_eq!(
        node.file("etc/ca-certificates.conf").as_deref(),
        Some("mozilla/A.crt\ndocker_registry_proxy.crt\n"),
        "registered on a line of its own"
    );
    let order = ["update-ca-certificates --fresh", "systemctl daemon-reload", "systemctl restart containerd.service"];
    assert_eq!(node.calls(), order);
}

#[test]
fn a_second_run_registers_nothing_twice() {
    let twice = format!("{PLAIN_RECIPE}{PLAIN_RECIPE}");
    let host = Machine::run(DEBIAN, "update-ca-certificates", &twice);
    assert_eq!(host.code(), 0, "{}", host.said());
    assert_eq!(host.file("etc/ca-certificates.conf").as_deref(), Some("mozilla/A.crt\ndocker_registry_proxy.crt\n"));
    assert_eq!(
        host.file("etc/systemd/system/docker.service.d/http-proxy.conf").as_deref(),
        Some("[Service]\nEnvironment=\"HTTPS_PROXY=http://docker-registry-proxy:3128/\"\n")
    );
    assert!(host.said().contains("certificate refreshed"));
}

#[test]
fn other_trust_stores() {
    const ANCHOR: &str = "docker_registry_proxy.crt";
    for (tool, folder, call) in [
        ("update-ca-trust", "pki/ca-trust/source/anchors", "update-ca-trust extract"),
        ("update-ca-certificates", "pki/trust/anchors", "update-ca-certificates --fresh"),
        ("trust", "ca-certificates", "trust anchor --store /etc/ca-certificates/docker_registry_proxy.crt"),
    ] {
        let host = Machine::run(&format!("mkdir -p /etc/systemd /etc/{folder}"), tool, PLAIN_RECIPE);
        assert_eq!(host.code(), 0, "{tool}: {}", host.said());
        host.certificate_is_at(&format!("etc/{folder}/{ANCHOR}"));
        assert_eq!(host.calls(), [call, "systemctl daemon-reload", "systemctl restart docker.service"]);
    }
}

#[test]
fn a_machine_without_systemd_is_left_alone() {
    let machine = Machine::run("true", "update-ca-certificates", PLAIN_RECIPE);
    assert_eq!((machine.code(), machine.said().as_str()), (1, "Not a systemd system\n"));
    assert!(machine.calls().is_empty());
}

/// The drop-in must not stay after a failure: after a restart, Docker would pull through a proxy that it does not
/// trust.
#[test]
fn without_trust_nothing_is_configured() {
    let wrong = "00".repeat(32);
    let pinned = Machine::run_with_pinned(DEBIAN, "update-ca-certificates", PLAIN_RECIPE, Some(&wrong));
    let storeless = Machine::run("mkdir -p /etc/systemd", "", PLAIN_RECIPE);
    for (machine, reason) in [(pinned, "does not have the fingerprint"), (storeless, "No known trust store")] {
        assert_eq!(machine.code(), 1, "{}", machine.said());
        assert!(machine.said().contains(reason), "{}", machine.said());
        assert_eq!(machine.file("etc/systemd/system/docker.service.d/http-proxy.conf"), None);
        assert_eq!(machine.file("share/ca-certificates/docker_registry_proxy.crt"), None);
        assert!(machine.calls().is_empty(), "nothing was restarted: {:?}", machine.calls());
    }
}

/// An attacker on the network may serve the genuine certificate followed by another one.
#[test]
fn only_the_certificate_of_the_fingerprint_is_trusted() {
    let other = rcgen::generate_simple_self_signed(["attacker".to_owned()]).expect("a certificate");
    for recipe in [PLAIN_RECIPE, KIND_RECIPE] {
        let host = Machine::run_with(DEBIAN, "update-ca-certificates", recipe, None, &other.cert.pem());
        assert_eq!(host.code(), 0, "{}", host.said());
        host.certificate_is_at("share/ca-certificates/docker_registry_proxy.crt");
    }
}
