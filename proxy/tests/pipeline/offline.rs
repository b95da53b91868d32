//! Upstream is down: cached content that is permitted is served, ping and token included.

use http::Method;

use crate::harness::{Image, NOBODY, Proxy, Reply, TokenServer, Upstream};

fn token_in(reply: &Reply) -> String {
    let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    json["token"].as_str().expect("a token").to_owned()
}

/// Pulls an image as docker does: ping, token, manifest, layer. `login` is a user of the fake.
async fn docker_pull(proxy: &Proxy, upstream: &Upstream, image: &Image, login: Option<&str>) -> Result<(), Reply> {
    let ping = proxy.get(upstream, "/v2/").send().await;
    let mut bearer = None;
    if ping.status == 401 {
        let challenge = ping.header("www-authenticate");
        let realm = challenge.split("realm=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a realm");
        let path = realm.strip_prefix(&format!("http://{}", upstream.host())).expect("on the registry itself");
        let path = format!("{path}?service=fake&scope=repository:{}:pull", image.repository);
        let ask = proxy.get(upstream, &path);
        let ask = match login {
            Some(user) => ask.basic(user, &format!("{user}-password")),
            None => ask,
        };
        let token = ask.send().await;
        if token.status != 200 {
            return Err(token);
        }
        bearer = Some(token_in(&token));
    }
    for (path, content) in [(image.tag_path("1"), &image.manifest), (image.layer_path(), &image.layer)] {
        let ask = proxy.get(upstream, &path);
        let reply = match &bearer {
            Some(token) => ask.bearer(token).send().await,
            None => ask.send().await,
        };
        if reply.status != 200 {
            return Err(reply);
        }
        reply.is_whole(content);
    }
    Ok(())
}

#[tokio::test]
async fn a_public_image_is_pulled_from_an_open_registry() {
    let upstream = Upstream::start().await;
    let image = Image::new("library/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    docker_pull(&proxy, &upstream, &image, None).await.expect("pulled");
    proxy.landed().await;
    upstream.stop().await;
    docker_pull(&proxy, &upstream, &image, None).await.expect("pulled without upstream");
    let head = proxy.head(&upstream, &image.tag_path("1")).send().await;
    assert_eq!((head.status, head.cache()), (200, "STALE"));
    let head = proxy.head(&upstream, &image.layer_path()).send().await;
    assert_eq!((head.status, head.cache(), head.header("content-length")), (200, "STALE", "70000"));
    let other = Image::new("library/other", 2);
    let refused = docker_pull(&proxy, &upstream, &other, None).await.expect_err("never seen");
    refused.is_error(502, "BAD_GATEWAY");
}

#[tokio::test]
async fn images_are_pulled_from_a_registry_with_tokens() {
    let upstream = Upstream::start().await;
    let (public, secret) = (Image::new("library/app", 1), Image::new("team/secret", 2));
    public.publish(&upstream, "1");
    secret.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    for user in [NOBODY, "alice", "bob"] {
        server.allow(user, "library/app");
    }
    server.allow("alice", "team/secret");
    let proxy = Proxy::before(&[&upstream]).await;
    docker_pull(&proxy, &upstream, &public, None).await.expect("pulled");
    docker_pull(&proxy, &upstream, &secret, Some("alice")).await.expect("pulled");
    docker_pull(&proxy, &upstream, &secret, Some("bob")).await.expect_err("refused");
    proxy.landed().await;
    upstream.stop().await;
    docker_pull(&proxy, &upstream, &public, None).await.expect("public");
    docker_pull(&proxy, &upstream, &public, Some("bob")).await.expect("public, whoever asks");
    docker_pull(&proxy, &upstream, &secret, Some("alice")).await.expect("a live verdict");
    for user in [None, Some("bob"), Some("mallory")] {
        let refused = docker_pull(&proxy, &upstream, &secret, user).await.expect_err("no verdict");
        assert!(refused.status >= 400, "{user:?}");
    }
    upstream.resume().await;
    docker_pull(&proxy, &upstream, &secret, Some("alice")).await.expect("and back again");
    docker_pull(&proxy, &upstream, &secret, Some("bob")).await.expect_err("and back again");
}

#[tokio::test]
async fn a_token_of_ours_never_leaves_and_is_for_one_registry() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("library/app", 1);
    image.publish(&one, "1");
    image.publish(&two, "1");
    let proxy = Proxy::before(&[&one, &two]).await;
    let token = token_in(&proxy.get(&one, "/entrepot/token?service=x").send().await);
    assert!(one.count(&Method::GET, "/entrepot/token") == 0);
    let own = proxy.get(&one, &image.tag_path("1")).bearer(&token).send().await;
    own.is_whole(&image.manifest);
    let other = proxy.get(&two, &image.tag_path("1")).bearer(&token).send().await;
    assert_eq!(other.status, 401);
    assert!(other.header("www-authenticate").contains("/entrepot/token"), "{}", other.header("www-authenticate"));
    proxy.get(&one, "/some/page").bearer(&token).send().await;
    for seen in one.seen().iter().chain(&two.seen()) {
        assert!(!seen.header("authorization").contains(&token), "{}", seen.path);
    }
    let nonsense = proxy.get(&one, &image.tag_path("1")).bearer("entrepot.0123").send().await;
    assert_eq!(nonsense.status, 401);
}

#[tokio::test]
async fn a_ping_is_answered_here_when_upstream_cannot() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let alive = proxy.get(&upstream, "/v2/").send().await;
    assert_eq!((alive.status, alive.header("docker-distribution-api-version")), (200, "registry/2.0"));
    upstream.stop().await;
    let anonymous = proxy.get(&upstream, "/v2/").send().await;
    anonymous.is_error(401, "UNAUTHORIZED");
    let challenge = anonymous.header("www-authenticate");
    assert!(challenge.contains(&format!("realm=\"http://{}/entrepot/token\"", upstream.host())), "{challenge}");
    let known = proxy.get(&upstream, "/v2/").bearer("something").send().await;
    assert_eq!((known.status, known.text().as_str()), (200, "{}"));
}
