//! The additional needs of pushes: images as files from which clients push, and accounts of our registry.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::clients::{Account, Client, PULL};
use crate::images::Image;
use crate::process::{Finished, finish};
use crate::world::World;

/// A podman with its own storage.
pub struct Podman<'c, 'w> {
    client: &'c Client<'w>,
    root: PathBuf,
    registries: Option<String>,
}

/// An htpasswd file with these accounts, made by Apache's own tool.
pub fn htpasswd(world: &World, accounts: &[(&str, &str)]) -> PathBuf {
    let path = world.path("htpasswd");
    for (number, (name, password)) in accounts.iter().enumerate() {
        let mut command = Command::new("htpasswd");
        // The lowest cost, because tests are many and cores are few.
        command.args(["-b", "-B", "-C", "4"]).args((number == 0).then_some("-c")).arg(&path).args([name, password]);
        finish(&world.proxy, command, Duration::from_secs(10)).expect_success("htpasswd (package apache2-utils)");
    }
    path
}

impl<'w> Client<'w> {
    /// `skopeo copy` of an image from files to a registry.
    pub fn skopeo_push(&self, image: &Image, to: &str, account: Account<'_>) -> Finished {
        let directory = self.fresh("image");
        std::fs::write(directory.join("version"), "Directory Transport Version: 1.1\n").expect("a file");
        std::fs::write(directory.join("manifest.json"), &image.manifest).expect("a file");
        for blob in &image.blobs {
            let name = blob.digest.strip_prefix("sha256:").expect("a digest");
            std::fs::write(directory.join(name), blob.bytes()).expect("a file");
        }
        let mut command = self.command("skopeo");
        command.args(["copy", "--insecure-policy", "--preserve-digests"]);
        command.arg(format!("--dest-tls-verify={}", self.verifies(to)));
        if let Some((user, password)) = account {
            command.args(["--dest-creds", &format!("{user}:{password}")]);
        }
        command.arg(format!("dir:{}", directory.display())).arg(format!("docker://{to}"));
        finish(self.namespace, command, PULL)
    }

    /// The tar of an image's first layer, for `docker import` and `podman import`.
    pub fn layer_file(&self, image: &Image) -> PathBuf {
        let path = self.fresh("layer").join("layer.tar");
        std::fs::write(&path, image.layers()[0].bytes()).expect("a file");
        path
    }
}

impl<'c, 'w> Podman<'c, 'w> {
    /// A podman without images and logins.
    pub fn new(client: &'c Client<'w>) -> Self {
        let root = client.fresh("podman");
        std::fs::write(root.join("auth.json"), "{}").expect("podman's logins");
        Self { client, root, registries: None }
    }

    /// The same podman with this `registries.conf`.
    pub fn configured(self, registries: &str) -> Self {
        Self { registries: Some(registries.to_owned()), ..self }
    }

    /// `podman` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.client.command("podman");
        command.env("REGISTRY_AUTH_FILE", self.root.join("auth.json"));
        if let Some(registries) = &self.registries {
            command.env("CONTAINERS_REGISTRIES_CONF", registries);
        }
        command.arg("--root").arg(self.root.join("root")).arg("--runroot").arg(self.root.join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(arguments);
        finish(self.client.namespace, command, PULL)
    }
}
