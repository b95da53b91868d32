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

const COMMANDS: [&str; 9] = ["ca", "cache", "check", "client", "config", "discover", "redirect", "registry", "serve"];

/// The arguments of the `entrepot` command that a line of a document is. None if it is none.
///
/// Before the name may stand a comment's `#`, the prompt `$`, `sudo` and variables.
fn command_of(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches(['#', ' ']).trim_start_matches("$ ");
    let line = line.split(" #").next().unwrap_or_default();
    let is_before = |word: &String| word == "sudo" || word.split_once('=').is_some_and(|(name, _)| is_variable(name));
    let mut words = words(line).into_iter().skip_while(is_before);
    let is_ours = words.next()? == "entrepot";
    let arguments: Vec<String> = words.collect();
    (is_ours && !arguments.is_empty()).then_some(arguments)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_ascii_uppercase() || char == '_')
}

/// The words of a command line as a shell divides it: blanks between quotes divide nothing.
fn words(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for char in line.chars() {
        match (quote, char) {
            (Some(open), _) if open == char => quote = None,
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (None, ' ') => found.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    found.extend(word);
    found
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
            let Some(arguments) = command_of(line) else { continue };
            // Sentences may begin with the name too.
            if COMMANDS.contains(&arguments[0].as_str()) {
                assert_known(&arguments);
                found += 1;
            }
        }
    }
    assert!(found > 20, "only {found} commands were found");
}

#[test]
fn a_command_is_seen_behind_prompt_variables_and_quotes() {
    let text = |line| command_of(line).map(|words| words.join("|"));
    assert_eq!(text("sudo entrepot ca rotate --yes  # anew").as_deref(), Some("ca|rotate|--yes"));
    assert_eq!(text("$ A_B=\"x y\" entrepot check").as_deref(), Some("check"));
    assert_eq!(
        text("$ sudo entrepot config set 'a.\"b\"' '{ c = 1 }'").as_deref(),
        Some("config|set|a.\"b\"|{ c = 1 }")
    );
    assert_eq!(text("    # entrepot cache ls").as_deref(), Some("cache|ls"));
    assert_eq!(text("docker logs entrepot | grep HIT"), None);
}
