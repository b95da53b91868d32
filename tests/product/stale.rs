//! Upstream fails or is gone: cached content that is permitted is served nevertheless, with tag, ping and token.

use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, Image};
use entrepot_tests::ledger::Kind;
use entrepot_tests::upstream::{GHCR, HUB, PRIVATE, Upstream};
use entrepot_tests::world::World;
use http::{Method, StatusCode};

use crate::ACCEPT;

const ACCOUNT: Option<(&str, &str)> = Some(("user", "canary-stale"));

/// Each request for a tag goes upstream, because nothing counts as fresh.
fn eager() -> Settings {
    Settings::new().set("cache.tags", "revalidate_interval = \"0s\"")
}

#[test]
fn a_cached_tag_outlives_every_error_of_upstream() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(1, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, eager());
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url("/v2/team/app/manifests/1");
    let ask = |method| door.request(method, &url, &[ACCEPT, ("authorization", &token)]);
    assert_eq!(ask(Method::GET).content(), image.digest, "cold");
    for code in [500, 502, 503, 504] {
        ghcr.fail_with(StatusCode::from_u16(code).ok());
        ghcr.ledger.reset();
        let reply = ask(Method::GET);
        assert_eq!(reply.content(), image.digest, "{code}: {}", reply.status);
        assert_eq!(ask(Method::HEAD).header("docker-content-digest"), image.digest, "{code}");
        assert!(!ghcr.ledger.all().is_empty(), "{code}: upstream was asked");
    }
    ghcr.fail_with(None);
    let new = images::random(2, 1, 5000);
    ghcr.publish(&new, "team/app", "1");
    assert_eq!(ask(Method::GET).content(), new.digest, "well again, and moved");
}

#[test]
fn a_tag_that_moved_is_seen_at_once_and_one_that_did_not_costs_a_head() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let publish = |seed| {
        let image: Image = images::random(seed, 1, 5000);
        ghcr.publish(&image, "team/app", "latest");
        image
    };
    let first = publish(10);
    let entrepot = Entrepot::start(&world, eager());
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url("/v2/team/app/manifests/latest");
    let ask = || door.get(&url, &[ACCEPT, ("authorization", &token)]);
    assert_eq!(ask().content(), first.digest);
    ghcr.ledger.reset();
    assert_eq!(ask().content(), first.digest);
    assert_eq!(ghcr.ledger.manifest_gets(), 0, "unchanged: no GET");
    assert!(ghcr.ledger.count(&Method::HEAD, Kind::ManifestTag) >= 1, "unchanged: a HEAD said so");
    let second = publish(11);
    assert_eq!(ask().content(), second.digest, "moved");
}

#[test]
fn warm_images_are_pulled_by_dockerd_with_upstream_off() {
    let world = World::new();
    let (hub, ghcr, private) =
        (Upstream::start(&world, HUB), Upstream::start(&world, GHCR), Upstream::start(&world, PRIVATE));
    let image = images::random(20, 3, 30_000);
    ghcr.rights().allow("user", "canary-stale", "team/secret");
    private.rights().allow("user", "canary-stale", "team/secret");
    let public = hub.publish(&image, "library/app", "1");
    let by_token = ghcr.publish(&images::random(21, 2, 30_000), "team/secret", "1");
    let by_password = private.publish(&images::random(22, 2, 30_000), "team/secret", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let docker = Dockerd::start(&client);
    let pull_all = |phase: &str| {
        for (name, account) in [(&public, None), (&by_token, ACCOUNT), (&by_password, ACCOUNT)] {
            docker.log_in(name.split('/').next().unwrap_or_default(), account);
            docker.pull(name).expect_success(&format!("{name}, {phase}"));
        }
        docker.forget();
    };
    pull_all("cold");
    [&hub, &ghcr, &private].into_iter().for_each(Upstream::off);
    pull_all("upstream off");
    pull_all("upstream off, again");
    docker.log_in("ghcr.io", None);
    docker.pull(&by_token).expect_failure("a private image without the password, upstream off");
    [&hub, &ghcr, &private].into_iter().for_each(Upstream::on);
    pull_all("upstream on again");
}

#[test]
fn warm_images_are_pulled_by_the_other_clients_with_upstream_off() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let name = hub.publish_index(&images::index(30), "library/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let containerd = Containerd::start(&client);
    let pull_all = |phase: &str| {
        client.skopeo_pull(&name, None).expect_success(&format!("skopeo, {phase}"));
        client.podman_pull(&name, None).expect_success(&format!("podman, {phase}"));
        containerd.pull(&name, None).expect_success(&format!("ctr, {phase}"));
        containerd.forget(&name);
    };
    pull_all("cold");
    hub.off();
    pull_all("upstream off");
}

#[test]
fn what_one_kind_of_client_pulled_the_others_pull_with_upstream_off() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let name = hub.publish(&images::random(35, 3, 30_000), "library/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    Dockerd::start(&client).pull(&name).expect_success("dockerd, cold");
    hub.off();
    client.skopeo_pull(&name, None).expect_success("skopeo, upstream off");
    client.podman_pull(&name, None).expect_success("podman, upstream off");
    let containerd = Containerd::start(&client);
    containerd.pull(&name, None).expect_success("ctr, upstream off");
}

#[test]
fn a_restart_with_upstream_off_serves_public_images() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let name = hub.publish(&images::random(40, 3, 30_000), "library/app", "1");
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    client.skopeo_pull(&name, None).expect_success("cold");
    assert!(entrepot.terminate().success(), "SIGTERM is a clean end");
    hub.off();
    entrepot.restart();
    client.skopeo_pull(&name, None).expect_success("after a restart, upstream off");
}

#[test]
fn a_missing_image_is_asked_for_again_after_at_most_ten_seconds() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let settings = Settings::new().set("cache.tags", "negative_time = \"0s\"");
    let entrepot = Entrepot::start(&world, settings);
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url("/v2/team/app/manifests/1");
    let ask = || door.get(&url, &[ACCEPT, ("authorization", &token)]);
    let missing = ask();
    assert_eq!(missing.status, 404);
    assert!(missing.content().contains("\"errors\""), "an OCI error: {}", missing.content());
    let image = images::random(50, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    assert_eq!(ask().content(), image.digest);
}
