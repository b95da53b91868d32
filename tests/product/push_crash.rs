//! `kill -9` at every step of a push. Acknowledged content is there afterwards, a tag never points to a missing blob,
//! and the same push succeeds when it is repeated.

use bytes::Bytes;
use entrepot_tests::door::{Door, Reply};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, Blob, Image, MANIFEST, sha256};
use entrepot_tests::tokens::random_text;
use entrepot_tests::world::{REGISTRY, World};
use http::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// The step at which the kill comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Begun,
    HalfAChunk,
    Chunk,
    EndSent,
    BlobAcknowledged,
    ManifestSent,
    ManifestAcknowledged,
}

const STEPS: [Step; 7] = [
    Step::Begun,
    Step::HalfAChunk,
    Step::Chunk,
    Step::EndSent,
    Step::BlobAcknowledged,
    Step::ManifestSent,
    Step::ManifestAcknowledged,
];

pub(crate) fn url(path: &str) -> String {
    format!("http://{REGISTRY}:5000{path}")
}

fn begin(door: &Door) -> String {
    let begun = door.request(Method::POST, &url("/v2/team/app/blobs/uploads/"), &[]);
    assert_eq!(begun.status, 202);
    begun.header("location").to_owned()
}

pub(crate) fn push_blob(door: &Door, blob: &Blob) -> Reply {
    let place = begin(door);
    door.request_with(Method::PUT, &url(&format!("{place}?digest={}", blob.digest)), &[], blob.bytes())
}

pub(crate) fn push_manifest(door: &Door, image: &Image, tag: &str) -> Reply {
    let path = url(&format!("/v2/team/app/manifests/{tag}"));
    door.request_with(Method::PUT, &path, &[("content-type", MANIFEST)], image.manifest.clone())
}

/// Sends the beginning of a request and does not wait for an answer.
fn send(world: &World, method: &str, path: &str, more: &str, body: Bytes, length: usize) -> TcpStream {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {REGISTRY}\r\ncontent-length: {length}\r\n{more}\r\n");
    world.client.wait(async move {
        let mut stream = TcpStream::connect("10.90.1.1:5000").await.expect("the registry's door");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(&body).await.expect("sent");
        stream.flush().await.expect("sent");
        stream
    })
}

/// Pushes up to a step. Returns the blobs that were acknowledged.
fn push_until(world: &World, door: &Door, image: &Image, tag: &str, step: Step) -> Vec<String> {
    let layer = &image.layers()[0];
    let place = begin(door);
    let (content, half) = (layer.bytes(), layer.bytes().len() / 2);
    if step == Step::Begun {
        return Vec::new();
    }
    if step == Step::HalfAChunk {
        drop(send(world, "PATCH", &place, "", content.slice(..half), content.len()));
        return Vec::new();
    }
    let chunk = door.request_with(Method::PATCH, &url(&place), &[], content.slice(..half));
    assert_eq!(chunk.status, 202);
    if step == Step::Chunk {
        return Vec::new();
    }
    let end = format!("{place}?digest={}", layer.digest);
    if step == Step::EndSent {
        drop(send(world, "PUT", &end, "", content.slice(half..), content.len() - half));
        return Vec::new();
    }
    assert_eq!(door.request_with(Method::PUT, &url(&end), &[], content.slice(half..)).status, 201);
    assert_eq!(push_blob(door, &image.blobs[0]).status, 201);
    let acknowledged = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
    if step == Step::ManifestSent {
        let path = format!("/v2/team/app/manifests/{tag}");
        let more = format!("content-type: {MANIFEST}\r\n");
        drop(send(world, "PUT", &path, &more, image.manifest.clone(), image.manifest.len()));
    }
    if step == Step::ManifestAcknowledged {
        assert_eq!(push_manifest(door, image, tag).status, 201);
    }
    acknowledged
}

pub(crate) fn assert_whole(door: &Door, image: &Image, tag: &str) {
    let manifest = door.get(&url(&format!("/v2/team/app/manifests/{tag}")), &[]);
    assert_eq!(sha256(manifest.complete().expect("a whole manifest")), image.digest, "{tag}");
    for blob in &image.blobs {
        assert_eq!(door.get(&url(&format!("/v2/team/app/blobs/{}", blob.digest)), &[]).content(), blob.digest, "{tag}");
    }
}

pub(crate) fn tags(door: &Door) -> Vec<String> {
    let listed = door.get(&url("/v2/team/app/tags/list"), &[]);
    if listed.status == 404 {
        return Vec::new();
    }
    let listed: Value = serde_json::from_slice(listed.complete().expect("a list")).expect("JSON");
    listed["tags"].as_array().expect("a list").iter().map(|tag| tag.as_str().expect("text").to_owned()).collect()
}

#[test]
fn killed_at_every_step_of_a_push() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let mut pushed: Vec<(String, Image)> = Vec::new();
    for (number, step) in (0..).zip(STEPS.iter().cycle().take(2 * STEPS.len())) {
        let (image, tag) = (images::random(700 + number, 1, 300_000), format!("v{number}"));
        let acknowledged = push_until(&world, &door, &image, &tag, *step);
        entrepot.kill();
        if number >= STEPS.len() as u64 {
            // The index contains nothing that cannot be rebuilt.
            std::fs::write(world.path("data/index.redb"), random_text()).expect("the index is a file");
        }
        entrepot.restart();
        for digest in &acknowledged {
            let blob = door.get(&url(&format!("/v2/team/app/blobs/{digest}")), &[]);
            assert_eq!(&blob.content(), digest, "acknowledged before the kill at {step:?}");
        }
        let there = tags(&door);
        if *step == Step::ManifestAcknowledged {
            assert!(there.contains(&tag), "acknowledged before the kill at {step:?}");
        }
        if there.contains(&tag) {
            assert_whole(&door, &image, &tag);
        }
        for (tag, image) in &pushed {
            assert_whole(&door, image, tag);
        }
        for blob in &image.blobs {
            assert_eq!(push_blob(&door, blob).status, 201, "the push made again after {step:?}");
        }
        assert_eq!(push_manifest(&door, &image, &tag).status, 201);
        pushed.push((tag, image));
    }
    entrepot.command(&["cache", "verify"]).expect_success("entrepot cache verify");
}

#[test]
fn an_upload_goes_on_after_a_kill_where_it_was() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let blob = crate::blob(720, 2 << 20);
    let (content, half) = (blob.bytes(), 1 << 20);
    let place = begin(&door);
    assert_eq!(door.request_with(Method::PATCH, &url(&place), &[], content.slice(..half)).status, 202);
    entrepot.kill();
    entrepot.restart();
    let status = door.get(&url(&place), &[]);
    assert_eq!((status.status.as_u16(), status.header("range")), (204, &*format!("0-{}", half - 1)));
    let range = format!("{half}-{}", content.len() - 1);
    let end = url(&format!("{place}?digest={}", blob.digest));
    let done = door.request_with(Method::PUT, &end, &[("content-range", &range)], content.slice(half..));
    assert_eq!(done.status, 201);
    assert_eq!(door.get(&url(done.header("location")), &[]).content(), blob.digest);
}
