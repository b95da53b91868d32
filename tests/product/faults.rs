//! Upstreams that break off, send wrong bytes or stall. A client gets the right bytes or an error, nothing wrong is
//! kept, and the next pull is clean (T10, T25 and the faults of docs/threats.md).

use std::time::Duration;

use bytes::Bytes;
use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::{self, Blob, sha256};
use entrepot_tests::world::World;

use crate::blob;

const SIZE: usize = 3 << 20;
/// The last byte of a tar of one file of that size: a header is before it, two empty blocks are after it.
const LAST: usize = SIZE + 1535;

fn put(fake: &Fake, seed: u64, answers: &[Answer]) -> (Blob, String) {
    let blob = blob(seed, SIZE);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), answers);
    (blob, path)
}

/// Short deadlines, and a 404 is not remembered.
fn impatient() -> Settings {
    Settings::new()
        .set("upstream", "read_timeout = \"1s\"\nconnect_timeout = \"2s\"")
        .set("cache.tags", "negative_time = \"0s\"")
}

#[test]
fn a_fill_is_resumed_after_five_resets() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let reset = || Answer::ResetAfter(400_000);
    let answers = [reset(), reset(), reset(), reset(), reset(), Answer::Good];
    let (blob, path) = put(&fake, 1, &answers);
    let entrepot = Entrepot::start(&world, Settings::new());
    let reply = entrepot.door().get(&fake.url(&path), &[]);
    assert_eq!(reply.content(), blob.digest, "{:?}", reply.body.as_ref().err().map(|(_, why)| why));
    let gets: Vec<_> = fake.ledger.all().into_iter().filter(|seen| seen.method == "GET" && seen.path == path).collect();
    assert_eq!(gets.len(), 6, "a GET a break");
    assert!(gets[1..].iter().all(|seen| seen.headers.contains_key("range")), "resumed, not begun again");
    assert!(gets.iter().all(|seen| seen.headers["accept-encoding"] == "identity"), "identity asked");
}

#[test]
fn what_breaks_and_recovers_ends_in_the_right_bytes() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, impatient());
    let door = entrepot.door();
    let cases: [(&str, Vec<Answer>); 7] = [
        ("the range ignored on resuming", vec![Answer::ResetAfter(1_000_000), Answer::IgnoreRange]),
        ("a stall", vec![Answer::StallAfter(1_000_000), Answer::Good]),
        ("no head", vec![Answer::ResetAfter(0), Answer::Good]),
        ("closed early, cleanly", vec![Answer::ShortAfter(1_000_000), Answer::Good]),
        ("closed early, again and again", vec![Answer::ShortAfter(1_000_000)]),
        ("no length", vec![Answer::Chunked]),
        (
            "busy on resuming",
            vec![Answer::ResetAfter(1_000_000), Answer::Status(503, "Retry-After: 0\r\n".to_owned()), Answer::Good],
        ),
    ];
    for (seed, (what, answers)) in (10..).zip(cases) {
        let (blob, path) = put(&fake, seed, &answers);
        let reply = door.get(&fake.url(&path), &[]);
        let why = reply.body.as_ref().err().map(|(got, why)| format!("{} bytes, {why}", got.len()));
        assert_eq!(reply.content(), blob.digest, "{what}: {} {why:?}", reply.status);
        fake.ledger.reset();
        assert_eq!(door.get(&fake.url(&path), &[]).content(), blob.digest, "{what}, warm");
        assert_eq!(fake.ledger.blob_bytes(), 0, "{what}, warm");
    }
}

/// Asserts that no client completes a bad answer, that nothing of it is kept, and that the next answer is clean.
fn assert_refused_then_clean(door: &Door, fake: &Fake, what: &str, path: &str, good: &Blob) {
    for round in ["first", "second"] {
        let reply = door.get(&fake.url(path), &[]);
        assert!(reply.complete().is_none(), "{what}, {round}: a wrong body completed");
    }
    fake.put(path, "application/octet-stream", good.bytes(), &[Answer::Good]);
    assert_eq!(door.get(&fake.url(path), &[]).content(), good.digest, "{what}: the next pull is clean");
}

#[test]
fn wrong_bodies_never_complete_and_are_not_kept() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, impatient());
    let door = entrepot.door();
    let good = blob(30, SIZE);
    let path = format!("/v2/team/app/blobs/{}", good.digest);
    let mut bodies: Vec<(String, Bytes)> = [0, 1, 511, 65_536, SIZE / 2, LAST]
        .map(|at| {
            let mut bytes = good.bytes().to_vec();
            bytes[at] ^= 1;
            (format!("byte {at} of {} wrong", bytes.len()), bytes.into())
        })
        .into();
    bodies.push(("a byte short".to_owned(), good.bytes().slice(1..)));
    bodies.push(("the last byte missing".to_owned(), good.bytes().slice(..LAST)));
    bodies.push(("a byte long".to_owned(), [good.bytes(), Bytes::from_static(b"x")].concat().into()));
    bodies.push(("empty".to_owned(), Bytes::new()));
    for (what, body) in bodies {
        entrepot.admin(http::Method::DELETE, "/api/cache");
        fake.put(&path, "application/octet-stream", body, &[Answer::Good]);
        assert_refused_then_clean(&door, &fake, &what, &path, &good);
    }
}

#[test]
fn answers_that_never_become_whole_fail_and_are_not_kept() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, impatient());
    let door = entrepot.door();
    let cases: [(&str, Vec<Answer>); 4] = [
        ("more than was said", vec![Answer::LongBy(1000)]),
        ("truncated for good", vec![Answer::ShortAfter(100_000), Answer::ShortAfter(0)]),
        ("gone in the middle", vec![Answer::ResetAfter(100_000), Answer::Status(404, String::new())]),
        ("not there", vec![Answer::Status(404, String::new())]),
    ];
    for (seed, (what, answers)) in (40..).zip(cases) {
        let (good, path) = put(&fake, seed, &answers);
        let reply = door.get(&fake.url(&path), &[]);
        assert!(reply.complete().is_none(), "{what}");
        fake.answer(&path, &[Answer::Good]);
        assert_eq!(door.get(&fake.url(&path), &[]).content(), good.digest, "{what}: the next pull is clean");
    }
}

#[test]
fn compressed_answers_are_not_kept_under_the_digest() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let (good, path) = put(&fake, 50, &[Answer::Gzip]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for _ in 0..2 {
        let reply = door.get(&fake.url(&path), &[]);
        let said_so = reply.header("content-encoding") == "gzip";
        let right = reply.content() == good.digest;
        assert!(reply.complete().is_none() || said_so || right, "an encoded body passed for the blob");
    }
    fake.answer(&path, &[Answer::Good]);
    let reply = door.get(&fake.url(&path), &[]);
    assert_eq!((reply.content().as_str(), reply.header("content-encoding")), (good.digest.as_str(), ""));
}

/// An image on the fake whose layer has wrong bytes under its digest.
fn poisoned(fake: &Fake) -> (images::Image, String, String) {
    let (image, other) = (images::random(60, 1, 200_000), images::random(61, 1, 200_000));
    let name = fake.publish(&image, "team/app", "1");
    let path = format!("/v2/team/app/blobs/{}", image.layers()[0].digest);
    fake.put(&path, "application/octet-stream", other.layers()[0].bytes(), &[Answer::Good]);
    (image, name, path)
}

#[test]
fn real_clients_see_a_wrong_digest_and_the_next_pull_is_clean() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let (image, name, path) = poisoned(&fake);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client: Client<'_> = entrepot.client();
    let docker = Dockerd::start(&client);
    client.skopeo_pull(&name, None).expect_failure("skopeo, wrong digest");
    docker.pull(&name).expect_failure("docker, wrong digest");
    fake.put(&path, "application/octet-stream", image.layers()[0].bytes(), &[Answer::Good]);
    client.skopeo_pull(&name, None).expect_success("skopeo, clean");
    docker.pull(&name).expect_success("docker, clean");
}

#[test]
fn a_manifest_that_is_not_its_digest_is_refused() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let (image, other) = (images::random(70, 1, 1000), images::random(71, 1, 1000));
    fake.publish(&image, "team/app", "1");
    let path = format!("/v2/team/app/manifests/{}", image.digest);
    fake.put(&path, images::MANIFEST, other.manifest.clone(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    assert!(door.get(&fake.url(&path), &[crate::ACCEPT]).complete().is_none());
    fake.put(&path, images::MANIFEST, image.manifest.clone(), &[Answer::Good]);
    assert_eq!(door.get(&fake.url(&path), &[crate::ACCEPT]).content(), image.digest);
}

#[test]
fn a_huge_manifest_passes_and_is_not_kept() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let padding = "x".repeat(5 << 20);
    let manifest = Bytes::from(format!(r#"{{"schemaVersion":2,"mediaType":"{}","x":"{padding}"}}"#, images::MANIFEST));
    let path = "/v2/team/app/manifests/huge";
    for reference in ["huge", &sha256(&manifest)] {
        fake.put(&format!("/v2/team/app/manifests/{reference}"), images::MANIFEST, manifest.clone(), &[Answer::Good]);
    }
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for round in 1..=2 {
        assert_eq!(door.get(&fake.url(path), &[crate::ACCEPT]).content(), sha256(&manifest));
        assert_eq!(fake.ledger.manifest_gets(), round, "from upstream each time");
    }
}

#[test]
fn a_slow_upstream_is_waited_for_while_it_makes_progress() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let (blob, path) = put(&fake, 80, &[Answer::Paced(Duration::from_millis(60))]);
    let entrepot = Entrepot::start(&world, impatient());
    let reply = entrepot.door().get(&fake.url(&path), &[]);
    assert_eq!(reply.content(), blob.digest, "3 s in all, never 1 s without a byte");
    assert_eq!(fake.ledger.gets_of(&path), 1);
}
