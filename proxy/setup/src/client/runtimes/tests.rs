//! Plans carried out and undone on machines made of files: every runtime and mode, completely, half-way and twice.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Found, plan, registries};
use crate::client::change::{Aftermath, Change};
use crate::client::containerd_version::{ContainerdVersion, VERSIONS};
use crate::client::execute::{ExecuteError, apply, undo};
use crate::client::host::Host;
use crate::client::journal::{self, Journal};
use crate::client::plan::{Command, PlanError};
use crate::client::target::{NoMirror, Target};
use crate::client::{Mode, Runtime};

mod failures;

/// The file in Debian's package of containerd.
const CONTAINERD: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd""#;

const FILES: &[(&str, &str)] = &[
    ("etc/ssl/certs/ca-certificates.crt", "BUNDLE"),
    ("usr/sbin/update-ca-certificates", ""),
    ("run/systemd/system/keep", ""),
    ("var/lib/keep", ""),
    ("lib/systemd/system/docker.service", "[Service]\n"),
    ("lib/systemd/system/containerd.service", "[Service]\n"),
    ("lib/systemd/system/crio.service", "[Service]\n# HTTPS_PROXY=is-a-comment\nEnvironment=MY_HTTPS_PROXY=other\n"),
    ("etc/systemd/system/k3s.service", "[Service]\n"),
    ("usr/lib/systemd/system/buildkit.service", "[Service]\n"),
    ("etc/docker/daemon.json", "{\n\t\"data-root\": \"/srv/docker\",\n\t\"log-level\": \"warn\"\n}\n"),
    ("etc/containerd/config.toml", CONTAINERD),
    ("etc/containers/containers.conf", "[engine]\n# env = []\nruntime = \"crun\"\n"),
    ("etc/containers/registries.conf", "unqualified-search-registries = [\"docker.io\"]\n"),
    ("etc/containers/registries.conf.d/shortnames.conf", "[aliases]\n\"alpine\" = \"docker.io/library/alpine\"\n"),
    ("etc/buildkit/buildkitd.toml", "debug = true\n[registry.\"private.example\"]\nhttp = true\n"),
];

/// Every runtime but Kind, which has no files on this machine.
const RUNTIMES: [Runtime; 6] =
    [Runtime::Docker, Runtime::Containerd, Runtime::Podman, Runtime::Crio, Runtime::K3s, Runtime::Buildkit];
const MODES: [Mode; 3] = [Mode::Proxy, Mode::Mirror, Mode::Redirect];

struct Machine {
    folder: TempDir,
    commands: Vec<Command>,
    /// A word of the command that will fail next.
    failing: Option<&'static str>,
    found: Found,
}

const NONE: [PathBuf; 0] = [];

type Tree = BTreeMap<PathBuf, (Option<Vec<u8>>, u32)>;

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().expect("a folder"),
            commands: Vec::new(),
            failing: None,
            found: Found::default(),
        };
        FILES.iter().for_each(|(path, text)| machine.put(path, text));
        // The file's mode must be restored too.
        let daemon = machine.folder.path().join("etc/docker/daemon.json");
        fs::set_permissions(daemon, fs::Permissions::from_mode(0o640)).expect("a mode");
        machine
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join(path)).ok()
    }

    fn host(&self) -> Host {
        Host::new(self.folder.path())
    }

    fn journals(&self, runtime: Runtime) -> (Option<Journal>, Vec<Journal>) {
        let all = Journal::all(&self.host()).expect("readable");
        let (mine, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|journal| journal.runtime == runtime);
        (mine.into_iter().next(), others)
    }

    /// Returns whether anything changed.
    fn set_up(&mut self, runtime: Runtime, mode: Mode) -> Result<bool, Refused> {
        self.set_up_with(runtime, mode, &target())
    }

    fn set_up_with(&mut self, runtime: Runtime, mode: Mode, target: &Target) -> Result<bool, Refused> {
        self.change(runtime, mode, target).map(|change| change.is_some())
    }

    fn change(&mut self, runtime: Runtime, mode: Mode, target: &Target) -> Result<Option<Change>, Refused> {
        let host = self.host();
        let (mine, others) = self.journals(runtime);
        let view = host.before(journal::before(mine.as_slice()));
        let plan = plan(runtime, mode, &view, target, &self.found).map_err(Refused::Plan)?;
        let journal = Journal::new(runtime, mode, &target.host, target.proxy_port, &target.ca_sha256);
        let (failing, commands) = (&mut self.failing, &mut self.commands);
        // The command fails only once, so that the way back can succeed.
        let mut run = |command: &Command| {
            commands.push(command.clone());
            let fails = failing.take_if(|word| command.iter().any(|part| part == word)).is_some();
            if fails { Err("as asked".to_owned()) } else { Ok(()) }
        };
        apply(&host, &plan, journal, mine.as_ref(), &others, &mut run).map_err(Refused::Execute)
    }

    fn said(&mut self) -> Vec<String> {
        self.commands.drain(..).map(|command| command.join(" ")).collect()
    }

    /// Returns how many steps failed or left something alone.
    fn undo(&self, runtime: Runtime) -> usize {
        let (mine, others) = self.journals(runtime);
        let mine = mine.expect("set up");
        undo(&self.host(), &mine, &others, &mut |_: &Command| Ok(())).expect("undone")
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        walk(self.folder.path(), &mut tree);
        tree
    }
}

#[derive(Debug)]
enum Refused {
    Plan(PlanError),
    Execute(ExecuteError),
}

/// The paths that are not the same in both.
fn differences(before: &Tree, after: &Tree) -> Vec<PathBuf> {
    let all = before.keys().chain(after.keys());
    all.filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

fn walk(folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("metadata");
        if metadata.is_dir() {
            walk(&path, tree);
        }
        let content = metadata.is_file().then(|| fs::read(&path).expect("read"));
        tree.insert(path, (content, metadata.permissions().mode()));
    }
}

fn target() -> Target {
    Target {
        host: "192.168.1.5".to_owned(),
        proxy_port: 3128,
        registry_http_port: Some(80),
        registry_https_port: None,
        docker_mirror_port: Some(5001),
        ca_pem: "PEM".to_owned(),
        ca_sha256: "ab".repeat(32),
        registries: vec!["reg.example:5000".to_owned()],
    }
}

#[test]
fn every_runtime_comes_back_byte_for_byte() {
    for runtime in RUNTIMES {
        for mode in MODES {
            let mut machine = Machine::new();
            let before = machine.tree();
            assert!(machine.set_up(runtime, mode).expect("set up"), "{runtime:?} {mode:?}");
            assert_eq!(machine.text("usr/local/share/ca-certificates/entrepot.crt").as_deref(), Some("PEM"));
            assert!(machine.commands[0].contains(&"update-ca-certificates".to_owned()), "trust before restarts");
            assert!(!machine.set_up(runtime, mode).expect("again"), "{runtime:?} {mode:?} changes nothing twice");
            assert_eq!(machine.undo(runtime), 0);
            assert_eq!(differences(&before, &machine.tree()), NONE, "{runtime:?} {mode:?}");
        }
    }
}

#[test]
fn the_files_are_the_runtimes_own() {
    let proxy = "HTTPS_PROXY=http://192.168.1.5:3128/";
    let no_proxy = "NO_PROXY=localhost,127.0.0.0/8,::1,192.168.1.5";
    let (url, place) = ("http://192.168.1.5", "192.168.1.5/ghcr.io");
    for (runtime, mode, path, parts) in [
        (Runtime::Docker, Mode::Proxy, "etc/systemd/system/docker.service.d/entrepot.conf", [proxy, no_proxy]),
        (Runtime::Containerd, Mode::Proxy, "etc/systemd/system/containerd.service.d/entrepot.conf", [proxy, no_proxy]),
        (Runtime::Crio, Mode::Proxy, "etc/systemd/system/crio.service.d/entrepot.conf", [proxy, no_proxy]),
        (
            Runtime::K3s,
            Mode::Proxy,
            "etc/systemd/system/k3s.service.d/entrepot.conf",
            ["CONTAINERD_HTTPS_PROXY=", no_proxy],
        ),
        (Runtime::Buildkit, Mode::Proxy, "etc/systemd/system/buildkit.service.d/entrepot.conf", [proxy, no_proxy]),
        (Runtime::Podman, Mode::Proxy, "etc/containers/containers.conf.d/50-entrepot.conf", [proxy, "[engine]"]),
        (
            Runtime::Docker,
            Mode::Mirror,
            "etc/docker/daemon.json",
            ["\"registry-mirrors\": [\"https://192.168.1.5:5001\"]", "\t\"data-root\""],
        ),
        (
            Runtime::Containerd,
            Mode::Mirror,
            "etc/containerd/certs.d/_default/hosts.toml",
            [url, "\"pull\", \"resolve\""],
        ),
        (
            Runtime::Containerd,
            Mode::Mirror,
            "etc/containerd/config.toml",
            [CONTAINERD, "config_path = \"/etc/containerd/certs.d\""],
        ),
        (
            Runtime::Podman,
            Mode::Mirror,
            "etc/containers/registries.conf.d/50-entrepot.conf",
            [place, "insecure = true"],
        ),
        (Runtime::Crio, Mode::Mirror, "etc/containers/registries.conf.d/50-entrepot.conf", [place, "reg.example:5000"]),
        (Runtime::K3s, Mode::Mirror, "etc/rancher/k3s/registries.yaml", [url, "\"*\":"]),
        (
            Runtime::Buildkit,
            Mode::Mirror,
            "etc/buildkit/buildkitd.toml",
            [place, "[registry.\"192.168.1.5\"]\nhttp = true"],
        ),
    ] {
        let mut machine = Machine::new();
        machine.set_up(runtime, mode).expect("set up");
        let text = machine.text(path).unwrap_or_else(|| panic!("{path} is missing"));
        for part in parts {
            assert!(text.contains(part), "{path} lacks {part}:\n{text}");
        }
    }
}

#[test]
fn a_registry_is_named_once_wherever_it_repeats() {
    let known = registries(&Target { registries: Vec::new(), ..target() });
    let own = ["reg.example:5000", known[1].as_str(), "a.example", "reg.example:5000"].map(str::to_owned);
    let named = registries(&Target { registries: own.into(), ..target() });
    assert_eq!(named, [&known[..], &["reg.example:5000".to_owned(), "a.example".to_owned()]].concat());
}

/// Under its `.local` name the proxy itself answers for the registry.
#[test]
fn a_name_of_mdns_is_not_excepted_from_the_proxy() {
    let named = Target { host: "docker-registry.local".to_owned(), ..target() };
    assert_eq!(
        (named.no_proxy().as_str(), target().no_proxy().as_str()),
        ("localhost,127.0.0.0/8,::1", "localhost,127.0.0.0/8,::1,192.168.1.5",)
    );
    let elsewhere = Target { host: "cache.lan".to_owned(), ..target() };
    assert!(elsewhere.no_proxy().ends_with(",cache.lan"), "{}", elsewhere.no_proxy());
}

#[test]
fn restarts_are_only_what_is_needed() {
    let mut machine = Machine::new();
    machine.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
    let said: Vec<String> = machine.commands.iter().map(|command| command.join(" ")).collect();
    assert_eq!(said, ["update-ca-certificates", "systemctl daemon-reload", "systemctl try-restart docker.service"]);
    // Even if the mode needs no drop-in, because a drop-in of another mode may have been removed.
    let reloaded = ["systemctl daemon-reload", "systemctl try-restart docker.service"];
    for mode in MODES {
        let mut machine = Machine::new();
        machine.set_up(Runtime::Docker, mode).expect("set up");
        assert_eq!(machine.said()[1..], reloaded, "{mode:?}");
        let (mine, _) = machine.journals(Runtime::Docker);
        let back: Vec<String> = mine.expect("set up").undo_commands.iter().map(|command| command.join(" ")).collect();
        assert_eq!(back[1..], reloaded, "undo of {mode:?}");
    }
    let mut machine = Machine::new();
    machine.set_up(Runtime::Podman, Mode::Proxy).expect("set up");
    assert_eq!(machine.commands.len(), 1, "podman has no daemon: {:?}", machine.commands);
    let mut offline = Machine::new();
    fs::remove_dir_all(offline.folder.path().join("run/systemd")).expect("removed");
    offline.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
    assert_eq!(offline.commands.len(), 1, "no systemd, no systemctl: {:?}", offline.commands);
}

#[test]
fn what_somebody_wrote_is_never_replaced() {
    for (runtime, mode, path, text) in [
        (
            Runtime::Docker,
            Mode::Proxy,
            "etc/systemd/system/docker.service.d/http-proxy.conf",
            "[Service]\nEnvironment=\"https_proxy=http://p\"\n",
        ),
        (Runtime::Docker, Mode::Proxy, "etc/docker/daemon.json", "{\"proxies\": {}}"),
        (Runtime::Docker, Mode::Proxy, "etc/docker/daemon.json", "{"),
        (Runtime::Docker, Mode::Proxy, "etc/default/docker", "export HTTPS_PROXY=http://p"),
        (Runtime::Docker, Mode::Proxy, "etc/systemd/system/docker.service.d/entrepot.conf", "mine"),
        (Runtime::Docker, Mode::Mirror, "etc/docker/daemon.json", "{\"registry-mirrors\": [\"http://m\"]}"),
        (
            Runtime::Containerd,
            Mode::Mirror,
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
        ),
        (Runtime::Containerd, Mode::Mirror, "etc/containerd/config.toml", "version = 9\n"),
        (Runtime::Containerd, Mode::Mirror, "etc/containerd/certs.d/_default/hosts.toml", "server = \"x\"\n"),
        (Runtime::Podman, Mode::Proxy, "etc/containers/containers.conf", "[engine]\nenv = [\"A=b\"]\n"),
        (
            Runtime::Podman,
            Mode::Mirror,
            "etc/containers/registries.conf.d/a.conf",
            "[[registry]]\nprefix = \"ghcr.io\"\n",
        ),
        (Runtime::K3s, Mode::Mirror, "etc/rancher/k3s/registries.yaml", "mirrors: {}\n"),
        (Runtime::K3s, Mode::Proxy, "etc/systemd/system/k3s.service.env", "CONTAINERD_HTTPS_PROXY=http://p\n"),
        (Runtime::Buildkit, Mode::Mirror, "etc/buildkit/buildkitd.toml", "[registry.\"docker.io\"]\nmirrors = []\n"),
        (Runtime::Podman, Mode::Redirect, "usr/local/share/ca-certificates/entrepot.crt", "another appliance's"),
    ] {
        let mut machine = Machine::new();
        machine.put(path, text);
        let before = machine.tree();
        let refused = machine.set_up(runtime, mode).expect_err(path);
        let line = match &refused {
            Refused::Plan(error) => error.to_string(),
            Refused::Execute(error) => error.to_string(),
        };
        assert!(line.contains(path) && !line.contains('\n'), "{line}");
        assert_eq!(differences(&before, &machine.tree()), NONE, "{path}");
        assert!(machine.commands.is_empty(), "{path}: {:?}", machine.commands);
    }
}

#[test]
fn links_are_followed_and_links_to_nowhere_are_refused() {
    let mut machine = Machine::new();
    machine.put("srv/daemon.json", "{}");
    let link = machine.folder.path().join("etc/docker/daemon.json");
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink("../../srv/daemon.json", &link).expect("a link");
    let before = machine.tree();
    machine.set_up(Runtime::Docker, Mode::Mirror).expect("set up");
    assert!(link.is_symlink() && machine.text("srv/daemon.json").is_some_and(|text| text.contains("registry-mirrors")));
    machine.undo(Runtime::Docker);
    assert_eq!(differences(&before, &machine.tree()), NONE);
    fs::remove_file(machine.folder.path().join("srv/daemon.json")).expect("removed");
    let refused = machine.set_up(Runtime::Docker, Mode::Mirror);
    assert!(matches!(refused, Err(Refused::Execute(ExecuteError::Foreign(_)))), "{refused:?}");
}

#[test]
fn what_is_missing_is_reported() {
    let bare = tempfile::tempdir().expect("a folder");
    let on = |runtime, mode, target: &Target| plan(runtime, mode, &Host::new(bare.path()), target, &Found::default());
    for runtime in RUNTIMES.into_iter().chain([Runtime::Kind]) {
        assert!(matches!(on(runtime, Mode::Proxy, &target()), Err(PlanError::NotInstalled { .. })), "{runtime:?}");
    }
    let mut machine = Machine::new();
    let doorless = Target { registry_http_port: None, docker_mirror_port: None, ..target() };
    for (runtime, expected) in
        [(Runtime::Docker, NoMirror::DockerListener), (Runtime::Containerd, NoMirror::RegistryDoor)]
    {
        let refused = machine.set_up_with(runtime, Mode::Mirror, &doorless);
        assert!(matches!(refused, Err(Refused::Plan(PlanError::NoMirror(why))) if why == expected), "{runtime:?}");
    }
}

#[test]
fn runtimes_share_the_certificate() {
    let mut machine = Machine::new();
    let before = machine.tree();
    let certificate = "usr/local/share/ca-certificates/entrepot.crt";
    for runtime in [Runtime::Docker, Runtime::Podman, Runtime::Crio] {
        machine.set_up(runtime, Mode::Mirror).expect("set up");
    }
    let other = Target { ca_pem: "OTHER".to_owned(), ..target() };
    let refused = machine.set_up_with(Runtime::K3s, Mode::Proxy, &other);
    assert!(matches!(refused, Err(Refused::Execute(ExecuteError::Shared { .. }))), "{refused:?}");
    machine.undo(Runtime::Docker);
    machine.undo(Runtime::Crio);
    assert_eq!(machine.text(certificate).as_deref(), Some("PEM"), "podman uses it");
    assert!(machine.text("etc/containers/registries.conf.d/50-entrepot.conf").is_some(), "podman uses that too");
    machine.undo(Runtime::Podman);
    assert_eq!(differences(&before, &machine.tree()), NONE);
}

#[test]
fn another_mode_replaces_the_first() {
    let mut machine = Machine::new();
    let before = machine.tree();
    machine.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
    assert!(machine.set_up(Runtime::Docker, Mode::Mirror).expect("set up anew"));
    assert_eq!(machine.text("etc/systemd/system/docker.service.d/entrepot.conf"), None);
    assert!(machine.text("etc/docker/daemon.json").is_some_and(|text| text.contains("registry-mirrors")));
    let moved = Target { host: "192.168.1.6".to_owned(), ..target() };
    assert!(machine.set_up_with(Runtime::Docker, Mode::Mirror, &moved).expect("moved"));
    assert!(machine.text("etc/docker/daemon.json").is_some_and(|text| text.contains("1.6") && !text.contains("1.5")));
    machine.undo(Runtime::Docker);
    assert_eq!(differences(&before, &machine.tree()), NONE);
}

/// An old containerd refuses the whole file, and a new one asks no mirror for referrers without the capability.
#[test]
fn hosts_toml_has_the_capabilities_that_this_containerd_knows() {
    for (version, with_referrers) in VERSIONS {
        let mut machine = Machine::new();
        machine.found.containerd = ContainerdVersion::parse(version);
        machine.set_up(Runtime::Containerd, Mode::Mirror).expect("set up");
        let hosts = machine.text("etc/containerd/certs.d/_default/hosts.toml").expect("a file");
        let hosts: toml::Table = toml::from_str(&hosts).expect("TOML");
        let (_, host) = hosts["host"].as_table().and_then(|hosts| hosts.iter().next()).expect("a host");
        let known: &[&str] = if *with_referrers { &["pull", "resolve", "referrers"] } else { &["pull", "resolve"] };
        assert_eq!(host["capabilities"], toml::Value::from(known.to_vec()), "{version}");
    }
}
