//! Ranges and HEAD: the bytes are the same on hit and miss, there is at most one fetch, and a HEAD stays a HEAD
//! upstream.

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::{self, sha256};
use entrepot_tests::ledger::Kind;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use http::Method;

use crate::{ACCEPT, blob};

const SIZE: usize = 3 << 20;

#[test]
fn a_range_is_the_same_on_miss_and_hit() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let last = SIZE + 1535;
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=2000000-", 2_000_000, last),
        ("bytes=-100", last - 99, last),
        ("bytes=3000000-99999999", 3_000_000, last),
    ];
    for (seed, (range, from, to)) in (1..).zip(cases) {
        let blob = blob(seed, SIZE);
        assert_eq!(blob.size, last as u64 + 1, "a tar's header and end");
        let (path, bytes) = (format!("/v2/team/app/blobs/{}", blob.digest), blob.bytes());
        fake.put(&path, "application/octet-stream", bytes.clone(), &[Answer::Good]);
        let url = fake.url(&path);
        for round in ["miss", "hit"] {
            let reply = door.get(&url, &[("range", range)]);
            assert_eq!(reply.status, 206, "{range} on a {round}");
            assert_eq!(
                reply.header("content-range"),
                format!("bytes {from}-{to}/{}", blob.size),
                "{range} on a {round}"
            );
            assert_eq!(reply.content(), blob.digest_of(from..=to), "{range} on a {round}");
            if round == "miss" {
                assert_eq!(door.get(&url, &[]).content(), sha256(&bytes), "the whole after {range}");
            }
        }
    }
}

#[test]
fn ranges_beyond_the_end_and_nonsense_are_answered_by_the_book() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let blob = blob(20, SIZE);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    assert_eq!(door.get(&url, &[]).content(), blob.digest);
    let beyond = door.get(&url, &[("range", "bytes=99999999-")]);
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, &*format!("bytes */{}", blob.size)));
    for nonsense in ["bytes=5-2", "bits=0-1", "bytes=a-b"] {
        let reply = door.get(&url, &[("range", nonsense)]);
        assert_eq!((reply.status.as_u16(), reply.content()), (200, blob.digest.clone()), "{nonsense} is ignored");
    }
}

#[test]
fn several_ranges_are_answered_alike_on_miss_and_hit() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let blob = blob(21, SIZE);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let ask = || {
        let reply = door.get(&url, &[("range", "bytes=0-9,1000-1009")]);
        let kind = reply.header("content-type").split(';').next().unwrap_or_default().to_owned();
        (reply.status.as_u16(), kind, reply.complete().map(|body| body.len()))
    };
    let miss = ask();
    door.get(&url, &[]);
    let hit = ask();
    assert_eq!((miss.0, &miss.1), (hit.0, &hit.1));
    let whole = (200, Some(blob.bytes().len()));
    let parts = miss.0 == 206 && miss.1 == "multipart/byteranges";
    assert!(parts || (miss.0, miss.2) == whole, "200 whole or 206 in parts, never one coalesced range: {miss:?}");
}

#[test]
fn many_small_ranges_cost_one_fetch() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let blob = blob(22, SIZE);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Good]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let door_ = door.clone();
    let url_ = url.clone();
    door.wait(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..50_usize {
            let (door, url) = (door_.clone(), url_.clone());
            let from = number * 50_000;
            let range = vec![("range".to_owned(), format!("bytes={from}-"))];
            tasks.spawn(async move {
                let mut running = door.start(Method::GET, &url, &range, bytes::Bytes::new()).await.expect("an answer");
                assert_eq!(running.status, 206);
                running.next().await.expect("bytes");
            });
        }
        tasks.join_all().await;
    });
    let whole = door.get(&url, &[]);
    assert_eq!(whole.content(), blob.digest);
    let (came, most) = (fake.ledger.blob_bytes(), blob.size + blob.size / 20);
    assert!(came <= most, "{came} bytes came from upstream for a blob of {}", blob.size);
}

#[test]
fn a_head_stays_a_head_upstream() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(23, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url("/v2/team/app/manifests/1");
    let reply = door.request(Method::HEAD, &url, &[ACCEPT, ("authorization", &token)]);
    assert_eq!(reply.header("docker-content-digest"), image.digest);
    assert_eq!(reply.header("content-length"), image.manifest.len().to_string());
    assert_eq!(ghcr.ledger.manifest_gets(), 0, "a HEAD costs no pull");
    assert!(ghcr.ledger.count(&Method::HEAD, Kind::ManifestTag) >= 1);
}
