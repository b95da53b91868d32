//! Lists of referrers and of repositories: pages that fit an answer, whatever was pushed, and cost what they show.

use http::Method;
use serde_json::{Value, json};

use super::{get, push_blob, put_manifest, registry};
use crate::harness::{MANIFEST_TYPE, Proxy, bytes, digest_of};

const LIST_MAX_BYTES: usize = 4 << 20;

/// Pushes a manifest that refers to `subject`, with this annotation; its digest.
async fn refer(proxy: &Proxy, subject: &str, artifact_type: &str, annotation: &str) -> String {
    let empty = push_blob(proxy, "app", &"{}".into()).await.to_string();
    let config = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": artifact_type, "config": config, "layers": [],
        "subject": {"mediaType": MANIFEST_TYPE, "digest": subject, "size": 7}, "annotations": {"note": annotation},
    });
    let text = manifest.to_string();
    let digest = digest_of(text.as_bytes()).to_string();
    let put = put_manifest(proxy, "app", &digest, text).await;
    assert_eq!(put.status, 201, "{}", put.text());
    digest
}

/// Follows the links of a list of referrers; the digests in order, and the number of pages.
async fn pages(proxy: &Proxy, first: String) -> (Vec<String>, usize) {
    let (mut digests, mut count, mut next) = (Vec::new(), 0, Some(first));
    while let Some(path) = next.take() {
        let page = get(proxy, &path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        assert!(page.body.len() <= LIST_MAX_BYTES, "{} bytes", page.body.len());
        assert_eq!(page.header("oci-filters-applied") == "artifactType", path.contains("artifactType"), "{path}");
        let listed: Value = serde_json::from_slice(&page.body).expect("JSON");
        assert_eq!(listed["mediaType"], "application/vnd.oci.image.index.v1+json");
        let found = listed["manifests"].as_array().expect("a list").iter();
        digests.extend(found.map(|entry| entry["digest"].as_str().expect("a digest").to_owned()));
        count += 1;
        let target = page.header("link").strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\""));
        next = target.map(|(target, _)| target.to_owned());
    }
    (digests, count)
}

#[tokio::test]
async fn referrers_come_in_pages_that_clients_take_for_manifests() {
    let proxy = registry().await;
    let subject = digest_of(b"a subject").to_string();
    let (mut all, mut wanted) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let note = number.to_string().repeat(1 << 20);
        let kind = if number % 2 == 0 { "test/even" } else { "test/odd" };
        let digest = refer(&proxy, &subject, kind, &note).await;
        all.push(digest.clone());
        wanted.extend((number % 2 == 0).then_some(digest));
    }
    all.sort();
    wanted.sort();
    let path = format!("/v2/app/referrers/{subject}");
    assert_eq!(pages(&proxy, path.clone()).await, (all.clone(), 2));
    assert_eq!(pages(&proxy, format!("{path}?artifactType=test%2Feven")).await, (wanted, 1));
    assert_eq!(pages(&proxy, format!("{path}?artifactType=test%2Fnone")).await, (Vec::new(), 1));
    assert_eq!(pages(&proxy, format!("{path}?last={}", all[3])).await, (all[4..].to_vec(), 1));
    // An entry that no page has room for is listed without its annotations.
    let long = refer(&proxy, &subject, "test/long", &"x".repeat(LIST_MAX_BYTES - 1000)).await;
    let (listed, _) = pages(&proxy, path).await;
    assert_eq!((listed.len(), listed.contains(&long)), (7, true));
}

#[tokio::test]
async fn pages_of_the_catalog_go_on_where_the_last_one_ended_while_repositories_come_and_go() {
    let proxy = registry().await;
    let layer = bytes(1, 10);
    for name in ["d", "b", "a/z", "c"] {
        let image = crate::harness::Image::new(name, 1);
        super::push(&proxy, &image, "1").await;
    }
    push_blob(&proxy, "a/blobs-only", &layer).await;
    let names = async |path: &str| -> Value {
        let page = get(&proxy, path).await;
        serde_json::from_slice::<Value>(&page.body).expect("JSON")["repositories"].clone()
    };
    assert_eq!(names("/v2/_catalog?n=2").await, json!(["a/z", "b"]));
    let image = crate::harness::Image::new("b/new", 2);
    super::push(&proxy, &image, "1").await;
    assert_eq!(names("/v2/_catalog?n=2&last=b").await, json!(["b/new", "c"]));
    assert_eq!(proxy.registry(Method::DELETE, &image.manifest_path()).send().await.status, 202);
    assert_eq!(names("/v2/_catalog?n=2&last=b").await, json!(["c", "d"]), "it has no manifest any more");
    assert_eq!(names("/v2/_catalog?last=c").await, json!(["d"]));
    assert_eq!(names("/v2/_catalog?last=d").await, json!([]));
}
