//! Other registries by mirror names: the same cache and the same rights as through the proxy.

use bytes::Bytes;
use entrepot_core::media::ManifestInfo;
use entrepot_store::{PushedBy, PushedManifest};
use http::Method;
use tempfile::TempDir;

use super::access::{Login, write_accounts};
use super::{get, push, put_manifest};
use crate::harness::{Answer, Image, MANIFEST_TYPE, NOBODY, Proxy, Setup, TokenServer, Upstream, VIA, bytes};

#[tokio::test]
async fn a_mirror_by_namespace_or_path_fills_the_cache_that_the_proxy_serves_from() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).start().await;
    let ns = format!("ns={}", upstream.host());
    let by_tag = get(&proxy, &format!("{}?{ns}", image.tag_path("1"))).await;
    by_tag.is_whole(&image.manifest);
    assert_eq!((by_tag.cache(), by_tag.header("oci-namespace")), ("MISS", &*upstream.host()));
    get(&proxy, &format!("{}?{ns}", image.layer_path())).await.is_whole(&image.layer);
    proxy.landed().await;
    upstream.forget();
    let prefixed = |path: String| path.replace("/v2/", &format!("/v2/{}/", upstream.host()));
    let warm = get(&proxy, &prefixed(image.layer_path())).await;
    warm.is_whole(&image.layer);
    assert_eq!(warm.cache(), "HIT");
    get(&proxy, &prefixed(image.manifest_path())).await.is_whole(&image.manifest);
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    assert!(upstream.seen().iter().all(|seen| seen.method != Method::GET), "nothing was fetched twice");
    assert!(upstream.seen().iter().all(|seen| !seen.query.contains("ns=")), "upstream hears nothing of it");
}

#[tokio::test]
async fn a_name_that_nobody_listed_is_no_target() {
    let (listed, stranger) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 2);
    image.publish(&stranger, "1");
    let proxy = Setup::of(&[&listed]).start().await;
    for ns in [stranger.host(), "169.254.169.254".into(), "127.0.0.1:1".into(), "http://a/".into(), String::new()] {
        let reply = get(&proxy, &format!("{}?ns={ns}", image.tag_path("1"))).await;
        reply.is_error(403, "DENIED");
    }
    let by_path = get(&proxy, &image.tag_path("1").replace("/v2/", &format!("/v2/{}/", stranger.host()))).await;
    assert_eq!(by_path.status, 400, "no repository's name either");
    assert!(stranger.seen().is_empty());
}

#[tokio::test]
async fn a_mirror_takes_no_pushes_and_no_login() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 3);
    image.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).set("proxy", "allow_push = true").start().await;
    let ns = upstream.host();
    for (method, path) in [
        (Method::PUT, format!("/v2/team/app/manifests/2?ns={ns}")),
        (Method::POST, format!("/v2/{ns}/team/app/blobs/uploads/")),
        (Method::DELETE, format!("/v2/{ns}/team/app/manifests/1")),
    ] {
        let reply = proxy.registry(method.clone(), &path).body(image.manifest.clone()).send().await;
        reply.is_error(403, "DENIED");
    }
    let path = format!("{}?ns={ns}", image.tag_path("1"));
    proxy.registry(Method::GET, &path).basic("user", "for our own door").send().await.is_whole(&image.manifest);
    assert!(upstream.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    proxy.registry(Method::GET, &path).header("via", VIA).send().await.is_error(508, "LOOP");
}

#[tokio::test]
async fn a_private_image_that_the_proxy_cached_is_not_given_by_the_mirror() {
    let upstream = Upstream::start().await;
    let tokens = TokenServer::protect(&upstream);
    let (image, public) = (Image::new("team/secret", 4), Image::new("team/public", 5));
    image.publish(&upstream, "1");
    public.publish(&upstream, "1");
    tokens.allow("alice", "team/secret");
    tokens.allow(NOBODY, "team/public");
    let proxy = Setup::of(&[&upstream]).start().await;
    for path in [image.tag_path("1"), image.layer_path()] {
        assert_eq!(proxy.get(&upstream, &path).bearer("token-of-alice").send().await.status, 200);
    }
    proxy.landed().await;
    for path in [image.tag_path("1"), image.manifest_path(), image.layer_path()] {
        for name in
            [format!("{path}?ns={}", upstream.host()), path.replace("/v2/", &format!("/v2/{}/", upstream.host()))]
        {
            let reply = get(&proxy, &name).await;
            reply.is_error(403, "DENIED");
            assert_eq!(reply.header("www-authenticate"), "", "no challenge that cannot be answered here");
        }
    }
    let ns = format!("?ns={}", upstream.host());
    get(&proxy, &(public.tag_path("1") + &ns)).await.is_whole(&public.manifest);
    get(&proxy, &(public.layer_path() + &ns)).await.is_whole(&public.layer);
}

#[tokio::test]
async fn a_push_and_the_cache_share_bytes_and_neither_gives_away_the_others() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 5);
    image.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).start().await;
    let ns = format!("ns={}", upstream.host());
    get(&proxy, &format!("{}?{ns}", image.layer_path())).await.is_whole(&image.layer);
    proxy.landed().await;
    let own = get(&proxy, &image.layer_path()).await;
    assert_eq!(own.status, 404, "the cache's content is not the registry's");
    push(&proxy, &image, "1").await;
    assert_eq!(proxy.files("blobs").len(), 2, "the layer once, and the manifest");
    // Content that was only pushed is not served under upstream's name before upstream has shown it.
    let secret = Image::new("team/app", 6);
    push(&proxy, &secret, "2").await;
    let asked = get(&proxy, &format!("{}?{ns}", secret.layer_path())).await;
    assert_eq!(asked.status, 404);
    let changed = bytes(7, 100);
    upstream.on(&secret.layer_path(), move |_| Answer::content(changed.clone()));
    let claimed = proxy.registry(Method::GET, &format!("{}?{ns}", secret.layer_path())).try_send().await;
    assert!(claimed.is_err() || claimed.is_ok_and(|reply| reply.status != 200), "a claim is no proof");
}

#[tokio::test]
async fn names_of_mirrors_cannot_be_pushed_to() {
    let upstream = Upstream::start().await;
    let proxy = Setup::of(&[&upstream]).start().await;
    let put = put_manifest(&proxy, "ghcr.io/team/app", "1", Bytes::from_static(b"{\"layers\":[]}")).await;
    put.is_error(403, "DENIED");
}

/// A rule that gives a registry's images to one account only. Every client may pull the rest.
fn for_alice_alone(setup: Setup, folder: &TempDir, host: &str) -> Setup {
    let htpasswd = folder.path().join("htpasswd");
    write_accounts(&htpasswd, &["alice", "bob"]);
    setup
        .set("registry", "anonymous = \"pull\"")
        .set("registry", &format!("htpasswd = {htpasswd:?}"))
        .set("[registry.rules]", &format!("repository = \"{host}/*\"\nusers = [\"alice\"]"))
}

#[tokio::test]
async fn rules_hold_for_a_mirrored_registry_with_a_port() {
    let (upstream, folder) = (Upstream::start().await, TempDir::new().expect("a folder"));
    let image = Image::new("corp/app", 8);
    image.publish(&upstream, "1");
    let proxy = for_alice_alone(Setup::of(&[&upstream]), &folder, "127.0.0.1").start().await;
    let host = upstream.host();
    for path in [image.tag_path("1"), image.manifest_path(), image.layer_path(), "/v2/corp/app/tags/list".to_owned()] {
        for name in [format!("{path}?ns={host}"), path.replace("/v2/", &format!("/v2/{host}/"))] {
            for (login, expected) in [(Login::Nobody, 401), (Login::Account("bob"), 403)] {
                let refused = login.on(proxy.registry(Method::GET, &name)).send().await;
                assert_eq!(refused.status, expected, "{login:?} {name}: {}", refused.text());
            }
        }
    }
    assert!(upstream.seen().is_empty(), "nothing is asked for who may not have it");
    let refused = get(&proxy, &format!("{}?ns={host}", image.tag_path("1"))).await;
    let scope = "scope=\"repository:127.0.0.1/corp/app:pull\"";
    assert!(refused.header("www-authenticate").contains(scope), "{:?}", refused.headers);
    let path = format!("{}?ns={host}", image.layer_path());
    Login::Account("alice").on(proxy.registry(Method::GET, &path)).send().await.is_whole(&image.layer);
}

/// A Docker Hub, and a set-up that reaches it.
pub(super) async fn docker_hub() -> (Upstream, Setup) {
    let hub = Upstream::start().await;
    // The fake is its own parent proxy: a CONNECT to it leads to itself.
    hub.on("registry-1.docker.io:443", |_| Answer::content(Bytes::new()));
    let setup = Setup::of(&[])
        .set("upstream", &format!("proxy = \"{}\"", hub.url("")))
        .set("registries.\"registry-1.docker.io:443\"", "scheme = \"http\"");
    (hub, setup)
}

#[tokio::test]
async fn rules_for_docker_hub_hold_where_no_registry_is_named() {
    let ((hub, setup), folder) = (docker_hub().await, TempDir::new().expect("a folder"));
    let (image, other) = (Image::new("corp/app", 9), Image::new("other/app", 10));
    for image in [&image, &other] {
        image.publish(&hub, "1");
    }
    let proxy = for_alice_alone(setup, &folder, "registry-1.docker.io/corp").start().await;
    let ask = async |login: Login<'_>, path: &str| login.on(proxy.mirror(Method::GET, path)).send().await;
    for (login, status) in [(Login::Nobody, 401), (Login::Account("bob"), 403)] {
        for path in [image.tag_path("1"), image.manifest_path(), image.layer_path()] {
            assert_eq!(ask(login, &path).await.status, status, "{login:?} {path}");
        }
    }
    assert!(hub.seen().is_empty(), "nothing is asked for who may not have it");
    ask(Login::Nobody, &other.tag_path("1")).await.is_whole(&other.manifest);
    // Docker's token is for the name that Docker uses.
    let token = ask(Login::Account("alice"), "/token?service=entrepot&scope=repository:corp/app:pull").await;
    let token: serde_json::Value = serde_json::from_slice(&token.body).expect("JSON");
    for login in [Login::Account("alice"), Login::Token(token["token"].as_str().expect("a token"))] {
        ask(login, &image.tag_path("1")).await.is_whole(&image.manifest);
        ask(login, &image.layer_path()).await.is_whole(&image.layer);
    }
}

#[tokio::test]
async fn pushed_content_never_answers_for_docker_hub() {
    let (hub, setup) = docker_hub().await;
    let (official, theirs) = (Image::new("library/app", 11), Image::new("team/app", 12));
    let (false_official, ours) = (Image::new("library/app", 13), Image::new("team/app", 14));
    for image in [&official, &theirs] {
        image.publish(&hub, "1");
    }
    let proxy = setup.start().await;
    push(&proxy, &ours, "1").await;
    for (method, path) in [
        (Method::PUT, official.tag_path("1")),
        (Method::POST, "/v2/library/app/blobs/uploads/".to_owned()),
        (Method::POST, format!("/v2/library/app/blobs/uploads/?mount={}&from=team/app", ours.layer_digest)),
        (Method::PUT, format!("{}?ns=docker-registry.local", official.tag_path("1"))),
        (Method::DELETE, official.tag_path("1")),
    ] {
        let refused = proxy.registry(method.clone(), &path).body(false_official.manifest.clone()).send().await;
        refused.is_error(403, "DENIED");
        assert!(refused.text().contains("library/… is Docker Hub's here"), "{method} {path}: {}", refused.text());
    }
    let local = &proxy.state().registry.local;
    assert_eq!(local.store.repositories.list(None, 10, |_| true).await.expect("a list").0.len(), 1, "team/app only");
    keep_as_before(&proxy, &false_official).await;

    let agents = ["docker/28.5.2 go/go1.24 kernel/6.1 os/linux arch/amd64", "containerd/2.1", "curl/8"];
    for agent in agents {
        let registry = async |path: &str| {
            let ask = proxy.registry(Method::GET, path).header("user-agent", agent);
            ask.send().await
        };
        let mirror = async |path: &str| proxy.mirror(Method::GET, path).header("user-agent", agent).send().await;
        registry(&official.tag_path("1")).await.is_whole(&official.manifest);
        mirror(&official.tag_path("1")).await.is_whole(&official.manifest);
        mirror(&theirs.tag_path("1")).await.is_whole(&theirs.manifest);
        registry(&ours.tag_path("1")).await.is_whole(&ours.manifest);
        // Docker Hub is not asked for an image of ours that is missing, and no image of ours is given for Docker Hub's.
        assert_eq!(registry("/v2/team/app/manifests/2").await.status, 404);
        assert_eq!(mirror("/v2/team/app/manifests/2").await.status, 404);
        for pushed in [false_official.manifest_path(), false_official.layer_path()] {
            assert_eq!(registry(&pushed).await.status, 404, "{pushed}");
        }
        assert_eq!(mirror(&ours.layer_path()).await.status, 404);
    }
    let refused = proxy.mirror(Method::PUT, &ours.tag_path("2")).body(ours.manifest.clone()).send().await;
    refused.is_error(403, "DENIED");
    assert_eq!(proxy.mirror(Method::GET, "/v2/").send().await.status, 200);
    for elsewhere in ["/", "/registry/", "/setup/docker", "/api/registry/repositories"] {
        assert_eq!(proxy.mirror(Method::GET, elsewhere).send().await.status, 404, "{elsewhere}");
    }
    proxy.mirror(Method::GET, "/v2/team/app/manifests/1?ns=ghcr.io").send().await.is_error(403, "DENIED");
}

/// An image below `library/` as an earlier release took it.
async fn keep_as_before(proxy: &Proxy, image: &Image) {
    let repositories = &proxy.state().registry.local.store.repositories;
    let repository = repositories.at(&image.repository.parse().expect("a name"));
    for (digest, bytes) in [(&image.layer_digest, &image.layer), (&image.manifest_digest, &image.manifest)] {
        let _hold = repositories.hold(digest).await.expect("held");
        repositories.put(digest, bytes.clone()).await.expect("stored");
    }
    assert!(repository.link(&image.layer_digest).await.expect("linked"));
    let info = ManifestInfo::inspect(&image.manifest).expect("a manifest");
    let anyone = PushedBy::Anyone;
    let manifest = PushedManifest::of(image.manifest_digest, MANIFEST_TYPE, &info, &image.manifest, anyone);
    let tags = vec!["1".parse().expect("a tag")];
    let put = repository.put_manifest(manifest, tags, Vec::new(), |_, _| Ok::<_, ()>(())).await;
    assert_eq!(put.expect("put"), Ok(()));
}
