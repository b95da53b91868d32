//! The proxy follows redirects, and sends nothing of the registry's credentials along.

use http::Method;

use crate::harness::{Answer, Image, Proxy, Setup, Upstream};

const CODES: [u16; 5] = [301, 302, 303, 307, 308];

#[tokio::test]
async fn each_code_leads_to_the_blob() {
    let (registry, cdn) = (Upstream::start().await, Upstream::start().await);
    for (seed, code) in (1..).zip(CODES) {
        let image = Image::new("team/app", seed);
        let (path, target) = (image.layer_path(), format!("/cdn/{seed}"));
        let answer = Answer::content(image.layer.clone()).header("content-type", "binary/odd");
        cdn.on(&target, move |_| answer.clone());
        let location = format!("{}?signature=a%2Fb", cdn.url(&target));
        let redirect =
            Answer::redirect(code, &location).header("docker-content-digest", &image.layer_digest.to_string());
        registry.on(&path, move |_| redirect.clone());
        let proxy = Proxy::before(&[&registry]).await;
        let reply = proxy.get(&registry, &path).basic("alice", "secret").send().await;
        reply.is_whole(&image.layer);
        assert!(reply.header("location").is_empty());
        let seen = cdn.seen().pop().expect("asked");
        assert_eq!((seen.method.clone(), seen.query.as_str()), (Method::GET, "signature=a%2Fb"), "{code}");
        assert_eq!(seen.header("authorization"), "", "{code}: another origin");
        let part = proxy.get(&registry, &path).basic("bob", "secret").range("5-9").send().await;
        assert!(part.status == 206 && part.body == image.layer[5..10], "{code}");
        let head = proxy.head(&registry, &path).send().await;
        assert_eq!((head.status, head.header("content-length")), (200, "70000"), "{code}");
        assert_eq!(cdn.seen().pop().expect("asked").method, Method::HEAD, "{code}");
    }
}

#[tokio::test]
async fn a_manifest_behind_a_redirect_keeps_its_type_and_digest() {
    let (registry, cdn) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    let answer = Answer::content(image.manifest.clone());
    cdn.on("/m", move |_| answer.clone());
    let redirect =
        Answer::redirect(307, &cdn.url("/m")).header("docker-content-digest", &image.manifest_digest.to_string());
    for path in [image.tag_path("1"), image.manifest_path()] {
        let redirect = redirect.clone();
        registry.on(&path, move |_| redirect.clone());
    }
    let proxy = Proxy::before(&[&registry]).await;
    for path in [image.tag_path("1"), image.manifest_path(), image.tag_path("1")] {
        let reply = proxy.get(&registry, &path).send().await;
        reply.is_whole(&image.manifest);
        assert_eq!(reply.header("content-type"), crate::harness::MANIFEST_TYPE);
        assert_eq!(reply.header("docker-content-digest"), image.manifest_digest.to_string());
    }
    assert_eq!(cdn.count(&Method::GET, "/m"), 1);
}

#[tokio::test]
async fn relative_addresses_are_of_the_hop_that_named_them() {
    let registry = Upstream::start().await;
    let image = Image::new("team/app", 1);
    registry.on(&image.layer_path(), |_| Answer::redirect(307, "/elsewhere/one?x=1"));
    registry.on("/elsewhere/one", |_| Answer::redirect(302, "two"));
    let answer = Answer::content(image.layer.clone());
    registry.on("/elsewhere/two", move |_| answer.clone());
    let proxy = Proxy::before(&[&registry]).await;
    proxy.get(&registry, &image.layer_path()).basic("alice", "secret").send().await.is_whole(&image.layer);
    assert!(registry.seen().iter().all(|seen| !seen.header("authorization").is_empty()), "its own origin all the way");
}

/// A registry whose layer is behind this many redirects.
async fn far_away(image: &Image, hops: usize) -> Upstream {
    let registry = Upstream::start().await;
    registry.on(&image.layer_path(), |_| Answer::redirect(307, "/hop/1"));
    for hop in 1..hops {
        registry.on(&format!("/hop/{hop}"), move |_| Answer::redirect(307, &format!("/hop/{}", hop + 1)));
    }
    let answer = Answer::content(image.layer.clone());
    registry.on(&format!("/hop/{hops}"), move |_| answer.clone());
    registry
}

#[tokio::test]
async fn ten_hops_are_followed_and_eleven_are_not() {
    let image = Image::new("team/app", 1);
    let near = far_away(&image, 10).await;
    let proxy = Proxy::before(&[&near]).await;
    proxy.get(&near, &image.layer_path()).send().await.is_whole(&image.layer);
    let far = far_away(&image, 11).await;
    let proxy = Proxy::before(&[&far]).await;
    let reply = proxy.get(&far, &image.layer_path()).send().await;
    reply.is_error(502, "BAD_GATEWAY");
    assert!(reply.text().contains("more than ten redirects"), "{}", reply.text());
    assert_eq!(far.count(&Method::GET, "/hop/11"), 0);
}

#[tokio::test]
async fn a_loop_is_ended() {
    let registry = Upstream::start().await;
    let image = Image::new("team/app", 1);
    registry.on(&image.layer_path(), |_| Answer::redirect(307, "/hop/1"));
    registry.on("/hop/1", |_| Answer::redirect(307, "/hop/2"));
    registry.on("/hop/2", |_| Answer::redirect(307, "/hop/1"));
    let proxy = Proxy::before(&[&registry]).await;
    let reply = proxy.get(&registry, &image.layer_path()).send().await;
    reply.is_error(502, "BAD_GATEWAY");
    assert!(reply.text().contains("redirect loop"), "{}", reply.text());
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn credentials_do_not_leave_the_origin_and_do_not_come_back() {
    let (registry, other) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    for code in CODES {
        let away = other.url("/away");
        registry.on(&image.layer_path(), move |_| Answer::redirect(code, &away));
        let back = registry.url("/back");
        other.on("/away", move |_| Answer::redirect(code, &back));
        let answer = Answer::content(image.layer.clone());
        registry.on("/back", move |_| answer.clone());
        let section = Setup::registry(&registry);
        let proxy =
            Setup::of(&[&registry]).set(&section, "headers = { X-Api-Key = \"the-administrators\" }").start().await;
        registry.forget();
        other.forget();
        proxy.get(&registry, &image.layer_path()).bearer("the-clients").send().await.is_whole(&image.layer);
        let (at_registry, at_other) = (registry.seen(), other.seen());
        assert_eq!((at_registry.len(), at_other.len()), (2, 1));
        assert_eq!(at_registry[0].header("authorization"), "Bearer the-clients");
        assert_eq!(at_registry[0].header("x-api-key"), "the-administrators");
        for stranger in [&at_other[0], &at_registry[1]] {
            assert_eq!(stranger.header("authorization"), "", "{code} {}", stranger.path);
            assert_eq!(stranger.header("x-api-key"), "", "{code} {}", stranger.path);
            assert_eq!(stranger.header("cookie"), "");
        }
    }
}

#[tokio::test]
async fn a_configured_account_does_not_leave_the_origin() {
    let (registry, other) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    let away = other.url("/away");
    registry.on(&image.layer_path(), move |seen| match seen.header("authorization") {
        "" => Answer::status(401).header("www-authenticate", "Basic realm=\"fake\""),
        _ => Answer::redirect(307, &away),
    });
    // The other side asks for a login.
    let layer = image.layer.clone();
    other.on("/away", move |_| Answer::content(layer.clone()).header("www-authenticate", "Basic realm=\"fake\""));
    let proxy = Setup::of(&[&registry]).account(&registry, "robot", "robots-secret").start().await;
    proxy.get(&registry, &image.layer_path()).send().await.is_whole(&image.layer);
    assert_eq!(other.seen().len(), 1);
    assert_eq!(other.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_is_an_honest_error() {
    let registry = Upstream::start().await;
    let image = Image::new("team/app", 1);
    for location in ["ftp://example.com/x", "file:///etc/passwd", "http://", "http://127.0.0.1:1/closed"] {
        registry.on(&image.layer_path(), move |_| Answer::redirect(307, location));
        let proxy = Proxy::before(&[&registry]).await;
        proxy.get(&registry, &image.layer_path()).send().await.is_error(502, "BAD_GATEWAY");
        proxy.holds_nothing().await;
    }
    for location in ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", "http://0.0.0.0/x"] {
        registry.on(&image.layer_path(), move |_| Answer::redirect(307, location));
        let proxy = Proxy::before(&[&registry]).await;
        let reply = proxy.get(&registry, &image.layer_path()).send().await;
        reply.is_error(502, "BAD_GATEWAY");
        assert!(reply.text().contains("entrepot refuses"), "{}", reply.text());
    }
}
