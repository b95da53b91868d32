//! Rights at our own registry, with real clients: logins, tokens, rules, read-only mode, immutable tags, quotas.

use std::time::Duration;

use entrepot_tests::clients::{Account, Client};
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::pushes::{Podman, htpasswd};
use entrepot_tests::world::{PROXY_ADDRESS, REGISTRY, World};
use nix::sys::signal::Signal;

const ALICE: (&str, &str) = ("alice", "canary-alice");
const BOB: (&str, &str) = ("bob", "canary-bob");

/// Accounts for Alice and Bob, and these lines in `[registry]`.
fn settings(world: &World, lines: &[&str]) -> Settings {
    let path = htpasswd(world, &[ALICE, BOB]);
    let settings = Settings::new().set("registry", &format!("htpasswd = {path:?}"));
    lines.iter().fold(settings, |settings, line| settings.set("registry", line))
}

fn plain(name: &str) -> String {
    format!("{PROXY_ADDRESS}:5000/{name}")
}

fn neighbour<'w>(entrepot: &Entrepot<'w>) -> Client<'w> {
    entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"))
}

#[test]
fn docker_logs_in_with_tokens_over_tls() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, settings(&world, &["anonymous = \"none\""]));
    let client = entrepot.neighbour();
    let docker = Dockerd::start(&client);
    let registry = format!("{REGISTRY}:5443");
    let name = format!("{registry}/team/app:v1");
    let layer = client.layer_file(&images::random(1, 1, 50_000));
    docker.docker(&["import", layer.to_str().expect("text"), &name]).expect_success("docker import");
    docker.docker(&["push", &name]).expect_failure("docker push without a login");
    let log_in = |password: &str| docker.docker(&["login", "-u", ALICE.0, "-p", password, &registry]);
    let refused = log_in("canary-wrong").expect_failure("docker login with a wrong password");
    assert!(refused.stderr.contains("unauthorized"), "docker says why: {}", refused.stderr);
    log_in(ALICE.1).expect_success("docker login");
    docker.docker(&["push", &name]).expect_success("docker push");
    docker.forget();
    docker.pull(&name).expect_success("docker pull");
    docker.forget();
    docker.docker(&["logout", &registry]).expect_success("docker logout");
    docker.pull(&name).expect_failure("docker pull after logging out");
}

#[test]
fn podman_logs_in_either_way() {
    for auth in ["token", "basic"] {
        let world = World::new();
        let lines = ["anonymous = \"none\"", &format!("auth = {auth:?}")];
        let entrepot = Entrepot::start(&world, settings(&world, &lines));
        let client = neighbour(&entrepot);
        let podman = Podman::new(&client);
        let (registry, name) = (format!("{PROXY_ADDRESS}:5000"), plain("team/app:v1"));
        let layer = client.layer_file(&images::random(2, 1, 50_000));
        podman.run(&["import", "-q", layer.to_str().expect("text"), &name]).expect_success("podman import");
        let push = || podman.run(&["push", "-q", "--tls-verify=false", &name]);
        push().expect_failure("podman push without a login");
        let log_in =
            |password: &str| podman.run(&["login", "--tls-verify=false", "-u", ALICE.0, "-p", password, &registry]);
        log_in("canary-wrong").expect_failure("podman login with a wrong password");
        log_in(ALICE.1).expect_success(&format!("podman login, {auth}"));
        push().expect_success(&format!("podman push, {auth}"));
        podman.run(&["rmi", "-af"]).expect_success("podman rmi");
        podman.run(&["pull", "-q", "--tls-verify=false", &name]).expect_success(&format!("podman pull, {auth}"));
        podman.run(&["logout", &registry]).expect_success("podman logout");
        podman.run(&["pull", "-q", "--tls-verify=false", &name]).expect_failure("podman pull after logging out");
    }
}

#[test]
fn anonymous_clients_pull_where_they_may_and_push_nowhere() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, settings(&world, &["anonymous = \"pull\""]));
    let client = neighbour(&entrepot);
    let (name, image) = (plain("team/app:v1"), images::random(3, 2, 50_000));
    let refused = client.skopeo_push(&image, &name, None).expect_failure("a push without a login");
    assert!(refused.stderr.contains("authentication required"), "{}", refused.stderr);
    client.skopeo_push(&image, &name, Some(ALICE)).expect_success("a push with a login");
    client.skopeo_pull(&name, None).expect_success("skopeo without a login");
    client.podman_pull(&name, None).expect_success("podman without a login");
    Dockerd::start(&client).pull(&name).expect_success("docker without a login");
    client.skopeo_pull(&name, Some((BOB.0, "canary-wrong"))).expect_failure("a wrong login gets less than none");
}

#[test]
fn rules_say_who_does_what_where() {
    let world = World::new();
    let settings = settings(&world, &["anonymous = \"none\""])
        .set("[[registry.rules]]", "repository = \"team/*\"\nusers = [\"alice\"]\nactions = [\"pull\", \"push\"]")
        .set("[[registry.rules]] # bob", "repository = \"team/*\"\nusers = [\"bob\"]");
    let entrepot = Entrepot::start(&world, settings);
    let client = neighbour(&entrepot);
    let (name, image) = (plain("team/app:v1"), images::random(4, 1, 50_000));
    client.skopeo_push(&image, &name, Some(BOB)).expect_failure("Bob pushes");
    client.skopeo_push(&image, &name, Some(ALICE)).expect_success("Alice pushes");
    client.skopeo_pull(&name, Some(BOB)).expect_success("Bob pulls");
    client.skopeo_pull(&name, None).expect_failure("nobody pulls");
    let url = format!("http://{PROXY_ADDRESS}:5000/v2/team/app/manifests/{}", image.digest);
    let delete = |account: Account<'_>| {
        let login = account.map(|(user, password)| format!("{user}:{password}")).unwrap_or_default();
        let arguments = ["-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", "-u", &login, &url];
        client.curl(&arguments).expect_success("curl").stdout
    };
    assert_eq!((delete(Some(ALICE)), delete(Some(BOB))), ("403".into(), "403".into()), "neither may delete");
    assert_eq!(delete(None), "401");
    client.skopeo_pull(&name, Some(ALICE)).expect_success("it is still there");
}

#[test]
fn read_only_mode_comes_and_goes_with_a_reload() {
    let world = World::new();
    let settings = Settings::new();
    let entrepot = Entrepot::start(&world, settings.clone());
    let client = neighbour(&entrepot);
    let (name, image) = (plain("team/app:v1"), images::random(5, 1, 50_000));
    client.skopeo_push(&image, &name, None).expect_success("before");
    entrepot.rewrite(&settings.set("registry", "read_only = true"));
    entrepot.process().signal(Signal::SIGHUP);
    entrepot.process().wait_line("configuration reloaded", Duration::from_secs(10));
    let refused = client.skopeo_push(&images::random(6, 1, 5000), &plain("team/app:v2"), None);
    let refused = refused.expect_failure("a push while read-only");
    assert!(refused.stderr.contains("read-only") || refused.stderr.contains("405"), "{}", refused.stderr);
    client.skopeo_pull(&name, None).expect_success("a pull while read-only");
}

#[test]
fn immutable_tags_keep_their_manifest() {
    let world = World::new();
    let settings = Settings::new().set("registry", "immutable_tags = [\"v*\"]");
    let entrepot = Entrepot::start(&world, settings);
    let client = neighbour(&entrepot);
    let (first, second) = (images::random(7, 1, 5000), images::random(8, 1, 5000));
    client.skopeo_push(&first, &plain("app:v1"), None).expect_success("the first push");
    let refused = client.skopeo_push(&second, &plain("app:v1"), None).expect_failure("another image under the tag");
    assert!(refused.stderr.contains("immutable"), "skopeo says why: {}", refused.stderr);
    client.skopeo_push(&first, &plain("app:v1"), None).expect_success("the same image again");
    client.skopeo_push(&second, &plain("app:latest"), None).expect_success("a tag that may move");
    client.skopeo_push(&first, &plain("app:latest"), None).expect_success("and moves");
    for reference in ["v1", &first.digest] {
        let url = format!("http://{PROXY_ADDRESS}:5000/v2/app/manifests/{reference}");
        let deleted = client.curl(&["-X", "DELETE", &url]).expect_success("curl");
        assert!(deleted.stdout.contains("DENIED") && deleted.stdout.contains("v1"), "{}", deleted.stdout);
    }
    client.skopeo_pull(&plain("app:v1"), None).expect_success("it is still there");
}

#[test]
fn quotas_end_a_push_before_it_is_anybodys() {
    let world = World::new();
    let settings = Settings::new()
        .set("registry", "max_size = \"3m\"")
        .set("[[registry.quotas]]", "repository = \"small/*\"\nmax_size = \"1m\"");
    let entrepot = Entrepot::start(&world, settings);
    let client = neighbour(&entrepot);
    client.skopeo_push(&images::random(9, 1, 500_000), &plain("small/a:v1"), None).expect_success("within the quota");
    let over = client.skopeo_push(&images::random(10, 1, 700_000), &plain("small/a:v2"), None);
    let over = over.expect_failure("over the repository's quota");
    assert!(over.stderr.contains("quota") || over.stderr.contains("413"), "{}", over.stderr);
    client.skopeo_push(&images::random(10, 1, 700_000), &plain("small/b:v1"), None).expect_success("each has its own");
    client.skopeo_push(&images::random(11, 1, 1_500_000), &plain("large:v1"), None).expect_success("within the total");
    let over = client.skopeo_push(&images::random(12, 1, 900_000), &plain("large:v2"), None);
    let over = over.expect_failure("over the total");
    assert!(over.stderr.contains("max_size") || over.stderr.contains("507"), "{}", over.stderr);
    // Content that is there already takes no more room, in another repository either.
    client.skopeo_push(&images::random(11, 1, 1_500_000), &plain("again:v1"), None).expect_success("shared layers");
    for gone in ["small/a:v2", "large:v2"] {
        client.skopeo_pull(&plain(gone), None).expect_failure(gone);
    }
    for there in ["small/a:v1", "small/b:v1", "large:v1", "again:v1"] {
        client.skopeo_pull(&plain(there), None).expect_success(there);
    }
}
