//! There is one upstream fetch for each digest, however many clients ask. All of them get bytes while it runs, and a
//! client that leaves harms no other. The upstream's gate is closed while the tests look, so the order of events is
//! certain.

use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot_tests::door::{Door, Running};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::{Blob, sha256};
use entrepot_tests::world::World;
use http::Method;
use tokio::sync::mpsc;

use crate::{blob, heavy};

const SIZE: usize = 4 << 20;
const GATE: usize = 1 << 20;

/// A blob behind a gate: 1 MiB is sent at once, the rest when the gate is opened.
fn gated(world: &World, seed: u64) -> (Fake, Blob, String) {
    let fake = Fake::start(world, "fake.test");
    let blob = blob(seed, SIZE);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Gate(GATE)]);
    (fake, blob, path)
}

/// Starts a GET and waits for its first bytes.
async fn begin(door: &Door, url: &str) -> (Running, Bytes) {
    let mut running = door.start(Method::GET, url, &[], Bytes::new()).await.expect("an answer");
    assert_eq!(running.status, 200);
    let first = running.next().await.expect("a first byte while the gate is closed");
    (running, first)
}

/// The digest of the whole body.
async fn end((running, first): (Running, Bytes)) -> String {
    let rest = running.finish().await.body.expect("the whole body");
    sha256(&[first, rest].concat())
}

#[test]
fn a_hundred_clients_on_one_cold_blob_cost_one_fetch() {
    let _alone = heavy();
    let world = World::new();
    let (fake, blob, path) = gated(&world, 1);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let (streaming, mut begun) = mpsc::channel(100);
    let (door_, gate) = (door.clone(), fake.gate());
    let digests = door.wait(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (door, url, streaming) = (door_.clone(), url.clone(), streaming.clone());
            tasks.spawn(async move {
                let running = begin(&door, &url).await;
                streaming.send(()).await.expect("counted");
                end(running).await
            });
        }
        for _ in 0..100 {
            begun.recv().await.expect("each client has its first byte before the fill ends");
        }
        gate.open();
        tasks.join_all().await
    });
    assert!(digests.iter().all(|digest| *digest == blob.digest), "every client has the right bytes");
    assert_eq!(fake.ledger.gets_of(&path), 1, "fetches");
    assert_eq!(fake.ledger.blob_bytes(), blob.size, "bytes from upstream");
}

#[test]
fn a_late_joiner_has_its_first_byte_while_the_fill_runs() {
    let world = World::new();
    let (fake, blob, path) = gated(&world, 2);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let (door_, gate) = (door.clone(), fake.gate());
    let (digests, fastest) = door.wait(async move {
        let mut running = vec![begin(&door_, &url).await];
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            running.push(begin(&door_, &url).await);
            fastest = fastest.min(began.elapsed());
        }
        gate.open();
        let mut digests = Vec::new();
        for one in running {
            digests.push(end(one).await);
        }
        (digests, fastest)
    });
    assert!(digests.iter().all(|digest| *digest == blob.digest));
    assert_eq!(fake.ledger.gets_of(&path), 1, "fetches");
    assert!(fastest < Duration::from_millis(100), "CONNECT, TLS and first byte took {fastest:?}");
}

#[test]
fn a_leader_that_leaves_harms_nobody() {
    let world = World::new();
    let (fake, blob, path) = gated(&world, 3);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let (door_, gate) = (door.clone(), fake.gate());
    let digest = door.wait(async move {
        let leader = begin(&door_, &url).await;
        let follower = begin(&door_, &url).await;
        drop(leader);
        gate.open();
        end(follower).await
    });
    assert_eq!(digest, blob.digest);
    assert_eq!(fake.ledger.gets_of(&path), 1, "fetches");
}

#[test]
fn a_fill_that_everybody_left_is_finished_all_the_same() {
    let world = World::new();
    let (fake, blob, path) = gated(&world, 4);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let (door_, url_) = (door.clone(), url.clone());
    door.wait(async move { drop(begin(&door_, &url_).await) });
    fake.open_gate();
    let reply = door.get(&url, &[]);
    assert_eq!(reply.content(), blob.digest);
    assert_eq!(fake.ledger.gets_of(&path), 1, "fetches");
}

#[test]
fn the_last_bytes_wait_for_the_digest() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let (asked, other) = (blob(5, SIZE), blob(6, SIZE));
    let path = format!("/v2/team/app/blobs/{}", asked.digest);
    fake.put(&path, "application/octet-stream", other.bytes(), &[Answer::Gate(GATE)]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let (door, url) = (entrepot.door(), fake.url(&path));
    let (door_, gate) = (door.clone(), fake.gate());
    let outcomes = door.wait(async move {
        let both = [begin(&door_, &url).await, begin(&door_, &url).await];
        gate.open();
        let mut outcomes = Vec::new();
        for (running, _) in both {
            outcomes.push(running.finish().await.body.is_err());
        }
        outcomes
    });
    assert_eq!(outcomes, [true, true], "leader and follower both see that the body is not whole");
}
