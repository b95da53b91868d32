//! The registry's page for people: rights × action as in the API, hostile text that stays text, forms from other sites,
//! deletion and collection by the page.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tempfile::TempDir;

use super::access::{Login, entrepot, push_as_alice, write_accounts};
use super::{get, push, push_blob, put_manifest, registry, status};
use crate::harness::{Ask, Image, Proxy, Reply, Setup, digest_of};

const LIST: &str = "/registry/";
const TAGS: &str = "/registry/repository?name=team/app";
const CONFIRM: &str = "/registry/delete?name=team/app&tag=v1";

async fn shown(proxy: &Proxy, login: Login<'_>, path: &str) -> Reply {
    let reply = login.on(proxy.registry(Method::GET, path)).send().await;
    // The headers that every page has.
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "same-origin"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert!(reply.header(name).contains(part), "{path}: {name}: {:?}", reply.headers);
    }
    assert!(!reply.text().contains("<script"), "{path}");
    reply
}

/// The seal of the forms on a page.
async fn seal(proxy: &Proxy, login: Login<'_>, path: &str) -> String {
    let text = shown(proxy, login, path).await.text();
    let rest = text.split("name=\"seal\" value=\"").nth(1).unwrap_or_else(|| panic!("a form on {path}: {text}"));
    rest.split('"').next().expect("a value").to_owned()
}

/// Sends a form as a browser does from our own page. `more` has further headers.
async fn post(proxy: &Proxy, login: Login<'_>, path: &str, form: &str, more: &[(&str, &str)]) -> Reply {
    let ask = login.on(proxy.registry(Method::POST, path)).header("content-type", "application/x-www-form-urlencoded");
    let ask = ask.header("origin", "http://docker-registry.local:5000").header("sec-fetch-site", "same-origin");
    let ask = more.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
    ask.body(form.to_owned()).send().await
}

#[tokio::test]
async fn rights_are_the_apis() {
    let folder = TempDir::new().expect("a folder");
    let (proxy, ..) = entrepot(&folder).await;
    // Alice pushes to team/app and deletes in secret. Bob pulls team/app. Carol has no rights there.
    for (login, list, tags, confirm) in [
        (Login::Nobody, 401, 401, 401),
        (Login::WrongPassword, 401, 401, 401),
        (Login::Account("carol"), 200, 403, 403),
        (Login::Account("bob"), 200, 200, 403),
        (Login::Account("alice"), 200, 200, 403),
    ] {
        for (path, expected) in [(LIST, list), (TAGS, tags), (CONFIRM, confirm)] {
            let reply = shown(&proxy, login, path).await;
            assert_eq!(reply.status, expected, "{login:?} {path}: {}", reply.text());
            assert_eq!(reply.header("www-authenticate").starts_with("Basic "), expected == 401, "{login:?} {path}");
        }
        let unknown = shown(&proxy, login, "/registry/repository?name=team/none").await.status;
        assert_eq!(unknown, if tags == 200 { 404 } else { tags }, "{login:?}: a refusal tells not what is there");
        let read = shown(&proxy, login, LIST).await.text();
        assert_eq!(read.contains("team/app"), tags == 200, "{login:?}: {read}");
        assert_eq!(read.contains(">secret<"), matches!(login, Login::Account("alice")), "{login:?}: {read}");
        assert!(!read.contains("delete?name=team/app"), "{login:?} gets no button: {read}");
        assert!(!shown(&proxy, login, TAGS).await.text().contains("/registry/delete?"), "{login:?}");
    }
    assert_eq!(shown(&proxy, Login::Nobody, "/registry/login").await.status, 401);
    let logged_in = Login::Account("bob").on(proxy.registry(Method::GET, "/registry/login")).send().await;
    assert_eq!((logged_in.status, logged_in.header("location")), (303, LIST));
    // With the proof of its own account, the form is refused as the API refuses it.
    for (login, form, expected) in [
        (Login::Account("alice"), "name=team/app&tag=v1", 403),
        (Login::Account("bob"), "name=team/app&tag=v1", 403),
        (Login::Account("bob"), "name=secret", 403),
        (Login::Account("carol"), "name=mine/none&tag=v1", 404),
        (Login::Account("alice"), "name=secret&tag=v1", 303),
    ] {
        let own = seal(&proxy, login, LIST).await;
        let reply = post(&proxy, login, "/registry/delete", &format!("{form}&seal={own}"), &[]).await;
        assert_eq!(reply.status, expected, "{login:?} {form}: {}", reply.text());
    }
    assert_eq!(shown(&proxy, Login::Account("bob"), TAGS).await.status, 200, "it is still there");
    let gone = Login::Account("alice").on(proxy.registry(Method::GET, "/v2/secret/manifests/v1")).send().await;
    assert_eq!(gone.status, 404);
}

#[tokio::test]
async fn forms_that_are_not_from_here_change_nothing() {
    let folder = TempDir::new().expect("a folder");
    let htpasswd = folder.path().join("htpasswd");
    write_accounts(&htpasswd, &["alice", "bob"]);
    let proxy = Setup::of(&[]).set("registry", &format!("htpasswd = {htpasswd:?}")).start().await;
    let image = Image::new("team/app", 1);
    push_as_alice(&proxy, &image).await;
    let alice = Login::Account("alice");
    let own = seal(&proxy, alice, CONFIRM).await;
    let (bobs, nobodys) =
        (seal(&proxy, Login::Account("bob"), CONFIRM).await, seal(&proxy, Login::Nobody, CONFIRM).await);
    let form = |seal: &str| format!("name=team/app&tag=v1&seal={seal}");
    for (seal, more, expected) in [
        ("", &[][..], 403),
        ("00", &[], 403),
        (&bobs, &[], 403),
        (&nobodys, &[], 403),
        (&own, &[("origin", "http://evil.example")], 403),
        (&own, &[("origin", "null")], 403),
        (&own, &[("sec-fetch-site", "cross-site")], 403),
        (&own, &[("sec-fetch-site", "same-site")], 403),
        (&own, &[("content-type", "text/plain")], 400),
    ] {
        let reply = post(&proxy, alice, "/registry/delete", &form(seal), more).await;
        assert_eq!(reply.status, expected, "{seal} {more:?}: {}", reply.text());
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let path = format!("/registry/delete?{}", form(&own));
        let reply = alice.on(proxy.registry(method.clone(), &path)).send().await;
        assert_eq!(reply.status, if method == Method::GET { 200 } else { 405 }, "{method}");
    }
    // Under a name that is not ours, as after DNS rebinding: pages have no proof and no button, and nothing changes.
    let rebound = |ask: Ask| ask.header("host", "evil.example:5000");
    for path in [LIST, TAGS] {
        let page = rebound(alice.on(proxy.registry(Method::GET, path))).send().await.text();
        assert!(page.contains("to registry.names") && page.contains("team/app"), "{page}");
        assert!(!page.contains("seal") && !page.contains("/registry/delete"), "{page}");
    }
    assert_eq!(rebound(alice.on(proxy.registry(Method::GET, CONFIRM))).send().await.status, 421);
    let own_origin = ("origin", "http://evil.example:5000");
    let more = [("host", "evil.example:5000"), own_origin];
    assert_eq!(post(&proxy, alice, "/registry/delete", &form(&own), &more).await.status, 421);
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("v1")).await, 200, "nothing of that did anything");
    let endless = format!("{}&more={}", form(&own), "a".repeat(10_000));
    assert_eq!(post(&proxy, alice, "/registry/delete", &endless, &[]).await.status, 400, "a form has a bound");
    let done = post(&proxy, alice, "/registry/delete", &form(&own), &[]).await;
    assert_eq!((done.status, done.header("location")), (303, "/registry/repository?name=team/app&done=tag"));
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("v1")).await, 404);
}

#[tokio::test]
async fn what_clients_wrote_stays_text() {
    let folder = TempDir::new().expect("a folder");
    let htpasswd = folder.path().join("htpasswd");
    let hostile = "<img src=x onerror=alert(1)>";
    write_accounts(&htpasswd, &[hostile]);
    let proxy = Setup::of(&[]).set("registry", &format!("htpasswd = {htpasswd:?}")).start().await;
    let config = Bytes::from(json!({ "os": "<b>\"'&", "architecture": "@ROWS@</title>" }).to_string());
    push_blob(&proxy, "team/app", &config).await;
    let manifest_type = crate::harness::MANIFEST_TYPE;
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "layers": [],
        "config": { "mediaType": "application/<i>", "size": config.len(), "digest": digest_of(&config).to_string() } });
    let put = put_manifest(&proxy, "team/app", "v1", manifest.to_string()).await;
    assert_eq!(put.status, 201, "{}", put.text());
    let tags = shown(&proxy, Login::Account(hostile), TAGS).await.text();
    assert!(tags.contains("&lt;b&gt;&quot;'&amp;/@ROWS@&lt;/title&gt;"), "{tags}");
    assert!(tags.contains("&lt;img src=x onerror=alert(1)&gt;"), "{tags}");
    assert!(!tags.contains("<b>\"") && !tags.contains("<img") && !tags.contains("<i>"), "{tags}");
    for path in [
        "/registry/repository?name=%3Cscript%3E",
        "/registry/delete?name=a&tag=%22%3E%3Cscript%3E",
        "/registry/?after=%22%3E%3Cimg%3E",
        "/registry/?done=%3Cscript%3E",
        "/registry/%3Cscript%3E",
    ] {
        let reply = shown(&proxy, Login::Nobody, path).await;
        assert!(!reply.text().contains("<img") && !reply.text().contains("%3C"), "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_person_deletes_and_collects() {
    let proxy = Setup::of(&[]).set("registry", "grace = \"0s\"").start().await;
    let (first, second) = (Image::new("team/app", 1), Image::new("other", 2));
    push(&proxy, &first, "v1").await;
    push(&proxy, &first, "v2").await;
    push(&proxy, &second, "v1").await;
    let nobody = Login::Nobody;
    let list = shown(&proxy, nobody, LIST).await.text();
    assert!(list.contains("href=\"/registry/repository?name=team%2Fapp\">team/app</a>"), "{list}");
    assert!(list.contains("None since the server started"), "{list}");
    let tags = shown(&proxy, nobody, TAGS).await.text();
    assert!(tags.contains(&format!("title=\"{}\"", first.manifest_digest)), "{tags}");
    assert!(
        !shown(&proxy, nobody, LIST).await.text().contains("http-equiv"),
        "nothing runs, so nothing is loaded again"
    );

    // The question names the image. If the tag was set again since, the answer is for another image.
    let question = shown(&proxy, nobody, CONFIRM).await.text();
    assert!(question.contains("Delete team/app:v1?") && question.contains(&first.manifest_digest.to_string()));
    let own = seal(&proxy, nobody, CONFIRM).await;
    let moved = format!("name=team/app&tag=v1&digest={}&seal={own}", second.manifest_digest);
    assert_eq!(post(&proxy, nobody, "/registry/delete", &moved, &[]).await.status, 409);
    for form in ["tag=v1", "name=team/app&tag=no/tag", "name=..%2F..", "name=team/app&digest=sha256:00"] {
        let reply = post(&proxy, nobody, "/registry/delete", &format!("{form}&seal={own}"), &[]).await;
        assert_eq!(reply.status, 400, "{form}");
    }
    let form = format!("name=team/app&tag=v1&digest={}&seal={own}", first.manifest_digest);
    assert_eq!(post(&proxy, nobody, "/registry/delete", &form, &[]).await.status, 303);
    assert_eq!(post(&proxy, nobody, "/registry/delete", &form, &[]).await.status, 404, "it is gone already");
    assert_eq!(status(&proxy, Method::GET, &first.tag_path("v2")).await, 200, "another tag leads to the image");
    let everything = post(&proxy, nobody, "/registry/delete", &format!("name=team/app&seal={own}"), &[]).await;
    assert_eq!((everything.status, everything.header("location")), (303, "/registry/?done=repository"));
    assert_eq!(status(&proxy, Method::GET, &first.manifest_path()).await, 404);

    let collect = async |more: &str| {
        let begun = post(&proxy, nobody, "/registry/collect", &format!("seal={own}{more}"), &[]).await;
        assert_eq!((begun.status, begun.header("location")), (303, "/registry/?done=collection"));
        shown(&proxy, nobody, LIST).await.text()
    };
    let counted = collect("&dry_run=true").await;
    assert!(counted.contains("would free") && counted.contains("None since"), "{counted}");
    assert!(proxy.has(&first.layer_digest), "it only counted");
    let collected = collect("").await;
    assert!(collected.contains(": freed ") && !collected.contains("would free "), "{collected}");
    assert!(!proxy.has(&first.layer_digest) && proxy.has(&second.layer_digest));
}

#[tokio::test]
async fn read_only_mode_and_immutable_tags_are_said_and_kept() {
    let tags = Setup::of(&[]).set("registry", "immutable_tags = [\"v*\"]").start().await;
    let image = Image::new("team/app", 1);
    push(&tags, &image, "v1").await;
    push(&tags, &image, "latest").await;
    let text = shown(&tags, Login::Nobody, TAGS).await.text();
    assert!(text.contains("immutable") && !text.contains("tag=v1") && text.contains("tag=latest"), "{text}");
    let own = seal(&tags, Login::Nobody, "/registry/delete?name=team/app&tag=latest").await;
    for form in ["name=team/app&tag=v1", "name=team/app"] {
        assert_eq!(shown(&tags, Login::Nobody, &format!("/registry/delete?{form}")).await.status, 403, "{form}");
        let reply = post(&tags, Login::Nobody, "/registry/delete", &format!("{form}&seal={own}"), &[]).await;
        assert_eq!((reply.status, reply.text().contains("immutable")), (403, true), "{form}");
    }
    assert_eq!(status(&tags, Method::GET, &image.tag_path("v1")).await, 200);

    let still = Setup::of(&[]).set("registry", "read_only = true").start().await;
    let text = shown(&still, Login::Nobody, LIST).await.text();
    assert!(text.contains("read-only for now") && !text.contains("<form"), "{text}");
    assert_eq!(shown(&still, Login::Nobody, CONFIRM).await.status, 405, "as the API has it");
}

#[tokio::test]
async fn usage_is_shown_beside_its_limit_and_lists_have_parts() {
    let quota = "repository = \"team/*\"\nmax_size = \"1m\"";
    let proxy = Setup::of(&[]).set("registry", "max_size = \"1g\"").set("[registry.quotas]", quota).start().await;
    push(&proxy, &Image::new("team/app", 1), "v1").await;
    let text = shown(&proxy, Login::Nobody, LIST).await.text();
    assert!(text.contains("of 1.0 GiB") && text.contains("of 1.0 MiB") && text.contains("<meter"), "{text}");
    let image = Image::new("many", 3);
    push(&proxy, &image, "t00").await;
    for number in 1..60 {
        put_manifest(&proxy, "many", &format!("t{number:02}"), image.manifest.clone()).await;
    }
    let first = shown(&proxy, Login::Nobody, "/registry/repository?name=many").await.text();
    assert!(
        first.contains(">t49<") && !first.contains(">t50<") && first.contains("name=many&amp;after=t49"),
        "{first}"
    );
    let second = shown(&proxy, Login::Nobody, "/registry/repository?name=many&after=t49").await.text();
    assert!(second.contains(">t50<") && second.contains(">t59<") && !second.contains(">t49<"), "{second}");
}

#[tokio::test]
async fn other_paths_and_methods() {
    let proxy = registry().await;
    let bare = get(&proxy, "/registry").await;
    assert_eq!((bare.status, bare.header("location")), (308, "/registry/"));
    let head = proxy.registry(Method::HEAD, LIST).send().await;
    assert_eq!((head.status, head.body.is_empty()), (200, true));
    assert_eq!(status(&proxy, Method::GET, "/registry/none").await, 404);
    assert_eq!(status(&proxy, Method::GET, "/registry/collect").await, 405);
    assert_eq!(status(&proxy, Method::GET, "/registry/login").await, 303, "there are no accounts to ask for");
    assert_eq!(status(&proxy, Method::GET, "/registryfoo").await, 404);
}
