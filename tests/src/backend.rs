//! Debian's docker-registry: the real registry behind the fronts, on a loopback port of the internet, with its storage
//! in the world's directory. Images are uploaded to it directly, past the front's rights and counters.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::images::{Blob, Image, Index, LIST, MANIFEST};
use crate::process::Process;
use crate::serve::{Body, BoxError, full};
use crate::world::World;

/// A running docker-registry.
pub(crate) struct Backend {
    port: u16,
    _process: Process,
}

impl Backend {
    /// Starts a registry that listens on `port`. Returns when it does.
    pub(crate) fn start(world: &World, port: u16) -> Self {
        let storage = world.make_directory(&format!("registry-{port}"));
        let file = world.path(&format!("registry-{port}.yml"));
        let settings = format!(
            "version: 0.1\n\
             log: {{ level: info, accesslog: {{ disabled: true }} }}\n\
             storage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\n\
             http: {{ addr: '127.0.0.1:{port}', relativeurls: true, secret: tests }}\n",
            storage.display()
        );
        std::fs::write(&file, settings).expect("the registry's configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::start(&world.internet, command);
        process.wait_line("listening on", Duration::from_secs(20));
        Self { port, _process: process }
    }

    /// Uploads an image under a tag.
    pub(crate) fn publish(&self, world: &World, image: &Image, repository: &str, tag: &str) {
        let (port, image, repository, tag) = (self.port, image.clone(), repository.to_owned(), tag.to_owned());
        world.internet.wait(async move {
            upload_image(port, &image, &repository).await;
            put_manifest(port, &repository, &tag, MANIFEST, image.manifest).await;
        });
    }

    /// Uploads a list and its images under a tag.
    pub(crate) fn publish_index(&self, world: &World, index: &Index, repository: &str, tag: &str) {
        let (port, index, repository, tag) = (self.port, index.clone(), repository.to_owned(), tag.to_owned());
        world.internet.wait(async move {
            for image in &index.images {
                upload_image(port, image, &repository).await;
                put_manifest(port, &repository, &image.digest, MANIFEST, image.manifest.clone()).await;
            }
            put_manifest(port, &repository, &tag, LIST, index.manifest).await;
        });
    }

    /// The digest of a tag.
    pub(crate) fn digest_of(&self, world: &World, repository: &str, tag: &str) -> String {
        let (port, path) = (self.port, format!("/v2/{repository}/manifests/{tag}"));
        world.internet.wait(async move {
            let head =
                Request::builder().method(Method::HEAD).uri(path).header(ACCEPT, MANIFEST).body(full(Bytes::new()));
            let answer = send(port, head.expect("a request")).await.expect("the registry answers");
            answer.headers()["docker-content-digest"].to_str().expect("text").to_owned()
        })
    }
}

/// Sends one request to the registry on `port`. The caller is inside the internet.
pub(crate) async fn send(port: u16, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, format!("127.0.0.1:{port}").parse()?);
    }
    Ok(sender.send_request(request).await?)
}

async fn upload_image(port: u16, image: &Image, repository: &str) {
    for blob in &image.blobs {
        put_blob(port, repository, blob).await;
    }
}

async fn put_blob(port: u16, repository: &str, blob: &Blob) {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let begin = Request::builder().method(Method::POST).uri(path).header(CONTENT_LENGTH, 0).body(full(Bytes::new()));
    let begun = send(port, begin.expect("a request")).await.expect("the registry answers");
    assert_eq!(begun.status(), StatusCode::ACCEPTED, "beginning an upload");
    let location = begun.headers()[LOCATION].to_str().expect("text");
    let joint = if location.contains('?') { '&' } else { '?' };
    let put = Request::builder()
        .method(Method::PUT)
        .uri(format!("{location}{joint}digest={}", blob.digest))
        .header(CONTENT_LENGTH, blob.size)
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(blob.chunks().boxed());
    let done = send(port, put.expect("a request")).await.expect("the registry takes the blob");
    assert_eq!(done.status(), StatusCode::CREATED, "uploading {}", blob.digest);
}

async fn put_manifest(port: u16, repository: &str, reference: &str, media_type: &str, manifest: Bytes) {
    let put = Request::builder()
        .method(Method::PUT)
        .uri(format!("/v2/{repository}/manifests/{reference}"))
        .header(CONTENT_TYPE, media_type)
        .header(CONTENT_LENGTH, manifest.len())
        .body(full(manifest));
    let done = send(port, put.expect("a request")).await.expect("the registry takes the manifest");
    assert_eq!(done.status(), StatusCode::CREATED, "the manifest of {repository}:{reference}");
}
