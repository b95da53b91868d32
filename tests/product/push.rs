//! Pushes through the proxy to upstream registries: only if they are allowed, else refused in the words of the
//! protocol. The next pull sees a pushed tag.

use bytes::Bytes;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::ledger::Kind;
use entrepot_tests::upstream::{GHCR, HUB, Upstream};
use entrepot_tests::world::World;
use http::Method;

use crate::ACCEPT;

const ACCOUNT: Option<(&str, &str)> = Some(("user", "canary-push"));

/// A dockerd with an image to push, logged in at ghcr.io.
fn with_something_to_push<'c, 'w>(
    client: &'c entrepot_tests::clients::Client<'w>,
    hub: &Upstream<'_>,
    target: &str,
) -> Dockerd<'c, 'w> {
    let name = hub.publish(&images::random(1, 2, 50_000), "library/app", "new");
    let docker = Dockerd::start(client);
    docker.pull(&name).expect_success("docker pull");
    docker.docker(&["tag", &name, target]).expect_success("docker tag");
    docker.log_in("ghcr.io", ACCOUNT);
    docker
}

#[test]
fn a_pushed_tag_is_what_the_next_pull_gets() {
    let world = World::new();
    let (hub, ghcr) = (Upstream::start(&world, HUB), Upstream::start(&world, GHCR));
    ghcr.rights().allow("user", "canary-push", "team/app");
    let old = images::random(2, 1, 5000);
    let target = ghcr.publish(&old, "team/app", "1");
    let settings = Settings::new().set("proxy", "allow_push = true").set("cache.tags", "mode = \"ttl\"");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.client();
    let docker = with_something_to_push(&client, &hub, &target);
    let door = entrepot.door();
    let digest = || {
        let token = door.authorization(&GHCR, "team/app", ACCOUNT).expect("a token");
        let url = ghcr.url("/v2/team/app/manifests/1");
        door.get(&url, &[ACCEPT, ("authorization", &token)]).header("docker-content-digest").to_owned()
    };
    assert_eq!(digest(), old.digest, "before, and cached for an hour");
    docker.docker(&["push", "-q", &target]).expect_success("docker push");
    assert_ne!(ghcr.digest_of("team/app", "1"), old.digest, "the push arrived");
    assert_eq!(digest(), ghcr.digest_of("team/app", "1"), "after");
    docker.forget();
    docker.pull(&target).expect_success("pulling what was pushed");
}

#[test]
fn a_large_push_is_streamed() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("user", "canary-push", "team/app");
    let entrepot = Entrepot::start(&world, Settings::new().set("proxy", "allow_push = true"));
    let door = entrepot.door();
    let url = "https://ghcr.io/token?service=ghcr.io&scope=repository:team/app:pull,push";
    let basic = entrepot_tests::tokens::basic("user", "canary-push");
    let answer = door.get(url, &[("authorization", &basic)]);
    let answer: serde_json::Value = serde_json::from_slice(answer.complete().expect("a token")).expect("JSON");
    let bearer = format!("Bearer {}", answer["token"].as_str().expect("a token"));
    let begun = door.request(Method::POST, &ghcr.url("/v2/team/app/blobs/uploads/"), &[("authorization", &bearer)]);
    assert_eq!(begun.status, 202);
    let location = begun.header("location").to_owned();
    let location = if location.starts_with('/') { ghcr.url(&location) } else { location };
    let blob = crate::blob(3, 30 << 20);
    let put = format!("{location}&digest={}", blob.digest);
    let done = door.request_with(Method::PUT, &put, &[("authorization", &bearer)], blob.bytes());
    assert_eq!(done.status, 201, "{:?}", done.body);
    assert_eq!(done.header("docker-content-digest"), blob.digest);
}

#[test]
fn without_permission_docker_push_is_refused_and_nothing_arrives() {
    let world = World::new();
    let (hub, ghcr) = (Upstream::start(&world, HUB), Upstream::start(&world, GHCR));
    ghcr.rights().allow("user", "canary-push", "team/app");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let docker = with_something_to_push(&client, &hub, "ghcr.io/team/app:1");
    let push = docker.docker(&["push", "ghcr.io/team/app:1"]).expect_failure("docker push");
    assert!(push.stderr.contains("denied"), "docker says why: {}", push.stderr);
    let wrote = |seen: &entrepot_tests::ledger::Seen| {
        seen.kind != Kind::Token && !matches!(seen.method.as_str(), "GET" | "HEAD")
    };
    assert!(!ghcr.ledger.all().iter().any(wrote), "nothing of the push arrived");
}

#[test]
fn every_writing_method_is_refused_alike_and_token_posts_are_not() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("user", "canary-push", "team/app");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let paths = ["/v2/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads/some-session", "/v2/team/app/manifests/1"];
    for path in paths {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let reply = door.request_with(method.clone(), &ghcr.url(path), &[], Bytes::from_static(b"body"));
            assert_eq!(reply.status, 403, "{method} {path}");
            let body: serde_json::Value = serde_json::from_slice(&reply.body.expect("a body")).expect("JSON");
            assert_eq!(body["errors"][0]["code"], "DENIED", "{method} {path}: {body}");
        }
    }
    assert!(ghcr.ledger.all().is_empty(), "nothing arrived");
    let form = "grant_type=password&service=ghcr.io&scope=repository:team/app:pull&username=user&password=canary-push";
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let token = door.request_with(Method::POST, "https://ghcr.io/token", &[kind], Bytes::from_static(form.as_bytes()));
    assert_eq!(token.status, 200);
    assert_eq!(ghcr.ledger.count(&Method::POST, Kind::Token), 1);
}
