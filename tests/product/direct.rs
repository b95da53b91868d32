//! The harness itself: all four clients pull from its registries without a proxy. So a failure of another test is not a
//! failure of the harness.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::{self, sha256};
use entrepot_tests::ledger::Kind;
use entrepot_tests::process::finish;
use entrepot_tests::root::in_own_root;
use entrepot_tests::upstream::{Cdn, GHCR, HUB, PLAIN, PRIVATE, QUAY, Upstream};
use entrepot_tests::world::World;
use http::{Method, StatusCode};

const SECRET: Option<(&str, &str)> = Some(("user", "canary-direct"));

#[test]
fn skopeo_and_podman_pull_from_every_kind_of_registry() {
    let world = World::new();
    let image = images::random(1, 2, 50_000);
    let names: Vec<_> = [HUB, GHCR, QUAY, PLAIN]
        .map(|site| {
            let upstream = Upstream::start(&world, site);
            let name = upstream.publish(&image, "team/app", "1");
            (upstream, name)
        })
        .into();
    let private = Upstream::start(&world, PRIVATE);
    private.rights().allow("user", "canary-direct", "team/secret");
    let secret = private.publish(&image, "team/secret", "1");
    let client = Client::direct(&world).insecure("plain.test:5001");
    for (upstream, name) in &names {
        client.skopeo_pull(name, None).expect_success("skopeo");
        assert_eq!(upstream.ledger.blob_bytes(), image.blob_bytes(), "{name}");
        client.podman_pull(name, None).expect_success("podman");
    }
    client.skopeo_pull(&secret, None).expect_failure("skopeo without the password");
    client.skopeo_pull(&secret, SECRET).expect_success("skopeo with the password");
    client.podman_pull(&secret, SECRET).expect_success("podman with the password");
}

#[test]
fn dockerd_pulls_and_runs() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("user", "canary-direct", "team/secret");
    let busybox = hub.publish(&images::busybox(), "library/busybox", "1");
    let secret = ghcr.publish(&images::random(2, 3, 10_000), "team/secret", "1");
    let client = Client::direct(&world);
    let docker = Dockerd::start(&client);
    docker.pull(&busybox).expect_success("docker pull");
    let run = docker.docker(&["run", "--rm", "--network", "none", &busybox]).expect_success("docker run");
    assert_eq!(run.stdout, "hello\n");
    docker.pull(&secret).expect_failure("docker pull without the password");
    docker.log_in("ghcr.io", SECRET);
    docker.pull(&secret).expect_success("docker pull with the password");
    docker.forget();
}

#[test]
fn containerd_pulls() {
    let world = World::new();
    let quay = Upstream::start(&world, QUAY);
    let name = quay.publish_index(&images::index(3), "team/app", "1");
    let client = Client::direct(&world);
    let containerd = Containerd::start(&client);
    containerd.pull(&name, None).expect_success("ctr pull");
    containerd.forget(&name);
    let before = quay.ledger.blob_bytes();
    containerd.pull(&name, None).expect_success("ctr pull again");
    assert!(quay.ledger.blob_bytes() > before, "forgetting works");
}

#[test]
fn upstreams_count_redirect_fail_and_go_away() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let cdn = Cdn::start(&world, "cdn.test");
    let image = images::random(4, 3, 10_000);
    let name = ghcr.publish(&image, "team/app", "1");
    let client = Client::direct(&world);
    client.skopeo_pull(&name, None).expect_success("plainly");
    assert_eq!((ghcr.ledger.blob_bytes(), ghcr.ledger.manifest_gets()), (image.blob_bytes(), 1));
    assert_eq!(ghcr.ledger.count(&Method::GET, Kind::Token), 1);
    ghcr.ledger.reset();
    ghcr.redirect_blobs(StatusCode::TEMPORARY_REDIRECT, "cdn.test");
    client.skopeo_pull(&name, None).expect_success("by the CDN");
    assert_eq!((ghcr.ledger.blob_bytes(), cdn.ledger.blob_bytes()), (0, image.blob_bytes()));
    ghcr.fail_with(Some(StatusCode::FORBIDDEN));
    client.skopeo_pull(&name, None).expect_failure("failing");
    ghcr.fail_with(None);
    ghcr.off();
    client.skopeo_pull(&name, None).expect_failure("off");
    ghcr.on();
    client.skopeo_pull(&name, None).expect_success("on again");
    ghcr.rights().allow("user", "canary-direct", "team/app");
    client.skopeo_pull(&name, None).expect_failure("private now");
}

#[test]
fn the_fake_misbehaves_as_told() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let client = Client::direct(&world);
    let body = images::random(5, 1, 300_000).layers()[0].bytes();
    let into = world.path("body").display().to_string();
    let get = |answers: &[Answer], more: &[&str]| {
        fake.put("/x", "text/plain", body.clone(), answers);
        let _ = std::fs::remove_file(&into);
        let code = client.curl(&[&["-o", into.as_str()], more, &["https://fake.test/x"]].concat()).status.code();
        let came = std::fs::read(&into).unwrap_or_default();
        (code, came.len(), sha256(&came))
    };
    let whole = (Some(0), body.len(), sha256(&body));
    assert_eq!(get(&[Answer::Good], &[]), whole);
    assert_eq!(get(&[Answer::Chunked], &[]), whole);
    assert_eq!(get(&[Answer::Paced(Duration::from_millis(1))], &[]), whole);
    assert_eq!(get(&[Answer::Gzip], &["--compressed"]), whole, "what was packed is the body");
    assert_eq!(get(&[Answer::Good], &["-r", "10-19"]), (Some(0), 10, sha256(&body[10..20])));
    assert_eq!(get(&[Answer::IgnoreRange], &["-r", "10-19"]), whole);
    assert_eq!(get(&[Answer::LongBy(3)], &[]).1, body.len() + 3);
    assert_eq!(get(&[Answer::ResetAfter(70_000)], &[]).0, Some(56), "reset");
    assert_eq!(get(&[Answer::ShortAfter(70_000)], &[]).0, Some(18), "cut short");
    assert_eq!(get(&[Answer::StallAfter(70_000)], &["-y", "1", "-Y", "1"]).0, Some(28), "stalled");
    assert_eq!(get(&[Answer::Status(429, String::new())], &["-f"]).0, Some(22), "a status");
    let twice = [Answer::ResetAfter(0), Answer::Redirect(302, "/x".to_owned()), Answer::Good];
    assert_ne!(get(&twice, &[]).0, Some(0), "the first of several answers");
    fake.open_gate();
    assert_eq!(get(&[Answer::Gate(10)], &[]), whole);
    assert_eq!(fake.ledger.gets_of("/x"), 13);
}

#[test]
fn a_generated_layer_is_what_its_digest_says() {
    let image = images::large(6, (3 << 20) + 777);
    let layer = &image.layers()[0];
    let bytes = layer.bytes();
    assert_eq!((bytes.len() as u64, sha256(&bytes)), (layer.size, layer.digest.clone()));
    assert_eq!(bytes.len() % 512, 0, "a whole tar");
}

#[test]
fn a_root_of_its_own_leaves_the_machine_alone() {
    let world = World::new();
    let volume = world.make_directory("volume");
    let script = "touch /ca/in-the-volume /usr/share/entrepot-test /etc/entrepot-test && grep -q ghcr.io /etc/hosts";
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    let command = in_own_root(&world, &command, &[(volume.clone(), "/ca")]);
    finish(&world.client, command, Duration::from_secs(30)).expect_success("in the root");
    assert!(volume.join("in-the-volume").exists());
    for path in ["/usr/share/entrepot-test", "/etc/entrepot-test"] {
        assert!(!Path::new(path).exists(), "{path} is on the machine");
    }
}

#[test]
fn a_client_has_no_way_around_the_proxy() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--max-time", "5", "https://ghcr.io/v2/"]);
    finish(&world.client, curl, Duration::from_secs(10)).expect_failure("from the client's host");
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--max-time", "5", "https://ghcr.io/v2/"]);
    finish(&world.proxy, curl, Duration::from_secs(10)).expect_success("from the proxy's host");
}
