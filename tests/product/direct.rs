//! The harness itself: all four clients pull from its registries with no proxy, so a failure of another test is not
//! the harness's.

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, HUB, PLAIN, PRIVATE, QUAY, Upstream};
use entrepot_tests::world::World;

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
