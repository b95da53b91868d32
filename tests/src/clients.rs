//! Real clients that need no daemon: skopeo, podman, curl. A [`Client`] says where they run, through which proxy, and
//! which certificates they trust. The daemons of [`crate::daemons`] are started from one too.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::namespace::Namespace;
use crate::process::{Finished, PATH, finish};
use crate::world::World;

/// The longest time of a pull.
pub const PULL: Duration = Duration::from_secs(180);

/// A user's name and password.
pub type Account<'a> = Option<(&'a str, &'a str)>;

/// The place and the environment of clients.
pub struct Client<'w> {
    pub(crate) world: &'w World,
    pub(crate) namespace: &'w Namespace,
    proxy: Option<String>,
    trust: PathBuf,
    insecure: Vec<String>,
    /// The folder in which programs are looked for first.
    programs: Option<PathBuf>,
}

impl<'w> Client<'w> {
    /// On the client's host, through `proxy`, trusting only `trust`.
    pub fn behind(world: &'w World, proxy: &str, trust: PathBuf) -> Self {
        Self {
            world,
            namespace: &world.client,
            proxy: Some(proxy.to_owned()),
            trust,
            insecure: Vec::new(),
            programs: None,
        }
    }

    /// On the client's host, without a proxy, trusting only `trust`.
    pub fn beside(world: &'w World, trust: PathBuf) -> Self {
        Self { world, namespace: &world.client, proxy: None, trust, insecure: Vec::new(), programs: None }
    }

    /// In the internet itself, without a proxy. This tests only the harness.
    pub fn direct(world: &'w World) -> Self {
        let (namespace, trust) = (&world.internet, world.internet_ca());
        Self { world, namespace, proxy: None, trust, insecure: Vec::new(), programs: None }
    }

    /// In `namespace`, without any proxy setting, trusting only `trust`.
    pub fn without_proxy(world: &'w World, namespace: &'w Namespace, trust: PathBuf) -> Self {
        Self { world, namespace, proxy: None, trust, insecure: Vec::new(), programs: None }
    }

    /// Uses this registry without TLS too.
    pub fn insecure(mut self, registry: &str) -> Self {
        self.insecure.push(registry.to_owned());
        self
    }

    /// Prefers the programs that `tests/newer-clients` unpacked to those of the machine.
    pub fn newer(mut self) -> Self {
        let target = std::env::current_exe().expect("the path of this test");
        let programs = target.ancestors().nth(3).expect("target/debug/deps/NAME").join("clients");
        assert!(programs.join("complete").exists(), "{} is missing: run tests/newer-clients", programs.display());
        self.programs = Some(programs.join("usr"));
        self
    }

    /// The client's own directory, in which its commands may leave files.
    pub fn directory(&self) -> PathBuf {
        self.world.make_directory("work")
    }

    /// The namespace in which its commands run.
    pub fn namespace(&self) -> &'w Namespace {
        self.namespace
    }

    /// A command with the client's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.program(program);
        command
            .env("HOME", self.world.make_directory("home"))
            .env("SSL_CERT_FILE", &self.trust)
            .env("CURL_CA_BUNDLE", &self.trust)
            .env("SSL_CERT_DIR", self.world.make_directory("no-certificates"))
            .env("TMPDIR", self.world.make_directory("tmp"));
        if let Some(proxy) = &self.proxy {
            for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
                command.env(name, proxy);
            }
        }
        command
    }

    /// A command that finds the client's programs. Nothing else is in its environment.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(programs) = &self.programs {
            let (bin, sbin) = (programs.join("bin"), programs.join("sbin"));
            command.env("PATH", format!("{}:{}:{PATH}", bin.display(), sbin.display()));
        }
        command
    }

    /// `skopeo copy` into a fresh directory.
    pub fn skopeo_pull(&self, image: &str, account: Account<'_>) -> Finished {
        let mut command = self.command("skopeo");
        command.args(["copy", "--insecure-policy", &format!("--src-tls-verify={}", self.verifies(image))]);
        if let Some((user, password)) = account {
            command.args(["--src-creds", &format!("{user}:{password}")]);
        }
        command.arg(format!("docker://{image}")).arg(format!("dir:{}", self.fresh("skopeo").display()));
        finish(self.namespace, command, PULL)
    }

    /// `skopeo copy` from registry to registry, with further options.
    pub fn skopeo_copy(&self, from: &str, to: &str, options: &[&str]) -> Finished {
        let mut command = self.command("skopeo");
        command.args(["copy", "--insecure-policy"]).args(options);
        command.arg(format!("--src-tls-verify={}", self.verifies(from)));
        command.arg(format!("--dest-tls-verify={}", self.verifies(to)));
        command.args([format!("docker://{from}"), format!("docker://{to}")]);
        finish(self.namespace, command, PULL)
    }

    /// `podman pull`. Everything is removed again afterwards.
    pub fn podman_pull(&self, image: &str, account: Account<'_>) -> Finished {
        let podman = self.storage("podman");
        let verify = format!("--tls-verify={}", self.verifies(image));
        let user = account.map(|(user, password)| format!("{user}:{password}"));
        let mut arguments = vec!["pull", "-q", &verify];
        if let Some(user) = &user {
            arguments.extend(["--creds", user]);
        }
        arguments.push(image);
        let pulled = podman(&arguments);
        podman(&["rmi", "-af"]);
        pulled
    }

    /// `podman` or `buildah` with a new storage.
    pub fn storage(&self, program: &'static str) -> impl Fn(&[&str]) -> Finished {
        let (root, run) = (self.fresh(program), self.fresh(&format!("{program}-run")));
        let cgroups: &[&str] =
            if program == "podman" { &["--cgroup-manager", "cgroupfs", "--events-backend", "none"] } else { &[] };
        move |arguments| {
            let mut command = self.command(program);
            command.arg("--root").arg(&root).arg("--runroot").arg(&run).args(["--storage-driver", "overlay"]);
            command.args(cgroups).args(arguments);
            finish(self.namespace, command, PULL)
        }
    }

    /// `curl`, silent, at most 30 s.
    pub fn curl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("curl");
        command.args(["-sS", "--max-time", "30"]).args(arguments);
        finish(self.namespace, command, Duration::from_secs(35))
    }

    pub(crate) fn insecure_registries(&self) -> &[String] {
        &self.insecure
    }

    pub(crate) fn verifies(&self, image: &str) -> bool {
        !self.insecure.iter().any(|registry| image.starts_with(&format!("{registry}/")))
    }

    /// A new directory.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        self.world.make_directory(&format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
    }
}
