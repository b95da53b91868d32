//! `entrepot client` and the set-up scripts on this machine's real files, in a separate root: real trust tools, a real
//! dockerd that a substitute for systemctl restarts, and the files after undo, which are as they were before.

use entrepot_tests::client_host::ClientHost;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{World, address_of};

/// An appliance and an image upstream.
fn stock(world: &World) -> (Entrepot<'_>, Upstream<'_>, String) {
    stock_of(world, Settings::new())
}

fn stock_of(world: &World, settings: Settings) -> (Entrepot<'_>, Upstream<'_>, String) {
    let entrepot = Entrepot::start(world, settings);
    let upstream = Upstream::start(world, GHCR);
    let image = upstream.publish(&images::random(90, 2, 40_000), "team/app", "1.0");
    (entrepot, upstream, image)
}

#[test]
fn one_line_sets_docker_up_and_one_puts_it_back() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
start_dockerd
snapshot before
docker pull -q "$IMAGE" && fail "there is a way without the appliance"
entrepot client setup --runtime docker --ca-sha256 "$SHA256" --verify-image "$IMAGE" | tee /out/setup
docker pull -q "$IMAGE" || fail "no pull through the appliance"
entrepot client status --runtime docker | tee /out/status
entrepot client setup --runtime docker --ca-sha256 "$SHA256" --verify-image "$IMAGE" | tee /out/again
docker image rm -f "$IMAGE"
entrepot client undo
docker pull -q "$IMAGE" && fail "undo left a way"
entrepot client undo | tee /out/undo-again
entrepot client status | tee /out/status-after
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("the life of a set-up");
    let setup = machine.read("setup");
    for said in ["entrepot.crt", "docker.service.d/entrepot.conf", "pulled    the manifest of", "undo"] {
        assert!(setup.contains(said), "{said} is missing:\n{setup}");
    }
    assert!(machine.read("status").contains("trusted by this machine"), "{}", machine.read("status"));
    assert!(!machine.read("again").contains("wrote"), "{}", machine.read("again"));
    assert_eq!(machine.read("undo-again"), "nothing is set up\n");
    assert!(machine.read("status-after").starts_with("nothing is set up"));
    machine.assert_as_before("byte for byte");
}

#[test]
fn the_scripts_do_the_same_without_the_program() {
    let world = World::new();
    let (_entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
for shell in dash "busybox sh" bash; do
    : >/out/systemctl
    start_dockerd
    snapshot before
    curl -fsS http://10.90.1.1:3128/setup/docker | $shell
    cp /etc/systemd/system/docker.service.d/entrepot.conf "/out/drop-in"
    docker pull -q "$IMAGE" || fail "no pull through the appliance ($shell)"
    curl -fsS http://10.90.1.1:3128/setup/docker | $shell
    docker image rm -f "$IMAGE"
    curl -fsS http://10.90.1.1:3128/setup/undo | $shell
    docker pull -q "$IMAGE" && fail "undo left a way ($shell)"
    curl -fsS http://10.90.1.1:3128/setup/undo | $shell | tee /out/undo-again
    snapshot after
    cmp /out/before /out/after
    stop_dockerd
done
: >/out/systemctl
for runtime in containerd podman k3s; do
    snapshot before
    curl -fsS "http://10.90.1.1:3128/setup/$runtime" | sh
    snapshot between
    cmp -s /out/before /out/between && fail "$runtime: nothing happened"
    curl -fsS http://10.90.1.1:3128/setup/undo | sh
    snapshot after
    cmp /out/before /out/after
done
"#;
    machine.run(script, &[("IMAGE", &image)]).expect_success("the life of the scripts");
    let drop_in = machine.read("drop-in");
    assert!(drop_in.contains("\"HTTPS_PROXY=http://10.90.1.1:3128/\""), "{drop_in}");
    assert!(machine.read("undo-again").contains("nothing was set up"));
    let calls = machine.read("systemctl");
    assert!(
        calls.contains("try-restart k3s-agent.service") && calls.contains("try-restart containerd.service"),
        "{calls}"
    );
}

#[test]
fn real_files_of_every_runtime_come_back() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
# podman makes files of its own when it runs for the first time.
info() {
    podman --root /out/podman --runroot /out/podman-run --storage-driver vfs info --format '{{.Host.OS}}'
}
info
snapshot before
for runtime in containerd podman crio k3s buildkit; do
    entrepot client setup --runtime $runtime --appliance 10.90.1.1 --ca-sha256 "$SHA256" --verify-image "$IMAGE"
done
info || fail "podman does not read its files"
entrepot client status --json >/out/status.json
entrepot client undo
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("all runtimes");
    let status: serde_json::Value = serde_json::from_str(&machine.read("status.json")).expect("JSON");
    assert_eq!(status.as_array().map(Vec::len), Some(5), "{status}");
    assert_eq!((&status[0]["trusted"], &status[0]["health"]), (&true.into(), &"ok".into()));
    machine.assert_as_before("byte for byte");
}

#[test]
fn podman_pulls_by_its_drop_ins() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
# A root of its own each time: whatever is pulled is pulled anew.
pull() {
    podman --root "/out/$1" --runroot "/out/$1-run" --storage-driver vfs --cgroup-manager cgroupfs \
        --events-backend none pull -q "$IMAGE"
}
pull none && fail "there is a way without the appliance"
for mode in proxy mirror; do
    entrepot client setup --runtime podman --mode $mode --ca-sha256 "$SHA256" --verify-image "$IMAGE"
    pull $mode || fail "no pull through the appliance by $mode"
done
cp /etc/containers/registries.conf.d/50-entrepot.conf /out/registries.conf
entrepot client undo
pull undone && fail "undo left a way"
curl -fsS http://10.90.1.1:3128/setup/podman | sh -s -- --mode mirror
pull script || fail "no pull through the appliance by the script"
cmp /etc/containers/registries.conf.d/50-entrepot.conf /out/registries.conf
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("podman");
    assert!(machine.read("registries.conf").contains("location = \"10.90.1.1:5443/ghcr.io\""));
}

#[test]
fn a_person_is_shown_the_fingerprint_and_asked() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
snapshot before
line="entrepot client setup --runtime podman --appliance 10.90.1.1 --verify-image $IMAGE"
echo n | script -qec "$line" /dev/null >/out/declined && fail "no is no"
snapshot after
echo y | script -qec "$line" /dev/null >/out/accepted
"#;
    machine.run(script, &[("IMAGE", &image)]).expect_success("both answers");
    let fingerprint = entrepot.fingerprint();
    for name in ["declined", "accepted"] {
        assert!(machine.read(name).contains(&fingerprint), "{}", machine.read(name));
    }
    assert!(machine.read("accepted").contains("pulled    the manifest of"), "{}", machine.read("accepted"));
    machine.assert_as_before("declined");
}

#[test]
fn undo_follows_a_set_up_that_was_killed() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
snapshot before
touch /out/deadly
entrepot client setup --runtime docker --ca-sha256 "$SHA256" --verify-image "$IMAGE" && fail "was to be killed"
[ -e /etc/systemd/system/docker.service.d/entrepot.conf ] || fail "killed too early"
entrepot client undo && fail "was to be killed too"
rm /out/deadly
entrepot client undo
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("killed twice");
    machine.assert_as_before("killed twice");
}

/// The script for Kind's nodes. It runs here as in a node.
#[test]
fn kinds_nodes_get_the_script_and_lose_it() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
cat >/out/bin/docker <<'EOF'
#!/bin/sh
case $1 in
    ps) echo kind-control-plane ;;
    exec) echo "$2" >>/out/nodes; shift 2; exec "$@" ;;
esac
EOF
chmod +x /out/bin/docker
snapshot before
entrepot client setup --runtime kind --ca-sha256 "$SHA256" --verify-image "$IMAGE"
cp /etc/systemd/system/containerd.service.d/entrepot.conf /out/drop-in
entrepot client undo --runtime kind
snapshot after
# Nodes do not resolve a name that this machine does.
name_appliance
entrepot client setup --runtime kind --appliance docker-registry.local --ca-sha256 "$SHA256" --verify-image "$IMAGE"
cmp /etc/systemd/system/containerd.service.d/entrepot.conf /out/drop-in
entrepot client undo --runtime kind
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("kind");
    assert_eq!(machine.read("nodes"), "kind-control-plane\n".repeat(4));
    assert!(machine.read("drop-in").contains("HTTPS_PROXY=http://10.90.1.1:3128/"));
    machine.assert_as_before("kind");
}

/// Bad inputs: the change to the machine, the command, its exit code, and the words that the error must contain.
fn bad_inputs<'a>(image: &str, found: &'a str, wrong: &'a str) -> Vec<(&'a str, String, i32, Vec<&'a str>)> {
    let docker = "entrepot client setup --runtime docker --appliance 10.90.1.1";
    let foreign = "mkdir -p /etc/systemd/system/docker.service.d; printf '[Service]\\nEnvironment=HTTPS_PROXY=http://other:1/\\n' \
                   >/etc/systemd/system/docker.service.d/http-proxy.conf";
    vec![
        ("true", "entrepot client setup --runtime rocket".to_owned(), 64, vec!["rocket", "docker"]),
        ("true", format!("{docker} --mode magic"), 64, vec!["magic", "proxy"]),
        ("true", format!("{docker} --ca-sha256 {wrong} --verify-image {image}"), 77, vec![found, wrong]),
        ("true", format!("{docker} --ca-sha256 abc"), 64, vec!["abc", "64 hex digits"]),
        ("true", docker.to_owned(), 64, vec!["--ca-sha256", found]),
        ("true", format!("{docker} --ca-sha256 {found} --verify-image busybox"), 64, vec!["busybox"]),
        (
            "true",
            format!("{docker} --ca-sha256 {found} --mode mirror"),
            78,
            vec!["registry-mirrors", "registry.mirror_listen"],
        ),
        (
            "true",
            format!("{docker} --ca-sha256 {found} --verify-image outside.test/a:b"),
            69,
            vec!["10.90.1.1:3128", "--no-verify"],
        ),
        (
            "true",
            "entrepot client setup --runtime docker --appliance 10.90.1.77".to_owned(),
            69,
            vec!["10.90.1.77:3128"],
        ),
        ("true", "entrepot client setup --runtime docker --appliance 'a b'".to_owned(), 64, vec!["a b"]),
        (
            "true",
            "entrepot client setup --runtime docker --appliance nobody.test".to_owned(),
            69,
            vec!["nobody.test", "address"],
        ),
        (
            "true",
            format!("setpriv --reuid 65534 --clear-groups {docker} --ca-sha256 {found}"),
            77,
            vec!["root", "sudo"],
        ),
        ("true", "setpriv --reuid 65534 --clear-groups entrepot client undo".to_owned(), 77, vec!["root"]),
        (foreign, format!("{docker} --ca-sha256 {found} --no-verify"), 78, vec!["http-proxy.conf", "docker.service"]),
        (foreign, "curl -fsS http://10.90.1.1:3128/setup/docker | sh".to_owned(), 78, vec!["http-proxy.conf"]),
        ("true", "curl -fsS http://10.90.1.1:3128/setup/docker | sh -s -- --mode magic".to_owned(), 64, vec!["magic"]),
        (
            "true",
            "curl -fsS http://10.90.1.1:3128/setup/docker | setpriv --reuid 65534 --clear-groups sh".to_owned(),
            77,
            vec!["root"],
        ),
        (
            "true",
            format!("curl -fsS http://10.90.1.1:3128/setup/docker | sed 's/^fingerprint=.*/fingerprint={wrong}/' | sh"),
            77,
            vec![found, wrong],
        ),
        (
            "rm /usr/sbin/update-ca-certificates",
            format!("{docker} --ca-sha256 {found} --verify-image {image}"),
            78,
            vec!["ca-certificates"],
        ),
    ]
}

#[test]
fn bad_input_is_one_line_and_changes_nothing() {
    let world = World::new();
    let doorless = Settings::new().set("registry", "http = []\nhttps = []");
    let (entrepot, _upstream, image) = stock_of(&world, doorless);
    let machine = ClientHost::new(&world);
    let (found, wrong) = (entrepot.fingerprint(), "00".repeat(32));
    let script = r#"
prepare
eval "$PREPARE"
snapshot before
status=0
bash -o pipefail -c "$COMMAND" </dev/null >/out/stdout 2>/out/stderr || status=$?
snapshot after
echo $status >/out/code
"#;
    for (prepare, command, code, parts) in bad_inputs(&image, &found, &wrong) {
        machine.run(script, &[("PREPARE", prepare), ("COMMAND", &command)]).expect_success(&command);
        let (said, stderr) = (machine.read("stdout"), machine.read("stderr"));
        assert_eq!(machine.read("code").trim(), code.to_string(), "{command}:\n{said}{stderr}");
        let usage = stderr.starts_with("error: ");
        assert!(usage || stderr.lines().count() == 1, "{command}: one line, not\n{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{command}: {part} is missing in\n{stderr}");
        }
        machine.assert_as_before(&command);
    }
    assert_eq!(address_of("outside.test"), "10.90.2.19", "the host that is no registry");
}

#[test]
fn a_dry_run_shows_everything_and_does_nothing() {
    let world = World::new();
    let (entrepot, _upstream, _image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
snapshot before
setpriv --reuid 65534 --clear-groups entrepot client setup --runtime docker --appliance 10.90.1.1 --dry-run >/out/shown
snapshot after
"#;
    machine.run(script, &[]).expect_success("a dry run");
    let shown = machine.read("shown");
    let fingerprint = entrepot.fingerprint();
    for part in [
        "docker.service.d/entrepot.conf",
        "HTTPS_PROXY=http://10.90.1.1:3128/",
        "try-restart docker.service",
        &fingerprint,
    ] {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
    machine.assert_as_before("a dry run");
}
