//! 429 means stop asking: what clients get meanwhile, and the requests that upstream does not get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;

use crate::harness::{Answer, Image, NOBODY, Proxy, Setup, TokenServer, Upstream, eventually};

const QUOTA: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating."}]}"#;

fn too_many() -> Answer {
    Answer::json(429, QUOTA).header("retry-after", "60")
}

#[tokio::test]
async fn after_a_429_upstream_is_not_asked_and_what_is_known_is_given() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let referrers = format!("/v2/team/app/referrers/{}", image.manifest_digest);
    upstream.on(&referrers, |_| Answer::json(200, r#"{"schemaVersion":2,"manifests":[]}"#));
    let proxy = Proxy::before(&[&upstream]).await;
    for path in [image.tag_path("1"), image.layer_path(), referrers.clone()] {
        assert_eq!(proxy.get(&upstream, &path).send().await.status, 200);
    }
    proxy.landed().await;
    upstream.guard(|_| Some(too_many()));
    upstream.forget();
    // A GET tells the words of the 429; the answer to HEAD has none.
    let first = proxy.get(&upstream, &Image::new("team/app", 9).layer_path()).send().await;
    assert_eq!((first.status, first.header("retry-after"), first.text()), (429, "60", QUOTA.to_owned()));
    for _ in 0..10 {
        let stale = proxy.get(&upstream, &image.tag_path("1")).send().await;
        stale.is_whole(&image.manifest);
        let warning = stale.header("warning");
        let words = format!("299 - \"served stale: {}'s pull quota is used up, it resets at ", upstream.host());
        assert!(warning.starts_with(&words) && warning.ends_with(" UTC\""), "{warning}");
        assert_eq!(stale.cache(), "STALE");
        assert_eq!(proxy.head(&upstream, &image.tag_path("1")).send().await.cache(), "STALE");
        assert_eq!(proxy.get(&upstream, &referrers).send().await.cache(), "STALE");
        proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    }
    for path in [
        image.tag_path("2"),
        Image::new("team/app", 2).manifest_path(),
        Image::new("team/app", 2).layer_path(),
        "/v2/team/other/tags/list".to_owned(),
        "/v2/_catalog".to_owned(),
    ] {
        let unknown = proxy.get(&upstream, &path).send().await;
        assert_eq!((unknown.status, unknown.text()), (429, QUOTA.to_owned()), "{path}");
        let left: u64 = unknown.header("retry-after").parse().expect("seconds");
        assert!((40..=60).contains(&left), "{left} s");
    }
    assert_eq!(upstream.seen().len(), 1, "{:?}", upstream.take_lines());
    let metrics = proxy.pull.metrics.encode();
    assert!(!metrics.contains("entrepot_upstream_withheld_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_429_on_head_stops_everything_too() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    upstream.forget();
    upstream.guard(|_| Some(Answer::status(429).header("retry-after", "60")));
    for _ in 0..30 {
        let stale = proxy.get(&upstream, &image.tag_path("1")).send().await;
        let words = format!("{} limits the rate of requests, it is asked again at ", upstream.host());
        assert!(stale.header("warning").contains(&words), "a bare 429 is the abuse limit: {}", stale.header("warning"));
    }
    assert_eq!(upstream.take_lines(), [format!("HEAD {}", image.tag_path("1"))]);
}

#[tokio::test]
async fn when_the_pause_is_over_upstream_is_asked_again() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await;
    upstream.guard(|_| Some(Answer::status(429).header("retry-after", "1")));
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.cache(), "STALE");
    upstream.unguard();
    let asked = crate::harness::in_time("upstream is asked again", async {
        loop {
            let reply = proxy.get(&upstream, &image.tag_path("1")).send().await;
            if reply.cache() != "STALE" {
                return reply;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    assert_eq!(asked.await.cache(), "REVALIDATED");
}

#[tokio::test]
async fn each_registry_and_credential_has_its_own_pause() {
    let (upstream, other) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    for upstream in [&upstream, &other] {
        image.publish(upstream, "1");
    }
    let proxy = Proxy::before(&[&upstream, &other]).await;
    upstream.guard(|seen| seen.header("authorization").is_empty().then(too_many));
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 429);
    upstream.forget();
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 429);
    assert_eq!(upstream.seen().len(), 0);
    proxy.get(&upstream, &image.tag_path("1")).basic("alice", "x").send().await.is_whole(&image.manifest);
    proxy.get(&other, &image.tag_path("1")).send().await.is_whole(&image.manifest);
}

/// The token of a client changes every few minutes; its quota does not. A client that has a login of its own is told how
/// to use it while others without one wait.
#[tokio::test]
async fn a_pause_is_for_the_login_and_not_for_its_token() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    for user in [NOBODY, "alice"] {
        server.allow(user, "team/app");
    }
    let tokens = Arc::new(AtomicU64::new(0));
    upstream.on("/token", move |seen| {
        let user = if seen.header("authorization").is_empty() { NOBODY } else { "alice" };
        let number = tokens.fetch_add(1, Ordering::Relaxed);
        Answer::json(200, format!(r#"{{"token":"{number}-{user}","expires_in":300}}"#))
    });
    let realm = upstream.url("/token");
    upstream.guard(move |seen| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
        match seen.header("authorization").strip_prefix("Bearer ") {
            _ if seen.path == "/token" => None,
            Some(token) if token.ends_with(NOBODY) => Some(too_many()),
            Some(_) => None,
            None => Some(Answer::json(401, "{}").header("www-authenticate", &challenge)),
        }
    });
    let proxy = Proxy::before(&[&upstream]).await;
    let token = async |login: Option<&str>| {
        let ask = proxy.get(&upstream, "/token?service=fake&scope=repository:team/app:pull");
        let reply = match login {
            Some(user) => ask.basic(user, "x").send().await,
            None => ask.send().await,
        };
        let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        json["token"].as_str().expect("a token").to_owned()
    };
    assert_eq!(proxy.get(&upstream, "/v2/").send().await.status, 401);
    for round in 0..3 {
        let token = token(None).await;
        upstream.forget();
        let reply = proxy.get(&upstream, &image.tag_path("1")).bearer(&token).send().await;
        assert_eq!(reply.status, 429);
        assert_eq!(
            upstream.seen().len(),
            usize::from(round == 0),
            "the same client without a login, with another token"
        );
    }
    let challenge = proxy.get(&upstream, &image.tag_path("1")).send().await;
    assert_eq!((challenge.status, upstream.seen().len()), (401, 0), "as the registry would answer, without asking it");
    assert!(challenge.header("www-authenticate").contains("scope=\"repository:team/app:pull\""));
    let alices = token(Some("alice")).await;
    proxy.get(&upstream, &image.tag_path("1")).bearer(&alices).send().await.is_whole(&image.manifest);
}

#[tokio::test]
async fn checks_of_tags_stop_before_the_quota_is_used_up() {
    for (remaining, checks) in [(6, true), (5, false), (1, false)] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        image.publish(&upstream, "1");
        let tags = "/v2/team/app/tags/list";
        upstream.on(tags, |_| Answer::json(200, r#"{"name":"team/app","tags":["1"]}"#));
        let proxy = Proxy::before(&[&upstream]).await;
        for path in [&image.tag_path("1"), tags] {
            proxy.get(&upstream, path).send().await;
        }
        let unknown = Image::new("team/app", 2);
        let manifest = unknown.manifest.clone();
        upstream.on(&unknown.manifest_path(), move |_| {
            Answer::content(manifest.clone())
                .header("content-type", crate::harness::MANIFEST_TYPE)
                .header("ratelimit-limit", "100;w=21600")
                .header("ratelimit-remaining", &format!("{remaining};w=21600"))
        });
        proxy.get(&upstream, &unknown.manifest_path()).send().await.is_whole(&unknown.manifest);
        upstream.forget();
        for path in [&image.tag_path("1"), tags] {
            let reply = proxy.get(&upstream, path).send().await;
            assert_eq!((reply.status, reply.cache() != "STALE"), (200, checks), "{remaining} left, {path}");
            let warning = format!("leaves {remaining} of 100 pulls");
            assert_eq!(reply.header("warning").contains(&warning), !checks, "{}", reply.header("warning"));
        }
        assert_eq!(upstream.seen().len(), if checks { 2 } else { 0 }, "{remaining} left");
        // Pulls of what is not known go on.
        let third = Image::new("team/app", 3);
        third.publish(&upstream, "3");
        proxy.get(&upstream, &third.tag_path("3")).send().await.is_whole(&third.manifest);
        assert!(upstream.count(&Method::GET, &third.manifest_path()) == 1);
    }
}

#[tokio::test]
async fn a_429_of_the_token_server_is_one_of_the_registry() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    server.allow("robot", "team/app");
    let setup = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password");
    let proxy = setup.set(&Setup::registry(&upstream), "access = \"shared\"").start().await;
    upstream.on("/token", |_| too_many());
    let first = proxy.get(&upstream, &image.tag_path("1")).send().await;
    assert_eq!((first.status, first.text()), (429, QUOTA.to_owned()));
    upstream.forget();
    for _ in 0..5 {
        let reply = proxy.get(&upstream, &image.tag_path("1")).send().await;
        assert_eq!((reply.status, reply.text()), (429, QUOTA.to_owned()));
        assert!(!reply.header("retry-after").is_empty());
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.take_lines());
}

#[tokio::test]
async fn pushes_are_not_held_back() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let proxy = Setup::of(&[&upstream]).set("proxy", "allow_push = true").start().await;
    upstream.guard(|seen| (seen.method != Method::PUT).then(too_many));
    upstream.on(&image.tag_path("1"), |_| Answer::status(201));
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 429);
    let push = proxy.ask(Method::PUT, &upstream, &image.tag_path("1")).body(image.manifest.clone()).send().await;
    assert_eq!(push.status, 201);
    eventually("the push arrived", || upstream.count(&Method::PUT, &image.tag_path("1")) == 1).await;
}
