//! Clients that this Debian does not have, from its next release (`tests/newer-clients`): Docker Engine with
//! containerd's image store, containerd 2 and its transfer service, crane, oras.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::{Finished, finish};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, REGISTRY, World};
use serde_json::Value;

const IMAGE_STORE: &str = "--feature=containerd-snapshotter=true";

/// Our registry's door with TLS.
fn ours(name: &str) -> String {
    format!("{REGISTRY}:5443/{name}")
}

fn run(client: &Client<'_>, program: &str, arguments: &[&str]) -> Finished {
    let mut command = client.command(program);
    command.args(arguments).current_dir(client.directory());
    finish(client.namespace(), command, Duration::from_secs(60))
}

/// A directory of `hosts.toml` files. Its one file sends every registry's pulls to `mirror`.
fn default_hosts(world: &World, entrepot: &Entrepot<'_>, mirror: &str) -> PathBuf {
    let hosts = world.make_directory("certs.d/_default");
    let text = format!("[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = {:?}\n", entrepot.ca());
    std::fs::write(hosts.join("hosts.toml"), text).expect("hosts.toml");
    hosts.parent().expect("a parent").to_owned()
}

#[test]
fn docker_with_containerds_image_store_pushes_pulls_and_takes_a_default_mirror() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::busybox();
    let by_ghcr = ghcr.publish(&image, "team/app", "1.0");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour().newer();
    // The configuration of docs/mirrors.md. The place belongs to this client's host alone.
    let place = world.make_directory("etc/certs.d/_default").join("hosts.toml").display().to_string();
    let url = format!("http://{PROXY_ADDRESS}:3128/setup/containerd/hosts.toml");
    client.curl(&["-f", "-o", &place, &url]).expect_success("the ready file");
    let mut bind = Command::new("mount");
    bind.args(["--bind", &world.path("etc").display().to_string(), "/etc/docker"]);
    finish(&world.client, bind, Duration::from_secs(10)).expect_success("mount");

    let docker = Dockerd::start_with(&client, &[IMAGE_STORE]);
    let store = docker.docker(&["info", "--format", "{{.DriverStatus}}"]).expect_success("docker info").stdout;
    assert!(store.contains("io.containerd.snapshotter"), "containerd's image store: {store}");
    docker.pull(&by_ghcr).expect_success("docker pull by certs.d/_default/hosts.toml; it has no other way");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "through the mirror");
    let pushed = ours("team/deep/er/app:v1");
    docker.docker(&["tag", &by_ghcr, &pushed]).expect_success("docker tag");
    docker.docker(&["push", "-q", &pushed]).expect_success("docker push");
    docker.forget();
    docker.pull(&pushed).expect_success("docker pull of what was pushed");
    docker.forget();
    docker.pull(&by_ghcr).expect_success("docker pull, warm");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "fetched once");
}

#[test]
fn containerd_2_pulls_by_hosts_toml_and_pushes_with_its_transfer_service() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(1, 4, 3_000_000);
    let by_ghcr = ghcr.publish(&image, "team/app", "1.0");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour().newer();
    let containerd = Containerd::start(&client);
    for mirror in [format!("https://{REGISTRY}:5443"), format!("http://{REGISTRY}:5000")] {
        let hosts = default_hosts(&world, &entrepot, &mirror);
        containerd.pull_by_hosts(&by_ghcr, &hosts).expect_success(&mirror);
        let pushed = ours("by/ctr:1");
        containerd.ctr(&["images", "tag", "--force", &by_ghcr, &pushed]).expect_success("ctr images tag");
        containerd.ctr(&["images", "push", &pushed]).expect_success("ctr images push");
        containerd.forget(&by_ghcr);
        containerd.forget(&pushed);
        containerd.pull(&pushed, None).expect_success("ctr images pull of what was pushed");
        containerd.ctr(&["images", "pull", "--local", &pushed]).expect_success("ctr images pull --local");
        containerd.forget(&pushed);
    }
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "fetched once");
}

#[test]
fn crane_pushes_copies_lists_and_deletes() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let index = images::index(2);
    let by_ghcr = ghcr.publish_index(&index, "team/multi", "1.0");
    let entrepot = Entrepot::start(&world, Settings::new());
    // One client for both: upstream through the proxy, and our registry by its name.
    let client = entrepot.client().newer();
    let crane = |arguments: &[&str]| run(&client, "crane", arguments);
    let (first, second) = (ours("team/multi:v1"), ours("other/multi:v1"));
    crane(&["copy", &by_ghcr, &first]).expect_success("crane copy from upstream");
    crane(&["copy", &first, &second]).expect_success("crane copy between repositories, by mounts");
    for name in [&first, &second] {
        assert_eq!(crane(&["digest", name]).expect_success("crane digest").stdout.trim(), index.digest);
        // crane compares every piece with its digest.
        crane(&["pull", "--format", "oci", name, "layout"]).expect_success("crane pull");
    }
    crane(&["push", "--index", "layout", &ours("team/again:v1")]).expect_success("crane push");
    let listed = crane(&["catalog", &format!("{REGISTRY}:5443")]).expect_success("crane catalog").stdout;
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["other/multi", "team/again", "team/multi"]);
    crane(&["tag", &first, "v2"]).expect_success("crane tag");
    assert_eq!(crane(&["ls", &ours("team/multi")]).expect_success("crane ls").stdout, "v1\nv2\n");
    crane(&["delete", &second]).expect_success("crane delete");
    crane(&["digest", &second]).expect_failure("what was deleted");
    crane(&["pull", "--format", "oci", &first, "again"]).expect_success("the other repository has it still");
}

#[test]
fn oras_pushes_artifacts_and_finds_what_refers_to_them() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour().newer();
    let oras = |arguments: &[&str]| run(&client, "oras", arguments);
    let write = |name: &str, content: &str| std::fs::write(client.directory().join(name), content).expect("a file");
    write("model.bin", "the weights");
    write("sbom.json", "{}");
    let name = ours("team/model:v1");
    oras(&["push", &name, "--artifact-type", "application/vnd.test.model", "model.bin"]).expect_success("oras push");
    let attach = ["attach", &name, "--artifact-type", "application/vnd.test.sbom", "sbom.json:application/json"];
    oras(&attach).expect_success("oras attach");
    let found = oras(&["discover", "--format", "json", &name]).expect_success("oras discover").stdout;
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let listed = found.get("referrers").or(found.get("manifests")).expect("what refers to it");
    assert_eq!(listed[0]["artifactType"], "application/vnd.test.sbom", "{found}");
    let copied = ours("elsewhere/model:v1");
    oras(&["copy", "-r", &name, &copied]).expect_success("oras copy with what refers to it");
    let referrer = listed[0]["digest"].as_str().expect("a digest");
    oras(&["manifest", "fetch", &format!("{}@{referrer}", ours("elsewhere/model"))]).expect_success("copied too");
    std::fs::remove_file(client.directory().join("model.bin")).expect("a file");
    oras(&["pull", &copied]).expect_success("oras pull");
    assert_eq!(std::fs::read_to_string(client.directory().join("model.bin")).expect("a file"), "the weights");
    assert!(oras(&["repo", "tags", &name]).expect_success("oras repo tags").stdout.contains("v1"));
    oras(&["manifest", "delete", "--force", &name]).expect_success("oras manifest delete");
    oras(&["pull", &name]).expect_failure("what was deleted");
}
