//! The names by which clients ask for other registries here: each spelling leads to the same content and the same next
//! page, and none of them to content of the wrong registry.

use http::Method;
use serde_json::Value;

use super::mirrors::docker_hub;
use super::{get, push, put_manifest};
use crate::harness::{Answer, Image, Setup, Upstream};

/// A registry that is reached directly, beside a Docker Hub.
fn beside(hub: Setup, upstream: &Upstream) -> Setup {
    hub.set(&Setup::registry(upstream), "scheme = \"http\"").set("upstream", "no_proxy = [\"127.0.0.1\"]")
}

#[tokio::test]
async fn a_registry_that_path_and_parameter_name_together_is_meant_once() {
    let (upstream, (hub, hub_setup)) = (Upstream::start().await, docker_hub().await);
    let (theirs, official) = (Image::new("team/app", 1), Image::new("library/alpine", 2));
    theirs.publish(&upstream, "1");
    official.publish(&hub, "1");
    let host = upstream.host();
    let proxy = beside(hub_setup, &upstream).start().await;
    for (image, prefix, ns) in [
        (&theirs, &*host, &*host),
        (&official, "docker.io", "docker.io"),
        (&official, "registry-1.docker.io", "docker.io"),
        (&official, "docker.io", "index.docker.io"),
        (&theirs, &host, "docker.io"),
        (&theirs, &host, "docker-registry.local:5000"),
    ] {
        for (path, content) in [
            (image.tag_path("1"), &image.manifest),
            (image.manifest_path(), &image.manifest),
            (image.layer_path(), &image.layer),
        ] {
            let path = format!("{}?ns={ns}", path.replace("/v2/", &format!("/v2/{prefix}/")));
            get(&proxy, &path).await.is_whole(content);
        }
    }
    let at_the_mirror = proxy.mirror(Method::GET, "/v2/docker.io/library/alpine/manifests/1?ns=docker.io");
    at_the_mirror.send().await.is_whole(&official.manifest);
}

#[tokio::test]
async fn every_page_of_a_mirrored_list_leads_to_the_next_by_the_same_way() {
    let (upstream, (hub, hub_setup)) = (Upstream::start().await, docker_hub().await);
    for (registry, repository, link) in [
        (&upstream, "team/app", "/v2/team/app/tags/list"),
        (&hub, "library/alpine", "https://registry-1.docker.io/v2/library/alpine/tags/list"),
    ] {
        let link = link.to_owned();
        registry.on(&format!("/v2/{repository}/tags/list"), move |seen| {
            let last = seen.query.split('&').find_map(|pair| pair.strip_prefix("last=")).unwrap_or("0");
            let next = last.parse::<u32>().expect("a number") + 1;
            let answer = Answer::json(200, format!(r#"{{"name":"a","tags":["{next}"]}}"#));
            if next == 3 { answer } else { answer.header("link", &format!("<{link}?last={next}&n=1>; rel=\"next\"")) }
        });
    }
    let host = upstream.host();
    let proxy = beside(hub_setup, &upstream).start().await;
    for first in [
        format!("/v2/team/app/tags/list?n=1&ns={host}"),
        format!("/v2/{host}/team/app/tags/list?n=1"),
        format!("/v2/{host}/team/app/tags/list?ns={host}&n=1"),
        format!("/v2/{host}/team/app/tags/list?n=1&ns=docker-registry.local"),
        "/v2/docker.io/alpine/tags/list?n=1".to_owned(),
        "/v2/library/alpine/tags/list?n=1&ns=docker.io".to_owned(),
        "/v2/library/alpine/tags/list?n=1".to_owned(),
    ] {
        let (mut tags, mut next) = (Vec::new(), Some(first.clone()));
        while let Some(path) = next.take() {
            let page = get(&proxy, &path).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text());
            let listed: Value = serde_json::from_slice(&page.body).expect("JSON");
            tags.push(listed["tags"][0].as_str().expect("a tag").to_owned());
            let target = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>'));
            next = target.map(|(target, _)| target.to_owned());
            assert!(next.as_ref().is_none_or(|next| next.starts_with("/v2/")), "{first}: {next:?}");
        }
        assert_eq!(tags, ["1", "2", "3"], "{first}");
    }
}

#[tokio::test]
async fn content_under_a_name_that_is_listed_later_stays_what_the_name_leads_to() {
    let proxy = Setup::of(&[]).start().await;
    let (image, other) = (Image::new("reg.example/team/app", 3), Image::new("reg.example/team/other", 4));
    push(&proxy, &image, "1").await;
    proxy.reload(&Setup::of(&[]).set("intercept", "registries = [\"reg.example\"]"));
    for ns in ["", "?ns=docker-registry.local", "?ns=docker-registry.local:5000"] {
        get(&proxy, &(image.tag_path("1") + ns)).await.is_whole(&image.manifest);
        get(&proxy, &(image.manifest_path() + ns)).await.is_whole(&image.manifest);
        get(&proxy, &(image.layer_path() + ns)).await.is_whole(&image.layer);
    }
    let tags = get(&proxy, "/v2/reg.example/team/app/tags/list").await;
    assert_eq!((tags.status, tags.text().contains("\"1\"")), (200, true), "{}", tags.text());
    get(&proxy, "/v2/reg.example/team/app/manifests/2").await.is_error(404, "MANIFEST_UNKNOWN");
    // The registry itself is asked by its name, and for what is not here.
    for path in ["/v2/team/app/manifests/1?ns=reg.example".to_owned(), other.tag_path("1")] {
        let theirs = get(&proxy, &path).await;
        assert_eq!(theirs.header("oci-namespace"), "reg.example", "{path}");
    }
    for path in [image.tag_path("2"), image.tag_path("1"), other.tag_path("1")] {
        let refused = proxy.registry(Method::PUT, &path).body(image.manifest.clone()).send().await;
        refused.is_error(403, "DENIED");
        assert!(refused.text().contains("this is a mirror of reg.example"), "{}", refused.text());
    }
    assert_eq!(proxy.registry(Method::DELETE, &image.manifest_path()).send().await.status, 202);
    let gone = get(&proxy, &image.tag_path("1")).await;
    assert_eq!(gone.header("oci-namespace"), "reg.example", "the name is the registry's from now on");
}

#[tokio::test]
async fn a_name_of_ours_that_was_never_pushed_is_not_here_whatever_docker_hub_has() {
    let (hub, setup) = docker_hub().await;
    let (theirs, ours) = (Image::new("team/app", 5), Image::new("team/pushed", 6));
    theirs.publish(&hub, "1");
    let proxy = setup.start().await;
    push(&proxy, &ours, "1").await;
    assert_eq!(put_manifest(&proxy, "team/pushed", "2", ours.manifest.clone()).await.status, 201);
    for path in [
        theirs.tag_path("1"),
        theirs.manifest_path(),
        theirs.layer_path(),
        "/v2/team/app/tags/list".to_owned(),
        theirs.tag_path("1").replace("team/app", "team/pushed").replace("/1", "/never"),
    ] {
        for ns in ["", "?ns=docker-registry.local", "?ns=docker-registry.local:5000", "?ns=localhost:5000"] {
            let reply = get(&proxy, &format!("{path}{ns}")).await;
            assert_eq!(reply.status, 404, "{path}{ns}");
            let through_the_proxy = proxy.ask_host(Method::GET, "docker-registry.local:5000", &format!("{path}{ns}"));
            assert_eq!(through_the_proxy.send().await.status, 404, "{path}{ns} through the proxy");
        }
    }
    assert!(hub.seen().is_empty(), "Docker Hub is not asked");
}
