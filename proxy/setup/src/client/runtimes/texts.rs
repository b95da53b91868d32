//! The files' texts, each in one place: plans write them, and so do the scripts for hosts without this program and the
//! pages with ready files.

use entrepot_core::docker_hub;
use serde_json::json;

use super::super::plan::{Mirror, Target};

/// Where containerd looks for `hosts.toml`, unless it was told otherwise.
pub(crate) const CONTAINERD_CERTS: &str = "/etc/containerd/certs.d";
/// Docker's mirrors in `daemon.json`.
pub(crate) const DOCKER_MIRRORS: &str = "registry-mirrors";

const HEADER: &str = "# Written by entrepot's client set-up, whose undo takes it away.\n";

/// A systemd drop-in; `prefix` stands in front of the variables' names.
pub(crate) fn drop_in(prefix: &str, target: &Target) -> String {
    let (proxy, no_proxy) = (target.proxy_url(), target.no_proxy());
    format!("{HEADER}[Service]\nEnvironment=\"{prefix}HTTPS_PROXY={proxy}\" \"{prefix}NO_PROXY={no_proxy}\"\n")
}

/// Podman's engine behind the proxy.
pub(crate) fn containers_conf(target: &Target) -> String {
    let (proxy, no_proxy) = (target.proxy_url(), target.no_proxy());
    format!("{HEADER}[engine]\nenv = [\"HTTPS_PROXY={proxy}\", \"NO_PROXY={no_proxy}\"]\n")
}

/// A `daemon.json` of Docker's with nothing but the mirror.
pub(crate) fn daemon_json(mirror: &Mirror) -> String {
    format!("{{\n  \"{DOCKER_MIRRORS}\": {}\n}}\n", json!([mirror.url()]))
}

/// What containerd reads for registries that have no file of their own.
pub(crate) fn hosts_toml(mirror: &Mirror) -> String {
    format!("[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror.url())
}

/// containerd's configuration with nothing but where `hosts.toml` is; version 2 is read by every containerd.
pub(crate) fn config_toml() -> String {
    format!("version = 2\n{}", registry_table("io.containerd.grpc.v1.cri"))
}

/// The table that tells a plugin of containerd's where `hosts.toml` is.
pub(crate) fn registry_table(plugin: &str) -> String {
    format!("[plugins.{plugin:?}.registry]\n  config_path = {CONTAINERD_CERTS:?}\n")
}

/// Podman's and CRI-O's drop-in.
pub(crate) fn registries_conf(mirror: &Mirror, registries: &[String]) -> String {
    format!("{HEADER}{}", registry_tables(mirror, registries))
}

/// Tables for Podman and CRI-O: each registry by way of the mirror, where it is below its own name.
pub(crate) fn registry_tables(mirror: &Mirror, registries: &[String]) -> String {
    let mut text = String::new();
    let insecure = if mirror.is_plain() { "insecure = true\n" } else { "" };
    for name in registries {
        text.push_str(&format!(
            "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\n[[registry.mirror]]\n\
             location = \"{}/{name}\"\n{insecure}",
            mirror.authority
        ));
    }
    text
}

/// k3s's `registries.yaml`: every registry by way of the mirror. k3s has a default of its own for Docker Hub, so that
/// is named too.
pub(crate) fn registries_yaml(mirror: &Mirror) -> String {
    let entry = |name: &str| format!("  {name}:\n    endpoint:\n      - \"{}\"\n", mirror.url());
    format!("mirrors:\n{}{}", entry("\"*\""), entry(docker_hub::NAME))
}

/// Tables for buildkitd: each registry by way of the mirror.
pub(crate) fn buildkitd_tables(mirror: &Mirror, registries: &[String]) -> String {
    let plain = mirror.is_plain().then(|| format!("\n[registry.\"{}\"]\nhttp = true\n", mirror.authority));
    let table = |name: &String| format!("\n[registry.\"{name}\"]\nmirrors = [\"{}/{name}\"]\n", mirror.authority);
    registries.iter().map(table).chain(plain).collect()
}
