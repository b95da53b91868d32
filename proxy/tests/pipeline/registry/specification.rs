//! The specification as tables: method × path × state → status, code, headers, body.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::{begin, get, push, push_blob, put_manifest, registry, status};
use crate::harness::{Image, MANIFEST_TYPE, Proxy, bytes, digest_of};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

fn json_of(body: &Bytes) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

#[tokio::test]
async fn an_image_comes_back_byte_for_byte_by_every_path() {
    let proxy = registry().await;
    let image = Image::new("team/app/deep/er/still", 1);
    push(&proxy, &image, "v1").await;
    for path in [image.tag_path("v1"), image.manifest_path()] {
        let reply = get(&proxy, &path).await;
        reply.is_whole(&image.manifest);
        let head = proxy.registry(Method::HEAD, &path).send().await;
        for reply in [&reply, &head] {
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("content-type"), MANIFEST_TYPE);
            assert_eq!(reply.header("docker-content-digest"), image.manifest_digest.to_string());
            assert_eq!(reply.header("content-length"), image.manifest.len().to_string());
            assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
        }
        assert!(head.body.is_empty());
    }
    get(&proxy, &image.layer_path()).await.is_whole(&image.layer);
    let head = proxy.registry(Method::HEAD, &image.layer_path()).send().await;
    assert_eq!((head.status, head.header("content-length")), (200, &*image.layer.len().to_string()));
    assert_eq!(head.header("docker-content-digest"), image.layer_digest.to_string());
    assert_eq!(get(&proxy, "/v2/").await.status, 200);
    assert_eq!(get(&proxy, "/v2").await.status, 200);
}

#[tokio::test]
async fn ranges_of_a_blob() {
    let proxy = registry().await;
    let image = Image::new("app", 2);
    push(&proxy, &image, "v1").await;
    let length = image.layer.len();
    for (range, start, end) in [
        ("500-1499", 500, 1500),
        ("500-", 500, length),
        ("-500", length - 500, length),
        ("69000-99999", 69_000, length),
    ] {
        let part = proxy.registry(Method::GET, &image.layer_path()).range(range).send().await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {start}-{}/{length}", end - 1));
        assert!(part.body == image.layer[start..end], "{range}");
    }
    for range in ["500-0", "70000-", "99999-100000"] {
        let refused = proxy.registry(Method::GET, &image.layer_path()).range(range).send().await;
        refused.is_error(416, "RANGE_INVALID");
        assert_eq!(refused.header("content-range"), format!("bytes */{length}"));
    }
}

#[tokio::test]
async fn what_is_not_there_is_unknown_in_the_words_of_the_specification() {
    let proxy = registry().await;
    let image = Image::new("known/app", 3);
    push(&proxy, &image, "v1").await;
    let other = digest_of(b"nobody has this");
    for (method, path, expected, code) in [
        (Method::GET, "/v2/known/app/manifests/v2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, format!("/v2/known/app/manifests/{other}"), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, format!("/v2/known/app/blobs/{other}"), 404, "BLOB_UNKNOWN"),
        (Method::GET, "/v2/nobody/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        (Method::GET, format!("/v2/nobody/blobs/{}", image.layer_digest), 404, "NAME_UNKNOWN"),
        (Method::GET, format!("/v2/known/blobs/{}", image.layer_digest), 404, "NAME_UNKNOWN"),
        (Method::GET, "/v2/nobody/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        (Method::DELETE, "/v2/known/app/manifests/v2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (Method::DELETE, format!("/v2/known/app/manifests/{other}"), 404, "MANIFEST_UNKNOWN"),
        (Method::DELETE, format!("/v2/known/app/blobs/{other}"), 404, "BLOB_UNKNOWN"),
        (Method::DELETE, "/v2/nobody/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        (
            Method::GET,
            "/v2/known/app/blobs/uploads/00000000000000000000000000000000".to_owned(),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (Method::PATCH, "/v2/known/app/blobs/uploads/nonsense".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        (Method::PUT, format!("/v2/known/app/blobs/uploads/0?digest={other}"), 404, "BLOB_UPLOAD_UNKNOWN"),
        (Method::GET, "/v2/known/app/manifests/sha256:baddigeststring".to_owned(), 400, "DIGEST_INVALID"),
        (Method::GET, "/v2/known/app/blobs/sha256:00".to_owned(), 400, "DIGEST_INVALID"),
        (Method::GET, "/v2/known/app/referrers/sha256:00".to_owned(), 400, "DIGEST_INVALID"),
        (Method::GET, "/v2/Known/App/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (Method::GET, "/v2/known/../app/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (Method::GET, "/v2/known%2Fapp/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (Method::GET, "/v2/known/app/manifests/.v1".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (Method::PUT, "/v2/known/app/manifests/.v1".to_owned(), 400, "NAME_INVALID"),
        (Method::POST, "/v2/../blobs/uploads/".to_owned(), 400, "NAME_INVALID"),
        (Method::GET, "/v2/known/app/tags/list?n=many".to_owned(), 400, "UNSUPPORTED"),
        (Method::POST, "/v2/known/app/manifests/v1".to_owned(), 405, "UNSUPPORTED"),
        (Method::PUT, format!("/v2/known/app/blobs/{other}x/y"), 404, "NAME_UNKNOWN"),
        (Method::PUT, "/v2/_catalog".to_owned(), 405, "UNSUPPORTED"),
        (Method::DELETE, "/v2/known/app/tags/list".to_owned(), 405, "UNSUPPORTED"),
        (Method::GET, "/v2/known/app/nonsense".to_owned(), 404, "NAME_UNKNOWN"),
    ] {
        let reply = proxy.registry(method.clone(), &path).send().await;
        assert_eq!(reply.status, expected, "{method} {path}: {}", reply.text());
        reply.is_error(expected, code);
    }
    assert_eq!(status(&proxy, Method::HEAD, "/v2/known/app/manifests/v2").await, 404);
    assert_eq!(get(&proxy, "/nothing").await.status, 404);
}

#[tokio::test]
async fn bad_manifests_are_refused_and_nothing_is_stored() {
    let proxy = registry().await;
    let image = Image::new("app", 4);
    push_blob(&proxy, "app", &image.layer).await;
    let text = String::from_utf8(image.manifest.to_vec()).expect("text");
    let missing = text.replace(&image.layer_digest.to_string(), &digest_of(b"missing").to_string());
    let large = format!("{}{}", text, " ".repeat(4 << 20));
    let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
    let other = digest_of(b"other").to_string();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let artifact = "application/vnd.oci.artifact.manifest.v1+json";
    let blob = json!({ "mediaType": "a/b", "digest": digest_of(b"missing").to_string(), "size": 7 });
    let incomplete = json!({ "mediaType": artifact, "blobs": [blob] }).to_string();
    for (reference, content_type, manifest, expected, code) in [
        ("v1", MANIFEST_TYPE, "{", 400, "MANIFEST_INVALID"),
        ("v1", MANIFEST_TYPE, "[]", 400, "MANIFEST_INVALID"),
        ("v1", MANIFEST_TYPE, "", 400, "MANIFEST_INVALID"),
        ("v1", docker, &*text, 400, "MANIFEST_INVALID"),
        ("v1", "application/json", &text, 400, "MANIFEST_INVALID"),
        ("v1", MANIFEST_TYPE, r#"{"layers":[],"manifests":[]}"#, 400, "MANIFEST_INVALID"),
        ("v1", "application/vnd.docker.distribution.manifest.v1+json", schema1, 400, "MANIFEST_INVALID"),
        ("v1", MANIFEST_TYPE, &missing, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", artifact, &incomplete, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", MANIFEST_TYPE, &large, 413, "MANIFEST_INVALID"),
        (&other, MANIFEST_TYPE, &text, 400, "DIGEST_INVALID"),
        ("sha256:baddigeststring", MANIFEST_TYPE, &text, 400, "DIGEST_INVALID"),
    ] {
        let path = format!("/v2/app/manifests/{reference}");
        let body = manifest.to_owned();
        let reply = proxy.registry(Method::PUT, &path).header("content-type", content_type).body(body).send().await;
        assert_eq!(reply.status, expected, "{reference} as {content_type}: {}", reply.text());
        reply.is_error(expected, code);
    }
    assert_eq!(status(&proxy, Method::GET, "/v2/app/manifests/v1").await, 404);
    assert_eq!(json_of(&get(&proxy, "/v2/_catalog").await.body), json!({ "repositories": [] }));
    let put = put_manifest(&proxy, "app", "v1", format!("{text}\n\n")).await;
    assert_eq!(put.status, 201, "white space is the client's own: {}", put.text());
}

#[tokio::test]
async fn sha512_all_the_way() {
    use entrepot_core::digest::{Algorithm, Digest};
    let proxy = registry().await;
    let layer = bytes(5, 100_000);
    let digest = Digest::of(Algorithm::Sha512, &layer);
    let begun = proxy.registry(Method::POST, "/v2/app/blobs/uploads/?digest-algorithm=sha512").send().await;
    let told = format!("{}?digest={digest}", begun.header("location"));
    assert_eq!(proxy.registry(Method::PUT, &told).body(layer.clone()).send().await.status, 201);
    // The first request need not name the algorithm: then the bytes are hashed again.
    let place = begin(&proxy, "other").await;
    let untold = format!("{place}?digest={digest}");
    assert_eq!(proxy.registry(Method::PUT, &untold).body(layer.clone()).send().await.status, 201);
    get(&proxy, &format!("/v2/other/blobs/{digest}")).await.is_whole(&layer);
    let manifest = super::manifest_of(MANIFEST_TYPE, &digest, layer.len());
    let named = Digest::of(Algorithm::Sha512, manifest.as_bytes());
    let put = put_manifest(&proxy, "app", &named.to_string(), manifest.clone()).await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, &*named.to_string()));
    get(&proxy, &format!("/v2/app/manifests/{named}")).await.is_whole(manifest.as_bytes());
    let bad = proxy.registry(Method::POST, "/v2/app/blobs/uploads/?digest-algorithm=md5").send().await;
    bad.is_error(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn tags_are_listed_page_by_page_with_links() {
    let proxy = registry().await;
    let image = Image::new("app", 6);
    for tag in ["b", "a", "C", "d", "e"] {
        push(&proxy, &image, tag).await;
    }
    let listed = |reply: &crate::harness::Reply| json_of(&reply.body)["tags"].clone();
    let all = get(&proxy, "/v2/app/tags/list").await;
    assert_eq!(json_of(&all.body), json!({ "name": "app", "tags": ["C", "a", "b", "d", "e"] }));
    assert_eq!(all.header("link"), "");
    let first = get(&proxy, "/v2/app/tags/list?n=2").await;
    assert_eq!(listed(&first), json!(["C", "a"]));
    assert_eq!(first.header("link"), "</v2/app/tags/list?n=2&last=a>; rel=\"next\"");
    let second = get(&proxy, "/v2/app/tags/list?n=2&last=a").await;
    assert_eq!(listed(&second), json!(["b", "d"]));
    let last = get(&proxy, "/v2/app/tags/list?n=2&last=d").await;
    assert_eq!((listed(&last), last.header("link")), (json!(["e"]), ""));
    let none = get(&proxy, "/v2/app/tags/list?n=0").await;
    assert_eq!((none.status, listed(&none), none.header("link")), (200, json!([]), ""));
    assert_eq!(listed(&get(&proxy, "/v2/app/tags/list?last=d").await), json!(["e"]));
    for repository in ["z", "a/b", "a-b"] {
        push(&proxy, &Image::new(repository, 7), "v1").await;
    }
    let page = get(&proxy, "/v2/_catalog?n=3").await;
    assert_eq!(json_of(&page.body), json!({ "repositories": ["a-b", "a/b", "app"] }));
    assert_eq!(page.header("link"), "</v2/_catalog?n=3&last=app>; rel=\"next\"");
    assert_eq!(json_of(&get(&proxy, "/v2/_catalog?n=3&last=app").await.body), json!({ "repositories": ["z"] }));
}

async fn refer(proxy: &Proxy, subject: &str, kind: &str, more: Value) -> String {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": kind, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"). to_string(), "size": 2 },
        "subject": { "mediaType": MANIFEST_TYPE, "digest": subject, "size": 1 },
    });
    manifest.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let text = manifest.to_string();
    let digest = digest_of(text.as_bytes()).to_string();
    let put = put_manifest(proxy, "app", &digest, text).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, subject), "{}", put.text());
    digest
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_forgotten() {
    let proxy = registry().await;
    push_blob(&proxy, "app", &Bytes::from_static(b"{}")).await;
    let subject = digest_of(b"pushed later, or never").to_string();
    let path = format!("/v2/app/referrers/{subject}");
    let empty = get(&proxy, &path).await;
    assert_eq!((empty.status, empty.header("content-type")), (200, INDEX_TYPE));
    assert_eq!(json_of(&empty.body), json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] }));
    assert_eq!(get(&proxy, &path.replace("/app/", "/nobody/")).await.status, 200, "never 404");
    let sbom = refer(&proxy, &subject, "example/sbom", json!({ "annotations": { "k": "v" } })).await;
    let signature = refer(&proxy, &subject, "example/signature", json!({})).await;
    let all = json_of(&get(&proxy, &path).await.body);
    assert_eq!(all["manifests"].as_array().map(Vec::len), Some(2));
    let filtered = get(&proxy, &format!("{path}?artifactType=example/sbom")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = json_of(&filtered.body)["manifests"][0].clone();
    assert_eq!(found["digest"], sbom);
    assert_eq!((&found["artifactType"], &found["annotations"]["k"]), (&json!("example/sbom"), &json!("v")));
    assert_eq!(found["mediaType"], MANIFEST_TYPE);
    assert_eq!(status(&proxy, Method::DELETE, &format!("/v2/app/manifests/{sbom}")).await, 202);
    let left = json_of(&get(&proxy, &path).await.body);
    assert_eq!(
        (left["manifests"].as_array().map(Vec::len), &left["manifests"][0]["digest"]),
        (Some(1), &json!(signature))
    );
}

/// A client that does not know the referrers API keeps its own list under a tag of the subject's digest.
#[tokio::test]
async fn fallback_tags_are_tags_and_what_they_list_is_listed_once() {
    let proxy = registry().await;
    push_blob(&proxy, "app", &Bytes::from_static(b"{}")).await;
    let subject = digest_of(b"the subject").to_string();
    let sbom = refer(&proxy, &subject, "example/sbom", json!({})).await;
    let entry = json!({ "mediaType": MANIFEST_TYPE, "digest": sbom, "size": 1, "artifactType": "example/sbom" });
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry] }).to_string();
    let path = format!("/v2/app/manifests/{}", subject.replace(':', "-"));
    let put = proxy.registry(Method::PUT, &path).header("content-type", INDEX_TYPE).body(list.clone()).send().await;
    assert_eq!(put.status, 201, "{}", put.text());
    get(&proxy, &path).await.is_whole(list.as_bytes());
    let all = json_of(&get(&proxy, &format!("/v2/app/referrers/{subject}")).await.body);
    assert_eq!((all["manifests"].as_array().map(Vec::len), &all["manifests"][0]["digest"]), (Some(1), &json!(sbom)));
    assert_eq!(status(&proxy, Method::DELETE, &path).await, 202);
    let left = json_of(&get(&proxy, &format!("/v2/app/referrers/{subject}")).await.body);
    assert_eq!(left["manifests"][0]["digest"], sbom, "the list went, not what it listed");
}

#[tokio::test]
async fn deleting_is_seen_at_once_and_by_digest_takes_the_tags() {
    let proxy = registry().await;
    let image = Image::new("app", 8);
    push(&proxy, &image, "one").await;
    push(&proxy, &image, "two").await;
    assert_eq!(status(&proxy, Method::DELETE, &image.tag_path("one")).await, 202);
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("one")).await, 404);
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("two")).await, 200);
    assert_eq!(status(&proxy, Method::DELETE, &image.manifest_path()).await, 202);
    for path in [image.tag_path("two"), image.manifest_path()] {
        assert_eq!(status(&proxy, Method::GET, &path).await, 404, "{path}");
    }
    assert_eq!(status(&proxy, Method::DELETE, &image.layer_path()).await, 202);
    assert_eq!(status(&proxy, Method::HEAD, &image.layer_path()).await, 404);
    assert_eq!(status(&proxy, Method::DELETE, &image.layer_path()).await, 404);
}

#[tokio::test]
async fn several_tags_in_one_push() {
    let proxy = registry().await;
    let image = Image::new("app", 9);
    push_blob(&proxy, "app", &image.layer).await;
    let tagged = |tags: &str| format!("{}?{tags}", image.manifest_digest);
    let put = put_manifest(&proxy, "app", &tagged("tag=1&tag=1.2&tag=latest"), image.manifest.clone()).await;
    assert_eq!((put.status, put.header("oci-tag")), (201, "1, 1.2, latest"));
    for tag in ["1", "1.2", "latest"] {
        get(&proxy, &image.tag_path(tag)).await.is_whole(&image.manifest);
    }
    let bad = put_manifest(&proxy, "app", &tagged("tag=fine&tag=not/fine"), image.manifest.clone()).await;
    bad.is_error(400, "NAME_INVALID");
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("fine")).await, 404);
    let many: Vec<_> = (0..101).map(|number| format!("tag=t{number}")).collect();
    assert_eq!(put_manifest(&proxy, "app", &tagged(&many.join("&")), image.manifest.clone()).await.status, 414);
}

/// RFC 9110 section 13: what a client has is not sent again, and what has changed meanwhile is not overwritten.
#[tokio::test]
async fn requests_on_conditions() {
    let proxy = registry().await;
    let (image, next) = (Image::new("app", 61), Image::new("app", 62));
    push(&proxy, &image, "v1").await;
    push_blob(&proxy, "app", &next.layer).await;
    let (tag, blob) = (format!("\"{}\"", image.manifest_digest), format!("\"{}\"", image.layer_digest));
    let next_tag = format!("\"{}\"", next.manifest_digest);
    let ask = async |method: Method, path: &str, name: &str, value: &str| {
        let ask = proxy.registry(method.clone(), path).header(name, value);
        let ask = if method == Method::PUT { ask.header("content-type", MANIFEST_TYPE) } else { ask };
        let body = if method == Method::PUT { next.manifest.clone() } else { Bytes::new() };
        ask.body(body).send().await
    };
    for (path, own) in [(image.tag_path("v1"), &tag), (image.manifest_path(), &tag), (image.layer_path(), &blob)] {
        for (name, value, status) in [
            ("if-none-match", own.clone(), 304),
            ("if-none-match", format!("\"x\", W/{own}"), 304),
            ("if-none-match", "*".into(), 304),
            ("if-none-match", "\"x\"".into(), 200),
            ("if-match", own.clone(), 200),
            ("if-match", "*".into(), 200),
            ("if-match", "\"x\"".into(), 412),
            ("if-match", format!("W/{own}"), 412),
            ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT".into(), 200),
            ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT".into(), 200),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let reply = ask(method.clone(), &path, name, &value).await;
                assert_eq!(reply.status, status, "{method} {path} {name}: {value}");
                if status == 304 {
                    assert_eq!((reply.header("etag"), reply.body.len()), (&**own, 0), "{method} {path}");
                }
            }
        }
    }
    for (value, status) in
        [(&*blob, 206), ("\"x\"", 200), (&*format!("W/{blob}"), 200), ("Fri, 01 Jan 2100 00:00:00 GMT", 200)]
    {
        let ranged = proxy.registry(Method::GET, &image.layer_path()).range("5-9").header("if-range", value);
        let reply = ranged.send().await;
        let expected = if status == 206 { &image.layer[5..10] } else { &image.layer[..] };
        assert!(reply.status == status && reply.body == expected, "{value}: {}", reply.status);
    }
    assert_eq!(ask(Method::GET, "/v2/app/manifests/none", "if-match", "\"x\"").await.status, 404);

    let (v1, fresh) = (image.tag_path("v1"), image.tag_path("fresh"));
    for (method, path, name, value, status) in [
        (Method::PUT, &v1, "if-none-match", "*", 412),
        (Method::PUT, &v1, "if-none-match", &*tag, 412),
        (Method::PUT, &v1, "if-match", "\"x\"", 412),
        (Method::PUT, &fresh, "if-match", "*", 412),
        (Method::PUT, &fresh, "if-match", &tag, 412),
        (Method::DELETE, &v1, "if-match", &next_tag, 412),
        (Method::DELETE, &v1, "if-none-match", "*", 412),
        (Method::DELETE, &image.manifest_path(), "if-match", "\"x\"", 412),
        (Method::DELETE, &image.layer_path(), "if-match", "\"x\"", 412),
    ] {
        assert_eq!(ask(method.clone(), path, name, value).await.status, status, "{method} {path} {name}: {value}");
        get(&proxy, &v1).await.is_whole(&image.manifest);
        assert_eq!(get(&proxy, &fresh).await.status, 404, "{method} {path} {name}: {value}");
    }
    for (method, path, name, value, status) in [
        (Method::PUT, &fresh, "if-none-match", "*", 201),
        (Method::PUT, &fresh, "if-none-match", "*", 412),
        (Method::PUT, &v1, "if-match", &*tag, 201),
        (Method::PUT, &v1, "if-match", &tag, 412),
        (Method::DELETE, &v1, "if-match", &tag, 412),
        (Method::DELETE, &v1, "if-match", &next_tag, 202),
        (Method::DELETE, &fresh, "if-match", "*", 202),
        (Method::DELETE, &image.layer_path(), "if-match", &blob, 202),
        (Method::DELETE, &image.manifest_path(), "if-none-match", "\"x\"", 202),
    ] {
        assert_eq!(ask(method.clone(), path, name, value).await.status, status, "{method} {path} {name}: {value}");
    }
}

/// `entrepot_core::pushed_manifest` has the whole table; these are some of it as a client sees them.
#[tokio::test]
async fn malformed_manifests_are_refused_with_the_field_at_fault() {
    let proxy = registry().await;
    let image = Image::new("app", 63);
    push_blob(&proxy, "app", &image.layer).await;
    let whole: Value = json_of(&image.manifest);
    for (pointer, value, field) in [
        ("/schemaVersion", json!(3), "schemaVersion"),
        ("/layers", json!("text"), "layers"),
        ("/layers/0/digest", json!("sha256:zz"), "layers[0].digest"),
        ("/layers/0/size", json!(-1), "layers[0].size"),
        ("/config", json!([]), "config"),
        ("/config/mediaType", json!(7), "config.mediaType"),
        ("/mediaType", json!(INDEX_TYPE), "mediaType"),
        ("/mediaType", json!(["x"]), "mediaType"),
    ] {
        let mut bad = whole.clone();
        match bad.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => bad[&pointer[1..]] = value.clone(),
        }
        let refused = put_manifest(&proxy, "app", "bad", bad.to_string()).await;
        refused.is_error(400, "MANIFEST_INVALID");
        assert!(refused.text().contains(&format!("\"{field}: ")), "{pointer} {value}: {}", refused.text());
    }
    let mut unknown = whole.clone();
    unknown["x-unknown"] = json!({"layers": 7});
    assert_eq!(put_manifest(&proxy, "app", "good", unknown.to_string()).await.status, 201);
    assert_eq!(get(&proxy, "/v2/app/manifests/bad").await.status, 404);
}
