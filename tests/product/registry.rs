//! Our own registry with real clients: one pushes, another pulls, by every way to reach it. Also its collection and its
//! mirrors.

use std::process::Command;
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, sha256};
use entrepot_tests::process::finish;
use entrepot_tests::upstream::{GHCR, HUB, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, REGISTRY, World};
use http::Method;
use serde_json::Value;

use crate::heavy;

const PLAIN: &str = "10.90.1.1:5000";
const MIRROR_LISTEN: &str = "mirror_listen = [\"0.0.0.0:5001\"]";

/// Sends the client's connections to the registry's default ports to the transparent door.
const LED_ASIDE: &str = "table ip nat {
  chain output {
    type nat hook output priority -100;
    ip daddr 10.90.1.1 tcp dport { 80, 443 } dnat to 10.90.1.1:3129
  }
}";

/// A collection without a grace period.
fn collect(entrepot: &Entrepot<'_>, more: &str) -> Value {
    let (status, lines) = entrepot.admin(Method::POST, &format!("/api/registry/gc?grace=0s{more}"));
    assert_eq!(status, 200, "{lines}");
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "finished", "{lines}");
    last
}

#[test]
fn dockerd_pushes_and_pulls_through_the_proxy_and_past_it() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    hub.publish(&images::busybox(), "library/busybox", "1.36");
    let entrepot = Entrepot::start(&world, Settings::new());
    let behind = entrepot.client();
    let docker = Dockerd::start(&behind);
    docker.pull("busybox:1.36").expect_success("docker pull from upstream");
    let by_name = format!("{REGISTRY}/team/app/deep/er:v1");
    docker.docker(&["tag", "busybox:1.36", &by_name]).expect_success("docker tag");
    docker.docker(&["push", "-q", &by_name]).expect_success("docker push through the proxy");
    docker.forget();
    docker.pull(&by_name).expect_success("docker pull through the proxy");
    let short = format!("{REGISTRY}/foo/bar:v1");
    docker.docker(&["tag", &by_name, &short]).expect_success("docker tag");
    docker.docker(&["push", "-q", &short]).expect_success("docker push of a short name through the proxy");
    let door = entrepot.door();
    for own in [REGISTRY, PROXY_ADDRESS, "10.90.2.1", "localhost", "127.0.0.1", "[::ffff:10.90.1.1]", "[fd90:1::1]"] {
        for port in [5000, 5443] {
            assert_eq!(door.connect(&format!("{own}:{port}")), Ok(()), "CONNECT {own}:{port}");
            let tags = door.get(&format!("http://{own}:{port}/v2/foo/bar/tags/list"), &[]);
            let tags = String::from_utf8_lossy(tags.complete().expect("tags")).into_owned();
            assert_eq!(tags, r#"{"name":"foo/bar","tags":["v1"]}"#, "http://{own}:{port}");
        }
    }

    let neighbour = entrepot.neighbour().insecure(PLAIN);
    let other = Dockerd::start(&neighbour);
    for door in [format!("{REGISTRY}:5443"), format!("{PROXY_ADDRESS}:5443"), PLAIN.to_owned()] {
        let name = format!("{door}/team/app/deep/er:v1");
        other.pull(&name).expect_success(&name);
        let run = other.docker(&["run", "--rm", "--network", "none", &name]).expect_success("docker run");
        assert_eq!(run.stdout, "hello\n");
        let again = format!("{door}/other:v2");
        other.docker(&["tag", &name, &again]).expect_success("docker tag");
        other.docker(&["push", "-q", &again]).expect_success(&again);
        other.forget();
    }
    let distrustful = Client::beside(&world, world.internet_ca());
    let pull = Dockerd::start(&distrustful).pull(&format!("{REGISTRY}:5443/other:v2")).expect_failure("without our CA");
    assert!(pull.stderr.contains("x509"), "{}", pull.stderr);
}

#[test]
fn pushed_through_the_transparent_door() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour();
    let (image, name) = (images::random(65, 2, 100_000), format!("{REGISTRY}/team/app:v1"));
    client.skopeo_push(&image, &name, None).expect_failure("nobody listens on 443");
    let mut nft = Command::new("nft");
    nft.arg(LED_ASIDE);
    finish(&world.client, nft, Duration::from_secs(10)).expect_success("nft");
    client.skopeo_push(&image, &name, None).expect_success("skopeo push by TLS");
    client.skopeo_pull(&name, None).expect_success("skopeo pull by TLS");
    let ping = client.curl(&["-f", &format!("http://{REGISTRY}/v2/team/app/tags/list")]).expect_success("plain HTTP");
    assert_eq!(ping.stdout, r#"{"name":"team/app","tags":["v1"]}"#);
}

#[test]
fn a_newcomers_docker_on_the_same_machine_needs_no_set_up() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    let docker = Dockerd::start(&client);
    let name = "localhost:5000/team/app:v1";
    let layer = client.layer_file(&images::busybox());
    docker.docker(&["import", &layer.display().to_string(), name]).expect_success("docker import");
    docker.docker(&["push", "-q", name]).expect_success("docker push");
    docker.forget();
    docker.pull(name).expect_success("docker pull");
}

#[test]
fn skopeo_podman_buildah_and_ctr_share_what_they_push() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let index = images::index(60);
    let name = hub.publish_index(&index, "team/multi", "1.0");
    let entrepot = Entrepot::start(&world, Settings::new());
    let ours = format!("{REGISTRY}/team/multi:1.0");
    let client = entrepot.client();
    client.skopeo_copy(&name, &ours, &["--all", "--preserve-digests"]).expect_success("skopeo copy --all");
    let digest = entrepot.door().get(&format!("https://{REGISTRY}/v2/team/multi/manifests/1.0"), &[]);
    assert_eq!(digest.header("docker-content-digest"), index.digest, "the whole list, byte for byte");

    let neighbour = entrepot.neighbour();
    let tls = format!("{REGISTRY}:5443");
    neighbour.skopeo_pull(&format!("{tls}/team/multi:1.0"), None).expect_success("skopeo pull");
    let (podman, buildah) = (neighbour.storage("podman"), neighbour.storage("buildah"));
    let from = format!("{tls}/team/multi:1.0");
    podman(&["pull", "-q", &from]).expect_success("podman pull");
    let to = format!("{tls}/by/podman:1");
    podman(&["push", "-q", &from, &to]).expect_success("podman push");
    buildah(&["pull", "-q", &to]).expect_success("buildah pull of what podman pushed");
    let again = format!("{tls}/by/buildah:1");
    buildah(&["push", "-q", &to, &again]).expect_success("buildah push");
    let containerd = Containerd::start(&neighbour);
    containerd.pull(&again, None).expect_success("ctr pull of what buildah pushed");
    let pushed = format!("{tls}/by/ctr:1");
    containerd.ctr(&["images", "push", &pushed, &again]).expect_success("ctr push");
    neighbour.skopeo_pull(&pushed, None).expect_success("skopeo pull of what ctr pushed");
}

#[test]
fn mirrors_for_those_who_know_no_proxy() {
    let world = World::new();
    let (hub, ghcr) = (Upstream::start(&world, HUB), Upstream::start(&world, GHCR));
    let image = images::random(61, 3, 40_000);
    let by_hub = hub.publish(&images::busybox(), "library/busybox", "1.36");
    let by_ghcr = ghcr.publish(&image, "team/app", "1.0");
    let entrepot = Entrepot::start(&world, Settings::new().set("registry", MIRROR_LISTEN));
    let neighbour = entrepot.neighbour();
    neighbour.skopeo_pull(&by_ghcr, None).expect_failure("upstream is out of reach");

    let hosts = world.make_directory("hosts.d/ghcr.io");
    let containerd = Containerd::start(&neighbour);
    let ca = entrepot.ca();
    for mirror in [format!("http://{PLAIN}"), format!("https://{REGISTRY}:5443")] {
        let text = format!(
            "server = \"https://ghcr.io\"\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = {ca:?}\n"
        );
        std::fs::write(hosts.join("hosts.toml"), text).expect("hosts.toml");
        containerd.pull_by_hosts(&by_ghcr, hosts.parent().expect("a parent")).expect_success(&mirror);
        containerd.forget(&by_ghcr);
    }
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "fetched once");

    let prefixed = format!("{REGISTRY}:5443/ghcr.io/team/app:1.0");
    neighbour.podman_pull(&prefixed, None).expect_success("podman by path");
    neighbour.skopeo_pull(&prefixed, None).expect_success("skopeo by path");
    let docker = Dockerd::start_with(&neighbour, &[&format!("--registry-mirror=https://{REGISTRY}:5001")]);
    docker.pull("busybox:1.36").expect_success("docker by registry-mirrors");
    docker.forget();
    hub.ledger.reset();
    docker.pull("busybox:1.36").expect_success("docker by registry-mirrors, warm");
    assert_eq!(hub.ledger.blob_bytes(), 0, "{by_hub} came from the cache");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "still fetched once");
}

#[test]
fn what_a_stranger_pushes_is_never_dockers_image() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let (official, theirs, false_one) =
        (images::busybox(), images::random(71, 2, 40_000), images::random(72, 2, 40_000));
    hub.publish(&official, "library/busybox", "1.36");
    hub.publish(&theirs, "team/app", "1.0");
    let mut entrepot = Entrepot::start(&world, Settings::new().set("registry", MIRROR_LISTEN));
    let neighbour = entrepot.neighbour().insecure(PLAIN);
    for name in ["team/app:1.0", "evil/busybox:1.36"] {
        neighbour.skopeo_push(&false_one, &format!("{PLAIN}/{name}"), None).expect_success(name);
    }
    let refused = neighbour.skopeo_push(&false_one, &format!("{PLAIN}/library/busybox:1.36"), None);
    let refused = refused.expect_failure("a push below library/");
    assert!(refused.stderr.contains("is Docker Hub's here"), "{}", refused.stderr);
    // As an earlier release took it.
    entrepot.terminate();
    let pushed = |name: &str| world.path("data/pushed").join(name);
    std::fs::rename(pushed("evil+busybox"), pushed("library+busybox")).expect("the repository's folder");
    entrepot.restart();
    let named = entrepot.process().wait_line("below library/", Duration::from_secs(10));
    assert!(named.contains("library/busybox"), "{named}");

    let id = |docker: &Dockerd<'_, '_>, name: &str| {
        docker.docker(&["image", "inspect", "--format", "{{.Id}}", name]).expect_success("docker image inspect").stdout
    };
    let behind = entrepot.client();
    let honest = Dockerd::start(&behind);
    honest.pull("busybox:1.36").expect_success("Docker Hub's own");
    honest.pull("team/app:1.0").expect_success("Docker Hub's own");
    let docker = Dockerd::start_with(&neighbour, &[&format!("--registry-mirror=https://{REGISTRY}:5001")]);
    for name in ["busybox:1.36", "team/app:1.0"] {
        docker.pull(name).expect_success("docker by registry-mirrors");
        assert_eq!(id(&docker, name), id(&honest, name), "{name}");
    }
    docker.forget();
    // A line from before, with the registry's own port.
    let old = Dockerd::start_with(&neighbour, &[&format!("--registry-mirror=https://{REGISTRY}:5443")]);
    old.pull("busybox:1.36").expect_success("the official images still come");
    assert_eq!(id(&old, "busybox:1.36"), id(&honest, "busybox:1.36"));
}

#[test]
fn what_is_removed_is_collected_beside_running_clients() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let (first, second) = (images::random(62, 3, 200_000), images::random(63, 3, 200_000));
    let names = [hub.publish(&first, "team/a", "1"), hub.publish(&second, "team/b", "1")];
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    for (name, tag) in names.iter().zip(["a", "b"]) {
        client
            .skopeo_copy(name, &format!("{REGISTRY}/foo/bar:{tag}"), &["--preserve-digests"])
            .expect_success("skopeo copy");
    }
    entrepot.admin(Method::DELETE, "/api/cache");
    assert_eq!(entrepot.stat("current_size"), 0, "what the cache had of it is the registry's alone");
    client.skopeo_pull(&format!("{REGISTRY}/foo/bar:a"), None).expect_success("pushed content is no cache");
    let (status, removed) = entrepot.admin(Method::DELETE, "/api/registry/tags?repository=foo/bar&tag=a");
    assert_eq!(status, 200, "{removed}");
    let counted = collect(&entrepot, "&dry_run=true");
    assert_eq!((&counted["freed_blobs"], &counted["dry_run"]), (&Value::from(5), &Value::from(true)), "{counted}");
    let freed = collect(&entrepot, "");
    assert_eq!(freed["freed_blobs"], 5, "manifest, config, three layers: {freed}");
    client.skopeo_pull(&format!("{REGISTRY}/foo/bar:a"), None).expect_failure("it is gone");
    client.skopeo_pull(&format!("{REGISTRY}/foo/bar:b"), None).expect_success("the other one is not");
    let (status, tags) = entrepot.admin(Method::GET, "/api/registry/tags?repository=foo/bar");
    let tags: Value = serde_json::from_str(&tags).expect("JSON");
    assert_eq!((status, &tags["tags"][0]["digest"]), (200, &Value::from(second.digest.clone())), "{tags}");
    assert_eq!(entrepot.admin(Method::DELETE, "/api/registry/repositories?repository=foo/bar").0, 200);
    assert_eq!(entrepot.admin(Method::DELETE, "/api/registry/repositories?repository=foo/bar").0, 404);
    assert_eq!(collect(&entrepot, "")["freed_blobs"], 5);
    let left = std::fs::read_dir(world.path("data/blobs/sha256")).expect("blobs");
    let files = left.flatten().map(|folder| std::fs::read_dir(folder.path()).expect("a folder").count()).sum::<usize>();
    assert_eq!(files, 0, "nothing is left on the disk");
}

#[test]
fn a_push_of_600_mib_needs_no_memory_for_it() {
    let _alone = heavy();
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let image = images::large(64, 600 << 20);
    let name = hub.publish(&image, "team/large", "1");
    let entrepot = Entrepot::start(&world, Settings::new().set("cache", "enabled = false"));
    let client = entrepot.client();
    client
        .skopeo_copy(&name, &format!("{REGISTRY}/team/large:1"), &["--preserve-digests"])
        .expect_success("skopeo copy");
    let status = std::fs::read_to_string(format!("/proc/{}/status", entrepot.process().pid())).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the most that it had");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    assert!(kib < 300 << 10, "{line}");
    let manifest = entrepot.door().get(&format!("https://{REGISTRY}/v2/team/large/manifests/1"), &[]);
    assert_eq!(sha256(manifest.complete().expect("a manifest")), image.digest);
}
