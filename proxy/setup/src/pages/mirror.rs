//! Ready files for clients that use mirrors instead of interception: containerd, k3s, Docker, Podman and CRI-O. Pure:
//! the address of the mirror goes in, the text of a file comes out. Every client asks the registry itself if the mirror
//! does not answer.

use entrepot_core::docker_hub;
use entrepot_core::host::{HTTPS_PORT, RegistryHost};

use crate::client::target::Mirror;
use crate::client::texts;

/// containerd's `hosts.toml` for one registry, or for all registries (the folder `_default`) if `registry` is None.
/// Docker Engine with the containerd image store reads the same file.
pub(super) fn containerd(mirror: &Mirror, registry: Option<&RegistryHost>) -> String {
    let (folder, server) = match registry.map(known_as) {
        None => ("_default".to_owned(), String::new()),
        Some(name) if name == docker_hub::NAME => (name, format!("server = \"https://{}\"\n\n", docker_hub::REGISTRY)),
        Some(name) => (name.clone(), format!("server = \"https://{name}\"\n\n")),
    };
    format!(
        "# /etc/containerd/certs.d/{folder}/hosts.toml\n\
         # containerd's config.toml names the folder: config_path = \"/etc/containerd/certs.d\"\n\
         # containerd 2.2 and newer: add \"referrers\" to the capabilities; older ones refuse the file then\n\
         {server}{}",
        texts::hosts_toml(mirror, false)
    )
}

/// The `registries.yaml` of k3s and RKE2, for all registries.
pub(super) fn k3s(mirror: &Mirror) -> String {
    format!(
        "# /etc/rancher/k3s/registries.yaml (RKE2: /etc/rancher/rke2/registries.yaml); read when the node starts\n{}",
        texts::registries_yaml(mirror)
    )
}

/// Docker's `/etc/docker/daemon.json`. It has no comment, since JSON has none. Docker uses mirrors for Docker Hub only.
pub(super) fn docker(mirror: &Mirror) -> String {
    texts::daemon_json(mirror)
}

/// A file of `/etc/containers/registries.conf.d`, for Podman, Buildah, Skopeo and CRI-O. Each of these registries has
/// its images below its own name at the mirror.
pub(super) fn podman(mirror: &Mirror, registries: &[RegistryHost]) -> String {
    let mut names: Vec<String> = registries.iter().map(known_as).collect();
    names.sort();
    names.dedup();
    format!("# /etc/containers/registries.conf.d/entrepot.conf\n{}", texts::registry_tables(mirror, &names))
}

/// The name of a registry in images. It needs no quoting: a host has no quotes or slashes.
fn known_as(registry: &RegistryHost) -> String {
    let name = registry.authority(HTTPS_PORT);
    if docker_hub::REGISTRY_NAMES.contains(&&*name) { docker_hub::NAME.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(scheme: &'static str, authority: &str) -> Mirror {
        Mirror { scheme, authority: authority.to_owned() }
    }

    fn plain() -> Mirror {
        mirror("http", "appliance.lan:5000")
    }

    #[test]
    fn containerds_file_is_toml_for_one_registry_or_all() {
        for (registry, server) in [
            (None, None),
            (Some("ghcr.io"), Some("https://ghcr.io")),
            (Some("reg.example:5000"), Some("https://reg.example:5000")),
            (Some("docker.io"), Some("https://registry-1.docker.io")),
            (Some("registry-1.docker.io"), Some("https://registry-1.docker.io")),
        ] {
            let registry: Option<RegistryHost> = registry.map(|name| name.parse().unwrap());
            let text = containerd(&plain(), registry.as_ref());
            let file: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(file.get("server").and_then(|value| value.as_str()), server, "{text}");
            let host = &file["host"]["http://appliance.lan:5000"];
            let capabilities: Vec<_> =
                host["capabilities"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
            assert_eq!(capabilities, ["pull", "resolve"]);
        }
        let secure = containerd(&mirror("https", "[fd00::1]:5443"), None);
        assert!(
            secure.contains("[host.\"https://[fd00::1]:5443\"]") && secure.contains("/_default/hosts.toml"),
            "{secure}"
        );
    }

    #[test]
    fn dockers_file_is_json() {
        let file: serde_json::Value = serde_json::from_str(&docker(&plain())).unwrap();
        assert_eq!(file, serde_json::json!({"registry-mirrors": ["http://appliance.lan:5000"]}));
    }

    #[test]
    fn podmans_file_has_each_registry_once_below_its_own_name() {
        let registries = ["registry-1.docker.io", "index.docker.io", "ghcr.io", "reg.example:5000"];
        let registries: Vec<RegistryHost> = registries.iter().map(|name| name.parse().unwrap()).collect();
        let file: toml::Table = toml::from_str(&podman(&plain(), &registries)).unwrap();
        let text = |value: &toml::Value, key: &str| value[key].as_str().unwrap().to_owned();
        let rows = file["registry"].as_array().unwrap().iter().map(|row| {
            let mirror = &row["mirror"][0];
            assert_eq!((text(row, "prefix"), mirror["insecure"].as_bool()), (text(row, "location"), Some(true)));
            (text(row, "location"), text(mirror, "location"))
        });
        let expected = ["docker.io", "ghcr.io", "reg.example:5000"];
        let expected = expected.map(|name| (name.to_owned(), format!("appliance.lan:5000/{name}")));
        assert_eq!(rows.collect::<Vec<_>>(), expected);
        let secure = podman(&mirror("https", "a:5443"), &registries[2..3]);
        assert!(!secure.contains("insecure"), "{secure}");
    }

    #[test]
    fn k3s_file_names_the_mirror_for_everything() {
        let text = k3s(&plain());
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let endpoint = ["    endpoint:", "      - \"http://appliance.lan:5000\""];
        assert_eq!(lines, [&["mirrors:", "  \"*\":"][..], &endpoint, &["  docker.io:"], &endpoint].concat());
    }
}
