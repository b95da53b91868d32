//! Lists of tags and of referrers: kept like a tag's answer, stale if upstream does not answer, and given only to
//! clients that may have them.

use entrepot_core::digest::Digest;
use http::Method;
use serde_json::Value;

use crate::harness::{Answer, Ask, Image, MANIFEST_TYPE, Proxy, Reply, Setup, TokenServer, Upstream, digest_of};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn referrers_path(image: &Image) -> String {
    format!("/v2/{}/referrers/{}", image.repository, image.manifest_digest)
}

fn tags_path(image: &Image) -> String {
    format!("/v2/{}/tags/list", image.repository)
}

fn list(types: &[&str]) -> String {
    let entry = |kind: &&str| {
        let digest = digest_of(kind.as_bytes());
        format!(r#"{{"mediaType":"{MANIFEST_TYPE}","size":3,"digest":"{digest}","artifactType":"{kind}"}}"#)
    };
    let entries: Vec<_> = types.iter().map(entry).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","))
}

/// A registry with an image, and lists of two pages that tell which page and filter was asked for.
async fn with_lists() -> (Upstream, Image) {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let path = referrers_path(&image);
    upstream.on(&path.clone(), move |seen| {
        let answer = |types: &[&str]| Answer::json(200, list(types)).header("content-type", INDEX);
        match &*seen.query {
            query if query.contains("artifactType") => answer(&["a/b"]).header("oci-filters-applied", "artifactType"),
            query if query.contains("cursor") => answer(&["c/d"]),
            _ => answer(&["a/b"]).header("link", &format!("<{path}?cursor=2>; rel=\"next\"")),
        }
    });
    let path = tags_path(&image);
    upstream.on(&path.clone(), move |seen| match &*seen.query {
        query if query.contains("last=1") => Answer::json(200, r#"{"name":"team/app","tags":["2"]}"#),
        _ => Answer::json(200, r#"{"name":"team/app","tags":["1"]}"#)
            .header("link", &format!("<{path}?last=1&n=1>; rel=\"next\"")),
    });
    (upstream, image)
}

/// Every kind of list that [`with_lists`] has.
fn kinds(image: &Image) -> [String; 5] {
    let (referrers, tags) = (referrers_path(image), tags_path(image));
    [
        referrers.clone(),
        format!("{referrers}?cursor=2"),
        format!("{referrers}?artifactType=a%2Fb"),
        tags.clone(),
        format!("{tags}?last=1&n=1"),
    ]
}

fn is_stale(reply: &Reply, why: &str) {
    let warning = reply.header("warning");
    let is_marked = warning.starts_with("299 - \"served stale: ") && warning.ends_with(&format!("{why}\""));
    assert!(is_marked && reply.cache() == "STALE", "{warning} {}", reply.cache());
}

#[tokio::test]
async fn every_list_is_kept_and_stale_when_upstream_fails() {
    let (upstream, image) = with_lists().await;
    let setup = Setup::of(&[&upstream]);
    let proxy = Proxy::before(&[&upstream]).await;
    let mut told = Vec::new();
    for path in kinds(&image) {
        let reply = proxy.get(&upstream, &path).send().await;
        assert_eq!((reply.status, reply.header("warning")), (200, ""), "{path}");
        told.push((path, reply));
    }
    assert_ne!(told[0].1.body, told[1].1.body, "the pages differ");
    let same = |stale: &Reply, told: &Reply, path: &str| {
        stale.is_whole(&told.body);
        for name in ["content-type", "link", "oci-filters-applied", "content-length"] {
            assert_eq!(stale.header(name), told.header(name), "{name} of {path}");
        }
    };
    for status in [408, 500, 502, 503, 504] {
        upstream.guard(move |_| Some(Answer::json(status, r#"{"errors":[]}"#)));
        for (path, told) in &told {
            let stale = proxy.get(&upstream, path).send().await;
            same(&stale, told, path);
            is_stale(&stale, &format!("answers {status}"));
            let head = proxy.head(&upstream, path).send().await;
            assert_eq!((head.status, head.cache()), (200, "STALE"), "{path}");
            assert_eq!(head.header("content-length"), told.header("content-length"), "{path}");
        }
    }
    upstream.guard(|_| Some(Answer::content("<html>log in</html>").header("content-type", "text/html")));
    for (path, told) in &told {
        let stale = proxy.get(&upstream, path).send().await;
        same(&stale, told, path);
        is_stale(&stale, "answers with something else than was asked for");
    }
    upstream.unguard();
    upstream.stop().await;
    // Another process over the same store knows them too; the page that only a Link told is asked for after that Link.
    let later = proxy.without_memory(&setup).await;
    for proxy in [&proxy, &later] {
        for (path, told) in told.iter().filter(|(path, _)| !path.contains("cursor")) {
            let stale = proxy.get(&upstream, path).send().await;
            same(&stale, told, path);
            is_stale(&stale, "cannot be reached");
        }
    }
    let page = proxy.get(&upstream, &told[1].0).send().await;
    same(&page, &told[1].1, "the second page");
    upstream.resume().await;
    let again = proxy.get(&upstream, &told[0].0).send().await;
    assert_eq!((again.status, again.header("warning"), again.cache()), (200, "", ""), "and back again");
}

#[tokio::test]
async fn a_list_is_asked_for_at_most_once_in_its_interval() {
    let (upstream, image) = with_lists().await;
    let proxy = Setup::of(&[&upstream]).set("cache.tags", "revalidate_interval = \"60s\"").start().await;
    for _ in 0..4 {
        for path in kinds(&image) {
            assert_eq!(proxy.get(&upstream, &path).send().await.status, 200, "{path}");
        }
    }
    assert_eq!(upstream.seen().len(), kinds(&image).len());
    let proxy = Proxy::before(&[&upstream]).await;
    upstream.forget();
    for _ in 0..2 {
        proxy.get(&upstream, &referrers_path(&image)).send().await;
    }
    assert_eq!(upstream.seen().len(), 2, "as configured for tags");
}

#[tokio::test]
async fn what_nobody_knows_while_upstream_is_down_does_not_break_a_pull() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let (image, hex) = (Image::new("team/app", 1), "ab".repeat(32));
    upstream.stop().await;
    let fallback = format!("/v2/team/app/manifests/sha256-{hex}");
    let filtered = format!("{}?artifactType=a/b", referrers_path(&image));
    for (path, filter) in [
        (referrers_path(&image), ""),
        (filtered, "artifactType"),
        (format!("/v2/team/app/referrers/sha512:{hex}{hex}"), ""),
        (fallback.clone(), ""),
        (format!("/v2/team/app/manifests/sha512-{hex}"), ""),
    ] {
        let reply = proxy.get(&upstream, &path).send().await;
        reply.is_whole(EMPTY.as_bytes());
        assert_eq!((reply.header("content-type"), reply.header("oci-filters-applied")), (INDEX, filter), "{path}");
        let warning = format!("299 - \"nothing is known here: {} cannot be reached\"", upstream.host());
        assert_eq!(reply.header("warning"), warning, "{path}");
        let head = proxy.head(&upstream, &path).send().await;
        assert_eq!((head.status, head.header("content-length")), (200, &*EMPTY.len().to_string()), "{path}");
    }
    let digest: Digest = digest_of(EMPTY.as_bytes());
    let reply = proxy.get(&upstream, &fallback).header("accept", INDEX).send().await;
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    for path in [
        // Not a list of referrers: a client must not take a signature for missing.
        format!("{fallback}.sig"),
        format!("{fallback}.att"),
        "/v2/team/app/manifests/latest".to_owned(),
        tags_path(&image),
    ] {
        assert_eq!(proxy.get(&upstream, &path).send().await.status, 502, "{path}");
    }
    let image_only = proxy.get(&upstream, &fallback).header("accept", MANIFEST_TYPE).send().await;
    assert_eq!(image_only.status, 502, "it takes no index");
    upstream.resume().await;
    for path in [referrers_path(&image), fallback, tags_path(&image)] {
        assert_eq!(proxy.get(&upstream, &path).send().await.status, 404, "upstream's own word counts: {path}");
    }
}

#[tokio::test]
async fn a_registry_without_the_api_is_read_by_its_fallback_tag() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let index = list(&["a/b"]).into();
    let tag = image.manifest_digest.to_string().replace(':', "-");
    upstream.manifest("team/app", &tag, INDEX, &index);
    let proxy = Proxy::before(&[&upstream]).await;
    let fallback = image.tag_path(&tag);
    assert_eq!(proxy.get(&upstream, &referrers_path(&image)).send().await.status, 404);
    proxy.get(&upstream, &fallback).send().await.is_whole(&index);
    upstream.stop().await;
    proxy.get(&upstream, &referrers_path(&image)).send().await.is_error(404, "MANIFEST_UNKNOWN");
    let stale = proxy.get(&upstream, &fallback).send().await;
    stale.is_whole(&index);
    is_stale(&stale, "cannot be reached");
}

#[tokio::test]
async fn a_filtered_list_is_made_of_the_whole_one() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    upstream.on(&referrers_path(&image), |_| Answer::json(200, list(&["a/b", "c/d", "a/b"])));
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &referrers_path(&image)).send().await;
    upstream.stop().await;
    for (wanted, count) in [("a/b", 2), ("c%2Fd", 1), ("e/f", 0)] {
        let reply = proxy.get(&upstream, &format!("{}?artifactType={wanted}", referrers_path(&image))).send().await;
        let json: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(json["manifests"].as_array().map(Vec::len), Some(count), "{wanted}");
        assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        is_stale(&reply, "cannot be reached");
    }
}

#[tokio::test]
async fn tags_that_were_pulled_are_listed_while_upstream_is_down() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let proxy = Proxy::before(&[&upstream]).await;
    for tag in ["b", "a", "c"] {
        image.publish(&upstream, tag);
        proxy.get(&upstream, &image.tag_path(tag)).send().await.is_whole(&image.manifest);
    }
    Image::new("team/app-two", 2).publish(&upstream, "d");
    proxy.get(&upstream, "/v2/team/app-two/manifests/d").send().await;
    upstream.stop().await;
    let next = |last: &str| format!("</v2/team/app/tags/list?n=1&last={last}>; rel=\"next\"");
    for (query, tags, link) in [
        ("", r#"["a","b","c"]"#, String::new()),
        ("?n=1", r#"["a"]"#, next("a")),
        ("?n=1&last=a", r#"["b"]"#, next("b")),
        ("?n=1&last=b", r#"["c"]"#, String::new()),
    ] {
        let reply = proxy.get(&upstream, &format!("{}{query}", tags_path(&image))).send().await;
        reply.is_whole(format!(r#"{{"name":"team/app","tags":{tags}}}"#).as_bytes());
        assert_eq!(reply.header("link"), link, "{query}");
        is_stale(&reply, "cannot be reached");
    }
}

#[tokio::test]
async fn a_private_list_is_given_to_nobody_else() {
    let (upstream, image) = with_lists().await;
    let server = TokenServer::protect(&upstream);
    for user in ["alice", "carol"] {
        server.allow(user, "team/app");
    }
    server.allow("bob", "team/other");
    let proxy = Proxy::before(&[&upstream]).await;
    let paths: Vec<_> = kinds(&image).into_iter().filter(|path| !path.contains("cursor")).collect();
    let as_user = |user: &str, path: &str| proxy.get(&upstream, path).bearer(&format!("token-of-{user}")).send();
    for path in &paths {
        for user in ["alice", "carol"] {
            assert_eq!(as_user(user, path).await.status, 200, "{path}");
        }
    }
    server.revoke("carol", "team/app");
    assert_eq!(as_user("carol", &paths[0]).await.status, 401, "a refusal of one list ends the right to all of them");
    upstream.stop().await;
    type Who = fn(Ask) -> Ask;
    let strangers: [(&str, Who); 5] = [
        ("nobody", |ask| ask),
        ("mallory", |ask| ask.bearer("token-of-mallory")),
        ("bob", |ask| ask.bearer("token-of-bob")),
        ("carol", |ask| ask.bearer("token-of-carol")),
        ("a guess", |ask| ask.basic("alice", "guess")),
    ];
    for path in &paths {
        for (name, who) in strangers {
            let reply = who(proxy.get(&upstream, path)).send().await;
            assert!(reply.status >= 400, "{name} got {} for {path}: {}", reply.status, reply.text());
        }
        is_stale(&as_user("alice", path).await, "cannot be reached");
    }
    // The right to a list is none to the content.
    let content = proxy.get(&upstream, &image.manifest_path()).bearer("token-of-alice").send().await;
    assert_eq!(content.status, 502);
}

#[tokio::test]
async fn what_a_secret_in_the_query_was_answered_is_for_its_sender_alone() {
    let (upstream, image) = with_lists().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let path = format!("{}?private_token=x", tags_path(&image));
    assert_eq!(proxy.get(&upstream, &path).send().await.status, 200);
    upstream.stop().await;
    assert_eq!(proxy.get(&upstream, &path).send().await.status, 502);
    assert_eq!(proxy.get(&upstream, &tags_path(&image)).send().await.status, 502);
}

#[tokio::test]
async fn a_push_through_the_proxy_makes_lists_old() {
    let (upstream, image) = with_lists().await;
    let setup = Setup::of(&[&upstream]).set("cache.tags", "revalidate_interval = \"60s\"");
    let proxy = setup.set("proxy", "allow_push = true").start().await;
    for path in [referrers_path(&image), tags_path(&image)] {
        proxy.get(&upstream, &path).send().await;
    }
    upstream.on(&image.tag_path("2"), |_| Answer::status(201));
    let push = proxy.ask(Method::PUT, &upstream, &image.tag_path("2")).body(image.manifest.clone()).send().await;
    assert_eq!(push.status, 201);
    upstream.forget();
    for path in [referrers_path(&image), tags_path(&image)] {
        proxy.get(&upstream, &path).send().await;
        assert_eq!(upstream.count(&Method::GET, &path), 1, "{path}");
    }
}
