//! Blobs, cold and warm.

use entrepot_core::digest::{Algorithm, Digest};
use http::Method;

use crate::harness::{Answer, Image, Proxy, Setup, Upstream, bytes};

#[tokio::test]
async fn a_second_pull_moves_no_bytes_and_asks_nobody() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let cold = proxy.get(&upstream, &image.layer_path()).send().await;
    cold.is_whole(&image.layer);
    assert_eq!(cold.cache(), "MISS");
    assert_eq!(cold.header("docker-content-digest"), image.layer_digest.to_string());
    assert_eq!(cold.header("content-length"), image.layer.len().to_string());
    assert_eq!(upstream.take_lines(), [format!("GET {}", image.layer_path())]);
    proxy.landed().await;
    let warm = proxy.get(&upstream, &image.layer_path()).send().await;
    warm.is_whole(&image.layer);
    assert_eq!(warm.cache(), "HIT");
    assert!(!warm.header("x-cache-date").is_empty());
    assert_eq!(warm.header("docker-distribution-api-version"), "registry/2.0");
    assert!(upstream.take_lines().is_empty());
}

#[tokio::test]
async fn head_stays_head_cold_and_warm() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    for _ in 0..2 {
        let head = proxy.head(&upstream, &image.layer_path()).send().await;
        assert_eq!((head.status, head.header("content-length")), (200, "70000"));
        assert_eq!(head.header("docker-content-digest"), image.layer_digest.to_string());
        assert_eq!(upstream.take_lines(), [format!("HEAD {}", image.layer_path())]);
        assert_eq!(upstream.body_bytes(), 0);
        proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
        proxy.landed().await;
        upstream.forget();
    }
}

#[tokio::test]
async fn the_same_bytes_are_stored_once_whatever_the_repository() {
    let upstream = Upstream::start().await;
    let content = bytes(7, 100_000);
    let digest = upstream.blob("one", &content);
    upstream.blob("two", &content);
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &format!("/v2/one/blobs/{digest}")).send().await.is_whole(&content);
    proxy.landed().await;
    upstream.forget();
    let second = proxy.get(&upstream, &format!("/v2/two/blobs/{digest}")).send().await;
    second.is_whole(&content);
    assert_eq!(second.cache(), "REVALIDATED");
    assert_eq!(upstream.take_lines(), [format!("HEAD /v2/two/blobs/{digest}")], "only the right to it is asked");
    let absent = proxy.get(&upstream, &format!("/v2/three/blobs/{digest}")).send().await;
    assert_eq!(absent.status, 404, "a digest alone grants nothing");
}

#[tokio::test]
async fn sha512_is_a_digest_like_any() {
    let upstream = Upstream::start().await;
    let content = bytes(8, 300_000);
    let digest = Digest::of(Algorithm::Sha512, &content);
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()));
    let proxy = Proxy::before(&[&upstream]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    proxy.get(&upstream, &path).send().await.is_whole(&content);
    proxy.landed().await;
    assert!(proxy.has(&digest));
    let warm = proxy.get(&upstream, &path).send().await;
    warm.is_whole(&content);
    assert_eq!((warm.cache(), upstream.count(&Method::GET, &path)), ("HIT", 1));
}

#[tokio::test]
async fn a_blob_of_no_bytes_is_a_blob() {
    let upstream = Upstream::start().await;
    let digest = upstream.blob("team/app", &bytes(0, 0));
    let proxy = Proxy::before(&[&upstream]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    for cache in ["MISS", "HIT"] {
        let reply = proxy.get(&upstream, &path).send().await;
        reply.is_whole(b"");
        assert_eq!((reply.cache(), reply.header("content-length")), (cache, "0"));
        proxy.landed().await;
    }
}

#[tokio::test]
async fn upstreams_refusal_is_the_clients_answer() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let digest = entrepot_core::digest::Digest::Sha256([7; 32]);
    let path = format!("/v2/team/app/blobs/{digest}");
    let reply = proxy.get(&upstream, &path).send().await;
    reply.is_error(404, "UNKNOWN");
    upstream.on(&path, |_| Answer::json(429, r#"{"errors":[]}"#).header("retry-after", "7"));
    let reply = proxy.get(&upstream, &path).send().await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "7"));
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn a_cache_that_is_switched_off_stores_nothing() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).set("cache", "enabled = false").start().await;
    for _ in 0..2 {
        let reply = proxy.get(&upstream, &image.layer_path()).send().await;
        reply.is_whole(&image.layer);
        assert_eq!(reply.cache(), "BYPASS");
        proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    }
    assert_eq!(upstream.count(&Method::GET, &image.layer_path()), 2);
    proxy.holds_nothing().await;
}
