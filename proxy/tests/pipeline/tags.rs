//! Tags: revalidated, or trusted for a time. They may be stale if upstream does not answer.

use http::Method;

use crate::harness::{Answer, Image, MANIFEST_TYPE, Proxy, Setup, Upstream, in_time};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test]
async fn a_tag_is_asked_about_by_head_and_fetched_when_it_moved() {
    let upstream = Upstream::start().await;
    let (old, new) = (Image::new("team/app", 1), Image::new("team/app", 2));
    let tag = old.tag_path("latest");
    old.publish(&upstream, "latest");
    let proxy = Proxy::before(&[&upstream]).await;
    let cold = proxy.get(&upstream, &tag).send().await;
    cold.is_whole(&old.manifest);
    assert_eq!((cold.cache(), cold.header("content-type")), ("MISS", MANIFEST_TYPE));
    assert_eq!(cold.header("docker-content-digest"), old.manifest_digest.to_string());
    upstream.forget();
    let warm = proxy.get(&upstream, &tag).send().await;
    warm.is_whole(&old.manifest);
    assert_eq!(warm.cache(), "REVALIDATED");
    assert_eq!(upstream.take_lines(), [format!("HEAD {tag}")]);
    let head = proxy.head(&upstream, &tag).send().await;
    assert_eq!((head.status, head.cache()), (200, "REVALIDATED"));
    assert_eq!(upstream.take_lines(), [format!("HEAD {tag}")]);
    new.publish(&upstream, "latest");
    let moved = proxy.get(&upstream, &tag).send().await;
    moved.is_whole(&new.manifest);
    assert_eq!(moved.cache(), "EXPIRED");
    assert_eq!(upstream.take_lines(), [format!("HEAD {tag}"), format!("GET {}", new.manifest_path())]);
    proxy.get(&upstream, &old.manifest_path()).send().await.is_whole(&old.manifest);
    assert!(upstream.take_lines().is_empty(), "the old one is still there by digest");
}

#[tokio::test]
async fn a_tag_is_asked_about_at_most_once_in_its_interval() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "latest");
    let proxy = Setup::of(&[&upstream]).set("cache.tags", "revalidate_interval = \"60s\"").start().await;
    for _ in 0..5 {
        proxy.get(&upstream, &image.tag_path("latest")).send().await.is_whole(&image.manifest);
        proxy.head(&upstream, &image.tag_path("latest")).send().await;
    }
    assert_eq!(upstream.seen().len(), 2, "one HEAD and one GET");
}

#[tokio::test]
async fn in_ttl_mode_tiers_decide() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let proxy = Setup::of(&[&upstream])
        .set("cache.tags", "mode = \"ttl\"")
        .set("cache.tags", "primary = { regex = \"stable\", time = \"1h\" }")
        .set("cache.tags", "secondary = { regex = '\\d+\\.\\d+', time = \"60d\" }")
        .set("cache.tags", "default_time = \"0s\"")
        .start()
        .await;
    for (tag, kind, asked) in [
        ("stable-1", "manifest-primary", 0),
        ("1.25", "manifest-secondary", 0),
        ("latest", "manifest-default", 1),
        (&format!("sha256-{}", "0".repeat(64)), "manifest-default", 1),
    ] {
        image.publish(&upstream, tag);
        proxy.get(&upstream, &image.tag_path(tag)).send().await.is_whole(&image.manifest);
        upstream.forget();
        let warm = proxy.get(&upstream, &image.tag_path(tag)).send().await;
        warm.is_whole(&image.manifest);
        assert_eq!(warm.header("x-docker-registry-proxy-cache-type"), kind, "{tag}");
        assert_eq!(upstream.seen().len(), asked, "{tag}");
    }
}

#[tokio::test]
async fn what_is_known_is_given_when_upstream_cannot_say() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let tag = image.tag_path("latest");
    image.publish(&upstream, "latest");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
    for status in [408, 500, 502, 503, 504] {
        upstream.guard(move |_| Some(Answer::json(status, r#"{"errors":[]}"#)));
        let stale = proxy.get(&upstream, &tag).send().await;
        stale.is_whole(&image.manifest);
        let warning = format!("299 - \"served stale: {} answers {status}\"", upstream.host());
        assert_eq!((stale.cache(), stale.header("warning")), ("STALE", &*warning));
        let unknown = proxy.get(&upstream, &image.tag_path("other")).send().await;
        assert_eq!(unknown.status, status, "nothing is known of another tag");
    }
    upstream.unguard();
    upstream.stop().await;
    let stale = proxy.get(&upstream, &tag).send().await;
    stale.is_whole(&image.manifest);
    let warning = format!("299 - \"served stale: {} cannot be reached\"", upstream.host());
    assert_eq!((stale.cache(), stale.header("warning")), ("STALE", &*warning));
    proxy.get(&upstream, &image.tag_path("other")).send().await.is_error(502, "BAD_GATEWAY");
    upstream.resume().await;
    assert_eq!(proxy.get(&upstream, &tag).send().await.cache(), "REVALIDATED", "and back again");
}

#[tokio::test]
async fn a_manifest_that_fails_after_its_head_leaves_the_old_one() {
    let upstream = Upstream::start().await;
    let (old, new) = (Image::new("team/app", 1), Image::new("team/app", 2));
    let tag = old.tag_path("latest");
    old.publish(&upstream, "latest");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &tag).send().await.is_whole(&old.manifest);
    new.publish(&upstream, "latest");
    upstream.on(&new.manifest_path(), |_| Answer::json(429, r#"{"errors":[]}"#));
    let stale = proxy.get(&upstream, &tag).send().await;
    stale.is_whole(&old.manifest);
    assert_eq!(stale.cache(), "STALE", "the quota was used up between HEAD and GET");
}

#[tokio::test]
async fn a_stalled_upstream_is_one_that_cannot_say() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "latest");
    let proxy = Setup::of(&[&upstream]).set("upstream", "read_timeout = \"300ms\"").start().await;
    proxy.get(&upstream, &image.tag_path("latest")).send().await.is_whole(&image.manifest);
    let gate = crate::harness::Gate::closed();
    let held = gate.clone();
    upstream.guard(move |_| Some(Answer::status(200).head_gated(&held)));
    assert_eq!(proxy.get(&upstream, &image.tag_path("latest")).send().await.cache(), "STALE");
    proxy.get(&upstream, &image.tag_path("other")).send().await.is_error(504, "GATEWAY_TIMEOUT");
}

#[tokio::test]
async fn a_tag_that_upstream_dropped_is_gone_here_too() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let tag = image.tag_path("latest");
    image.publish(&upstream, "latest");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
    upstream.on(&tag, |_| Answer::json(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone"}]}"#));
    upstream.forget();
    for _ in 0..3 {
        proxy.get(&upstream, &tag).send().await.is_error(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(
        upstream.take_lines(),
        [format!("HEAD {tag}"), format!("GET {tag}")],
        "it is remembered for some seconds"
    );
}

#[tokio::test]
async fn clients_that_accept_other_types_get_other_answers() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let index = bytes::Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{MANIFEST_TYPE}","digest":"{}","size":{}}}]}}"#,
        image.manifest_digest,
        image.manifest.len()
    ));
    image.publish(&upstream, "unused");
    upstream.manifest("team/app", "unused-too", OCI_INDEX, &index);
    let tag = image.tag_path("latest");
    let (manifest, chosen) = (image.manifest.clone(), index.clone());
    upstream.on(&tag, move |seen| {
        let (media_type, body) =
            if seen.header("accept").contains(OCI_INDEX) { (OCI_INDEX, &chosen) } else { (MANIFEST_TYPE, &manifest) };
        let digest = crate::harness::digest_of(body).to_string();
        Answer::content(body.clone()).header("content-type", media_type).header("docker-content-digest", &digest)
    });
    let proxy = Setup::of(&[&upstream]).set("cache.tags", "revalidate_interval = \"60s\"").start().await;
    for round in 0..2 {
        for (accept, body) in [
            (format!("{OCI_INDEX}, {MANIFEST_TYPE}"), &index),
            (MANIFEST_TYPE.to_owned(), &image.manifest),
            (format!("{MANIFEST_TYPE};q=0.9,{OCI_INDEX}"), &index),
        ] {
            let reply = proxy.get(&upstream, &tag).header("accept", &accept).send().await;
            reply.is_whole(body);
            assert!(round == 0 || reply.cache() == "HIT", "{accept} {}", reply.cache());
        }
    }
    assert_eq!(upstream.count(&Method::HEAD, &tag), 2, "one question for each set of types");
}

#[tokio::test]
async fn what_one_client_was_told_is_given_to_another_when_upstream_cannot_say() {
    let upstream = Upstream::start().await;
    let (old, new) = (Image::new("team/app", 1), Image::new("team/app", 2));
    let tag = old.tag_path("latest");
    let proxy = Proxy::before(&[&upstream]).await;
    let ask = |accept: &str| proxy.get(&upstream, &tag).header("accept", accept).send();
    let docker = format!("{MANIFEST_TYPE}, {OCI_INDEX}");
    let podman = format!("{OCI_INDEX}, {MANIFEST_TYPE}, application/vnd.docker.distribution.manifest.v1+prettyjws");
    let crane = format!("{OCI_INDEX}, {MANIFEST_TYPE}, application/vnd.docker.distribution.manifest.v2+json");
    old.publish(&upstream, "latest");
    ask(&podman).await.is_whole(&old.manifest);
    new.publish(&upstream, "latest");
    ask(&docker).await.is_whole(&new.manifest);
    // This client does not accept an index, so the registry may have chosen an image for it.
    old.publish(&upstream, "latest");
    ask(MANIFEST_TYPE).await.is_whole(&old.manifest);
    upstream.stop().await;
    for (accept, image) in [(&*podman, &old), (&docker, &new), (&crane, &new), ("*/*", &old)] {
        let stale = ask(accept).await;
        stale.is_whole(&image.manifest);
        assert_eq!(stale.cache(), "STALE", "{accept}");
    }
    ask(OCI_INDEX).await.is_error(502, "BAD_GATEWAY");
}

#[tokio::test]
async fn an_upstream_that_tells_no_digest_is_read_each_time() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let tag = image.tag_path("latest");
    let answer = Answer::content(image.manifest.clone()).header("content-type", MANIFEST_TYPE);
    upstream.on(&tag, move |_| answer.clone());
    let proxy = Proxy::before(&[&upstream]).await;
    for _ in 0..2 {
        let reply = proxy.get(&upstream, &tag).send().await;
        reply.is_whole(&image.manifest);
        assert_eq!(reply.header("docker-content-digest"), image.manifest_digest.to_string(), "told by entrepot");
    }
    let head = proxy.head(&upstream, &tag).send().await;
    assert_eq!(head.status, 200);
    assert_eq!(upstream.count(&Method::GET, &tag), 2);
    upstream.stop().await;
    proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
}

#[tokio::test]
async fn an_upstream_that_takes_no_head_is_read() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "latest");
    upstream.guard(|seen| (seen.method == Method::HEAD).then(|| Answer::status(405)));
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("latest")).send().await.is_whole(&image.manifest);
}

#[tokio::test]
async fn a_404_is_remembered_for_its_time_however_often_it_is_asked() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    let tag = image.tag_path("late");
    let proxy = Setup::of(&[&upstream]).set("cache.tags", "negative_time = \"1s\"").start().await;
    assert_eq!(proxy.get(&upstream, &tag).send().await.status, 404);
    image.publish(&upstream, "late");
    let asking = async { while proxy.get(&upstream, &tag).send().await.status == 404 {} };
    in_time("the tag is found while it is asked for without a pause", asking).await;
    proxy.get(&upstream, &tag).send().await.is_whole(&image.manifest);
}
