//! Manifests by digest, and the manifests that are not kept.

use entrepot_observe::labels::Bypass;
use http::Method;

use crate::harness::{Answer, Image, MANIFEST_TYPE, Proxy, Upstream, digest_of};

#[tokio::test]
async fn a_manifest_by_digest_is_fetched_once() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let cold = proxy.get(&upstream, &image.manifest_path()).send().await;
    cold.is_whole(&image.manifest);
    assert_eq!((cold.cache(), cold.header("content-type")), ("MISS", MANIFEST_TYPE));
    upstream.forget();
    let warm = proxy.get(&upstream, &image.manifest_path()).send().await;
    warm.is_whole(&image.manifest);
    assert_eq!((warm.cache(), warm.header("content-type")), ("HIT", MANIFEST_TYPE));
    assert_eq!(warm.header("docker-content-digest"), image.manifest_digest.to_string());
    let head = proxy.head(&upstream, &image.manifest_path()).send().await;
    assert_eq!((head.status, head.cache()), (200, "HIT"));
    assert_eq!(head.header("content-length"), image.manifest.len().to_string());
    assert!(upstream.take_lines().is_empty());
}

#[tokio::test]
async fn a_cold_head_stays_head() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    for path in [image.manifest_path(), image.tag_path("1")] {
        let head = proxy.head(&upstream, &path).send().await;
        assert_eq!((head.status, head.header("content-type")), (200, MANIFEST_TYPE));
        assert_eq!(head.header("docker-content-digest"), image.manifest_digest.to_string());
        assert_eq!(upstream.take_lines(), [format!("HEAD {path}")]);
    }
}

#[tokio::test]
async fn fifty_clients_ask_for_one_manifest_once() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let asks = (0..50).map(|_| proxy.get(&upstream, &image.manifest_path()).send());
    for reply in futures_util::future::join_all(asks).await {
        reply.is_whole(&image.manifest);
    }
    assert_eq!(upstream.count(&Method::GET, &image.manifest_path()), 1);
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused_and_not_kept() {
    let upstream = Upstream::start().await;
    let (good, bad) = (Image::new("team/app", 1), Image::new("team/app", 2));
    good.publish(&upstream, "1");
    let answer = Answer::content(bad.manifest.clone()).header("content-type", MANIFEST_TYPE);
    upstream.on(&good.manifest_path(), move |_| answer.clone());
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &good.manifest_path()).send().await.is_error(502, "BAD_GATEWAY");
    proxy.get(&upstream, &good.tag_path("1")).send().await.is_error(502, "BAD_GATEWAY");
    proxy.holds_nothing().await;
    good.publish(&upstream, "1");
    proxy.get(&upstream, &good.manifest_path()).send().await.is_whole(&good.manifest);
    proxy.get(&upstream, &good.tag_path("1")).send().await.is_whole(&good.manifest);
}

#[tokio::test]
async fn an_oversize_manifest_passes_and_is_not_kept() {
    let upstream = Upstream::start().await;
    let padding = "x".repeat(5 << 20);
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","layers":[],"a":"{padding}"}}"#);
    let manifest = bytes::Bytes::from(manifest);
    let path = format!("/v2/team/app/manifests/{}", digest_of(&manifest));
    upstream.manifest("team/app", "big", MANIFEST_TYPE, &manifest);
    let proxy = Proxy::before(&[&upstream]).await;
    for (count, path) in [path.as_str(), "/v2/team/app/manifests/big"].into_iter().enumerate() {
        let reply = proxy.get(&upstream, path).send().await;
        reply.is_whole(&manifest);
        assert_eq!((reply.cache(), reply.header("content-type")), ("BYPASS", MANIFEST_TYPE));
        assert_eq!(proxy.pull.metrics.bypass.get(Bypass::TooLarge), 1 + count as u64);
    }
    let mut wrong = manifest.to_vec();
    wrong[5 << 20] ^= 1;
    let lie = Answer::content(wrong).header("content-type", MANIFEST_TYPE);
    upstream.on(&path, move |_| lie.clone());
    proxy.get(&upstream, &path).try_send().await.expect_err("no end for wrong bytes");
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn a_manifest_of_doubtful_type_passes_and_is_not_kept() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let index = "application/vnd.oci.image.index.v1+json";
    upstream.manifest("team/app", "odd", index, &image.manifest);
    let proxy = Proxy::before(&[&upstream]).await;
    for _ in 0..2 {
        let reply = proxy.get(&upstream, &image.manifest_path()).send().await;
        reply.is_whole(&image.manifest);
        assert_eq!((reply.cache(), reply.header("content-type")), ("BYPASS", index));
    }
    assert_eq!(upstream.count(&Method::GET, &image.manifest_path()), 2);
    assert_eq!(proxy.pull.metrics.bypass.get(Bypass::Ambiguous), 2);
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn what_is_no_manifest_is_never_kept_under_a_tag() {
    let upstream = Upstream::start().await;
    upstream.manifest(
        "team/app",
        "1",
        "text/html",
        &bytes::Bytes::from_static(b"<html>sign in to this hotspot</html>"),
    );
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, "/v2/team/app/manifests/1").send().await;
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn two_registries_with_the_same_tag_do_not_bleed() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let (first, second) = (Image::new("library/app", 1), Image::new("library/app", 2));
    first.publish(&one, "latest");
    second.publish(&two, "latest");
    let proxy = Proxy::before(&[&one, &two]).await;
    for _ in 0..2 {
        proxy.get(&one, &first.tag_path("latest")).send().await.is_whole(&first.manifest);
        proxy.get(&two, &second.tag_path("latest")).send().await.is_whole(&second.manifest);
    }
    let other = proxy.get(&two, &first.manifest_path()).send().await;
    assert_eq!(other.status, 404, "the other registry has it, this one has not");
}

#[tokio::test]
async fn a_manifest_that_rots_on_disk_is_fetched_anew() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.manifest_path()).send().await.is_whole(&image.manifest);
    let mut rotten = image.manifest.to_vec();
    rotten[20] ^= 1;
    std::fs::write(proxy.file_of(&image.manifest_digest), rotten).expect("written");
    upstream.forget();
    proxy.get(&upstream, &image.manifest_path()).send().await.is_whole(&image.manifest);
    assert_eq!(upstream.take_lines(), [format!("GET {}", image.manifest_path())]);
    let again = proxy.get(&upstream, &image.manifest_path()).send().await;
    assert_eq!(again.cache(), "HIT", "and is kept again");
}
