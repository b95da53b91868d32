//! Cached bytes go only to clients that upstream would serve too (T1 and T2 in docs/threats.md).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entrepot_observe::labels::Bypass;
use http::Method;

use crate::harness::{Answer, Ask, Gate, Image, MANIFEST_TYPE, Proxy, Setup, TokenServer, Upstream, bytes, digest_of};

/// Every kind of request for an image.
fn questions(proxy: &Proxy, upstream: &Upstream, image: &Image) -> Vec<(&'static str, Ask)> {
    let referrers = format!("/v2/{}/referrers/{}", image.repository, image.manifest_digest);
    vec![
        ("tag", proxy.get(upstream, &image.tag_path("1"))),
        ("digest", proxy.get(upstream, &image.manifest_path())),
        ("blob", proxy.get(upstream, &image.layer_path())),
        ("range", proxy.get(upstream, &image.layer_path()).range("0-99")),
        ("HEAD tag", proxy.head(upstream, &image.tag_path("1"))),
        ("HEAD digest", proxy.head(upstream, &image.manifest_path())),
        ("HEAD blob", proxy.head(upstream, &image.layer_path())),
        ("referrers", proxy.get(upstream, &referrers)),
    ]
}

/// Pulls the whole image as a client with the right.
async fn pull_all(proxy: &Proxy, upstream: &Upstream, image: &Image, who: impl Fn(Ask) -> Ask) {
    for (what, ask) in questions(proxy, upstream, image) {
        let reply = who(ask).send().await;
        assert!((200..300).contains(&reply.status), "{what}: {}", reply.status);
    }
    proxy.landed().await;
}

/// Asks for the whole image as a client without the right.
async fn gets_nothing(proxy: &Proxy, upstream: &Upstream, image: &Image, name: &str, who: impl Fn(Ask) -> Ask) {
    for (what, ask) in questions(proxy, upstream, image) {
        let reply = who(ask).send().await;
        assert!(reply.status >= 400, "{name} got {} for the {what}", reply.status);
        for content in [&image.manifest, &image.layer] {
            let secret = &content[..64];
            assert!(!reply.body.windows(64).any(|window| window == secret), "{name} got private bytes of the {what}");
        }
        assert_eq!(reply.header("docker-content-digest"), "", "{name} was told that the {what} exists");
    }
}

async fn private_image() -> (Upstream, TokenServer, Image) {
    let upstream = Upstream::start().await;
    let image = Image::new("team/secret", 1);
    image.publish(&upstream, "1");
    let referrers = format!("/v2/{}/referrers/{}", image.repository, image.manifest_digest);
    upstream.on(&referrers, |_| Answer::json(200, r#"{"schemaVersion":2,"manifests":[]}"#));
    let server = TokenServer::protect(&upstream);
    server.allow("alice", "team/secret");
    server.allow("bob", "team/other");
    (upstream, server, image)
}

#[tokio::test]
async fn a_private_image_is_given_to_nobody_else() {
    let (upstream, server, image) = private_image().await;
    let proxy = Proxy::before(&[&upstream]).await;
    server.allow("carol", "team/secret");
    for state in ["cold", "warm", "offline"] {
        match state {
            "warm" => {
                pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-alice")).await;
                pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-carol")).await;
                server.revoke("carol", "team/secret");
            }
            "offline" => upstream.stop().await,
            _ => server.revoke("carol", "team/secret"),
        }
        gets_nothing(&proxy, &upstream, &image, &format!("{state} none"), |ask| ask).await;
        gets_nothing(&proxy, &upstream, &image, &format!("{state} wrong"), |ask| ask.bearer("token-of-mallory")).await;
        gets_nothing(&proxy, &upstream, &image, &format!("{state} odd"), |ask| ask.bearer("")).await;
        gets_nothing(&proxy, &upstream, &image, &format!("{state} Basic"), |ask| ask.basic("alice", "guess")).await;
        gets_nothing(&proxy, &upstream, &image, &format!("{state} other's"), |ask| ask.bearer("token-of-bob")).await;
        gets_nothing(&proxy, &upstream, &image, &format!("{state} revoked"), |ask| ask.bearer("token-of-carol")).await;
        if state == "cold" {
            proxy.holds_nothing().await;
            server.allow("carol", "team/secret");
        }
    }
}

#[tokio::test]
async fn a_second_reader_is_served_from_the_store_once_upstream_agrees() {
    let (upstream, server, image) = private_image().await;
    let proxy = Proxy::before(&[&upstream]).await;
    pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-alice")).await;
    server.allow("bob", "team/secret");
    upstream.forget();
    let bobs = proxy.get(&upstream, &image.layer_path()).bearer("token-of-bob").send().await;
    bobs.is_whole(&image.layer);
    assert_eq!(bobs.cache(), "REVALIDATED");
    assert_eq!(upstream.take_lines(), [format!("HEAD {}", image.layer_path())]);
    let again = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-bob").send().await;
    assert_eq!((again.cache(), upstream.seen().len()), ("HIT", 0), "the verdict is for the repository");
}

#[tokio::test]
async fn a_refusal_ends_the_verdict() {
    let (upstream, server, image) = private_image().await;
    let proxy = Proxy::before(&[&upstream]).await;
    pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-alice")).await;
    assert_eq!(proxy.get(&upstream, &image.layer_path()).bearer("token-of-alice").send().await.cache(), "HIT");
    server.revoke("alice", "team/secret");
    let refused = proxy.get(&upstream, &image.tag_path("1")).bearer("token-of-alice").send().await;
    refused.is_error(401, "UNAUTHORIZED");
    assert!(refused.header("www-authenticate").starts_with("Bearer realm="));
    gets_nothing(&proxy, &upstream, &image, "revoked", |ask| ask.bearer("token-of-alice")).await;
    upstream.stop().await;
    gets_nothing(&proxy, &upstream, &image, "revoked, offline", |ask| ask.bearer("token-of-alice")).await;
}

#[tokio::test]
async fn basic_credentials_are_judged_by_upstream() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/secret", 1);
    image.publish(&upstream, "1");
    // `alice:alices`
    upstream.guard(|seen| {
        let allowed = seen.header("authorization") == "Basic YWxpY2U6YWxpY2Vz";
        (!allowed).then(|| Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""))
    });
    let proxy = Proxy::before(&[&upstream]).await;
    for path in [image.tag_path("1"), image.layer_path()] {
        assert_eq!(proxy.get(&upstream, &path).basic("alice", "alices").send().await.status, 200);
    }
    proxy.landed().await;
    upstream.forget();
    for (user, password) in [("alice", "wrong"), ("alice", ""), ("bob", "alices")] {
        for path in [image.tag_path("1"), image.layer_path(), image.manifest_path()] {
            let reply = proxy.get(&upstream, &path).basic(user, password).send().await;
            assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Basic realm=\"fake\""));
        }
    }
    assert_eq!(proxy.get(&upstream, &image.layer_path()).send().await.status, 401);
    let own = proxy.get(&upstream, &image.layer_path()).basic("alice", "alices").send().await;
    assert_eq!(own.cache(), "HIT");
}

#[tokio::test]
async fn what_anybody_gets_is_public() {
    let upstream = Upstream::start().await;
    let image = Image::new("library/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    proxy.landed().await;
    upstream.forget();
    for ask in [proxy.get(&upstream, &image.layer_path()), proxy.get(&upstream, &image.layer_path()).bearer("any")] {
        let reply = ask.send().await;
        reply.is_whole(&image.layer);
        assert_eq!((reply.cache(), upstream.seen().len()), ("HIT", 0));
    }
}

#[tokio::test]
async fn what_was_public_is_not_for_ever() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    for refusal in [
        Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""),
        Answer::json(401, "{}"),
        Answer::json(403, "{}"),
    ] {
        upstream.unguard();
        proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
        proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
        proxy.landed().await;
        // The repository became private, and upstream has said so once.
        upstream.guard(move |_| Some(refusal.clone()));
        assert!(proxy.get(&upstream, &image.tag_path("1")).send().await.status >= 400);
        gets_nothing(&proxy, &upstream, &image, "nobody", |ask| ask).await;
        upstream.stop().await;
        gets_nothing(&proxy, &upstream, &image, "nobody, offline", |ask| ask).await;
        upstream.resume().await;
    }
}

#[tokio::test]
async fn a_first_challenge_does_not_make_a_public_repository_private() {
    let upstream = Upstream::start().await;
    let image = Image::new("library/app", 1);
    image.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    server.allow(crate::harness::NOBODY, "library/app");
    let proxy = Proxy::before(&[&upstream]).await;
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 401);
    let token = proxy.get(&upstream, "/token?service=fake&scope=repository:library/app:pull").send().await;
    assert!(token.text().contains("token-of-nobody"));
    for path in [image.tag_path("1"), image.layer_path()] {
        assert_eq!(proxy.get(&upstream, &path).bearer("token-of-nobody").send().await.status, 200);
    }
    proxy.landed().await;
    upstream.forget();
    // Every client begins without a token, so that reveals nothing.
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 401);
    upstream.stop().await;
    let offline = proxy.get(&upstream, &image.tag_path("1")).bearer("token-of-nobody").send().await;
    offline.is_whole(&image.manifest);
    proxy.get(&upstream, &image.layer_path()).bearer("token-of-nobody").send().await.is_whole(&image.layer);
}

#[tokio::test]
async fn a_verdict_ends_with_its_token() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    upstream.guard(|seen| seen.header("authorization").is_empty().then(|| Answer::status(401)));
    let proxy = Proxy::before(&[&upstream]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for (expiry, cache) in [(now - 10, "REVALIDATED"), (now + 3600, "HIT")] {
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expiry}}}"#)));
        proxy.get(&upstream, &image.layer_path()).bearer(&token).send().await.is_whole(&image.layer);
        proxy.landed().await;
        let warm = proxy.get(&upstream, &image.layer_path()).bearer(&token).send().await;
        warm.is_whole(&image.layer);
        assert_eq!(warm.cache(), cache, "{expiry}");
    }
}

#[tokio::test]
async fn a_digest_grants_nothing_in_another_repository() {
    let (upstream, server, image) = private_image().await;
    server.allow("alice", "team/other");
    let proxy = Proxy::before(&[&upstream]).await;
    pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-alice")).await;
    let elsewhere = Image { repository: "team/other".into(), ..image.clone() };
    for user in ["token-of-bob", "token-of-alice"] {
        gets_nothing(&proxy, &upstream, &elsewhere, user, |ask| ask.bearer(user)).await;
    }
    upstream.stop().await;
    gets_nothing(&proxy, &upstream, &elsewhere, "offline", |ask| ask.bearer("token-of-bob")).await;
}

#[tokio::test]
async fn another_registry_must_show_the_bytes_of_a_private_blob() {
    let (upstream, _server, image) = private_image().await;
    let (other, third) = (Upstream::start().await, Upstream::start().await);
    let proxy = Proxy::before(&[&upstream, &other, &third]).await;
    pull_all(&proxy, &upstream, &image, |ask| ask.bearer("token-of-alice")).await;
    // This registry only claims to have the bytes.
    let liar = Image { repository: "liar/app".into(), ..image.clone() };
    let (layer, manifest) = (liar.layer_digest.to_string(), liar.manifest_digest.to_string());
    let garbage = bytes(99, 70_000);
    let lie = Answer::content(garbage.clone()).header("docker-content-digest", &layer);
    third.on(&liar.layer_path(), move |_| lie.clone());
    for path in [liar.tag_path("1"), liar.manifest_path()] {
        let lie = Answer::content(garbage.clone()).header("content-type", MANIFEST_TYPE);
        let lie = lie.header("docker-content-digest", &manifest);
        third.on(&path, move |_| lie.clone());
    }
    for path in [liar.layer_path(), liar.tag_path("1"), liar.manifest_path()] {
        if let Ok(reply) = proxy.get(&third, &path).try_send().await {
            assert_eq!(reply.status, 502, "{path}");
        }
    }
    // An honest registry has them, and gives them to every client: from now on they are public.
    let copy = Image { repository: "mirror/app".into(), ..image.clone() };
    copy.publish(&other, "1");
    let reply = proxy.get(&other, &copy.layer_path()).send().await;
    reply.is_whole(&copy.layer);
    assert_eq!((reply.cache(), other.count(&Method::GET, &copy.layer_path())), ("BYPASS", 1));
    assert_eq!(proxy.pull.metrics.bypass.get(Bypass::CrossRegistry), 2);
    proxy.get(&other, &copy.tag_path("1")).send().await.is_whole(&copy.manifest);
    assert_eq!(other.count(&Method::GET, &copy.manifest_path()), 1);
}

#[tokio::test]
async fn another_registry_gets_no_part_of_a_private_fill() {
    let (upstream, _server, _) = private_image().await;
    let other = Upstream::start().await;
    let content = bytes(3, 1 << 20);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/secret", &digest, Answer::content(content.clone()).gated_at(600_000, &gate));
    other.blob_as("liar/app", &digest, Answer::content(bytes(4, 1 << 20)));
    let proxy = Proxy::before(&[&upstream, &other]).await;
    let path = format!("/v2/team/secret/blobs/{digest}");
    let mut leader = proxy.get(&upstream, &path).bearer("token-of-alice").start().await;
    leader.read(1).await;
    gate.reached().await;
    let liars = proxy.get(&other, &format!("/v2/liar/app/blobs/{digest}")).try_send().await;
    assert!(liars.is_err(), "complete with wrong bytes");
    for who in ["token-of-bob", "token-of-mallory"] {
        let reply = proxy.get(&upstream, &path).bearer(who).send().await;
        reply.is_error(401, "UNAUTHORIZED");
        let reply = proxy.get(&upstream, &path).bearer(who).range("0-9").send().await;
        assert_eq!(reply.status, 401);
    }
    assert_eq!(proxy.get(&upstream, &path).send().await.status, 401);
    gate.open();
    leader.rest().await.expect("whole");
}

#[tokio::test]
async fn who_may_not_lead_does_not_stop_who_may() {
    let (upstream, _server, image) = private_image().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let asks = ["token-of-bob", "token-of-alice", "token-of-mallory", "token-of-alice"]
        .map(|who| proxy.get(&upstream, &image.layer_path()).bearer(who).send());
    let [bob, alice, mallory, alice_too] = asks;
    let (bob, alice, mallory, alice_too) = tokio::join!(bob, alice, mallory, alice_too);
    assert_eq!((bob.status, mallory.status), (401, 401));
    alice.is_whole(&image.layer);
    alice_too.is_whole(&image.layer);
}

#[tokio::test]
async fn tokens_are_for_who_asked() {
    let (upstream, _server, _) = private_image().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let path = "/token?service=fake&scope=repository:team/secret:pull";
    for _ in 0..2 {
        for user in ["alice", "bob", "carol"] {
            let reply = proxy.get(&upstream, path).basic(user, &format!("{user}-password")).send().await;
            assert!(reply.text().contains(&format!("token-of-{user}")), "{}", reply.text());
            assert_eq!(reply.cache(), "");
        }
        assert_eq!(proxy.get(&upstream, path).basic("alice", "wrong").send().await.status, 401);
    }
    assert_eq!(upstream.count(&Method::GET, "/token"), 8, "none is remembered for the next");
}

/// Upstreams that answer clients without a session with their login page, by a redirect as GitLab does, or directly.
fn asks_for_a_login_by_page(upstream: &Upstream, redirects: bool) {
    let page = || Answer::content(bytes(9, 3000)).header("content-type", "text/html; charset=utf-8");
    upstream.on("/users/sign_in", move |_| page());
    upstream.guard(move |seen| {
        let is_asked = seen.path != "/users/sign_in" && seen.header("authorization").is_empty();
        let answer = if redirects { Answer::status(302).header("location", "/users/sign_in") } else { page() };
        is_asked.then_some(answer)
    });
}

#[tokio::test]
async fn a_page_that_asks_for_a_login_makes_nothing_public() {
    for redirects in [true, false] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/secret", 1);
        image.publish(&upstream, "1");
        let archive = bytes(8, 70_000);
        let kept = archive.clone();
        upstream.on("/team/secret/-/archive.tgz", move |_| Answer::content(kept.clone()));
        asks_for_a_login_by_page(&upstream, redirects);
        let proxy = Setup::of(&[&upstream]).set("cache", r"patterns = ['\.tgz$']").start().await;
        let paths =
            [image.tag_path("1"), image.manifest_path(), image.layer_path(), "/team/secret/-/archive.tgz".into()];
        let contents = [&image.manifest, &image.manifest, &image.layer, &archive];
        // If the page comes first, other clients do not get it in place of the content.
        for path in &paths {
            let _ = proxy.get(&upstream, path).try_send().await;
        }
        proxy.landed().await;
        for round in 0..2 {
            for (path, content) in paths.iter().zip(contents) {
                proxy.get(&upstream, path).basic("alice", "alice-password").send().await.is_whole(content);
            }
            proxy.landed().await;
            if round == 1 {
                upstream.stop().await;
            }
            for _ in 0..3 {
                for (path, content) in paths.iter().zip(contents) {
                    let part = proxy.get(&upstream, path).range("5-99");
                    for ask in [proxy.get(&upstream, path), proxy.head(&upstream, path), part] {
                        // The page in place of a blob breaks off at its end.
                        let Ok(reply) = ask.try_send().await else { continue };
                        let has = |secret: &[u8]| reply.body.windows(64).any(|window| window == secret);
                        let given = has(&content[..64]) || has(&content[5..69]);
                        assert!(!given, "{path}: {} {}", reply.status, reply.cache());
                        assert_ne!(reply.header("content-length"), content.len().to_string(), "{path}");
                    }
                }
            }
        }
    }
}
