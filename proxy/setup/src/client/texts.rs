//! The texts of the files, each in one place. `runtimes` writes them, and so do the shell scripts (`scripts`) and the
//! pages with ready files (`pages::mirror`).

use entrepot_core::docker_hub;
use serde_json::json;

use super::target::{Mirror, Target};
use entrepot_config::BUILT_IN_REGISTRIES;

/// The registries that a mirror stands in for, where a file's format wants them named: a pattern names none.
pub(crate) fn mirrored() -> impl Iterator<Item = &'static str> {
    [docker_hub::NAME].into_iter().chain(BUILT_IN_REGISTRIES.into_iter().filter(|name| !name.contains('*')))
}

/// The usual folder in which containerd looks for `hosts.toml`.
pub(crate) const CONTAINERD_CERTS: &str = "/etc/containerd/certs.d";
/// The key of Docker's mirrors in `daemon.json`.
pub(crate) const DOCKER_MIRRORS: &str = "registry-mirrors";

const HEADER: &str = "# Written by entrepot's client set-up, whose undo removes it.\n";

/// A systemd drop-in. The names of the variables begin with `prefix`.
pub(crate) fn drop_in(prefix: &str, target: &Target) -> String {
    let (proxy, no_proxy) = (target.proxy_url(), target.no_proxy());
    format!("{HEADER}[Service]\nEnvironment=\"{prefix}HTTPS_PROXY={proxy}\" \"{prefix}NO_PROXY={no_proxy}\"\n")
}

/// Podman's drop-in of `containers.conf` that names the proxy.
pub(crate) fn containers_conf(target: &Target) -> String {
    let (proxy, no_proxy) = (target.proxy_url(), target.no_proxy());
    format!("{HEADER}[engine]\nenv = [\"HTTPS_PROXY={proxy}\", \"NO_PROXY={no_proxy}\"]\n")
}

/// Docker's `daemon.json` with nothing but the mirror.
pub(crate) fn daemon_json(mirror: &Mirror) -> String {
    format!("{{\n  \"{DOCKER_MIRRORS}\": {}\n}}\n", json!([mirror.url()]))
}

/// containerd's `hosts.toml` for registries that have no file of their own. `with_referrers` is for a containerd that
/// knows the capability ([`ContainerdVersion`](super::containerd_version::ContainerdVersion)).
pub(crate) fn hosts_toml(mirror: &Mirror, with_referrers: bool) -> String {
    let referrers = if with_referrers { ", \"referrers\"" } else { "" };
    format!("[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"{referrers}]\n", mirror.url())
}

/// containerd's configuration with nothing but the folder of `hosts.toml`. Every containerd reads version 2.
pub(crate) fn config_toml() -> String {
    format!("version = 2\n{}", registry_table("io.containerd.grpc.v1.cri"))
}

/// The table that names the folder of `hosts.toml` for a plugin of containerd.
pub(crate) fn registry_table(plugin: &str) -> String {
    format!("[plugins.{plugin:?}.registry]\n  config_path = {CONTAINERD_CERTS:?}\n")
}

/// The drop-in of `registries.conf` for Podman and CRI-O.
pub(crate) fn registries_conf(mirror: &Mirror, registries: &[String]) -> String {
    format!("{HEADER}{}", registry_tables(mirror, registries))
}

/// Tables for Podman and CRI-O: each registry has its images below its own name at the mirror.
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

/// k3s's `registries.yaml`: the mirror for every registry. Docker Hub is named too because k3s has a default of its own
/// for it.
pub(crate) fn registries_yaml(mirror: &Mirror) -> String {
    let entry = |name: &str| format!("  {name}:\n    endpoint:\n      - \"{}\"\n", mirror.url());
    format!("mirrors:\n{}{}", entry("\"*\""), entry(docker_hub::NAME))
}

/// Tables for buildkitd: each registry has its images below its own name at the mirror.
pub(crate) fn buildkitd_tables(mirror: &Mirror, registries: &[String]) -> String {
    let plain = mirror.is_plain().then(|| format!("\n[registry.\"{}\"]\nhttp = true\n", mirror.authority));
    let table = |name: &String| format!("\n[registry.\"{name}\"]\nmirrors = [\"{}/{name}\"]\n", mirror.authority);
    registries.iter().map(table).chain(plain).collect()
}
