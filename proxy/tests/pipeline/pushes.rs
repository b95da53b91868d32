//! Pushes through the proxy: refused by default, streamed if they are allowed.

use entrepot_observe::labels::Rejection;
use http::Method;

use crate::harness::{Answer, Image, MANIFEST_TYPE, Proxy, Setup, Upstream, bytes};

fn allowed(upstream: &Upstream) -> Setup {
    Setup::of(&[upstream]).set("proxy", "allow_push = true")
}

#[tokio::test]
async fn every_write_is_refused_by_default() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let writes = [
        (Method::POST, "/v2/team/app/blobs/uploads/".to_owned()),
        (Method::POST, format!("/v2/team/app/blobs/uploads/?mount={digest}&from=other")),
        (Method::PATCH, "/v2/team/app/blobs/uploads/1".into()),
        (Method::PUT, format!("/v2/team/app/blobs/uploads/1?digest={digest}")),
        (Method::PUT, "/v2/team/app/manifests/latest".into()),
        (Method::DELETE, format!("/v2/team/app/manifests/{digest}")),
        (Method::DELETE, format!("/v2/team/app/blobs/{digest}")),
    ];
    for (count, (method, path)) in writes.into_iter().enumerate() {
        let reply = proxy.ask(method, &upstream, &path).body("content").send().await;
        reply.is_error(403, "DENIED");
        assert!(reply.text().contains("ALLOW_PUSH"), "says what to do: {}", reply.text());
        assert_eq!(proxy.pull.metrics.rejected_requests.get(Rejection::PushOff), count as u64 + 1, "{path}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn token_posts_are_never_refused() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let form = "grant_type=password&username=alice&password=alices-secret";
    for path in ["/token", "/oauth2/token", "/v2/token", "/v2/auth"] {
        upstream.on(path, |_| Answer::json(200, r#"{"access_token":"abc"}"#));
        let ask = proxy.ask(Method::POST, &upstream, path).body(form);
        let reply = ask.header("content-type", "application/x-www-form-urlencoded").send().await;
        assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"access_token":"abc"}"#), "{path}");
        let seen = upstream.seen().pop().expect("asked");
        assert_eq!(seen.body, form);
        assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded");
    }
}

#[tokio::test]
async fn a_push_streams_and_its_location_is_relative() {
    let upstream = Upstream::start().await;
    let absolute = upstream.url("/v2/team/app/blobs/uploads/abc?state=x%2Fy");
    upstream.on("/v2/team/app/blobs/uploads/", move |_| {
        Answer::status(202).header("location", &absolute).header("docker-upload-uuid", "abc").header("range", "0-0")
    });
    upstream.on("/v2/team/app/blobs/uploads/abc", |seen| match seen.method {
        Method::PATCH => Answer::status(202).header("location", "/v2/team/app/blobs/uploads/abc?state=z"),
        _ => Answer::status(201).header("location", "http://elsewhere.example/v2/team/app/blobs/x"),
    });
    let proxy = allowed(&upstream).start().await;
    let begun = proxy.ask(Method::POST, &upstream, "/v2/team/app/blobs/uploads/").basic("alice", "pw").send().await;
    assert_eq!((begun.status, begun.header("location")), (202, "/v2/team/app/blobs/uploads/abc?state=x%2Fy"));
    assert_eq!(begun.header("docker-upload-uuid"), "abc");
    assert!(upstream.seen()[0].header("authorization").starts_with("Basic "));
    let content = bytes(1, 3 << 20);
    let patched =
        proxy.ask(Method::PATCH, &upstream, "/v2/team/app/blobs/uploads/abc?state=x%2Fy").body(content.clone());
    let patched = patched.header("content-range", "0-3145727").send().await;
    assert_eq!((patched.status, patched.header("location")), (202, "/v2/team/app/blobs/uploads/abc?state=z"));
    let seen = upstream.seen().pop().expect("asked");
    assert!(seen.body == content);
    assert_eq!((seen.query.as_str(), seen.header("content-range")), ("state=x%2Fy", "0-3145727"));
    let digest = crate::harness::digest_of(&content);
    let path = format!("/v2/team/app/blobs/uploads/abc?digest={digest}");
    let done = proxy.ask(Method::PUT, &upstream, &path).send().await;
    assert_eq!((done.status, done.header("location")), (201, "http://elsewhere.example/v2/team/app/blobs/x"));
}

#[tokio::test]
async fn a_pushed_tag_is_asked_about_at_once() {
    let upstream = Upstream::start().await;
    let (old, new) = (Image::new("team/app", 1), Image::new("team/app", 2));
    let tag = old.tag_path("latest");
    old.publish(&upstream, "latest");
    let proxy = allowed(&upstream).set("cache.tags", "revalidate_interval = \"600s\"").start().await;
    proxy.get(&upstream, &tag).send().await.is_whole(&old.manifest);
    // A push that upstream refuses changes nothing.
    upstream.guard(|seen| (seen.method == Method::PUT).then(|| Answer::json(403, r#"{"errors":[]}"#)));
    let push = proxy.ask(Method::PUT, &upstream, &tag).header("content-type", MANIFEST_TYPE).body(new.manifest.clone());
    assert_eq!(push.clone().send().await.status, 403);
    assert_eq!(proxy.get(&upstream, &tag).send().await.cache(), "HIT");
    upstream.guard(|seen| (seen.method == Method::PUT).then(|| Answer::status(201)));
    assert_eq!(push.send().await.status, 201);
    let seen = upstream.seen().pop().expect("asked");
    assert!(seen.body == new.manifest && seen.header("content-type") == MANIFEST_TYPE);
    new.publish(&upstream, "latest");
    proxy.get(&upstream, &tag).send().await.is_whole(&new.manifest);
}

#[tokio::test]
async fn a_push_ends_a_remembered_404() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let proxy = allowed(&upstream).start().await;
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 404);
    upstream.guard(|seen| (seen.method == Method::PUT).then(|| Answer::status(201)));
    assert_eq!(proxy.ask(Method::PUT, &upstream, &image.tag_path("1")).body("x").send().await.status, 201);
    image.publish(&upstream, "1");
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
}

#[tokio::test]
async fn a_deleted_manifest_is_forgotten() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = allowed(&upstream).start().await;
    proxy.get(&upstream, &image.manifest_path()).send().await.is_whole(&image.manifest);
    upstream.on(&image.manifest_path(), |seen| match seen.method {
        Method::DELETE => Answer::status(202),
        _ => Answer::json(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone"}]}"#),
    });
    assert_eq!(proxy.ask(Method::DELETE, &upstream, &image.manifest_path()).send().await.status, 202);
    proxy.get(&upstream, &image.manifest_path()).send().await.is_error(404, "MANIFEST_UNKNOWN");
}
