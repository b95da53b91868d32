//! Clients get nothing that upstream would not give them, and registries are separate (T1, T2 and T9 of
//! docs/threats.md). docker-registry-proxy gives cached content to every client.

use bytes::Bytes;
use entrepot_tests::door::{Door, Reply};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, Image, LIST, MANIFEST, sha256};
use entrepot_tests::ledger::Kind;
use entrepot_tests::tokens::basic;
use entrepot_tests::upstream::{Auth, GHCR, HUB, PRIVATE, QUAY, Site, Upstream};
use entrepot_tests::world::World;
use http::Method;
use http::header::AUTHORIZATION;

use crate::ACCEPT;

const ALICE: Option<(&str, &str)> = Some(("alice", "canary-alice"));
const BOB: Option<(&str, &str)> = Some(("bob", "canary-bob"));
const CAROL: Option<(&str, &str)> = Some(("carol", "canary-carol"));

#[test]
fn the_same_name_in_two_registries_is_two_images() {
    let world = World::new();
    let (ghcr, quay) = (Upstream::start(&world, GHCR), Upstream::start(&world, QUAY));
    let (first, second) = (images::random(1, 1, 1000), images::random(2, 1, 1000));
    ghcr.publish(&first, "team/app", "1");
    quay.publish(&second, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for round in ["cold", "warm"] {
        for (upstream, site, image) in [(&ghcr, GHCR, &first), (&quay, QUAY, &second)] {
            let token = door.authorization(&site, "team/app", None).expect("an anonymous token");
            let url = upstream.url("/v2/team/app/manifests/1");
            let reply = door.get(&url, &[ACCEPT, ("authorization", &token)]);
            assert_eq!(reply.content(), image.digest, "{url} {round}");
            assert_eq!(reply.header("docker-content-digest"), image.digest, "{url} {round}");
        }
    }
}

#[test]
fn the_accept_header_decides_as_it_does_upstream() {
    let world = World::new();
    let quay = Upstream::start(&world, QUAY);
    let index = images::index(7);
    for tag in ["list-first", "image-first"] {
        quay.publish_index(&index, "team/multi", tag);
    }
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let token = door.authorization(&QUAY, "team/multi", None).expect("an anonymous token");
    let ask = |tag: &str, accept: &str| {
        let url = quay.url(&format!("/v2/team/multi/manifests/{tag}"));
        let reply = door.get(&url, &[("accept", accept), ("authorization", &token)]);
        (reply.header("content-type").to_owned(), reply.content())
    };
    let list = (LIST.to_owned(), index.digest.clone());
    let image = (MANIFEST.to_owned(), index.images[0].digest.clone());
    for _ in 0..2 {
        assert_eq!(ask("list-first", ACCEPT.1), list);
        assert_eq!(ask("list-first", MANIFEST), image, "docker-registry gives old clients the amd64 image");
        assert_eq!(ask("image-first", MANIFEST), image);
        assert_eq!(ask("image-first", ACCEPT.1), list);
    }
}

/// A credential that must get nothing, with its fault.
type Intruder = (&'static str, Option<String>);

/// Every way to ask for the image's bytes.
fn asks(image: &Image) -> Vec<(Method, String, Option<&'static str>)> {
    let layer = format!("/v2/team/secret/blobs/{}", image.layers()[0].digest);
    let by_digest = format!("/v2/team/secret/manifests/{}", image.digest);
    let by_tag = "/v2/team/secret/manifests/1".to_owned();
    vec![
        (Method::GET, by_tag.clone(), None),
        (Method::HEAD, by_tag, None),
        (Method::GET, by_digest.clone(), None),
        (Method::HEAD, by_digest, None),
        (Method::GET, layer.clone(), None),
        (Method::HEAD, layer.clone(), None),
        (Method::GET, layer.clone(), Some("bytes=0-99")),
        (Method::GET, layer, Some("bytes=-50")),
        (Method::GET, format!("/v2/team/secret/referrers/{}", image.digest), None),
        (Method::GET, "/v2/team/secret/tags/list".to_owned(), None),
    ]
}

fn ask(door: &Door, url: &str, ask: &(Method, String, Option<&str>), authorization: Option<&str>) -> Reply {
    let mut headers = vec![ACCEPT];
    headers.extend(authorization.map(|value| ("authorization", value)));
    headers.extend(ask.2.map(|range| ("range", range)));
    door.request(ask.0.clone(), url, &headers)
}

/// Asserts that none of `intruders` gets a byte in this phase.
fn assert_closed(door: &Door, upstream: &Upstream<'_>, image: &Image, intruders: &[Intruder], phase: &str) {
    let secrets: Vec<Bytes> = image.blobs.iter().map(|blob| blob.bytes()).chain([image.manifest.clone()]).collect();
    for (who, authorization) in intruders {
        for asked in asks(image) {
            let reply = ask(door, &upstream.url(&asked.1), &asked, authorization.as_deref());
            let what = format!("{phase}, {who}: {} {} {:?}", asked.0, asked.1, asked.2);
            assert!(reply.status.is_client_error() || reply.status.is_server_error(), "{what}: {}", reply.status);
            let body = match &reply.body {
                Ok(body) | Err((body, _)) => body,
            };
            let leaked = |secret: &Bytes| body.windows(32).any(|window| secret.starts_with(window));
            assert!(!secrets.iter().any(leaked), "{what}: bytes of the private image");
        }
    }
}

/// Asserts that the owner gets everything in this phase.
fn assert_open(door: &Door, upstream: &Upstream<'_>, image: &Image, authorization: &str, phase: &str) {
    for asked in &asks(image)[..8] {
        let reply = ask(door, &upstream.url(&asked.1), asked, Some(authorization));
        assert!(reply.complete().is_some(), "{phase}, the owner: {} {}: {}", asked.0, asked.1, reply.status);
        if asked.0 == Method::GET && asked.2.is_none() {
            let body = reply.complete().expect("complete");
            assert!(asked.1.ends_with("/1") || asked.1.ends_with(&sha256(body)), "{phase}: the right bytes");
        }
    }
}

fn through_the_phases(world: &World, site: Site, intruders: impl Fn(&Door, &Upstream<'_>) -> Vec<Intruder>) {
    let upstream = Upstream::start(world, site);
    let image = images::random(40, 2, 5000);
    upstream.publish(&image, "team/secret", "1");
    for (user, password) in [ALICE, CAROL].into_iter().flatten() {
        upstream.rights().allow(user, password, "team/secret");
    }
    upstream.rights().allow("bob", "canary-bob", "team/other");
    let entrepot = Entrepot::start(world, Settings::new());
    let door = entrepot.door();
    let intruders = intruders(&door, &upstream);
    assert_closed(&door, &upstream, &image, &intruders, "cold");
    let alice = door.authorization(&site, "team/secret", ALICE).expect("the owner's authorization");
    assert_open(&door, &upstream, &image, &alice, "cold");
    assert_closed(&door, &upstream, &image, &intruders, "warm");
    assert_open(&door, &upstream, &image, &alice, "warm");
    upstream.off();
    assert_closed(&door, &upstream, &image, &intruders, "offline");
    assert_open(&door, &upstream, &image, &alice, "offline");
}

#[test]
fn private_bytes_go_to_nobody_else_with_tokens() {
    let world = World::new();
    through_the_phases(&world, GHCR, |door, ghcr| {
        let token = |repository, account| door.authorization(&GHCR, repository, account);
        let expired = token("team/secret", ALICE);
        ghcr.rights().expire_tokens();
        let revoked = token("team/secret", CAROL);
        ghcr.rights().revoke("carol");
        let intruders = vec![
            ("none", None),
            ("anonymous", token("team/secret", None)),
            ("wrong", Some("Bearer wrong".to_owned())),
            ("wrong scheme", Some(basic("alice", "canary-wrong"))),
            ("expired", expired),
            ("other repository", token("team/other", BOB)),
            ("another user", token("team/secret", BOB)),
            ("revoked", revoked),
        ];
        assert!(intruders[4..].iter().all(|(_, value)| value.is_some()), "each of them had a token");
        intruders
    });
}

#[test]
fn private_bytes_go_to_nobody_else_with_passwords() {
    let world = World::new();
    through_the_phases(&world, PRIVATE, |_, registry| {
        registry.rights().revoke("carol");
        vec![
            ("none", None),
            ("wrong", Some(basic("alice", "canary-wrong"))),
            ("other repository", Some(basic("bob", "canary-bob"))),
            ("revoked", Some(basic("carol", "canary-carol"))),
            ("no base64", Some("Basic %%%".to_owned())),
        ]
    });
}

#[test]
fn tokens_and_refusals_are_nobody_elses() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("alice", "canary-alice", "team/secret");
    ghcr.rights().allow("bob", "canary-bob", "team/secret");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let token = |account| door.authorization(&GHCR, "team/secret", account);
    let tokens = [token(ALICE), token(BOB), token(None), token(ALICE)];
    for (number, one) in tokens.iter().enumerate() {
        assert!(one.is_some(), "token {number}");
        assert!(tokens[number + 1..].iter().all(|other| other != one), "token {number} given to two");
    }
    assert_eq!(token(Some(("alice", "canary-wrong"))), None, "a wrong password after a right one");
    assert!(token(ALICE).is_some(), "a right password after a wrong one");
}

#[test]
fn a_given_account_opens_its_registry_to_every_client() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("alice", "canary-alice", "team/secret");
    ghcr.rights().allow("bob", "canary-bob", "other/secret");
    let first = ghcr.publish(&images::random(41, 2, 5000), "team/secret", "1");
    let second = ghcr.publish(&images::random(42, 2, 5000), "other/secret", "1");
    let account = |user, repository| {
        format!(
            "registry = \"ghcr.io\"\nrepository = \"{repository}\"\nusername = \"{user}\"\npassword = \"canary-{user}\""
        )
    };
    let both = format!("{}\n[[credentials]]\n{}", account("alice", "team/*"), account("bob", "other/*"));
    let settings = Settings::new().set("[[credentials]]", &both);
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.client();
    for round in ["cold", "warm"] {
        client.skopeo_pull(&first, None).expect_success(&format!("alice's, {round}"));
        client.skopeo_pull(&second, None).expect_success(&format!("bob's, {round}"));
    }
    ghcr.off();
    client.skopeo_pull(&first, None).expect_success("alice's, upstream off");
}

/// A registry that sends its clients to Docker Hub's token server, for another account's repository there.
const THIEF: Site = Site {
    host: "quay.io",
    port: 443,
    tls: true,
    auth: Auth::Bearer {
        realm: "https://auth.docker.io/token?scope=repository:team/secret:pull",
        service: "registry.docker.io",
    },
    prefix: "quay.io",
};

#[test]
fn no_registry_is_given_a_token_of_anothers_account() {
    let world = World::new();
    let (hub, thief) = (Upstream::start(&world, HUB), Upstream::start(&world, THIEF));
    hub.rights().allow("user", "canary-hub", "team/secret");
    thief.rights().allow("somebody", "canary-somebody", "team/app");
    let name = hub.publish(&images::random(43, 1, 5000), "team/secret", "1");
    let account = "registry = \"auth.docker.io\"\nusername = \"user\"\npassword = \"canary-hub\"";
    let entrepot = Entrepot::start(&world, Settings::new().set("[[credentials]]", account));
    for _ in 0..3 {
        let reply = entrepot.door().get(&thief.url("/v2/team/app/manifests/1"), &[ACCEPT]);
        assert!(reply.status.is_client_error() || reply.status.is_server_error(), "{}", reply.status);
    }
    assert!(!thief.ledger.all().is_empty(), "it was asked");
    let logins = || hub.ledger.all().into_iter().filter(|seen| seen.headers.contains_key(AUTHORIZATION));
    assert_eq!(logins().count(), 0, "the account went to its token server for another registry");
    entrepot.client().skopeo_pull(&name, None).expect_success("its own registry has the account");
    assert!(logins().any(|seen| seen.kind == Kind::Token), "by its token server");
}

#[test]
fn strict_access_holds_beside_a_given_account() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("alice", "canary-alice", "team/secret");
    let name = ghcr.publish(&images::random(43, 2, 5000), "team/secret", "1");
    let account = "registry = \"ghcr.io\"\nusername = \"alice\"\npassword = \"canary-alice\"";
    let strict = Settings::new().set("[[credentials]]", account).set(r#"registries."ghcr.io""#, "access = \"strict\"");
    let entrepot = Entrepot::start(&world, strict);
    let client = entrepot.client();
    client.skopeo_pull(&name, None).expect_failure("without a login");
    client.skopeo_pull(&name, ALICE).expect_success("with a login");
    client.skopeo_pull(&name, None).expect_failure("without a login, warm");
}
