//! The scripts for hosts without this program: `curl -fsS http://APPLIANCE:3128/setup/docker | sudo sh`.
//!
//! POSIX sh, put together from the files in `scripts/`: the shared part, the runtime's own part, then the set-up
//! itself. Its last line is the only one that runs anything, so a download that is cut short does nothing. The scripts
//! write the same files as `entrepot client setup`, from the same functions (`texts`). `pages` serves them, and
//! `runtimes::kind` runs one inside each node. `/setup/systemd` is older and stays word for word (`pages/script.rs`).

use super::target::{Mirror, Target};
use super::texts::{self, mirrored};

/// A runtime that has a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Script {
    Docker,
    Containerd,
    Podman,
    K3s,
}

const COMMON: &str = include_str!("scripts/common.sh");
const SET_UP: &str = include_str!("scripts/set_up.sh");
const UNDO: &str = include_str!("scripts/undo.sh");

impl Script {
    fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::K3s => "k3s",
        }
    }

    fn own_part(self) -> &'static str {
        match self {
            Self::Docker => include_str!("scripts/docker.sh"),
            Self::Containerd => include_str!("scripts/containerd.sh"),
            Self::Podman => include_str!("scripts/podman.sh"),
            Self::K3s => include_str!("scripts/k3s.sh"),
        }
    }

    /// The script for one appliance. It pins the fingerprint of the appliance's certificate.
    pub(crate) fn for_target(self, target: &Target) -> String {
        let (runtime, proxy) = (self.word(), target.proxy_url());
        let header = format!(
            "#!/bin/sh\n# Lets {runtime} on this machine pull through the appliance at {proxy}\n\
             #   curl -fsS {proxy}setup/{runtime} | sudo sh                     by HTTPS_PROXY\n\
             #   curl -fsS {proxy}setup/{runtime} | sudo sh -s -- --mode mirror by the appliance's registry\n\
             #   curl -fsS {proxy}setup/undo | sudo sh                          back\n\
             set -eu\n\n"
        );
        let prefix = if self == Self::K3s { "CONTAINERD_" } else { "" };
        // Without a registry door these are empty; the script refuses mirror mode before it uses them.
        let mirror = target.mirror().ok();
        let docker_mirror = target.docker_mirror().ok();
        let of_mirror = |text: fn(&Mirror) -> String| mirror.as_ref().map(text).unwrap_or_default();
        let registries = mirrored().map(str::to_owned).collect::<Vec<_>>();
        let registries_conf = mirror.as_ref().map(|mirror| texts::registries_conf(mirror, &registries));
        let values = [
            ("@DROP_IN@", texts::drop_in(prefix, target)),
            ("@CONTAINERS_CONF@", texts::containers_conf(target)),
            ("@DAEMON_JSON@", docker_mirror.as_ref().map(texts::daemon_json).unwrap_or_default()),
            ("@DOCKER_MIRROR@", docker_mirror.as_ref().map(|mirror| mirror.url()).unwrap_or_default()),
            ("@HOSTS_TOML@", of_mirror(|mirror| texts::hosts_toml(mirror, false))),
            ("@HOSTS_TOML_WITH_REFERRERS@", of_mirror(|mirror| texts::hosts_toml(mirror, true))),
            ("@CONFIG_TOML@", texts::config_toml()),
            ("@REGISTRIES_CONF@", registries_conf.unwrap_or_default()),
            ("@REGISTRIES_YAML@", of_mirror(texts::registries_yaml)),
            ("@MIRROR@", mirror.as_ref().map(|mirror| mirror.url()).unwrap_or_default()),
            ("@PROXY@", proxy),
            ("@FINGERPRINT@", target.ca_sha256.clone()),
            ("@RUNTIME@", runtime.to_owned()),
            ("@APPLIANCE@", target.host.clone()),
            ("@PROXY_PORT@", target.proxy_port.to_string()),
        ];
        let script = [&header, COMMON, "\n", self.own_part(), "\n", SET_UP].concat();
        values.iter().fold(script, |script, (name, value)| script.replace(name, value))
    }
}

/// The script that takes back the changes of any of them.
pub(crate) fn undo() -> String {
    let header = "#!/bin/sh\n# Puts this machine back as it was before a set-up script of entrepot.\nset -eu\n\n";
    [header, COMMON, "\n", UNDO].concat()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::client::containerd_version::VERSIONS;

    fn target(registry_http_port: Option<u16>) -> Target {
        Target {
            host: "fd00::5".to_owned(),
            proxy_port: 3128,
            registry_http_port,
            registry_https_port: None,
            docker_mirror_port: registry_http_port,
            ca_pem: String::new(),
            ca_sha256: "ab".repeat(32),
            registries: Vec::new(),
        }
    }

    /// Whether a shell can read it; nothing is run.
    fn parses(script: &str) -> bool {
        let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("a shell");
        shell.stdin.take().expect("piped").write_all(script.as_bytes()).expect("read");
        shell.wait().expect("ended").success()
    }

    /// The script decides as the program does.
    #[test]
    fn the_script_knows_which_containerd_knows_referrers() {
        let script = Script::Containerd.own_part();
        let knows = &script[script.find("knows_referrers() {").expect("the function")..];
        for (version, expected) in VERSIONS {
            let text = format!("set -eu\ncontainerd() {{ echo '{version}'; }}\n{knows}\nknows_referrers\n");
            let status = Command::new("sh").args(["-c", &text]).status().expect("a shell");
            assert_eq!(status.success(), *expected, "{version}");
        }
    }

    #[test]
    fn scripts_are_whole_and_pin_the_fingerprint() {
        let open = regex::Regex::new("@[A-Z_]+@").expect("a regex");
        for script in [Script::Docker, Script::Containerd, Script::Podman, Script::K3s] {
            for door in [None, Some(80)] {
                let text = script.for_target(&target(door));
                assert!(parses(&text), "{script:?}");
                assert!(text.contains(&format!("fingerprint=\"{}\"", "ab".repeat(32))), "{script:?}");
                assert!(text.contains("proxy=\"http://[fd00::5]:3128/\""), "{script:?}");
                assert!(!open.is_match(&text), "{script:?}: every placeholder is filled");
                // Cut anywhere before its last line, it runs nothing.
                assert_eq!(text.lines().filter(|line| line.starts_with("main ")).count(), 1);
                assert!(text.ends_with("main \"$@\" </dev/null\n"), "{script:?}");
            }
        }
        assert!(parses(&undo()));
    }
}
