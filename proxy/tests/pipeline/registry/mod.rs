//! Our own registry in process: OCI Distribution 1.1 as tables of requests and answers, uploads through faults and
//! restarts, many clients against a model, the page for people, and other registries by mirror names.

mod access;
mod faults;
mod lists;
mod mirrors;
mod model;
mod names;
mod peers;
mod specification;
mod uploads;
mod web;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use http::Method;

use crate::harness::{Image, MANIFEST_TYPE, Proxy, Reply, Setup, digest_of};

/// An entrepot without upstreams.
async fn registry() -> Proxy {
    Setup::of(&[]).start().await
}

/// Begins an upload and returns its location.
async fn begin(proxy: &Proxy, repository: &str) -> String {
    let begun = proxy.registry(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).send().await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let location = begun.header("location").to_owned();
    assert!(location.starts_with(&format!("/v2/{repository}/blobs/uploads/")), "relative: {location}");
    location
}

/// Pushes a blob in two requests.
async fn push_blob(proxy: &Proxy, repository: &str, content: &Bytes) -> Digest {
    let digest = digest_of(content);
    let place = begin(proxy, repository).await;
    let put = proxy.registry(Method::PUT, &format!("{place}?digest={digest}")).body(content.clone()).send().await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, &*digest.to_string()), "{}", put.text());
    digest
}

async fn put_manifest(proxy: &Proxy, repository: &str, reference: &str, manifest: impl Into<Bytes>) -> Reply {
    let path = format!("/v2/{repository}/manifests/{reference}");
    proxy.registry(Method::PUT, &path).header("content-type", MANIFEST_TYPE).body(manifest).send().await
}

/// A manifest of this type whose config and only layer are one blob.
fn manifest_of(media_type: &str, blob: &Digest, size: usize) -> String {
    let entry = format!(r#"{{"mediaType":"application/octet-stream","digest":"{blob}","size":{size}}}"#);
    format!("{{ \"schemaVersion\" : 2,\n\"mediaType\" : \"{media_type}\" ,\"config\":{entry},\"layers\":[{entry}]}}  ")
}

/// Pushes a whole image under a tag.
async fn push(proxy: &Proxy, image: &Image, tag: &str) {
    push_blob(proxy, &image.repository, &image.layer).await;
    let put = put_manifest(proxy, &image.repository, tag, image.manifest.clone()).await;
    assert_eq!(put.status, 201, "{}", put.text());
}

async fn get(proxy: &Proxy, path: &str) -> Reply {
    proxy.registry(Method::GET, path).send().await
}

async fn status(proxy: &Proxy, method: Method, path: &str) -> u16 {
    proxy.registry(method, path).send().await.status
}
