//! `/setup/systemd` as the Kind recipe uses it: through its two `sed` lines into bash, in a separate root in which
//! `systemctl` only records its arguments.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::process::finish;
use entrepot_tests::root::in_own_root;
use entrepot_tests::world::World;

/// The recipe's line, word for word except for the address. Afterwards it prints the changed files of the root.
const RECIPE: &str = r#"
set -e
mkdir -p /etc/systemd /out/bin
printf '#!/bin/sh\necho "$@" >>/out/systemctl\n' >/out/bin/systemctl
chmod +x /out/bin/systemctl
export PATH="/out/bin:$PATH"
SETUP_URL=http://10.90.1.1:3128/setup/systemd
curl -fsS $SETUP_URL >/out/script
for run in 1 2; do
sh -c "cat /out/script | sed s/docker\.service/containerd\.service/g | sed '/Environment/ s/$/ \"NO_PROXY=127.0.0.0\/8,10.0.0.0\/8,172.16.0.0\/12,192.168.0.0\/16\"/' | bash"
done
cp /etc/systemd/system/containerd.service.d/http-proxy.conf /out/http-proxy.conf
cp /etc/ca-certificates.conf /out/ca-certificates.conf
cp /etc/ssl/certs/ca-certificates.crt /out/bundle
"#;

fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_kind_recipe_makes_the_drop_in() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let out = world.make_directory("out");
    let mut command = Command::new("bash");
    command.args(["-c", RECIPE]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let command = in_own_root(&world, &command, &[(out.clone(), "/out")]);
    finish(&world.client, command, Duration::from_secs(60)).expect_success("the recipe");

    let drop_in = read(&out, "http-proxy.conf");
    let lines: Vec<&str> = drop_in.lines().collect();
    assert_eq!(lines[0], "[Service]");
    assert_eq!(lines.len(), 2, "{drop_in}");
    let no_proxy = r#" "NO_PROXY=127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16""#;
    let proxies = lines[1].strip_suffix(no_proxy).unwrap_or_else(|| panic!("{drop_in}"));
    assert!(proxies.starts_with("Environment=\"HTTP"), "{drop_in}");
    assert!(proxies.contains("\"HTTPS_PROXY=http://10.90.1.1:3128/\""), "{drop_in}");

    let calls = read(&out, "systemctl");
    let once = "daemon-reload\nrestart containerd.service\n";
    assert_eq!(calls, once.repeat(2), "told twice, as the script ran twice");
    let registered = read(&out, "ca-certificates.conf");
    assert_eq!(registered.matches("docker_registry_proxy.crt").count(), 1, "registered once");
    let ca = std::fs::read_to_string(entrepot.ca()).expect("the CA");
    assert!(read(&out, "bundle").contains(ca.trim()), "the system trusts the CA");
}

#[test]
fn the_local_pages_are_there_for_probes_and_people() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let page = |path: &str, more: &[&str]| {
        let url = format!("http://10.90.1.1:3128{path}");
        client.curl(&[&["--noproxy", "*", "-f"], more, &[url.as_str()]].concat()).expect_success(path).stdout
    };
    assert!(!page("/", &[]).is_empty());
    assert!(page("/ca.crt", &[]).starts_with("-----BEGIN CERTIFICATE-----"));
    let head = page("/ca.crt", &["-I"]).to_ascii_lowercase();
    assert!(head.contains("content-type: application/x-x509-ca-cert"), "{head}");
    assert!(head.contains("etag: "), "{head}");
    assert!(page("/setup/systemd", &[]).contains("set -e"));
}

#[test]
fn a_host_header_never_reaches_the_shell() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    for host in ["$(touch /tmp/x)", "a;reboot", "a\"b", "`id`", "a b", "a'b"] {
        let head = format!("Host: {host}");
        let arguments = ["--noproxy", "*", "-H", &head, "http://10.90.1.1:3128/setup/systemd"];
        let script = entrepot.client().curl(&arguments).stdout;
        assert!(!script.contains(host), "{host:?} came back in the script");
    }
}
