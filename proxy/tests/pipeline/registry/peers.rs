//! Faults of other registries, as tests with their names.

use http::Method;

use super::{begin, get, push, push_blob, put_manifest, registry, status};
use crate::harness::{Image, digest_of};

/// distribution #4872: after one of two repositories that share a blob was deleted and collected, the other answered
/// 200 with an empty body.
#[tokio::test]
async fn distribution_4872_a_shared_blob_outlives_one_of_its_repositories() {
    use entrepot_store::{Sweep, Untagged};
    let proxy = registry().await;
    let (one, two) = (Image::new("one", 1), Image::new("two", 1));
    push(&proxy, &one, "1").await;
    push(&proxy, &two, "1").await;
    assert_eq!(status(&proxy, Method::DELETE, &one.manifest_path()).await, 202);
    let sweep = Sweep { grace: std::time::Duration::ZERO, untagged: Untagged::Keep, dry_run: false };
    proxy.pull.store.repositories.collect(sweep, |_| {}).await.expect("collected");
    get(&proxy, &two.layer_path()).await.is_whole(&two.layer);
    assert_eq!(status(&proxy, Method::GET, &one.layer_path()).await, 404);
}

/// Nexus #1061: an absolute Location with a host name that the client cannot reach.
#[tokio::test]
async fn nexus_1061_locations_are_relative_whatever_host_was_named() {
    let proxy = registry().await;
    let post = proxy.registry(Method::POST, "/v2/app/blobs/uploads/").header("host", "evil.example:99");
    let place = post.send().await.header("location").to_owned();
    assert!(place.starts_with("/v2/app/blobs/uploads/"), "{place}");
    let digest = push_blob(&proxy, "app", &b"x".as_slice().into()).await;
    let mounted = proxy.registry(Method::POST, &format!("/v2/b/blobs/uploads/?mount={digest}&from=app")).send().await;
    assert_eq!(mounted.header("location"), format!("/v2/b/blobs/{digest}"));
}

/// ZOT converts manifests, and their digests with them.
#[tokio::test]
async fn zot_media_types_and_bytes_stay_as_they_were_pushed() {
    let proxy = registry().await;
    let layer = push_blob(&proxy, "app", &b"layer".as_slice().into()).await;
    for (number, media_type) in [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.example.artifact.v1+json",
    ]
    .into_iter()
    .enumerate()
    {
        let manifest = super::manifest_of(media_type, &layer, 5);
        // An unknown type has no prescribed form.
        let manifest = if number == 2 { format!("{{\"mediaType\":\"{media_type}\",\"n\":1.0}}") } else { manifest };
        let path = format!("/v2/app/manifests/v{number}");
        let put = proxy.registry(Method::PUT, &path).header("content-type", media_type).body(manifest.clone());
        assert_eq!(put.send().await.status, 201, "{media_type}");
        let got = get(&proxy, &path).await;
        got.is_whole(manifest.as_bytes());
        assert_eq!(got.header("content-type"), media_type);
        assert_eq!(got.header("docker-content-digest"), digest_of(manifest.as_bytes()).to_string());
    }
}

/// Nora accepts two levels of repository names, ociregistry four segments.
#[tokio::test]
async fn nora_and_ociregistry_deep_names() {
    let proxy = registry().await;
    for repository in ["a", "a/b/c/d/e/f/g/h", "blobs/manifests/tags/list", "x/blobs/uploads", &"n".repeat(255)] {
        let image = Image::new(repository, 2);
        push(&proxy, &image, "latest").await;
        get(&proxy, &image.tag_path("latest")).await.is_whole(&image.manifest);
        get(&proxy, &image.layer_path()).await.is_whole(&image.layer);
    }
    assert_eq!(status(&proxy, Method::POST, &format!("/v2/{}/blobs/uploads/", "n".repeat(256))).await, 400);
}

/// docker-registry 2.8.2 and distribution 3.1.1 accept a chunk twice and answer odd ranges with 200.
#[tokio::test]
async fn distribution_a_chunk_that_is_sent_again_is_416() {
    let proxy = registry().await;
    let place = begin(&proxy, "app").await;
    let send = || proxy.registry(Method::PATCH, &place).header("content-range", "0-3").body("abcd").send();
    assert_eq!(send().await.status, 202);
    send().await.is_error(416, "BLOB_UPLOAD_INVALID");
    let done = proxy.registry(Method::PUT, &format!("{place}?digest={}", digest_of(b"abcd"))).send().await;
    assert_eq!(done.status, 201);
}

/// Harbor #23374: a body that was cut off looked whole. Content-Length comes first.
#[tokio::test]
async fn harbor_23374_the_length_is_told_before_the_body() {
    let proxy = registry().await;
    let image = Image::new("app", 3);
    push(&proxy, &image, "1").await;
    for path in [image.layer_path(), image.tag_path("1")] {
        let reading = proxy.registry(Method::GET, &path).start().await;
        assert!(reading.headers.contains_key("content-length") && !reading.headers.contains_key("transfer-encoding"));
    }
}

/// Tags move and the old manifest stays reachable by its digest, as with every registry.
#[tokio::test]
async fn a_tag_that_moves_leaves_its_old_manifest() {
    let proxy = registry().await;
    let (old, new) = (Image::new("app", 4), Image::new("app", 5));
    push(&proxy, &old, "latest").await;
    push(&proxy, &new, "latest").await;
    get(&proxy, &new.tag_path("latest")).await.is_whole(&new.manifest);
    get(&proxy, &old.manifest_path()).await.is_whole(&old.manifest);
    let again = put_manifest(&proxy, "app", "latest", old.manifest.clone()).await;
    assert_eq!(again.status, 201);
    get(&proxy, &old.tag_path("latest")).await.is_whole(&old.manifest);
}
