//! Pushes over rotten content, over silent connections, against quotas and immutable tags; and that what was answered by
//! 201 can be read.

use std::time::Duration;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{begin, get, push, push_blob, put_manifest, registry, status};
use crate::harness::{Image, Proxy, Setup, bytes, digest_of, in_time};

/// The ways to push a blob.
#[derive(Clone, Copy, Debug)]
enum Way {
    OnePost,
    PostAndPut,
    Chunks,
    Stream,
}

const WAYS: [Way; 4] = [Way::OnePost, Way::PostAndPut, Way::Chunks, Way::Stream];

async fn push_by(proxy: &Proxy, way: Way, digest: &Digest, content: &Bytes) -> u16 {
    let place = match way {
        Way::OnePost => {
            let path = format!("/v2/app/blobs/uploads/?digest={digest}");
            return proxy.registry(Method::POST, &path).body(content.clone()).send().await.status;
        }
        _ => begin(proxy, "app").await,
    };
    let end = format!("{place}?digest={digest}");
    match way {
        Way::Chunks if !content.is_empty() => {
            let half = content.len().div_ceil(2);
            for (first, part) in [(0, content.slice(..half)), (half, content.slice(half..))] {
                if !part.is_empty() {
                    let range = format!("{first}-{}", first + part.len() - 1);
                    let ask = proxy.registry(Method::PATCH, &place).header("content-range", &range);
                    assert_eq!(ask.body(part).send().await.status, 202);
                }
            }
            proxy.registry(Method::PUT, &end).send().await.status
        }
        Way::Stream => {
            assert_eq!(proxy.registry(Method::PATCH, &place).body(content.clone()).send().await.status, 202);
            proxy.registry(Method::PUT, &end).send().await.status
        }
        _ => proxy.registry(Method::PUT, &end).body(content.clone()).send().await.status,
    }
}

#[tokio::test]
async fn a_push_mends_what_rotted() {
    type Rot = fn(&[u8]) -> Vec<u8>;
    let rots: [(&str, Rot); 4] = [
        ("another byte", |content| content.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 9)).collect()),
        ("zeros", |content| vec![0; content.len()]),
        ("truncated", |content| content[..content.len() / 2].to_vec()),
        ("grown", |content| [content, b"more"].concat()),
    ];
    for (name, rot) in rots {
        let proxy = registry().await;
        for (seed, way) in WAYS.into_iter().enumerate() {
            let content = bytes(seed as u64, 100_000);
            let digest = push_blob(&proxy, "app", &content).await;
            std::fs::write(proxy.file_of(&digest), rot(&content)).expect("rotten");
            assert_eq!(push_by(&proxy, way, &digest, &content).await, 201, "{name}, {way:?}");
            get(&proxy, &format!("/v2/app/blobs/{digest}")).await.is_whole(&content);
            assert!(std::fs::read(proxy.file_of(&digest)).expect("there") == content, "{name}, {way:?}: on the disk");
        }
        let image = Image::new("app", 9);
        push(&proxy, &image, "v1").await;
        for (tag, reference) in
            [("v1", "v1".to_owned()), ("v2", "v2".to_owned()), ("v1", image.manifest_digest.to_string())]
        {
            std::fs::write(proxy.file_of(&image.manifest_digest), rot(&image.manifest)).expect("rotten");
            let put = put_manifest(&proxy, "app", &reference, image.manifest.clone()).await;
            assert_eq!(put.status, 201, "{name}, {reference}: {}", put.text());
            get(&proxy, &image.tag_path(tag)).await.is_whole(&image.manifest);
        }
    }
}

#[tokio::test]
async fn rotten_pushed_content_is_set_aside_and_never_given() {
    let proxy = registry().await;
    let image = Image::new("app", 1);
    push(&proxy, &image, "v1").await;
    let rotten = vec![7; image.manifest.len()];
    std::fs::write(proxy.file_of(&image.manifest_digest), &rotten).expect("rotten");
    assert_eq!(status(&proxy, Method::GET, &image.tag_path("v1")).await, 404);
    let aside = proxy.files("set-aside");
    assert_eq!(aside.iter().map(|path| std::fs::read(path).expect("kept")).collect::<Vec<_>>(), [rotten]);
    assert!(!proxy.has(&image.manifest_digest));
    push(&proxy, &image, "v1").await;
    get(&proxy, &image.tag_path("v1")).await.is_whole(&image.manifest);
}

#[tokio::test]
async fn what_was_answered_by_201_can_be_read() {
    let proxy = registry().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for (seed, size) in [0, 1, 2, 65_535, 65_536, 65_537, 1 << 20].into_iter().enumerate() {
            for (number, way) in WAYS.into_iter().enumerate() {
                let content = bytes((seed * 10 + number) as u64, size);
                let digest = Digest::of(algorithm, &content);
                assert_eq!(push_by(&proxy, way, &digest, &content).await, 201, "{size}, {way:?}");
                let path = format!("/v2/app/blobs/{digest}");
                get(&proxy, &path).await.is_whole(&content);
                let head = proxy.registry(Method::HEAD, &path).send().await;
                assert_eq!((head.status, head.header("content-length")), (200, &*size.to_string()), "{way:?}");
            }
        }
    }
    for repository in ["a", "a/b", &["x"; 128].join("/"), &"y".repeat(255)] {
        let image = Image::new(repository, 3);
        push(&proxy, &image, &"t".repeat(128)).await;
        get(&proxy, &image.tag_path(&"t".repeat(128))).await.is_whole(&image.manifest);
        get(&proxy, &image.layer_path()).await.is_whole(&image.layer);
    }
}

#[tokio::test]
async fn nothing_is_answered_by_201_that_leads_to_lost_content() {
    type Loss = fn(&std::path::Path);
    let losses: [(&str, Loss); 3] = [
        ("truncated", |path| std::fs::write(path, b"short").expect("truncated")),
        ("emptied", |path| std::fs::write(path, b"").expect("emptied")),
        ("gone", |path| std::fs::remove_file(path).expect("removed")),
    ];
    for (name, lose) in losses {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, wreck) = (folder.path().join("data"), folder.path().join("wreck"));
        let image = Image::new("app", 1);
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            crate::harness::MANIFEST_TYPE,
            image.manifest_digest,
            image.manifest.len()
        );
        {
            let proxy = Setup::of(&[]).at(data.clone()).start().await;
            push(&proxy, &image, "v1").await;
            proxy.pull.store.flush().await;
        }
        // Opened as by another process, no file is open.
        let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&wreck).status().expect("cp");
        assert!(copied.success());
        let proxy = Setup::of(&[]).at(wreck).start().await;
        lose(&proxy.file_of(&image.layer_digest));
        let mount = format!("/v2/other/blobs/uploads/?mount={}&from=app", image.layer_digest);
        assert_eq!(status(&proxy, Method::POST, &mount).await, 202, "{name}: the client uploads it");
        assert_eq!(status(&proxy, Method::HEAD, &image.layer_path()).await, 404, "{name}: a client pushes it again");
        let put = put_manifest(&proxy, "app", "v2", image.manifest.clone()).await;
        put.is_error(400, "MANIFEST_BLOB_UNKNOWN");
        lose(&proxy.file_of(&image.manifest_digest));
        let put = proxy.registry(Method::PUT, "/v2/app/manifests/all");
        let put = put.header("content-type", "application/vnd.oci.image.index.v1+json").body(index).send().await;
        put.is_error(400, "MANIFEST_BLOB_UNKNOWN");
        push(&proxy, &image, "v1").await;
        get(&proxy, &image.tag_path("v1")).await.is_whole(&image.manifest);
        get(&proxy, &image.layer_path()).await.is_whole(&image.layer);
    }
}

/// Begins to send a body of 100,000 bytes, of which so many go out, and then says nothing more.
async fn silent(proxy: &Proxy, method: Method, path: &str, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.registry_door).await.expect("the door");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(sent).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_newer_request_takes_an_upload_over_from_a_silent_connection() {
    let proxy = registry().await;
    let content = bytes(1, 100_000);
    let digest = digest_of(&content);
    for holder in [Method::PATCH, Method::PUT] {
        for (newer, expected) in [(Method::GET, 204), (Method::PATCH, 202), (Method::PUT, 201), (Method::DELETE, 204)] {
            let case = format!("{newer} after {holder}");
            let place = begin(&proxy, "app").await;
            let end = format!("{place}?digest={digest}");
            let held =
                silent(&proxy, holder.clone(), if holder == Method::PUT { &end } else { &place }, &content[..40_000]);
            let held = held.await;
            // Until its bytes are there, it holds nothing.
            crate::harness::eventually("the first request has the session", || {
                let files = proxy.files("uploads").into_iter().filter(|path| path.extension().is_none());
                files.map(|path| std::fs::metadata(path).map_or(0, |file| file.len())).max() == Some(40_000)
            })
            .await;
            let path = if newer == Method::PUT { end.clone() } else { place.clone() };
            // What a PATCH brought stays; a PUT that failed leaves the upload as it was.
            let have = if holder == Method::PATCH { 40_000 } else { 0 };
            let body =
                if newer == Method::GET || newer == Method::DELETE { Bytes::new() } else { content.slice(have..) };
            let asked = proxy.registry(newer.clone(), &path).body(body).send();
            let reply = tokio::time::timeout(Duration::from_secs(15), asked).await.expect("it takes over");
            assert_eq!(reply.status, expected, "{case}: {}", reply.text());
            if newer == Method::GET {
                assert_eq!(reply.header("range"), if have > 0 { "0-39999" } else { "0-0" }, "{case}");
            }
            if newer == Method::PUT {
                get(&proxy, &format!("/v2/app/blobs/{digest}")).await.is_whole(&content);
            } else if newer != Method::DELETE {
                assert_eq!(status(&proxy, Method::DELETE, &place).await, 204, "{case}");
            }
            drop(held);
        }
    }
}

#[tokio::test]
async fn immutable_tags_protect_what_they_lead_to() {
    let proxy = Setup::of(&[]).set("registry", "immutable_tags = [\"v*\"]").start().await;
    let (kept, free) = (Image::new("app", 1), Image::new("app", 2));
    push(&proxy, &kept, "part").await;
    push(&proxy, &free, "latest").await;
    let index = |manifest: &str, size: usize| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{}","digest":"{manifest}","size":{size}}}]}}"#,
            crate::harness::MANIFEST_TYPE
        )
    };
    let inner = index(&kept.manifest_digest.to_string(), kept.manifest.len());
    let outer = index(&digest_of(inner.as_bytes()).to_string(), inner.len());
    for (tag, manifest) in [("inner", &inner), ("v1", &outer)] {
        let put = proxy.registry(Method::PUT, &format!("/v2/app/manifests/{tag}"));
        let put = put.header("content-type", "application/vnd.oci.image.index.v1+json").body(manifest.clone()).send();
        let put = put.await;
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let by_digest = |manifest: &str| format!("/v2/app/manifests/{}", digest_of(manifest.as_bytes()));
    for (path, expected) in [
        ("/v2/app/manifests/v1".to_owned(), 403),
        (by_digest(&outer), 403),
        (by_digest(&inner), 403),
        (kept.manifest_path(), 403),
        (kept.layer_path(), 403),
        ("/v2/app/manifests/inner".to_owned(), 202),
        ("/v2/app/manifests/part".to_owned(), 202),
        (free.layer_path(), 202),
        (free.manifest_path(), 202),
    ] {
        let reply = proxy.registry(Method::DELETE, &path).send().await;
        assert_eq!(reply.status, expected, "{path}: {}", reply.text());
        assert!(expected != 403 || reply.text().contains("v1"), "it names the tag: {}", reply.text());
    }
    for path in ["/v2/app/manifests/v1", &by_digest(&inner), &kept.manifest_path(), &kept.layer_path()] {
        assert_eq!(status(&proxy, Method::GET, path).await, 200, "{path}");
    }
}

/// What a client hears that sends all of its body before it reads. The body is told by its length, or in chunks.
async fn heard_after_all(proxy: &Proxy, method: &Method, path: &str, length: usize, more: &str, told: bool) -> String {
    let mut stream = TcpStream::connect(proxy.registry_door).await.expect("the door");
    let framing = if told { format!("content-length: {length}") } else { "transfer-encoding: chunked".to_owned() };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    if !more.is_empty() {
        let mut asked = [0; 25];
        in_time("the body is asked for", stream.read_exact(&mut asked)).await.expect("read");
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..length / piece.len() {
        if !told {
            stream.write_all(b"100000\r\n").await.expect("taken");
        }
        stream.write_all(&piece).await.expect("taken");
        if !told {
            stream.write_all(b"\r\n").await.expect("taken");
        }
    }
    if !told {
        stream.write_all(b"0\r\n\r\n").await.expect("taken");
    }
    let mut said = String::new();
    in_time("an answer", stream.read_to_string(&mut said)).await.expect("an answer");
    said
}

#[tokio::test]
async fn a_refusal_is_heard_by_clients_that_send_everything_first() {
    let quota = "repository = \"small\"\nmax_size = \"1m\"";
    let proxy = Setup::of(&[]).set("[registry.quotas]", quota).start().await;
    let digest = digest_of(b"any");
    let expects = "expect: 100-continue\r\n";
    for length in [2 << 20, 40 << 20] {
        for (more, told) in [("", true), ("", false), (expects, false)] {
            for method in [Method::PATCH, Method::PUT, Method::POST] {
                let path = match method {
                    Method::POST => format!("/v2/small/blobs/uploads/?digest={digest}"),
                    Method::PUT => format!("{}?digest={digest}", begin(&proxy, "small").await),
                    _ => begin(&proxy, "small").await,
                };
                let said = heard_after_all(&proxy, &method, &path, length, more, told).await;
                let case = format!("{method} {length} {more:?} {told}");
                assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("\"errors\""), "{case}: {said}");
            }
        }
        // Other refusals of a body are heard as well.
        for (path, expected) in [
            ("/v2/app/blobs/uploads/0", "404"),
            ("/v2/app/manifests/v1", "413"),
            ("/v2/Bad/blobs/uploads/0", "400"),
            ("/v2/_catalog", "405"),
        ] {
            let said = heard_after_all(&proxy, &Method::PUT, path, length, "", true).await;
            let is_expected = said.starts_with(&format!("HTTP/1.1 {expected} "));
            assert!(is_expected || (path.ends_with("v1") && said.starts_with("HTTP/1.1 4")), "{path}: {said}");
        }
    }
}

#[tokio::test]
async fn a_rotten_blob_is_found_when_a_client_asks_again() {
    let proxy = registry().await;
    let content = bytes(1, 300_000);
    let digest = push_blob(&proxy, "app", &content).await;
    let path = format!("/v2/app/blobs/{digest}");
    std::fs::write(proxy.file_of(&digest), vec![0; content.len()]).expect("rotten");
    for _ in 0..2 {
        // Parts from the middle and questions are no doubt.
        assert_eq!(proxy.registry(Method::GET, &path).range("5-9").send().await.status, 206);
        assert_eq!(status(&proxy, Method::HEAD, &path).await, 200);
    }
    assert_eq!(get(&proxy, &path).await.body, vec![0; content.len()], "the first one has no reason to doubt");
    assert_eq!(status(&proxy, Method::GET, &path).await, 404, "the second one has");
    assert_eq!(proxy.files("set-aside").len(), 1);
    push_blob(&proxy, "app", &content).await;
    get(&proxy, &path).await.is_whole(&content);
}
