//! Registries as they are: HEADs that lie, signed schema 1, manifests without `mediaType`, tags behind another host, and
//! pages in place of content. Each kind is a table.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;

use crate::harness::{Answer, Image, MANIFEST_TYPE, Proxy, Setup, TokenServer, Upstream, digest_of};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Answers every HEAD of a manifest with this status.
fn lie(upstream: &Upstream, status: u16) {
    upstream.guard(move |seen| {
        let lies = seen.method == Method::HEAD && seen.path.contains("/manifests/");
        lies.then(|| Answer::json(status, "{}").header("www-authenticate", "Basic realm=\"fake\""))
    });
}

/// Each status of a HEAD whose GET is 200, and whether that is remembered: a gateway may have failed once.
#[tokio::test]
async fn for_a_clients_get_the_get_decides() {
    for (status, is_remembered) in [
        (400, true),
        (401, true),
        (403, true),
        (404, true),
        (405, true),
        (406, true),
        (415, true),
        (422, true),
        (500, true),
        (501, true),
        (502, false),
        (503, false),
    ] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        let tag = image.tag_path("1");
        image.publish(&upstream, "1");
        lie(&upstream, status);
        let proxy = Proxy::before(&[&upstream]).await;
        assert_eq!(proxy.head(&upstream, &tag).send().await.status, status, "nothing shows yet that it lies");
        upstream.forget();
        proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
        assert_eq!(upstream.take_lines(), [format!("HEAD {tag}"), format!("GET {tag}")], "{status}");
        proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
        let head = proxy.head(&upstream, &tag).send().await;
        let digest = image.manifest_digest.to_string();
        if is_remembered {
            assert_eq!((head.status, head.header("docker-content-digest")), (200, &*digest), "{status}");
            assert_eq!((head.header("content-length"), head.body.len()), (&*image.manifest.len().to_string(), 0));
            assert_eq!(upstream.take_lines(), [format!("GET {tag}"), format!("GET {tag}")], "{status}");
        } else {
            assert_eq!(head.status, 200, "what is known stands in");
            assert_eq!(upstream.count(&Method::HEAD, &tag), 2, "{status}");
        }
        upstream.forget();
        // It is known of this credential only.
        proxy.get(&upstream, &tag).basic("alice", "secret").send().await.is_whole(&image.manifest);
        assert_eq!(upstream.take_lines(), [format!("HEAD {tag}"), format!("GET {tag}")], "{status}");
        // A HEAD by digest lies as well.
        let cold = Image::new("team/other", 2);
        cold.publish(&upstream, "1");
        let head = proxy.head(&upstream, &cold.manifest_path()).send().await;
        assert_eq!(head.status, if is_remembered { 200 } else { status }, "{status}");
    }
}

/// Answers of HEAD after which nobody may be asked again.
#[tokio::test]
async fn a_head_that_asks_for_patience_is_the_answer() {
    for (status, retry_after) in [(429, None), (429, Some("60")), (503, Some("60")), (403, Some("60")), (504, None)] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        image.publish(&upstream, "1");
        upstream.guard(move |seen| {
            let answer = Answer::json(status, "{}");
            let answer = match retry_after {
                Some(seconds) => answer.header("retry-after", seconds),
                None => answer,
            };
            (seen.method == Method::HEAD).then_some(answer)
        });
        let proxy = Proxy::before(&[&upstream]).await;
        assert_eq!(proxy.get(&upstream, &image.tag_path("1")).send().await.status, status);
        assert_eq!(upstream.count(&Method::GET, &image.tag_path("1")), 0, "{status} {retry_after:?}");
    }
}

/// A refusal that GET confirms ends what was public; one that GET contradicts ends nothing; one that GET cannot speak
/// about holds.
#[tokio::test]
async fn a_refusal_by_head_counts_if_get_does_not_contradict_it() {
    for (status, get, expected, is_still_public) in [
        (401, Some(401), 401, false),
        (403, Some(403), 403, false),
        (403, Some(401), 401, false),
        (403, Some(404), 404, true),
        (401, None, 200, true),
        (403, None, 200, true),
        (401, Some(500), 401, false),
        (403, Some(503), 403, false),
        (404, Some(500), 200, true),
        (400, Some(502), 200, true),
    ] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        let tag = image.tag_path("1");
        image.publish(&upstream, "1");
        let proxy = Setup::of(&[&upstream]).set("cache.tags", "negative_time = \"0s\"").start().await;
        proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
        upstream.guard(move |seen| match seen.method == Method::HEAD {
            true => Some(Answer::json(status, "{}")),
            false => get.map(|status| Answer::json(status, "{}")),
        });
        assert_eq!(proxy.get(&upstream, &tag).send().await.status, expected, "{status} {get:?}");
        upstream.stop().await;
        // Without the verdicts of the last minutes, the public proof is all that there is.
        let later = proxy.without_memory(&Setup::of(&[&upstream])).await;
        let reply = later.get(&upstream, &tag).send().await;
        assert_eq!(reply.status == 200, is_still_public, "{status} {get:?}: {}", reply.status);
    }
}

/// A HEAD that lies about a private image gives nothing to others.
#[tokio::test]
async fn a_lying_head_is_remembered_for_the_login_behind_its_tokens() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/secret", 1);
    let tag = image.tag_path("1");
    image.publish(&upstream, "1");
    let server = TokenServer::protect(&upstream);
    server.allow("alice", "team/secret");
    let judge = server.clone();
    let realm = upstream.url("/token");
    upstream.guard(move |seen| match seen.method == Method::HEAD && seen.path.contains("/manifests/") {
        true => Some(Answer::status(400)),
        false => judge.refusal(seen, &realm),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, "/v2/").send().await;
    let path = "/token?service=fake&scope=repository:team/secret:pull";
    assert_eq!(proxy.get(&upstream, path).basic("alice", "alice-password").send().await.status, 200);
    for _ in 0..2 {
        proxy.get(&upstream, &tag).bearer("token-of-alice").send().await.is_whole(&image.manifest);
    }
    assert_eq!(upstream.count(&Method::HEAD, &tag), 1);
    for method in [Method::GET, Method::HEAD] {
        for path in [&tag, &image.manifest_path()] {
            let none = proxy.ask(method.clone(), &upstream, path).send().await;
            let bob = proxy.ask(method.clone(), &upstream, path).bearer("token-of-bob").send().await;
            assert!(none.status >= 400 && bob.status >= 400, "{method} {path}: {} {}", none.status, bob.status);
        }
    }
}

/// A manifest of schema 1 whose signature covers all but itself, and the digest of what it covers.
fn signed_manifest(tail: &str) -> (Bytes, String) {
    let head = "{\n   \"schemaVersion\": 1,\n   \"name\": \"old/app\",\n   \"fsLayers\": []";
    let protected = format!(r#"{{"formatLength":{},"formatTail":"{}"}}"#, head.len(), URL_SAFE_NO_PAD.encode(tail));
    let protected = URL_SAFE_NO_PAD.encode(protected);
    let text = format!("{head},\n   \"signatures\": [{{\"protected\": \"{protected}\"}}]\n}}");
    (text.into(), digest_of(format!("{head}{tail}").as_bytes()).to_string())
}

#[tokio::test]
async fn a_signed_manifest_of_schema_1_passes_under_the_digest_of_its_payload() {
    let (manifest, digest) = signed_manifest("\n}");
    let (_, other) = signed_manifest("\n }");
    for (content_type, told, passes) in [
        (SIGNED, Some(&digest), true),
        ("application/vnd.docker.distribution.manifest.v1+json", Some(&digest), true),
        ("application/json", Some(&digest), true),
        (SIGNED, None, true),
        (SIGNED, Some(&other), false),
    ] {
        let upstream = Upstream::start().await;
        let mut answer = Answer::content(manifest.clone()).header("content-type", content_type);
        if let Some(told) = told {
            answer = answer.header("docker-content-digest", told);
        }
        let named = told.unwrap_or(&digest);
        let paths = ["1", named].map(|reference| format!("/v2/old/app/manifests/{reference}"));
        for path in &paths {
            let answer = answer.clone();
            upstream.on(path, move |_| answer.clone());
        }
        let proxy = Proxy::before(&[&upstream]).await;
        for path in &paths {
            for _ in 0..2 {
                let reply = proxy.get(&upstream, path).send().await;
                if !passes {
                    reply.is_error(502, "BAD_GATEWAY");
                    continue;
                }
                reply.is_whole(&manifest);
                assert_eq!(reply.header("content-type"), content_type);
                if told.is_some() {
                    assert_eq!((reply.header("docker-content-digest"), reply.cache()), (&**named, "BYPASS"));
                }
            }
        }
        if told.is_some() {
            proxy.holds_nothing().await;
        }
    }
}

/// Manifests without `mediaType`, the Content-Type they come with, and whether they are kept.
#[tokio::test]
async fn a_manifest_without_a_media_type_is_kept_if_its_shape_agrees() {
    let image = Image::new("team/app", 1);
    let bare = String::from_utf8(image.manifest.to_vec()).expect("text");
    let bare = bare.replace(&format!(r#""mediaType":"{MANIFEST_TYPE}","#), "");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":7}}]}}"#, image.manifest_digest);
    for (manifest, content_type, is_kept) in [
        (&bare, DOCKER_IMAGE, true),
        (&bare, MANIFEST_TYPE, true),
        (&index, DOCKER_LIST, true),
        (&bare, DOCKER_LIST, false),
        (&index, DOCKER_IMAGE, false),
    ] {
        let upstream = Upstream::start().await;
        let manifest = Bytes::from(manifest.clone());
        upstream.manifest("team/app", "1", content_type, &manifest);
        let proxy = Proxy::before(&[&upstream]).await;
        let paths = ["1".to_owned(), digest_of(&manifest).to_string()];
        let paths = paths.map(|reference| format!("/v2/team/app/manifests/{reference}"));
        for path in &paths {
            proxy.get(&upstream, path).send().await.is_whole(&manifest);
        }
        upstream.stop().await;
        for path in &paths {
            let reply = proxy.get(&upstream, path).header("accept", content_type).send().await;
            let expected = if is_kept { (200, content_type) } else { (502, "application/json") };
            assert_eq!((reply.status, reply.header("content-type")), expected, "{content_type} {manifest:?}");
        }
    }
}

/// A registry whose manifests are at another host, which tells the digest. None of its own answers does.
async fn elsewhere(image: &Image, digest_there: bool) -> (Upstream, Upstream) {
    let (registry, other) = (Upstream::start().await, Upstream::start().await);
    image.publish(&other, "1");
    if !digest_there {
        let answer = Answer::content(image.manifest.clone()).header("content-type", MANIFEST_TYPE);
        other.on(&image.tag_path("1"), move |_| answer.clone());
    }
    for path in [image.tag_path("1"), image.manifest_path(), image.layer_path()] {
        let target = other.url(&path);
        registry.on(&path, move |_| Answer::redirect(307, &target));
    }
    (registry, other)
}

/// The ways to pull that end with the tag known.
#[tokio::test]
async fn a_tag_behind_another_host_is_known_once_its_digest_is_confirmed() {
    let image = Image::new("team/app", 1);
    let (tag, digest) = (image.tag_path("1"), image.manifest_path());
    let head = |path: &str| (Method::HEAD, path.to_owned());
    let get = |path: &str| (Method::GET, path.to_owned());
    for (digest_there, asks, is_known) in [
        // Docker asks so.
        (true, vec![head(&tag), get(&digest)], true),
        // The manifest is here already.
        (true, vec![get(&digest), head(&tag)], true),
        (true, vec![get(&tag)], true),
        (false, vec![get(&tag)], true),
        // Nobody confirmed it.
        (true, vec![head(&tag)], false),
        (false, vec![head(&tag), get(&digest)], false),
    ] {
        let (registry, other) = elsewhere(&image, digest_there).await;
        let proxy = Proxy::before(&[&registry, &other]).await;
        for (method, path) in &asks {
            assert_eq!(proxy.ask(method.clone(), &registry, path).send().await.status, 200, "{method} {path}");
        }
        registry.stop().await;
        other.stop().await;
        let reply = proxy.get(&registry, &tag).send().await;
        assert_eq!((reply.status, reply.cache()), if is_known { (200, "STALE") } else { (502, "") }, "{asks:?}");
        let stranger = proxy.get(&other, &tag).send().await;
        assert_eq!(stranger.status, 502, "it is known of the registry that led there only");
    }
}

/// The same way to pull, for a tag that moved: what was told last is what is given offline, and not what was told before.
#[tokio::test]
async fn a_tag_that_moved_is_the_new_image_once_that_has_come() {
    let upstream = Upstream::start().await;
    let (old, new) = (Image::new("team/app", 1), Image::new("team/app", 2));
    let tag = old.tag_path("1");
    old.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &tag).send().await.is_whole(&old.manifest);
    new.publish(&upstream, "1");
    assert_eq!(proxy.head(&upstream, &tag).send().await.status, 200);
    proxy.get(&upstream, &new.manifest_path()).send().await.is_whole(&new.manifest);
    upstream.stop().await;
    let stale = proxy.get(&upstream, &tag).send().await;
    stale.is_whole(&new.manifest);
    assert_eq!(stale.cache(), "STALE");
}

/// What comes in place of a manifest, as one answers a registry's client: with 200.
fn not_manifests() -> Vec<(&'static str, &'static str)> {
    vec![
        ("text/html", "<html>sign in to this hotspot</html>"),
        ("text/html; charset=utf-8", "<!DOCTYPE html><title>Login</title>"),
        ("TEXT/HTML", "x"),
        ("text/plain", "OK"),
        ("application/xml", "<Error/>"),
        ("application/json", r#"{"login":"https://portal.example"}"#),
        ("application/json", "[]"),
        ("application/octet-stream", "\u{1f}\u{8b}"),
        (MANIFEST_TYPE, r#"{"errors":[]}"#),
        (MANIFEST_TYPE, "<html></html>"),
        (MANIFEST_TYPE, ""),
        ("", ""),
    ]
}

#[tokio::test]
async fn what_is_no_manifest_is_an_error_that_says_what_came() {
    for (content_type, body) in not_manifests() {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        let answer = Answer::content(body).header("content-type", content_type);
        upstream.guard(move |_| Some(answer.clone()));
        let proxy = Proxy::before(&[&upstream]).await;
        for path in [image.tag_path("1"), image.manifest_path()] {
            let reply = proxy.get(&upstream, &path).send().await;
            reply.is_error(502, "BAD_GATEWAY");
            let text = reply.text();
            assert!(text.contains(&format!("{content_type} ({} bytes) instead of a manifest", body.len())), "{text}");
        }
        if content_type != MANIFEST_TYPE {
            assert_eq!(proxy.head(&upstream, &image.tag_path("1")).send().await.status, 502, "{content_type}");
            assert_eq!(proxy.head(&upstream, &image.manifest_path()).send().await.status, 502, "{content_type}");
        }
        proxy.holds_nothing().await;
    }
}

/// A page of five megabytes is not passed on for its length, and a manifest of that length is.
#[tokio::test]
async fn a_long_page_is_no_manifest_either() {
    let upstream = Upstream::start().await;
    let page = format!("<html>{}</html>", "x".repeat(5 << 20));
    let answer = Answer::content(page).header("content-type", "text/html");
    upstream.guard(move |_| Some(answer.clone()));
    let proxy = Proxy::before(&[&upstream]).await;
    let reply = proxy.get(&upstream, "/v2/team/app/manifests/1").send().await;
    reply.is_error(502, "BAD_GATEWAY");
    assert!(reply.text().contains("sent text/html instead of a manifest"), "{}", reply.text());
}

/// A captive network answers everything with its page. Cached content is given as if upstream were down.
#[tokio::test]
async fn a_page_in_place_of_cached_content_is_an_upstream_that_cannot_say() {
    for (content_type, body) in not_manifests() {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        image.publish(&upstream, "1");
        let public = "public_for = \"0s\"";
        let proxy = Setup::of(&[&upstream]).set("rights", public).start().await;
        for path in [image.tag_path("1"), image.layer_path()] {
            assert_eq!(proxy.get(&upstream, &path).send().await.status, 200);
        }
        proxy.landed().await;
        let answer = Answer::content(body).header("content-type", content_type);
        upstream.guard(move |_| Some(answer.clone()));
        // Without the verdicts of the last minutes, upstream is asked about everything.
        let proxy = proxy.without_memory(&Setup::of(&[&upstream]).set("rights", public)).await;
        for path in [image.tag_path("1"), image.manifest_path()] {
            let reply = proxy.get(&upstream, &path).send().await;
            reply.is_whole(&image.manifest);
            // A head that names a manifest's type is the registry's word about the right.
            if content_type != MANIFEST_TYPE {
                assert_eq!(reply.cache(), "STALE", "{content_type} {body} {path}");
                let head = proxy.head(&upstream, &path).send().await;
                assert_eq!((head.status, head.cache()), (200, "STALE"), "{content_type} {body} {path}");
            }
        }
        if content_type.to_ascii_lowercase().starts_with("text/html") {
            let layer = proxy.get(&upstream, &image.layer_path()).send().await;
            layer.is_whole(&image.layer);
            assert_eq!(layer.cache(), "STALE");
            let head = proxy.head(&upstream, &image.layer_path()).send().await;
            assert_eq!((head.status, head.header("content-length")), (200, "70000"));
        }
        let private = proxy.get(&upstream, &image.tag_path("other")).send().await;
        private.is_error(502, "BAD_GATEWAY");
    }
}

/// A repository whose name has capitals, as those of models have: tags pass through, content is cached by digest.
#[tokio::test]
async fn a_repository_with_capitals_is_passed_through_and_cached_by_digest() {
    for (repository, other) in [("Owner/Model-8B-GGUF", "owner/model-8b-gguf"), ("library/LLM", "library/llm")] {
        let upstream = Upstream::start().await;
        let (image, small) = (Image::new(repository, 1), Image::new(other, 2));
        image.publish(&upstream, "Q4_K_M");
        small.publish(&upstream, "Q4_K_M");
        let proxy = Proxy::before(&[&upstream]).await;
        let tag = image.tag_path("Q4_K_M");
        for _ in 0..2 {
            proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
            assert_eq!(proxy.head(&upstream, &tag).send().await.status, 200);
        }
        assert_eq!(upstream.count(&Method::GET, &tag), 2);
        for (path, content) in [(image.manifest_path(), &image.manifest), (image.layer_path(), &image.layer)] {
            proxy.get(&upstream, &path).send().await.is_whole(content);
            proxy.landed().await;
            upstream.forget();
            let warm = proxy.get(&upstream, &path).send().await;
            warm.is_whole(content);
            assert_eq!((warm.cache(), upstream.seen().len()), ("HIT", 0), "{path}");
        }
        // Two names that differ in capitals are two repositories.
        proxy.get(&upstream, &small.tag_path("Q4_K_M")).send().await.is_whole(&small.manifest);
        assert_eq!(proxy.get(&upstream, &small.tag_path(&image.manifest_digest.to_string())).send().await.status, 404);
        let page = Answer::content("<html></html>").header("content-type", "text/html");
        upstream.guard(move |_| Some(page.clone()));
        proxy.get(&upstream, &tag).send().await.is_error(502, "BAD_GATEWAY");
        upstream.stop().await;
        proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
        proxy.get(&upstream, &image.manifest_path()).send().await.is_whole(&image.manifest);
        // Our own registry keeps to the grammar.
        let own = proxy.registry(Method::GET, &tag).send().await;
        own.is_error(400, "NAME_INVALID");
    }
}

/// What was private under one spelling is private under the other.
#[tokio::test]
async fn a_private_repository_with_capitals_stays_private() {
    let upstream = Upstream::start().await;
    let image = Image::new("Team/Secret", 1);
    image.publish(&upstream, "1");
    let known = "Basic YWxpY2U6cHc=";
    upstream.guard(move |seen| {
        let refusal = Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\"");
        (seen.header("authorization") != known).then_some(refusal)
    });
    let proxy = Proxy::before(&[&upstream]).await;
    let paths = [image.tag_path("1"), image.manifest_path(), image.layer_path()];
    for path in &paths {
        assert_eq!(proxy.get(&upstream, path).basic("alice", "pw").send().await.status, 200, "{path}");
    }
    proxy.landed().await;
    for path in &paths {
        for path in [path.clone(), path.replace("Team/Secret", "team/secret"), path.replace("Team", "TEAM")] {
            assert_eq!(proxy.get(&upstream, &path).send().await.status, 401, "{path}");
        }
    }
    upstream.stop().await;
    for path in &paths {
        assert!(proxy.get(&upstream, path).send().await.status >= 400, "{path}");
    }
}
