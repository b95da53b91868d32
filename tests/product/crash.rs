//! `kill -9` at any point of a fetch. Afterwards the server is ready, nothing partial is visible, and the digest can be
//! fetched right.

use std::time::Duration;

use bytes::Bytes;
use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::fill;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use entrepot_tests::{images, tokens};
use http::Method;

use crate::blob;

const SIZE: usize = 2 << 20;

/// Starts a GET and reads until this many bytes have come, or the body has ended.
fn read_until(door: &Door, url: String, count: usize) {
    let door_ = door.clone();
    door.wait(async move {
        let mut running = door_.start(Method::GET, &url, &[], Bytes::new()).await.expect("an answer");
        let mut came = 0;
        while came < count {
            match running.next().await {
                Some(bytes) => came += bytes.len(),
                None => break,
            }
        }
    });
}

#[test]
fn killed_at_twenty_random_points_of_a_fill() {
    let world = World::new();
    let fake = Fake::start(&world, "fake.test");
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let mut noise = [0; 20 * 4];
    let seed = u64::from(std::process::id());
    fill(seed, &mut noise);
    for (number, random) in (0..).zip(noise.chunks(4)) {
        let point = usize::from(random[0]) * 8192 + usize::from(random[1]);
        let blob = blob(seed.wrapping_mul(100) + number, SIZE);
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        let slowly = Answer::Paced(Duration::from_millis(1));
        fake.put(&path, "application/octet-stream", blob.bytes(), &[slowly, Answer::Good]);
        read_until(&entrepot.door(), fake.url(&path), point);
        entrepot.kill();
        entrepot.restart();
        let reply = entrepot.door().get(&fake.url(&path), &[]);
        assert_eq!(reply.content(), blob.digest, "killed after {point} bytes (seed {seed}, kill {number})");
        fake.ledger.reset();
        assert_eq!(entrepot.door().get(&fake.url(&path), &[]).content(), blob.digest, "warm");
        assert_eq!(fake.ledger.blob_bytes(), 0, "cached after kill {number}");
    }
    entrepot.command(&["cache", "verify"]).expect_success("entrepot cache verify");
}

#[test]
fn what_was_cached_before_the_kill_is_cached_after_it() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let name = ghcr.publish(&images::random(1, 5, 50_000), "team/app", "1");
    let mut entrepot = Entrepot::start(&world, Settings::new());
    entrepot.client().skopeo_pull(&name, None).expect_success("cold");
    entrepot.wait_stored(6);
    entrepot.kill();
    entrepot.restart();
    ghcr.ledger.reset();
    entrepot.client().skopeo_pull(&name, None).expect_success("after the kill");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "blob bytes after the kill");
}

#[test]
fn a_lost_or_broken_index_is_made_again() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let name = ghcr.publish(&images::random(2, 5, 50_000), "team/app", "1");
    let mut entrepot = Entrepot::start(&world, Settings::new());
    entrepot.client().skopeo_pull(&name, None).expect_success("cold");
    entrepot.wait_stored(6);
    let index = world.path("data/index.redb");
    for damage in ["removed", "emptied", "garbled"] {
        entrepot.kill();
        let done = match damage {
            "removed" => std::fs::remove_file(&index),
            "emptied" => std::fs::write(&index, ""),
            _ => std::fs::write(&index, tokens::random_text().repeat(100)),
        };
        done.expect("the index is a file");
        entrepot.restart();
        ghcr.ledger.reset();
        entrepot.client().skopeo_pull(&name, None).expect_success(&format!("the index {damage}"));
        assert_eq!(ghcr.ledger.blob_bytes(), 0, "the index {damage}: the blobs are still there");
    }
}
