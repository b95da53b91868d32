//! `entrepot client` and the set-up scripts when something fails half-way: a neighbour's certificate, a set-up that is
//! refused or fails beside an earlier one, a redirect that is not there yet.

use entrepot_tests::client_host::ClientHost;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

/// An appliance and an image upstream.
fn stock(world: &World) -> (Entrepot<'_>, Upstream<'_>, String) {
    let entrepot = Entrepot::start(world, Settings::new());
    let upstream = Upstream::start(world, GHCR);
    let image = upstream.publish(&images::random(91, 2, 40_000), "team/app", "1.0");
    (entrepot, upstream, image)
}

#[test]
fn a_neighbours_certificate_behind_the_genuine_one_is_not_trusted() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
anchor=/usr/local/share/ca-certificates/entrepot.crt
entrepot client setup --runtime podman --appliance 10.90.1.1 --ca-sha256 "$SHA256" --no-verify
cp "$anchor" /out/by-program
entrepot client undo
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=neighbour -keyout /out/key -out /out/neighbour 2>/dev/null
cat >/out/bin/curl <<'EOF'
#!/bin/bash
/usr/bin/curl "$@" || exit
file=
while [ $# -gt 0 ]; do
    [ "$1" != -o ] || file=$2
    shift
done
[ -z "$file" ] || cat /out/neighbour >>"$file"
EOF
chmod +x /out/bin/curl
for shell in dash "busybox sh" bash; do
    curl -fsS http://10.90.1.1:3128/setup/podman | $shell
    cmp "$anchor" /out/by-program
    grep -qF "$(sed -n 2p /out/neighbour)" /etc/ssl/certs/ca-certificates.crt && fail "the neighbour is trusted ($shell)"
    curl -fsS http://10.90.1.1:3128/setup/undo | $shell
done
"#;
    machine.run(script, &[("SHA256", &entrepot.fingerprint())]).expect_success("with a neighbour");
    let genuine = std::fs::read_to_string(entrepot.ca()).expect("the CA");
    assert_eq!(machine.read("by-program"), genuine, "byte for byte");
}

#[test]
fn a_script_that_fails_leaves_other_runtimes_and_its_own_earlier_set_up() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
page=http://10.90.1.1:3128/setup
for shell in dash "busybox sh" bash; do
    rm -f /out/failing
    snapshot before
    curl -fsS $page/docker | $shell
    snapshot docker

    echo 'mirrors: {}' >/etc/rancher/k3s/registries.yaml
    snapshot foreign
    : >/out/systemctl
    code=0
    curl -fsS $page/k3s | $shell -s -- --mode mirror 2>/out/refusal || code=$?
    [ $code -eq 78 ] || fail "$code instead of 78 ($shell)"
    grep -q registries.yaml /out/refusal
    snapshot refused
    cmp /out/foreign /out/refused
    [ ! -s /out/systemctl ] || fail "nothing was changed, and something restarted: $(cat /out/systemctl)"
    rm /etc/rancher/k3s/registries.yaml

    echo k3s-agent.service >/out/failing
    curl -fsS $page/k3s | $shell && fail "k3s does not start, and nobody said it ($shell)"
    snapshot restored
    cmp /out/docker /out/restored
    grep docker /out/systemctl && fail "docker has nothing to do with it ($shell)"

    echo docker.service >/out/failing
    curl -fsS $page/docker | sed s/NO_PROXY=localhost/NO_PROXY=other/ | $shell && fail "docker does not start ($shell)"
    snapshot restored
    cmp /out/docker /out/restored

    rm /out/failing
    curl -fsS $page/k3s | $shell
    curl -fsS $page/undo | $shell
    snapshot after
    cmp /out/before /out/after
done
"#;
    machine.run(script, &[]).expect_success("one runtime after the other");
    machine.assert_as_before("undo");
}

#[test]
fn a_set_up_that_no_manifest_comes_through_goes_back_to_before_it() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
cp -a /etc/ssl/certs /out/certs
cp /usr/sbin/update-ca-certificates /out/real
setup() {
    entrepot client setup --runtime podman --appliance 10.90.1.1 --ca-sha256 "$SHA256" --verify-image "$IMAGE" "$@"
}
break_trust
snapshot before
setup 2>/out/first && fail "nothing trusts the appliance"
snapshot after
cmp /out/before /out/after

cp /out/real /usr/sbin/update-ca-certificates
setup
break_trust
snapshot earlier
setup 2>/out/again && fail "nothing trusts the appliance any more"
snapshot after
cmp /out/earlier /out/after
setup --mode mirror 2>/out/change && fail "nor its registry"
snapshot after
cmp /out/earlier /out/after
entrepot client status >/out/status || true
entrepot client undo
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("three failures");
    for (name, said) in [
        ("first", "everything is as it was before this run (--no-verify"),
        ("again", "it was set up like this before, and stays"),
        ("change", "everything is as it was before this run (--no-verify"),
    ] {
        let line = machine.read(name);
        assert!(line.contains(said) && line.lines().count() == 1, "{name}: {line}");
    }
    assert!(
        machine.read("status").contains("podman pulls through 10.90.1.1:3128 (proxy)"),
        "{}",
        machine.read("status")
    );
    machine.assert_as_before("undo");
}

/// The Kubernetes recipe: trust first, and the redirect afterwards.
#[test]
fn trust_for_a_redirect_stays_before_there_is_one() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
snapshot before
entrepot client setup --runtime containerd --mode redirect --appliance 10.90.1.1 --ca-sha256 "$SHA256" \
    --verify-image "$IMAGE" >/out/setup
entrepot client status | tee /out/status
entrepot client undo
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("trust");
    let said = machine.read("setup");
    for part in ["is led to 10.90.1.1:3128 yet", "`entrepot redirect host --appliance 10.90.1.1`", "redirect gateway"] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    assert!(machine.read("status").contains("trusted by this machine"), "{}", machine.read("status"));
    machine.assert_as_before("undo");
}

/// The registry is on 5000 and 5443. A client that pulls through the proxy needs only its name.
#[test]
fn set_up_by_name_pushes_to_the_registry_by_name() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
name_appliance
start_dockerd
entrepot client setup --runtime docker --appliance docker-registry.local --ca-sha256 "$SHA256" --verify-image "$IMAGE"
docker pull -q "$IMAGE"
docker tag "$IMAGE" docker-registry.local/team/app:v1
docker push docker-registry.local/team/app:v1
docker image rm -f "$IMAGE" docker-registry.local/team/app:v1
docker pull -q docker-registry.local/team/app:v1
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("by name");
}

/// Each knows what the other did, and undoes it.
#[test]
fn scripts_and_program_have_one_state() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
mkdir -p /etc/containerd
echo 'version = 2' >/etc/containerd/config.toml
page=http://10.90.1.1:3128/setup
setup() {
    entrepot client setup --appliance 10.90.1.1 --ca-sha256 "$SHA256" --verify-image "$IMAGE" "$@"
}
snapshot before
for shell in dash "busybox sh" bash; do
    curl -fsS $page/podman | $shell
    curl -fsS $page/k3s | $shell
    entrepot client status >/out/status || fail "the set-up of a script is not in order: $(cat /out/status)"
    setup --runtime podman >/out/again
    grep -q wrote /out/again && fail "the program writes what the script wrote: $(cat /out/again)"
    entrepot client undo
    snapshot after
    cmp /out/before /out/after

    setup --runtime containerd --mode mirror
    curl -fsS $page/podman | $shell
    curl -fsS $page/containerd | $shell -s -- --mode mirror >/out/containerd
    grep -q wrote /out/containerd && fail "the script writes what the program wrote: $(cat /out/containerd)"
    entrepot client undo --runtime podman
    setup --runtime podman
    curl -fsS $page/undo | $shell
    snapshot after
    cmp /out/before /out/after
done
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("one state");
    let status = machine.read("status");
    for part in
        ["podman pulls through 10.90.1.1:3128 (proxy)", "k3s pulls through", "in place", "trusted by this machine"]
    {
        assert!(status.contains(part), "{part} is missing:\n{status}");
    }
    machine.assert_as_before("both ways");
}

/// Nothing is left half done, whoever ends it and whoever reads about it.
#[test]
fn signals_and_lost_output_leave_nothing_half_done() {
    let world = World::new();
    let (entrepot, _upstream, image) = stock(&world);
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
mv /out/bin/systemctl /out/real-systemctl
cat >/out/bin/systemctl <<'EOF'
#!/bin/bash
[ ! -e /out/signal ] || kill -s "$(cat /out/signal)" $PPID
exec /out/real-systemctl "$@"
EOF
chmod +x /out/bin/systemctl
page=http://10.90.1.1:3128/setup
setup() {
    entrepot client setup --runtime docker --appliance 10.90.1.1 --ca-sha256 "$SHA256" --verify-image "$IMAGE"
}
ends_with() {
    local expected=$1 code=0
    shift
    "$@" || code=$?
    [ $code -eq "$expected" ] || fail "$code instead of $expected: $*"
}
by_script() {
    curl -fsS "$page/$1" | $shell
}
snapshot before
for signal in HUP:129 INT:130 TERM:143; do
    echo "${signal%:*}" >/out/signal
    ends_with "${signal#*:}" setup 2>/out/said
    grep -q "everything is as it was before this run" /out/said || fail "$(cat /out/said)"
    snapshot after
    cmp /out/before /out/after
    for shell in dash "busybox sh" bash; do
        ends_with "${signal#*:}" by_script docker
        snapshot after
        cmp /out/before /out/after
    done
    rm /out/signal
    setup
    echo "${signal%:*}" >/out/signal
    entrepot client undo
    snapshot after
    cmp /out/before /out/after
    rm /out/signal
done
full() { "$@" >/dev/full; }
closed() { "$@" >&-; }
gone() {
    local code
    set +e
    "$@" | true
    code=${PIPESTATUS[0]}
    set -e
    return "$code"
}
for shell in dash bash; do
    for way in full gone; do
        ends_with 74 $way setup 2>/out/said
        entrepot client status >/out/status || fail "half set up: $(cat /out/status)"
        ends_with 74 $way entrepot client undo 2>/out/said
        snapshot after
        cmp /out/before /out/after
        $way by_script docker 2>/out/said || true
        entrepot client status >/out/status || fail "half set up by the script: $(cat /out/status)"
        grep -q "docker pulls through" /out/status || fail "the script did nothing"
        $way by_script undo 2>/out/said || true
        snapshot after
        cmp /out/before /out/after
    done
done
closed setup
closed entrepot client undo
for command in check "check --json" --help --version "client status" "client status --json"; do
    for way in full gone; do
        # A reader that leaves late has everything.
        code=0
        $way entrepot $command 2>/out/panic || code=$?
        [ $code -eq 74 ] || [ "$way$code" = gone0 ] || fail "$way $command: $code"
        grep -q panicked /out/panic && fail "$way $command: $(cat /out/panic)"
    done
done
entrepot check 2>/dev/full >/dev/full && fail "there is no output at all"
snapshot after
"#;
    let variables = [("IMAGE", image.as_str()), ("SHA256", &entrepot.fingerprint())];
    machine.run(script, &variables).expect_success("nothing half done");
    machine.assert_as_before("after all of it");
}
