//! The recipes for Compose, Kind, k3d and Kubernetes are valid YAML. The program accepts every command line and
//! variable in them and in their documents.

use std::path::PathBuf;
use std::process::Command;

use entrepot_tests::entrepot::binary;
use entrepot_tests::machine::repository;
use serde_json::Value;

/// Everything in a YAML file.
pub(super) fn documents(path: &str) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", READ]).arg(repository().join(path));
    let output = command.output().expect("python3-yaml is installed (tests/run installs it)");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

pub(super) fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str()).map(str::to_owned).collect()
}

/// Fails unless the program knows this command and all of its options.
#[track_caller]
fn assert_known(arguments: &[String]) {
    let output = Command::new(binary()).args(arguments).arg("--help").env_clear().output().expect("the product");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn kubernetes_runs_commands_that_there_are_with_the_powers_that_they_need() {
    let documents = documents("provision/kubernetes/redirect.yaml");
    let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["Namespace", "DaemonSet"]);
    let pod = &documents[1]["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    let container = &pod["containers"][0];
    assert_known(&strings(&container["args"]));
    let probe = strings(&container["livenessProbe"]["exec"]["command"]);
    assert_eq!(probe[0], "entrepot");
    assert_known(&probe[1..]);
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(
        (strings(&capabilities["drop"]), strings(&capabilities["add"])),
        (vec!["ALL".to_owned()], ["BPF", "NET_ADMIN", "PERFMON"].map(str::to_owned).to_vec())
    );
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/sys/fs/cgroup"));
}

#[test]
fn compose_has_what_docker_registry_proxy_has() {
    let service = &documents("provision/container/compose.yaml")[0]["services"]["docker_registry_proxy"];
    let (ports, volumes) = (strings(&service["ports"]), strings(&service["volumes"]));
    assert!(ports.contains(&"3128:3128".to_owned()), "{ports:?}");
    assert_eq!(volumes, ["./docker_mirror_cache:/docker_mirror_cache", "./docker_mirror_certs:/ca"]);
    let probe = strings(&service["healthcheck"]["test"]);
    assert_eq!(probe[..2], ["CMD", "entrepot"]);
    assert_known(&probe[2..]);
    let variables = service["environment"].as_object().expect("variables");
    let mut check = Command::new(binary());
    check.args(["check", "--data-dir", "/tmp"]).env_clear();
    check.envs(variables.iter().map(|(name, value)| (name, value.as_str().expect("text"))));
    let output = check.output().expect("the product");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let effective = String::from_utf8_lossy(&output.stdout);
    for name in ["REGISTRIES", "CACHE_MAX_SIZE"] {
        assert!(effective.contains(&format!("# environment variable {name}")), "{effective}");
    }
}

#[test]
fn kind_and_k3d_take_their_clusters() {
    let kind = &documents("provision/kind/cluster.yaml")[0];
    assert_eq!((&kind["kind"], &kind["nodes"][0]["role"]), (&"Cluster".into(), &"control-plane".into()));
    let patch = &strings(&kind["containerdConfigPatches"])[0];
    assert!(patch.contains("config_path = \"/etc/containerd/certs.d\""), "{patch}");
    let k3d = &documents("provision/k3d/cluster.yaml")[0];
    assert_eq!((&k3d["kind"], &k3d["servers"]), (&"Simple".into(), &1.into()));
}

#[test]
fn every_command_that_a_reader_is_told_is_one() {
    let mut found = 0;
    let fixed = ["README.md", "SECURITY.md", "provision/README.md", "provision/kubernetes/redirect.yaml"];
    let mut pages: Vec<PathBuf> = fixed.map(|path| repository().join(path)).into();
    let documents = std::fs::read_dir(repository().join("docs")).expect("docs/");
    pages.extend(documents.map(|entry| entry.expect("a document").path()));
    for page in pages {
        let text = std::fs::read_to_string(page).expect("a page");
        for line in text.lines() {
            let line = line.trim_start_matches(['#', ' ']).trim_start_matches("sudo ");
            let line = line.split(" #").next().unwrap_or_default();
            let Some(arguments) = line.strip_prefix("entrepot ") else { continue };
            let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
            // Sentences may begin with the name too.
            if ["client", "redirect", "cache", "registry", "ca", "check", "discover"].contains(&arguments[0].as_str()) {
                assert_known(&arguments);
                found += 1;
            }
        }
    }
    assert!(found > 20, "only {found} commands were found");
}
