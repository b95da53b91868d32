//! Rights at the registry's door: every role × method × path (T14 in docs/threats.md), mounts (T13), lists, tokens,
//! uploads of other accounts (T15), quotas of mounts. A client without the right never gets a body.

use std::path::Path;

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::{begin, push_blob};
use crate::harness::{Ask, Image, MANIFEST_TYPE, Proxy, Reply, Setup, bytes, digest_of};

const PASSWORD: &str = "canary-password";

/// The login of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Login<'a> {
    Nobody,
    Account(&'a str),
    WrongPassword,
    Token(&'a str),
}

impl Login<'_> {
    pub(super) fn on(self, ask: Ask) -> Ask {
        match self {
            Login::Nobody => ask,
            Login::Account(name) => ask.basic(name, PASSWORD),
            Login::WrongPassword => ask.basic("alice", "canary-wrong"),
            Login::Token(token) => ask.bearer(token),
        }
    }
}

/// Alice may push to `team/app` and Bob may pull it. Only Alice has `secret`. Every account has the rest.
pub(super) async fn entrepot(folder: &TempDir) -> (Proxy, Image, Image) {
    let htpasswd = folder.path().join("htpasswd");
    write_accounts(&htpasswd, &["alice", "bob", "carol"]);
    let rules = "repository = \"team/*\"\nusers = [\"alice\"]\nactions = [\"push\"]\n\
                 [[registry.rules]]\nrepository = \"team/*\"\nusers = [\"bob\"]\n\
                 [[registry.rules]]\nrepository = \"secret\"\nusers = [\"alice\"]\nactions = [\"push\", \"delete\"]";
    let setup = Setup::of(&[])
        .set("registry", "anonymous = \"none\"")
        .set("registry", &format!("htpasswd = {htpasswd:?}"))
        .set("[registry.rules]", rules);
    let (proxy, team, secret) = (setup.start().await, Image::new("team/app", 1), Image::new("secret", 2));
    for image in [&team, &secret] {
        push_as_alice(&proxy, image).await;
    }
    (proxy, team, secret)
}

pub(super) async fn push_as_alice(proxy: &Proxy, image: &Image) {
    let path = format!("/v2/{}/blobs/uploads/?digest={}", image.repository, image.layer_digest);
    let blob = Login::Account("alice").on(proxy.registry(Method::POST, &path)).body(image.layer.clone()).send().await;
    let manifest = Login::Account("alice").on(proxy.registry(Method::PUT, &image.tag_path("v1")));
    let manifest = manifest.header("content-type", MANIFEST_TYPE).body(image.manifest.clone()).send().await;
    assert_eq!((blob.status, manifest.status), (201, 201), "{} {}", blob.text(), manifest.text());
}

pub(super) fn write_accounts(path: &Path, names: &[&str]) {
    let line = |name: &&str| format!("{name}:{}\n", bcrypt::hash(PASSWORD, 4).expect("a hash"));
    std::fs::write(path, names.iter().map(line).collect::<String>()).expect("a file");
}

async fn ask(proxy: &Proxy, login: Login<'_>, method: Method, path: &str) -> Reply {
    login.on(proxy.registry(method, path)).send().await
}

/// The part of the status that rights decide.
async fn verdict(proxy: &Proxy, login: Login<'_>, method: Method, path: &str) -> &'static str {
    match ask(proxy, login, method, path).await.status {
        401 => "login",
        403 => "denied",
        _ => "yes",
    }
}

#[tokio::test]
async fn every_role_method_and_path() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, team, _) = entrepot(&folder).await;
    let (digest, layer) = (team.manifest_digest, team.layer_path());
    let (pull, push, delete) = (0, 1, 2);
    let unknown = "/v2/team/app/blobs/uploads/00000000000000000000000000000000";
    let requests = [
        (Method::GET, "/v2/team/app/manifests/v1".to_owned(), pull),
        (Method::HEAD, format!("/v2/team/app/manifests/{digest}"), pull),
        (Method::GET, layer.clone(), pull),
        (Method::GET, "/v2/team/app/tags/list".to_owned(), pull),
        (Method::GET, format!("/v2/team/app/referrers/{digest}"), pull),
        (Method::POST, "/v2/team/app/blobs/uploads/".to_owned(), push),
        (Method::GET, unknown.to_owned(), push),
        (Method::PATCH, unknown.to_owned(), push),
        (Method::PUT, format!("{unknown}?digest={digest}"), push),
        (Method::DELETE, unknown.to_owned(), push),
        (Method::PUT, "/v2/team/app/manifests/v2".to_owned(), push),
        (Method::DELETE, "/v2/team/app/manifests/v1".to_owned(), delete),
        (Method::DELETE, layer, delete),
    ];
    let forged = Login::Token("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbGljZSJ9.");
    for (login, expected) in [
        (Login::Nobody, ["login", "login", "login"]),
        (Login::WrongPassword, ["login", "login", "login"]),
        (forged, ["login", "login", "login"]),
        (Login::Account("carol"), ["denied", "denied", "denied"]),
        (Login::Account("bob"), ["yes", "denied", "denied"]),
        (Login::Account("alice"), ["yes", "yes", "denied"]),
    ] {
        for (method, path, action) in &requests {
            let found = verdict(&proxy, login, method.clone(), path).await;
            assert_eq!(found, expected[*action], "{login:?} {method} {path}");
        }
        assert_eq!(verdict(&proxy, login, Method::GET, "/v2/none/manifests/v1").await == "yes", expected[0] != "login");
    }
    let there = ask(&proxy, Login::Account("bob"), Method::GET, "/v2/team/app/manifests/v1").await;
    there.is_whole(&team.manifest);
}

#[tokio::test]
async fn challenges_name_the_token_server_and_the_scope() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, ..) = entrepot(&folder).await;
    let base = "Bearer realm=\"http://docker-registry.local:5000/token\",service=\"entrepot\"";
    for (method, path, scope) in [
        (Method::GET, "/v2/", ""),
        (Method::GET, "/v2/team/app/manifests/v1", ",scope=\"repository:team/app:pull\""),
        (Method::POST, "/v2/team/app/blobs/uploads/", ",scope=\"repository:team/app:pull,push\""),
        (Method::DELETE, "/v2/team/app/manifests/v1", ",scope=\"repository:team/app:pull,delete\""),
        (Method::GET, "/v2/_catalog", ",scope=\"registry:catalog:*\""),
    ] {
        let refused = ask(&proxy, Login::Nobody, method, path).await;
        refused.is_error(401, "UNAUTHORIZED");
        assert_eq!(refused.header("www-authenticate"), format!("{base}{scope}"), "{path}");
    }
    assert_eq!(ask(&proxy, Login::Account("bob"), Method::GET, "/v2/").await.status, 200);
}

#[tokio::test]
async fn a_token_is_for_what_it_says_and_no_more() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, team, _) = entrepot(&folder).await;
    let token = async |login: Login<'static>, scope: &str| {
        let reply = ask(&proxy, login, Method::GET, &format!("/token?service=entrepot&scope={scope}")).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{}", reply.text());
        let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!((&answer["expires_in"], &answer["token"]), (&Value::from(300), &answer["access_token"]));
        answer["token"].as_str().expect("a token").to_owned()
    };
    let tag = "/v2/team/app/manifests/v1";
    let narrow = token(Login::Account("alice"), "repository:team/app:pull").await;
    ask(&proxy, Login::Token(&narrow), Method::GET, tag).await.is_whole(&team.manifest);
    let refused = ask(&proxy, Login::Token(&narrow), Method::POST, "/v2/team/app/blobs/uploads/").await;
    refused.is_error(401, "UNAUTHORIZED");
    assert!(refused.header("www-authenticate").contains("error=\"insufficient_scope\""), "{:?}", refused.headers);
    assert_eq!(verdict(&proxy, Login::Token(&narrow), Method::GET, "/v2/secret/manifests/v1").await, "login");
    let bobs = token(Login::Account("bob"), "repository:team/app:pull,push+repository:secret:pull").await;
    assert_eq!(verdict(&proxy, Login::Token(&bobs), Method::GET, tag).await, "yes");
    assert_eq!(verdict(&proxy, Login::Token(&bobs), Method::POST, "/v2/team/app/blobs/uploads/").await, "denied");
    assert_eq!(verdict(&proxy, Login::Token(&bobs), Method::GET, "/v2/secret/manifests/v1").await, "denied");
    for login in [Login::Nobody, Login::WrongPassword] {
        assert_eq!(ask(&proxy, login, Method::GET, "/token?service=entrepot").await.status, 401, "{login:?}");
    }
    let form = format!("grant_type=password&username=bob&password={PASSWORD}&scope=repository:team/app:pull");
    let posted = proxy.registry(Method::POST, "/token").body(form).send().await;
    assert_eq!(posted.status, 200, "{}", posted.text());
    let endless = proxy.registry(Method::POST, "/token").body(bytes(1, 1 << 20)).send().await;
    assert_eq!(endless.status, 400, "a form has a bound");
}

#[tokio::test]
async fn a_mount_needs_to_read_its_source() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, _, secret) = entrepot(&folder).await;
    let blob = secret.layer_digest;
    for from in ["&from=secret", ""] {
        let path = format!("/v2/mine/bob/blobs/uploads/?mount={blob}{from}");
        let begun = ask(&proxy, Login::Account("bob"), Method::POST, &path).await;
        assert_eq!(begun.status, 202, "Bob may not read it, so he has to upload it: {from}");
        let gone = ask(&proxy, Login::Account("bob"), Method::GET, &format!("/v2/mine/bob/blobs/{blob}")).await;
        assert_eq!(gone.status, 404);
    }
    let path = format!("/v2/mine/alice/blobs/uploads/?mount={blob}&from=secret");
    assert_eq!(ask(&proxy, Login::Account("alice"), Method::POST, &path).await.status, 201);
    let mine = ask(&proxy, Login::Account("alice"), Method::GET, &format!("/v2/mine/alice/blobs/{blob}")).await;
    mine.is_whole(&secret.layer);
}

#[tokio::test]
async fn lists_show_what_may_be_pulled() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, ..) = entrepot(&folder).await;
    for (login, expected) in [
        (Login::Account("alice"), r#"{"repositories":["secret","team/app"]}"#),
        (Login::Account("bob"), r#"{"repositories":["team/app"]}"#),
        (Login::Account("carol"), r#"{"repositories":[]}"#),
    ] {
        assert_eq!(ask(&proxy, login, Method::GET, "/v2/_catalog").await.text(), expected, "{login:?}");
    }
    let page = ask(&proxy, Login::Account("bob"), Method::GET, "/v2/_catalog?n=1").await;
    assert_eq!(page.text(), r#"{"repositories":["team/app"]}"#, "a page is full of what may be seen");
}

#[tokio::test]
async fn nobody_goes_on_with_anothers_upload() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, ..) = entrepot(&folder).await;
    let begun = ask(&proxy, Login::Account("bob"), Method::POST, "/v2/mine/app/blobs/uploads/").await;
    let place = begun.header("location").to_owned();
    for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
        let path = format!("{place}?digest={}", digest_of(b"x"));
        let others = ask(&proxy, Login::Account("carol"), method.clone(), &path).await;
        others.is_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let own = Login::Account("bob").on(proxy.registry(Method::PUT, &format!("{place}?digest={}", digest_of(b"x"))));
    assert_eq!(own.body("x").send().await.status, 201);
}

#[tokio::test]
async fn a_mount_counts_against_the_quota_of_where_it_comes_to() {
    let quota = "repository = \"small/*\"\nmax_size = \"100\"";
    let proxy = Setup::of(&[]).set("[registry.quotas]", quota).start().await;
    let (large, small) = (bytes(1, 101), bytes(2, 100));
    for content in [&large, &small] {
        push_blob(&proxy, "source", content).await;
    }
    let mount = async |content: &bytes::Bytes| {
        let path = format!("/v2/small/app/blobs/uploads/?mount={}&from=source", digest_of(content));
        proxy.registry(Method::POST, &path).send().await
    };
    mount(&large).await.is_error(413, "DENIED");
    assert_eq!(mount(&small).await.status, 201);
    let place = begin(&proxy, "small/app").await;
    let more = proxy.registry(Method::PATCH, &place).body(bytes(3, 1)).send().await;
    more.is_error(413, "DENIED");
}

#[tokio::test]
async fn without_a_login_only_what_was_pushed_so_is_moved_and_nothing_is_deleted() {
    let folder = TempDir::new().expect("a folder");
    let htpasswd = folder.path().join("htpasswd");
    write_accounts(&htpasswd, &["alice"]);
    let setup = |level: &str| {
        let setup = Setup::of(&[]).set("registry", &format!("htpasswd = {htpasswd:?}"));
        setup.set("registry", &format!("anonymous = {level:?}"))
    };
    let proxy = setup("push").start().await;
    let (first, second) = (Image::new("team/app", 1), Image::new("team/app", 2));
    for image in [&first, &second] {
        super::push(&proxy, image, "loose").await;
    }
    let tag = async |proxy: &Proxy, login: Login<'_>, image: &Image, tag: &str| {
        let put = login.on(proxy.registry(Method::PUT, &image.tag_path(tag))).header("content-type", MANIFEST_TYPE);
        put.body(image.manifest.clone()).send().await
    };
    let (nobody, alice) = (Login::Nobody, Login::Account("alice"));
    assert_eq!(tag(&proxy, alice, &first, "mine").await.status, 201);
    let refused = tag(&proxy, nobody, &second, "mine").await;
    refused.is_error(403, "DENIED");
    assert!(refused.text().contains("pushed with a login"), "{}", refused.text());
    // The same image again moves nothing, and the tag stays the account's.
    assert_eq!(tag(&proxy, nobody, &first, "mine").await.status, 201);
    tag(&proxy, nobody, &second, "mine").await.is_error(403, "DENIED");
    let by_parameter = format!("/v2/team/app/manifests/{}?tag=mine", second.manifest_digest);
    let put = proxy.registry(Method::PUT, &by_parameter).header("content-type", MANIFEST_TYPE);
    put.body(second.manifest.clone()).send().await.is_error(403, "DENIED");
    // A tag of a push without a login becomes an account's by its push.
    assert_eq!(tag(&proxy, nobody, &first, "loose").await.status, 201);
    assert_eq!(tag(&proxy, alice, &first, "loose").await.status, 201);
    tag(&proxy, nobody, &second, "loose").await.is_error(403, "DENIED");
    for path in [first.tag_path("mine"), first.manifest_path(), first.layer_path(), second.manifest_path()] {
        ask(&proxy, nobody, Method::DELETE, &path).await.is_error(401, "UNAUTHORIZED");
    }
    // Accounts move every tag.
    assert_eq!(tag(&proxy, alice, &second, "mine").await.status, 201);
    // "delete" is what "push" was.
    proxy.reload(&setup("delete"));
    assert_eq!(tag(&proxy, nobody, &first, "mine").await.status, 201);
    assert_eq!(ask(&proxy, nobody, Method::DELETE, &first.tag_path("mine")).await.status, 202);
}

#[tokio::test]
async fn a_browser_changes_nothing_but_from_our_own_pages() {
    let proxy = super::registry().await;
    let image = Image::new("team/app", 1);
    super::push(&proxy, &image, "v1").await;
    let (own, evil) = ("docker-registry.local:5000", "evil.example:5000");
    let changes = [
        (Method::PUT, image.tag_path("v2"), 201),
        (Method::POST, "/v2/team/app/blobs/uploads/".to_owned(), 202),
        (Method::DELETE, image.tag_path("v1"), 202),
    ];
    let ask = |method: &Method, path: &str, pairs: &[(&str, &str)]| {
        let ask = proxy.registry(method.clone(), path).header("content-type", MANIFEST_TYPE);
        pairs.iter().fold(ask.body(image.manifest.clone()), |ask, (name, value)| ask.header(name, value))
    };
    for pairs in [
        &[("host", evil), ("origin", "http://evil.example:5000"), ("sec-fetch-site", "same-origin")][..],
        &[("host", evil), ("sec-fetch-site", "same-origin")],
        &[("host", own), ("origin", "http://evil.example")],
        &[("host", own), ("sec-fetch-site", "cross-site")],
        &[("host", own), ("origin", "null")],
    ] {
        for (method, path, _) in &changes {
            ask(method, path, pairs).send().await.is_error(403, "DENIED");
        }
        let read = ask(&Method::GET, &image.tag_path("v1"), pairs).body("").send().await;
        read.is_whole(&image.manifest);
    }
    let by_chunk = super::begin(&proxy, "team/app").await;
    for (method, query) in [(Method::PATCH, ""), (Method::PUT, "?digest=sha256:00"), (Method::DELETE, "")] {
        let path = format!("{by_chunk}{query}");
        ask(&method, &path, &[("origin", "http://evil.example")]).send().await.is_error(403, "DENIED");
    }
    // Our own page, and clients that are no browsers, by whatever name.
    for pairs in [&[("host", own), ("origin", "http://docker-registry.local:5000")][..], &[("host", "any.example")]] {
        super::put_manifest(&proxy, "team/app", "v1", image.manifest.clone()).await;
        for (method, path, status) in &changes {
            assert_eq!(ask(method, path, pairs).send().await.status, *status, "{method} {path} {pairs:?}");
        }
    }
}
