//! Each request has an id and a reason. The reply and the access record carry them, whatever the outcome is.

use http::Method;

use crate::harness::{Image, Proxy, Upstream};

#[tokio::test]
async fn every_line_has_the_id_of_its_reply_and_says_why() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let missing = format!("/v2/team/app/blobs/{}", entrepot_core::digest::Digest::Sha256([7; 32]));
    let mut ids = Vec::new();
    for (path, cache, reason) in [
        (image.layer_path(), "MISS", "led_fetch"),
        (image.layer_path(), "HIT", "stored"),
        (image.tag_path("1"), "MISS", "led_fetch"),
        (image.tag_path("1"), "REVALIDATED", "upstream_confirmed"),
        (missing, "", "upstream_not_found"),
        ("/v2/".to_owned(), "", "upstream_answered"),
        ("/v2/Team/manifests/1".to_owned(), "", "grammar"),
    ] {
        let reply = proxy.get(&upstream, &path).send().await;
        assert_eq!(reply.cache(), cache, "{path}");
        ids.push((reply.header("x-request-id").to_owned(), path, reason));
        proxy.landed().await;
    }
    let lines = proxy.access_lines(ids.len()).await;
    for (id, path, reason) in &ids {
        assert_eq!(id.len(), 16, "{path}");
        let line = lines.iter().find(|line| line["request_id"] == **id).unwrap_or_else(|| panic!("no line of {path}"));
        assert_eq!((line["uri"].as_str(), line["reason"].as_str()), (Some(&**path), Some(*reason)), "{line}");
    }
    ids.dedup_by(|one, other| one.0 == other.0);
    assert_eq!(ids.len(), lines.len(), "no id is given twice");
}

#[tokio::test]
async fn stale_content_says_what_upstream_did() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    upstream.guard(|_| Some(crate::harness::Answer::json(429, "{}")));
    let tag = image.tag_path("1").replace("/1", "/2");
    assert_eq!(proxy.get(&upstream, &tag).send().await.status, 429);
    upstream.stop().await;
    let digest = entrepot_core::digest::Digest::of(entrepot_core::digest::Algorithm::Sha256, &image.manifest);
    let by_digest = format!("/v2/team/app/manifests/{digest}");
    proxy.get(&upstream, &by_digest).send().await.is_whole(&image.manifest);
    let lines = proxy.access_lines(3).await;
    let reason_of = |uri: &str| lines.iter().find(|line| line["uri"] == *uri).map(|line| line["reason"].clone());
    assert_eq!(reason_of(&tag).as_ref().and_then(|reason| reason.as_str()), Some("upstream_rate_limited"));
    assert_eq!(reason_of(&by_digest).as_ref().and_then(|reason| reason.as_str()), Some("stored"));
}

#[tokio::test]
async fn our_own_registrys_requests_have_both_too() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let reply = proxy.registry(Method::GET, "/v2/team/app/manifests/absent").send().await;
    assert_eq!(reply.status, 404);
    let lines = proxy.access_lines(1).await;
    assert_eq!(lines[0]["request_id"].as_str(), Some(reply.header("x-request-id")));
    assert_eq!(lines[0]["reason"].as_str(), Some("unknown"));
}
