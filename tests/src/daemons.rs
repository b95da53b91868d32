//! Real clients that are daemons: dockerd and containerd. Each has a private root, socket and process namespace, so its
//! processes die with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::clients::{Account, Client, PULL};
use crate::images::ARCHITECTURE;
use crate::process::{Finished, Process, finish};

const START: Duration = Duration::from_secs(60);

/// A test's own dockerd.
pub struct Dockerd<'c, 'w> {
    client: &'c Client<'w>,
    directory: PathBuf,
    process: Process,
}

/// A test's own containerd.
pub struct Containerd<'c, 'w> {
    client: &'c Client<'w>,
    directory: PathBuf,
    _process: Process,
}

impl<'c, 'w> Dockerd<'c, 'w> {
    /// Starts a dockerd. Returns when its socket answers.
    pub fn start(client: &'c Client<'w>) -> Self {
        Self::start_with(client, &[])
    }

    /// Starts a dockerd with further options.
    pub fn start_with(client: &'c Client<'w>, options: &[&str]) -> Self {
        let directory = client.fresh("docker");
        std::fs::create_dir_all(directory.join("config")).expect("a directory");
        let mut command = client.command("dockerd");
        let option = |name: &str, file: &str| format!("--{name}={}", directory.join(file).display());
        command.args([option("data-root", "data"), option("exec-root", "exec"), option("pidfile", "pid")]);
        command.arg(format!("--host=unix://{}", directory.join("sock").display()));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--max-download-attempts=1"]);
        command.args(options);
        for registry in client.insecure_registries() {
            command.arg(format!("--insecure-registry={registry}"));
        }
        let process = Process::start_with_children(client.namespace, command);
        process.wait_line("API listen on", START);
        Self { client, directory, process }
    }

    /// `docker` with these arguments.
    pub fn docker(&self, arguments: &[&str]) -> Finished {
        let mut command = self.client.program("docker");
        command.env("HOME", &self.directory);
        command.arg("--config").arg(self.directory.join("config"));
        command.arg("--host").arg(format!("unix://{}", self.directory.join("sock").display()));
        command.args(arguments);
        finish(self.client.namespace, command, PULL)
    }

    pub fn pull(&self, image: &str) -> Finished {
        self.docker(&["pull", "-q", image])
    }

    /// Removes every image, so the next pull fetches everything.
    pub fn forget(&self) {
        self.docker(&["image", "prune", "-af"]).expect_success("docker image prune");
    }

    /// Writes the credentials as `docker login` does, or removes them as `docker logout` does.
    pub fn log_in(&self, registry: &str, account: Account<'_>) {
        let auths = match account {
            None => json!({}),
            Some((user, password)) => json!({ registry: { "auth": STANDARD.encode(format!("{user}:{password}")) } }),
        };
        let config = json!({ "auths": auths }).to_string();
        std::fs::write(self.directory.join("config/config.json"), config).expect("docker's configuration");
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl<'c, 'w> Containerd<'c, 'w> {
    /// Starts a containerd. Returns when it has booted.
    pub fn start(client: &'c Client<'w>) -> Self {
        let directory = client.fresh("containerd");
        let at = |name: &str| directory.join(name).display().to_string();
        let (root, state, socket) = (at("root"), at("state"), at("sock"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n"
        );
        std::fs::write(directory.join("config.toml"), config).expect("containerd's configuration");
        let mut command = client.command("containerd");
        command.arg("--config").arg(directory.join("config.toml"));
        let process = Process::start_with_children(client.namespace, command);
        process.wait_line("containerd successfully booted", START);
        Self { client, directory, _process: process }
    }

    /// `ctr` with these arguments and the client's environment, because `ctr` pulls by itself.
    pub fn ctr(&self, arguments: &[&str]) -> Finished {
        let mut command = self.client.command("ctr");
        command.arg("--address").arg(self.directory.join("sock")).args(arguments);
        finish(self.client.namespace, command, PULL)
    }

    /// `ctr images pull` for this machine's platform.
    pub fn pull(&self, image: &str, account: Account<'_>) -> Finished {
        let platform = format!("linux/{ARCHITECTURE}");
        let mut arguments = vec!["images", "pull", "--platform", &platform];
        let user = account.map(|(user, password)| format!("{user}:{password}"));
        if let Some(user) = &user {
            arguments.extend(["--user", user]);
        }
        if !self.client.verifies(image) {
            arguments.push("--plain-http");
        }
        arguments.push(image);
        self.ctr(&arguments)
    }

    /// `ctr images pull` with a directory of `hosts.toml` files.
    pub fn pull_by_hosts(&self, image: &str, hosts: &Path) -> Finished {
        let (platform, hosts) = (format!("linux/{ARCHITECTURE}"), hosts.display().to_string());
        self.ctr(&["images", "pull", "--platform", &platform, "--hosts-dir", &hosts, image])
    }

    /// Removes an image and its content, so the next pull fetches everything.
    pub fn forget(&self, image: &str) {
        self.ctr(&["images", "rm", "--sync", image]).expect_success("ctr images rm");
        self.ctr(&["content", "prune", "references"]);
    }
}
