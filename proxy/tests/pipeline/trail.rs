//! Each request has an id and a reason. The reply and the access record carry them, whatever the outcome is.

use std::collections::HashSet;

use entrepot_core::digest::{Algorithm, Digest};
use http::Method;

use crate::harness::{Answer, Image, Proxy, Setup, Upstream};

#[tokio::test]
async fn every_line_has_the_id_of_its_reply_and_says_why() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let missing = format!("/v2/team/app/blobs/{}", Digest::Sha256([7; 32]));
    let mut ids = Vec::new();
    for (path, cache, reason) in [
        (image.layer_path(), "MISS", "led_fetch"),
        (image.layer_path(), "HIT", "stored"),
        (image.tag_path("1"), "MISS", "led_fetch"),
        (image.tag_path("1"), "REVALIDATED", "upstream_confirmed"),
        (missing, "", "upstream_not_found"),
        ("/v2/".to_owned(), "", "upstream_answered"),
        ("/v2/team_/manifests/1".to_owned(), "", "grammar"),
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
    let ids: HashSet<_> = ids.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), lines.len(), "no id is given twice");
}

#[tokio::test]
async fn stale_content_says_what_upstream_did() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    upstream.guard(|_| Some(Answer::json(429, "{}")));
    let tag = image.tag_path("1").replace("/1", "/2");
    assert_eq!(proxy.get(&upstream, &tag).send().await.status, 429);
    let stale = proxy.get(&upstream, &image.tag_path("1")).send().await;
    assert_eq!((stale.status, stale.cache()), (200, "STALE"));
    upstream.stop().await;
    let digest = Digest::of(Algorithm::Sha256, &image.manifest);
    let by_digest = format!("/v2/team/app/manifests/{digest}");
    proxy.get(&upstream, &by_digest).send().await.is_whole(&image.manifest);
    let lines = proxy.access_lines(4).await;
    // The last line of a path counts.
    let reason_of = |uri: &str| lines.iter().rfind(|line| line["uri"] == *uri).map(|line| line["reason"].clone());
    assert_eq!(reason_of(&tag).as_ref().and_then(|reason| reason.as_str()), Some("upstream_rate_limited"));
    assert_eq!(
        reason_of(&image.tag_path("1")).as_ref().and_then(|reason| reason.as_str()),
        Some("upstream_rate_limited")
    );
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

#[tokio::test]
async fn a_pushed_manifest_has_its_digest_in_the_line() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[]}}"#);
    let path = "/v2/team/app/manifests/1";
    let put = proxy.registry(Method::PUT, path).header("content-type", media_type).body(index.clone()).send().await;
    assert_eq!(put.status, 201, "{}", put.text());
    proxy.registry(Method::GET, path).send().await.is_whole(index.as_bytes());
    let digest = Digest::of(Algorithm::Sha256, index.as_bytes()).to_string();
    let told: Vec<_> =
        proxy.access_lines(2).await.iter().map(|line| (line["reason"].clone(), line["digest"].clone())).collect();
    assert_eq!(told, [("pushed".into(), (&*digest).into()), ("given".into(), (&*digest).into())]);
}

/// A realm's URL may carry a secret.
#[tokio::test]
async fn the_line_of_a_token_request_names_only_the_host_of_the_realm() {
    let upstream = Upstream::start().await;
    let realm = upstream.url("/token?private_token=canary");
    upstream.guard(move |seen| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
        seen.path.starts_with("/v2/").then(|| Answer::json(401, "{}").header("www-authenticate", &challenge))
    });
    upstream.on("/token", |_| Answer::json(401, "{}"));
    let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password").start().await;
    let path = "/entrepot/token?service=fake&scope=repository:team/app:pull";
    assert_eq!(proxy.get(&upstream, path).basic("alice", "wrong").send().await.status, 401);
    assert_eq!(upstream.count(&Method::GET, "/token"), 1, "the realm was asked");
    let line = proxy.access_lines(1).await.remove(0);
    assert_eq!(
        (line["upstream"].as_str(), line["reason"].as_str()),
        (Some(&*upstream.host()), Some("upstream_denied"))
    );
    assert!(!line.to_string().contains("canary"), "{line}");
}
