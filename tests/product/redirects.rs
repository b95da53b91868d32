//! The proxy follows redirects of every code and form, and sends no secret to another origin (T3 of docs/threats.md).

use bytes::Bytes;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::{self, MANIFEST, sha256};
use entrepot_tests::ledger::{Ledger, Seen};
use entrepot_tests::upstream::{Cdn, GHCR, Upstream};
use entrepot_tests::world::World;
use http::StatusCode;

use crate::{ACCEPT, blob};

fn assert_no_secrets(seen: &[Seen]) {
    assert!(!seen.is_empty(), "the redirect was followed");
    for one in seen {
        for name in ["authorization", "cookie", "proxy-authorization"] {
            assert!(!one.headers.contains_key(name), "{name} arrived at {}", one.path);
        }
    }
}

#[test]
fn every_code_leads_to_the_cdn_without_credentials() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let cdn = Cdn::start(&world, "cdn.test");
    ghcr.rights().allow("alice", "canary-alice", "team/secret");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for (seed, code) in (1..).zip([301, 302, 303, 307, 308]) {
        let image = images::random(seed, 1, 50_000);
        ghcr.publish(&image, "team/secret", &format!("t{code}"));
        ghcr.redirect_blobs(StatusCode::from_u16(code).expect("a status"), "cdn.test");
        let token = door.authorization(&GHCR, "team/secret", Some(("alice", "canary-alice"))).expect("a token");
        let layer = &image.layers()[0];
        let url = ghcr.url(&format!("/v2/team/secret/blobs/{}", layer.digest));
        cdn.ledger.reset();
        let headers = [("authorization", token.as_str()), ("cookie", "session=canary-cookie")];
        let reply = door.get(&url, &headers);
        assert_eq!(reply.content(), layer.digest, "{code}: {}", reply.status);
        assert_eq!(reply.header("docker-content-digest"), layer.digest, "{code}");
        assert_no_secrets(&cdn.ledger.all());
        ghcr.ledger.reset();
        cdn.ledger.reset();
        assert_eq!(door.get(&url, &headers).content(), layer.digest, "{code}, warm");
        assert_eq!((ghcr.ledger.blob_bytes(), cdn.ledger.blob_bytes()), (0, 0), "{code}, warm");
    }
}

#[test]
fn skopeo_pulls_through_a_cdn() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let cdn = Cdn::start(&world, "cdn.test");
    ghcr.redirect_blobs(StatusCode::TEMPORARY_REDIRECT, "cdn.test");
    let image = images::random(9, 5, 20_000);
    let name = ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    entrepot.client().skopeo_pull(&name, None).expect_success("cold");
    assert_eq!(cdn.ledger.blob_bytes(), image.blob_bytes());
    assert_no_secrets(&cdn.ledger.all());
}

/// Puts a chain of this many redirects in front of a blob. Returns the path of its start.
fn chain(fake: &Fake, seed: u64, hops: usize) -> (String, Bytes) {
    let blob = blob(seed, 30_000);
    let start = format!("/v2/team/app/blobs/{}", blob.digest);
    let at = |hop: usize| match hop {
        0 => start.clone(),
        hop => format!("/hop/{seed}/{hop}"),
    };
    for hop in 0..hops {
        fake.put(&at(hop), "text/html", Bytes::new(), &[Answer::Redirect(307, at(hop + 1))]);
    }
    fake.put(&at(hops), "application/octet-stream", blob.bytes(), &[Answer::Good]);
    (start, blob.bytes())
}

#[test]
fn chains_up_to_ten_hops_are_followed_and_longer_ones_ended() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for hops in [1, 2, 10] {
        let (path, bytes) = chain(&fake, 100 + hops as u64, hops);
        assert_eq!(door.get(&fake.url(&path), &[]).content(), sha256(&bytes), "{hops} hops");
    }
    let (path, _) = chain(&fake, 200, 11);
    assert_eq!(door.get(&fake.url(&path), &[]).status, 502, "11 hops");
}

#[test]
fn locations_of_every_form_are_understood() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let forms = [
        ("https://fake.test/store/absolute?signature=a%2Fb&x=1", "/store/absolute"),
        ("//fake.test/store/network", "/store/network"),
        ("/store/rooted", "/store/rooted"),
        ("sibling", "/v2/team/app/blobs/sibling"),
        ("../../../../store/up", "/store/up"),
        ("https://FAKE.test:443/store/port", "/store/port"),
    ];
    for (seed, (location, target)) in (300..).zip(forms) {
        let blob = blob(seed, 30_000);
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        fake.put(&path, "text/html", Bytes::new(), &[Answer::Redirect(302, location.to_owned())]);
        fake.put(target, "application/octet-stream", blob.bytes(), &[Answer::Good]);
        assert_eq!(door.get(&fake.url(&path), &[]).content(), blob.digest, "{location}");
    }
}

#[test]
fn loops_and_nonsense_end_in_an_honest_error() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let digest = blob(400, 1000).digest;
    let path = format!("/v2/team/app/blobs/{digest}");
    for location in [path.as_str(), "", "ftp://fake.test/x", "https://", "http://[broken", "https://127.0.0.1/x"] {
        fake.put(&path, "text/html", Bytes::new(), &[Answer::Redirect(307, location.to_owned())]);
        fake.ledger.reset();
        let reply = door.get(&fake.url(&path), &[]);
        assert!([502, 403].contains(&reply.status.as_u16()), "Location {location:?}: {}", reply.status);
        assert!(fake.ledger.all().len() <= 24, "Location {location:?} was asked {} times", fake.ledger.all().len());
    }
}

#[test]
fn credentials_are_not_restored_when_a_redirect_comes_back() {
    let world = World::new();
    let (first, second) = (Fake::start(&world, "fake.test"), Fake::start(&world, "cdn2.test"));
    let blob = blob(500, 30_000);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    first.put(&path, "text/html", Bytes::new(), &[Answer::Redirect(307, second.url("/away"))]);
    second.put("/away", "text/html", Bytes::new(), &[Answer::Redirect(307, first.url("/back"))]);
    first.put("/back", "application/octet-stream", blob.bytes(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let reply = entrepot.door().get(&first.url(&path), &[("authorization", "Basic Y2FuYXJ5")]);
    assert_eq!(reply.content(), blob.digest);
    assert_no_secrets(&of_path(&second.ledger, "/away"));
    assert_no_secrets(&of_path(&first.ledger, "/back"));
}

fn of_path(ledger: &Ledger, path: &str) -> Vec<Seen> {
    ledger.all().into_iter().filter(|seen| seen.path == path).collect()
}

#[test]
fn a_redirected_manifest_keeps_its_type_and_digest() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let image = images::random(600, 1, 5000);
    fake.publish(&image, "team/app", "1");
    let path = "/v2/team/app/manifests/1";
    fake.answer(path, &[Answer::Redirect(307, "/moved".to_owned())]);
    fake.put("/moved", MANIFEST, image.manifest.clone(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for round in ["cold", "warm"] {
        let reply = door.get(&fake.url(path), &[ACCEPT]);
        assert_eq!(reply.content(), image.digest, "{round}");
        assert_eq!(reply.header("content-type"), MANIFEST, "{round}");
        assert_eq!(reply.header("docker-content-digest"), image.digest, "{round}");
    }
}
