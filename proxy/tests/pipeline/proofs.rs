//! A right is a proof with a subject and an age (T1 in docs/threats.md): what was public is not public for ever, nor for
//! what came later, and no odd request makes it so.

use std::time::Duration;

use http::Method;

use crate::harness::{Answer, Image, NOBODY, Proxy, Setup, TokenServer, Upstream, bytes, digest_of};

fn of_alice(ask: crate::harness::Ask) -> crate::harness::Ask {
    ask.bearer("token-of-alice")
}

/// A registry whose repository `team/app` is public, with an image that was pulled without a login.
async fn public_and_pulled(setup: impl FnOnce(Setup) -> Setup) -> (Upstream, TokenServer, Image, Proxy) {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    for user in [NOBODY, "alice", "bob"] {
        server.allow(user, "team/app");
    }
    let proxy = setup(Setup::of(&[&upstream])).start().await;
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 401, "the challenge names the realm");
    assert!(nobodys_token(&proxy, &upstream, "team/app").await.contains("token-of-nobody"));
    for (path, content) in [(image.tag_path("1"), &image.manifest), (image.layer_path(), &image.layer)] {
        proxy.get(&upstream, &path).bearer("token-of-nobody").send().await.is_whole(content);
    }
    proxy.landed().await;
    (upstream, server, image, proxy)
}

async fn nobodys_token(proxy: &Proxy, upstream: &Upstream, repository: &str) -> String {
    let path = format!("/token?service=fake&scope=repository:{repository}:pull");
    proxy.get(upstream, &path).send().await.text()
}

#[tokio::test]
async fn a_refusal_of_a_login_is_no_outage() {
    let (upstream, server, image, proxy) = public_and_pulled(|setup| setup).await;
    server.revoke("bob", "team/app");
    for status in [401, 403] {
        upstream.guard(move |seen| {
            let is_bobs = seen.header("authorization").contains("token-of-bob");
            (is_bobs && seen.path.contains("manifests")).then(|| Answer::json(status, "{}"))
        });
        let refused = proxy.get(&upstream, &image.tag_path("1")).bearer("token-of-bob").send().await;
        assert_eq!((refused.status, refused.cache()), (status, ""));
    }
}

#[tokio::test]
async fn what_was_linked_after_the_last_anonymous_answer_is_not_public() {
    let (upstream, server, old, proxy) = public_and_pulled(|setup| setup).await;
    // The repository becomes private, and nobody has been refused yet.
    server.revoke(NOBODY, "team/app");
    let new = Image::new("team/app", 2);
    new.publish(&upstream, "2");
    for (path, content) in [(new.tag_path("2"), &new.manifest), (new.layer_path(), &new.layer)] {
        of_alice(proxy.get(&upstream, &path)).send().await.is_whole(content);
    }
    proxy.landed().await;
    let strangers = |path: String| [proxy.get(&upstream, &path), proxy.get(&upstream, &path).bearer("token-of-nobody")];
    for state in ["offline", "online"] {
        if state == "offline" {
            upstream.stop().await;
            let known = proxy.get(&upstream, &old.manifest_path()).bearer("token-of-nobody").send().await;
            known.is_whole(&old.manifest);
        } else {
            upstream.resume().await;
        }
        for path in [new.tag_path("2"), new.manifest_path(), new.layer_path()] {
            for ask in strangers(path.clone()) {
                let reply = ask.send().await;
                assert!(reply.status >= 400, "{state} {path}: {}", reply.status);
            }
        }
    }
    // By now a stranger was refused: what was public is not public any more.
    upstream.stop().await;
    for ask in strangers(old.manifest_path()).into_iter().chain(strangers(old.layer_path())) {
        assert!(ask.send().await.status >= 400);
    }
}

/// Whatever the client asked for, and however upstream said no.
#[tokio::test]
async fn each_refusal_of_a_client_without_a_login_ends_what_was_public() {
    let refusals = [
        Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""),
        Answer::json(401, "{}"),
        Answer::json(403, "{}"),
    ];
    let other = digest_of(b"another layer");
    let asked = ["manifests/1".to_owned(), "manifests/2".to_owned(), "tags/list".to_owned(), format!("blobs/{other}")];
    for refusal in refusals {
        for what in &asked {
            let (upstream, image) = (Upstream::start().await, Image::new("team/app", 1));
            image.publish(&upstream, "1");
            let proxy = Proxy::before(&[&upstream]).await;
            proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
            let refusal = refusal.clone();
            upstream.guard(move |_| Some(refusal.clone()));
            assert!(proxy.get(&upstream, &format!("/v2/team/app/{what}")).send().await.status >= 400);
            upstream.stop().await;
            let after = proxy.get(&upstream, &image.manifest_path()).send().await;
            assert!(after.status >= 400, "{what}: {} {}", after.status, after.cache());
        }
    }
}

/// A yes to the administrator's headers is none to a request without them.
#[tokio::test]
async fn what_was_given_for_injected_headers_ends_with_them() {
    let (upstream, image) = (Upstream::start().await, Image::new("team/app", 1));
    image.publish(&upstream, "1");
    upstream.guard(|seen| (seen.header("x-api-key") != "canary").then(|| Answer::json(401, "{}")));
    let headers = format!("{}.headers", Setup::registry(&upstream));
    let proxy = Setup::of(&[&upstream]).set(&headers, "X-Api-Key = \"canary\"").start().await;
    for cache in ["MISS", "HIT"] {
        let given = proxy.get(&upstream, &image.manifest_path()).send().await;
        given.is_whole(&image.manifest);
        assert_eq!(given.cache(), cache, "all clients are one to upstream");
    }
    proxy.reload(&Setup::of(&[&upstream]));
    assert_eq!(proxy.get(&upstream, &image.manifest_path()).send().await.status, 401);
    upstream.stop().await;
    assert!(proxy.get(&upstream, &image.manifest_path()).send().await.status >= 400, "nor while upstream is down");
}

#[tokio::test]
async fn a_token_for_another_repository_takes_nothing_from_anybody() {
    let (upstream, _server, image, proxy) = public_and_pulled(|setup| setup).await;
    upstream.on("/other", |_| Answer::json(200, r#"{"token":"token-of-elsewhere","expires_in":300}"#));
    // The realm is learned from a challenge, so the fake names this one once.
    let realm = upstream.url("/other");
    upstream.on("/v2/elsewhere/tags/list", move |_| {
        Answer::json(401, "{}").header("www-authenticate", &format!("Bearer realm=\"{realm}\",service=\"fake\""))
    });
    upstream.guard(|seen| {
        let is_elsewheres = seen.header("authorization").contains("token-of-elsewhere");
        (is_elsewheres && seen.path.contains("team/app")).then(|| Answer::json(401, "{}"))
    });
    assert_eq!(proxy.get(&upstream, "/v2/elsewhere/tags/list").send().await.status, 401);
    let token = proxy.get(&upstream, "/other?service=fake&scope=repository:elsewhere:pull").send().await;
    assert!(token.text().contains("token-of-elsewhere"));
    for path in [image.tag_path("1"), "/v2/team/app/manifests/2".to_owned()] {
        let refused = proxy.get(&upstream, &path).bearer("token-of-elsewhere").send().await;
        assert_eq!(refused.status, 401, "{path}");
    }
    upstream.stop().await;
    let copy = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-nobody").send().await;
    copy.is_whole(&image.manifest);
}

#[tokio::test]
async fn a_token_request_with_a_secret_in_its_query_is_not_anonymous() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/secret", 1);
    image.publish(&upstream, "1");
    TokenServer::protect(&upstream).allow("alice", "team/secret");
    upstream.on("/token", |seen| {
        let user = if seen.query.contains("private_token=of-alice") { "alice" } else { NOBODY };
        Answer::json(200, format!(r#"{{"token":"token-of-{user}","expires_in":300}}"#))
    });
    let proxy = Proxy::before(&[&upstream]).await;
    assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, 401);
    let scope = "/token?service=fake&scope=repository:team/secret:pull";
    let token = proxy.get(&upstream, &format!("{scope}&private_token=of-alice")).send().await;
    assert!(token.text().contains("token-of-alice"));
    for (path, content) in [(image.tag_path("1"), &image.manifest), (image.layer_path(), &image.layer)] {
        of_alice(proxy.get(&upstream, &path)).send().await.is_whole(content);
    }
    proxy.landed().await;
    assert!(nobodys_token(&proxy, &upstream, "team/secret").await.contains("token-of-nobody"));
    for _ in 0..9 {
        for path in [image.tag_path("1"), image.manifest_path(), image.layer_path()] {
            let reply = proxy.get(&upstream, &path).bearer("token-of-nobody").send().await;
            assert_eq!(reply.status, 401, "{path}");
        }
    }
    upstream.stop().await;
    let offline = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-nobody").send().await;
    assert!(offline.status >= 400);
}

#[tokio::test]
async fn a_repository_named_like_an_artefact_gives_no_right_to_it() {
    let upstream = Upstream::start().await;
    let (path, archive) = ("/team/secret/archive.tgz", bytes(8, 70_000));
    let kept = archive.clone();
    upstream.on(path, move |_| Answer::content(kept.clone()));
    upstream.guard(|seen| {
        let is_secret = seen.path.ends_with(".tgz") && seen.header("authorization").is_empty();
        is_secret.then(|| Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""))
    });
    let named_alike = Image::new(&format!("artefact/{}", digest_of(path.as_bytes()).hex()), 1);
    named_alike.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).set("cache", r"patterns = ['\.tgz$']").start().await;
    proxy.get(&upstream, path).basic("alice", "alice-password").send().await.is_whole(&archive);
    proxy.landed().await;
    proxy.get(&upstream, &named_alike.tag_path("1")).send().await.is_whole(&named_alike.manifest);
    assert_eq!(proxy.get(&upstream, path).send().await.status, 401);
    upstream.stop().await;
    assert!(proxy.get(&upstream, path).send().await.status >= 400, "offline");
}

#[tokio::test]
async fn a_public_proof_has_an_age() {
    for (key, offline) in [("offline_for = \"30d\"", 200), ("offline_for = \"0s\"", 502)] {
        let setup = |setup: Setup| setup.set("rights", "public_for = \"0s\"").set("rights", key);
        let (upstream, _server, image, proxy) = public_and_pulled(setup).await;
        // The verdicts of the process that pulled are gone.
        let proxy = proxy
            .without_memory(&Setup::of(&[&upstream]).set("rights", "public_for = \"0s\"").set("rights", key))
            .await;
        upstream.forget();
        let asked = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-nobody").send().await;
        assert_eq!((asked.cache(), upstream.count(&Method::HEAD, &image.manifest_path())), ("REVALIDATED", 1), "{key}");
        let proxy = proxy
            .without_memory(&Setup::of(&[&upstream]).set("rights", "public_for = \"0s\"").set("rights", key))
            .await;
        upstream.stop().await;
        let copy = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-nobody").send().await;
        assert_eq!(copy.status, offline, "{key}");
    }
    // A day by default: a restart asks nobody anew.
    let (upstream, _server, image, proxy) = public_and_pulled(|setup| setup).await;
    let proxy = proxy.without_memory(&Setup::of(&[&upstream])).await;
    upstream.forget();
    let known = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-nobody").send().await;
    assert_eq!((known.cache(), upstream.seen().len()), ("HIT", 0));
}

#[tokio::test]
async fn injected_headers_read_unless_told_otherwise() {
    let upstream = Upstream::start().await;
    let content = bytes(5, 5000);
    let digest = upstream.blob("team/app", &content);
    let section = Setup::registry(&upstream);
    let of = |methods: &str| {
        let setup = Setup::of(&[&upstream]).set(&format!("{section}.headers"), "X-Api-Key = \"canary\"");
        let setup = setup.set("proxy", "allow_push = true");
        if methods.is_empty() { setup } else { setup.set(&section, methods) }
    };
    for (methods, injected) in [("", ""), ("methods = [\"DELETE\"]", "canary")] {
        let proxy = of(methods).start().await;
        proxy.get(&upstream, &format!("/v2/team/app/blobs/{digest}")).send().await.is_whole(&content);
        for (method, path) in [(Method::DELETE, "/api/v1/users/1"), (Method::DELETE, "/v2/team/app/manifests/1")] {
            upstream.on(path, |_| Answer::status(202));
            proxy.ask(method, &upstream, path).send().await;
        }
        proxy.get(&upstream, "/api/v1/users").send().await;
        let key_at = |path: &str| {
            let seen = upstream.seen().into_iter().rfind(|seen| seen.path == path).expect("asked");
            seen.header("x-api-key").to_owned()
        };
        assert_eq!(key_at(&format!("/v2/team/app/blobs/{digest}")), "canary");
        assert_eq!((key_at("/api/v1/users"), key_at("/api/v1/users/1")), (String::new(), injected.to_owned()));
        assert_eq!(key_at("/v2/team/app/manifests/1"), injected);
    }
}

/// The administrator's password has run out.
#[tokio::test]
async fn an_account_that_upstream_refuses_stops_nothing_public() {
    let upstream = Upstream::start().await;
    let (public, secret) = (Image::new("team/app", 1), Image::new("team/secret", 2));
    public.publish(&upstream, "1");
    secret.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    for user in [NOBODY, "robot"] {
        server.allow(user, "team/app");
    }
    server.allow("robot", "team/secret");
    let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "ran-out").start().await;
    for _ in 0..2 {
        for (path, content) in [(public.tag_path("1"), &public.manifest), (public.layer_path(), &public.layer)] {
            proxy.get(&upstream, &path).send().await.is_whole(content);
        }
        proxy.landed().await;
        let refused = proxy.get(&upstream, &secret.tag_path("1")).send().await;
        assert_eq!(refused.status, 401);
        assert!(refused.text().contains("the account that is configured here for"), "{}", refused.text());
        let own = proxy.get(&upstream, &secret.tag_path("1")).basic("alice", "wrong").send().await;
        assert!(own.status == 401 && !own.text().contains("configured here"), "its login is wrong: {}", own.text());
    }
    let refusals =
        upstream.seen().iter().filter(|seen| !seen.header("authorization").is_empty() && seen.path == "/token").count();
    assert_eq!(refusals, 1, "it is left out for a minute");
    assert_eq!(proxy.pull.metrics.accounts_refused.get(), 1);
    let lines = proxy.access_lines(8).await;
    let of_secret = lines.iter().find(|line| line["uri"] == *secret.tag_path("1")).expect("a line");
    assert_eq!(of_secret["reason"], "account_refused");
    // Renewed, it is taken again without waiting for the minute.
    proxy.reload(&Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password"));
    let renewed =
        tokio::time::timeout(Duration::from_secs(20), proxy.get(&upstream, &secret.tag_path("1")).send()).await;
    renewed.expect("an answer").is_whole(&secret.manifest);
}
