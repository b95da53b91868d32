//! Uploads: in one request, two, chunks and streams; out of order, broken off, cancelled, guessed; and over a restart.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{begin, get, push_blob, registry, status};
use crate::harness::{MANIFEST_TYPE, Proxy, Setup, bytes, digest_of, eventually, in_time};

async fn chunk(proxy: &Proxy, place: &str, first: usize, content: &[u8]) -> crate::harness::Reply {
    let range = format!("{first}-{}", first + content.len() - 1);
    let ask = proxy.registry(Method::PATCH, place).header("content-range", &range);
    ask.body(Bytes::copy_from_slice(content)).send().await
}

async fn finish(proxy: &Proxy, place: &str, digest: &str) -> crate::harness::Reply {
    proxy.registry(Method::PUT, &format!("{place}?digest={digest}")).send().await
}

#[tokio::test]
async fn one_request_is_enough() {
    let proxy = registry().await;
    for content in [bytes(1, 300_000), Bytes::from_static(b"{}"), Bytes::new()] {
        let digest = digest_of(&content);
        let path = format!("/v2/app/blobs/uploads/?digest={digest}");
        let posted = proxy.registry(Method::POST, &path).body(content.clone()).send().await;
        assert_eq!(posted.status, 201, "{}", posted.text());
        get(&proxy, posted.header("location")).await.is_whole(&content);
    }
    // No bytes were sent, and the digest is not that of the empty blob, so only a session begins.
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(b"later"));
    assert_eq!(proxy.registry(Method::POST, &path).send().await.status, 202);
    let wrong = proxy.registry(Method::POST, &path).body("sooner").send().await;
    wrong.is_error(400, "DIGEST_INVALID");
    assert_eq!(status(&proxy, Method::POST, "/v2/app/blobs/uploads/?digest=sha256:00").await, 400);
}

#[tokio::test]
async fn chunks_in_order_make_the_blob_and_others_change_nothing() {
    let proxy = registry().await;
    let content = bytes(2, 200_000);
    let digest = digest_of(&content).to_string();
    let place = begin(&proxy, "team/app").await;
    let fresh = get(&proxy, &place).await;
    assert_eq!((fresh.status, fresh.header("range")), (204, "0-0"));
    let first = chunk(&proxy, &place, 0, &content[..70_000]).await;
    assert_eq!((first.status, first.header("range"), first.header("location")), (202, "0-69999", &*place));
    for (start, end) in [(0, 70_000), (70_001, 80_000), (140_000, 200_000), (69_999, 80_000)] {
        let refused = chunk(&proxy, &place, start, &content[start..end]).await;
        refused.is_error(416, "BLOB_UPLOAD_INVALID");
        assert_eq!((refused.header("range"), refused.header("location")), ("0-69999", &*place));
        let asked = get(&proxy, &place).await;
        assert_eq!((asked.status, asked.header("range"), asked.header("location")), (204, "0-69999", &*place));
    }
    let early = format!("{place}?digest={digest}");
    let out_of_order = proxy.registry(Method::PUT, &early).header("content-range", "150000-199999");
    out_of_order.body(content.slice(150_000..)).send().await.is_error(416, "BLOB_UPLOAD_INVALID");
    let lying = proxy.registry(Method::PATCH, &place).header("content-range", "70000-79999");
    lying.body(content.slice(70_000..70_100)).send().await.is_error(400, "SIZE_INVALID");
    let nonsense = proxy.registry(Method::PATCH, &place).header("content-range", "all of it").body("x").send().await;
    nonsense.is_error(400, "BLOB_UPLOAD_INVALID");
    assert_eq!(get(&proxy, &place).await.header("range"), "0-69999");
    assert_eq!(chunk(&proxy, &place, 70_000, &content[70_000..150_000]).await.status, 202);
    let last = proxy.registry(Method::PUT, &early).header("content-range", "150000-199999");
    let done = last.body(content.slice(150_000..)).send().await;
    assert_eq!(done.status, 201, "{}", done.text());
    get(&proxy, done.header("location")).await.is_whole(&content);
    get(&proxy, &place).await.is_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_wrong_digest_stores_nothing_and_leaves_the_session_as_it_was() {
    let proxy = registry().await;
    let content = bytes(3, 50_000);
    let (digest, wrong) = (digest_of(&content), digest_of(b"something else"));
    let place = begin(&proxy, "app").await;
    assert_eq!(chunk(&proxy, &place, 0, &content[..20_000]).await.status, 202);
    for query in [format!("digest={wrong}"), "digest=sha256:00".into(), "digest=md5:00".into(), String::new()] {
        let put = proxy.registry(Method::PUT, &format!("{place}?{query}"));
        put.body(content.slice(20_000..)).send().await.is_error(400, "DIGEST_INVALID");
        assert_eq!(get(&proxy, &place).await.header("range"), "0-19999", "{query}");
    }
    assert!(!proxy.has(&wrong) && !proxy.has(&digest));
    let right = proxy.registry(Method::PUT, &format!("{place}?digest={digest}"));
    assert_eq!(right.body(content.slice(20_000..)).send().await.status, 201);
    get(&proxy, &format!("/v2/app/blobs/{digest}")).await.is_whole(&content);
}

#[tokio::test]
async fn a_session_is_known_in_its_repository_only_and_gone_when_cancelled() {
    let proxy = registry().await;
    let place = begin(&proxy, "mine").await;
    let id = place.rsplit('/').next().expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "128 bits: {id}");
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let theirs = proxy.registry(method, &place.replace("/mine/", "/theirs/")).body("x").send().await;
        theirs.is_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let upper = place.replace(id, &id.to_ascii_uppercase());
    assert!(upper == place || get(&proxy, &upper).await.status == 404);
    assert_eq!(proxy.files("uploads").len(), 1, "a note");
    assert_eq!(status(&proxy, Method::DELETE, &place).await, 204);
    assert_eq!(status(&proxy, Method::DELETE, &place).await, 404);
    assert!(proxy.files("uploads").is_empty());
}

#[tokio::test]
async fn only_so_many_uploads_run_and_those_at_rest_expire() {
    let proxy = Setup::of(&[]).set("registry", "max_uploads = 3").start().await;
    for _ in 0..3 {
        begin(&proxy, "app").await;
    }
    let fourth = proxy.registry(Method::POST, "/v2/app/blobs/uploads/").send().await;
    fourth.is_error(429, "TOOMANYREQUESTS");
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
    assert_eq!(proxy.state().registry.local.expire_uploads(day, minute).await, 0);
    assert_eq!(proxy.state().registry.local.expire_uploads(day, Duration::ZERO).await, 3, "they are empty");
    assert!(proxy.files("uploads").is_empty());
    begin(&proxy, "app").await;
}

#[tokio::test]
async fn an_upload_survives_a_restart_with_its_place_and_its_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let content = bytes(4, 300_000);
    let (place, kept) = {
        let proxy = Setup::of(&[]).at(data.clone()).start().await;
        let kept = push_blob(&proxy, "team/app", &bytes(5, 1000)).await;
        let place = begin(&proxy, "team/app").await;
        assert_eq!(chunk(&proxy, &place, 0, &content[..123_456]).await.status, 202);
        (place, kept)
    };
    // A copy of the files is the state after kill -9. It is opened as by another process.
    let wreck = folder.path().join("wreck");
    let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&wreck).status().expect("cp");
    assert!(copied.success());
    let proxy = Setup::of(&[]).at(wreck).start().await;
    assert_eq!(get(&proxy, &place).await.header("range"), "0-123455");
    assert_eq!(chunk(&proxy, &place, 123_456, &content[123_456..]).await.status, 202);
    let done = finish(&proxy, &place, &digest_of(&content).to_string()).await;
    assert_eq!(done.status, 201, "{}", done.text());
    get(&proxy, done.header("location")).await.is_whole(&content);
    assert_eq!(status(&proxy, Method::HEAD, &format!("/v2/team/app/blobs/{kept}")).await, 200);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_gone_on_with_where_it_ended() {
    let proxy = registry().await;
    let content = bytes(6, 400_000);
    let place = begin(&proxy, "app").await;
    let head = format!("PATCH {place} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut stream = TcpStream::connect(proxy.registry_door).await.expect("the door");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(b"186a0\r\n").await.expect("sent");
    stream.write_all(&content[..100_000]).await.expect("sent");
    stream.write_all(b"\r\n").await.expect("sent");
    let arrived = || proxy.files("uploads").iter().any(|file| file.metadata().is_ok_and(|file| file.len() >= 100_000));
    eventually("the bytes are there", arrived).await;
    drop(stream);
    let asked = in_time("the broken request lets go", get(&proxy, &place)).await;
    let range = asked.header("range").strip_prefix("0-").and_then(|last| last.parse::<usize>().ok()).expect("a range");
    assert!(range < 100_000);
    let rest = chunk(&proxy, &place, range + 1, &content[range + 1..]).await;
    assert_eq!(rest.status, 202, "{}", rest.text());
    assert_eq!(finish(&proxy, &place, &digest_of(&content).to_string()).await.status, 201);
    get(&proxy, &format!("/v2/app/blobs/{}", digest_of(&content))).await.is_whole(&content);
}

#[tokio::test]
async fn a_refused_body_is_read_so_that_the_refusal_is_heard() {
    let proxy = registry().await;
    let mut stream = TcpStream::connect(proxy.registry_door).await.expect("the door");
    let body = vec![b'x'; 500_000];
    let head = format!("PATCH /v2/app/blobs/uploads/0 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&body).await.expect("all of it is taken");
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answers = String::new();
    in_time("both answers", stream.read_to_string(&mut answers)).await.expect("read");
    assert!(answers.starts_with("HTTP/1.1 404 ") && answers.contains("HTTP/1.1 200 OK"), "{answers}");
}

#[tokio::test]
async fn mounts_need_the_source_and_fall_back_to_an_upload() {
    let proxy = registry().await;
    let content = bytes(7, 9000);
    let digest = push_blob(&proxy, "source", &content).await;
    let mount = |query: String| proxy.registry(Method::POST, &format!("/v2/target/blobs/uploads/?{query}")).send();
    for query in [format!("mount={digest}&from=source"), format!("mount={digest}")] {
        let mounted = mount(query.clone()).await;
        assert_eq!(mounted.status, 201, "{query}: {}", mounted.text());
        assert_eq!(mounted.header("docker-content-digest"), digest.to_string());
        get(&proxy, mounted.header("location")).await.is_whole(&content);
        assert_eq!(status(&proxy, Method::DELETE, mounted.header("location")).await, 202);
    }
    for query in [
        format!("mount={}&from=source", digest_of(b"missing")),
        format!("mount={digest}&from=nobody"),
        format!("mount={digest}&from=../source"),
    ] {
        let begun = mount(query.clone()).await;
        assert_eq!(begun.status, 202, "{query}");
        assert!(begun.header("location").contains("/blobs/uploads/"));
    }
    mount("mount=sha256:00&from=source".into()).await.is_error(400, "DIGEST_INVALID");
    assert_eq!(proxy.files("blobs").len(), 1, "its bytes are there once");
}

#[tokio::test]
async fn a_full_disk_is_a_clean_507_and_nothing_is_kept() {
    let proxy = Setup::of(&[]).set("cache", "min_free = \"4096t\"").start().await;
    let content = bytes(8, 100_000);
    let digest = digest_of(&content);
    let place = begin(&proxy, "app").await;
    for _ in 0..2 {
        let put = proxy.registry(Method::PUT, &format!("{place}?digest={digest}")).body(content.clone()).send().await;
        put.is_error(507, "DENIED");
        assert_eq!(get(&proxy, &place).await.header("range"), "0-0", "the session is as it was");
    }
    let manifest =
        super::put_manifest(&proxy, "app", "v1", super::manifest_of(MANIFEST_TYPE, &digest, content.len())).await;
    manifest.is_error(507, "DENIED");
    assert!(proxy.files("blobs").is_empty());
    assert_eq!(status(&proxy, Method::GET, "/v2/app/manifests/v1").await, 404);
}

/// Sends so many bytes in chunks without telling their number, or as many as are taken. Returns what the server says.
async fn stream_to(proxy: &Proxy, method: Method, path: &str, length: usize) -> String {
    let stream = TcpStream::connect(proxy.registry_door).await.expect("the door");
    let (mut answers, mut sent) = stream.into_split();
    let stream = &mut sent;
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    let sending = async move {
        stream.write_all(head.as_bytes()).await?;
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..length / piece.len() {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(&piece).await?;
            stream.write_all(b"\r\n").await?;
        }
        stream.write_all(b"0\r\n\r\n").await
    };
    let mut said = String::new();
    // A server that has answered need not take the rest.
    let (_, read) = in_time("an answer", async { tokio::join!(sending, answers.read_to_string(&mut said)) }).await;
    read.expect("an answer");
    said
}

/// The bytes of all uploads on the disk.
fn uploaded_bytes(proxy: &Proxy) -> u64 {
    let files = proxy.files("uploads").into_iter().filter(|path| path.extension().is_none());
    files.map(|path| std::fs::metadata(path).map_or(0, |file| file.len())).sum()
}

#[tokio::test]
async fn quotas_hold_while_bytes_arrive_and_the_session_goes_on() {
    let quota = "repository = \"small/*\"\nmax_size = \"1m\"";
    let setup = Setup::of(&[]).set("registry", "max_size = \"2m\"").set("[registry.quotas]", quota);
    let proxy = setup.start().await;
    for (repository, status) in [("small/app", "413"), ("large", "507")] {
        let place = begin(&proxy, repository).await;
        let content = bytes(1, 100_000);
        assert_eq!(chunk(&proxy, &place, 0, &content[..50_000]).await.status, 202);
        let any = digest_of(b"any");
        for (method, path) in [(Method::PATCH, place.clone()), (Method::PUT, format!("{place}?digest={any}"))] {
            let said = stream_to(&proxy, method.clone(), &path, 12 << 20).await;
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {repository}: {said}");
            assert_eq!(uploaded_bytes(&proxy), 50_000, "{method} {repository}: what failed is gone");
        }
        // By its length alone.
        let told = proxy.registry(Method::PATCH, &place).body(bytes(2, 3 << 20)).send().await;
        assert_eq!(told.status.to_string(), status);
        let whole = format!("/v2/{repository}/blobs/uploads/?digest={any}");
        let said = stream_to(&proxy, Method::POST, &whole, 12 << 20).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{repository}: {said}");
        assert_eq!(uploaded_bytes(&proxy), 50_000, "{repository}: what failed is gone");
        // The client goes on where it was.
        assert_eq!(get(&proxy, &place).await.header("range"), "0-49999");
        assert_eq!(chunk(&proxy, &place, 50_000, &content[50_000..]).await.status, 202);
        assert_eq!(finish(&proxy, &place, &digest_of(&content).to_string()).await.status, 201);
        get(&proxy, &format!("/v2/{repository}/blobs/{}", digest_of(&content))).await.is_whole(&content);
    }
    assert!(proxy.files("uploads").is_empty(), "{:?}", proxy.files("uploads"));
}

#[tokio::test]
async fn uploads_at_the_same_time_do_not_pass_a_quota_together() {
    let quota = "repository = \"small/*\"\nmax_size = \"1m\"";
    let proxy = Setup::of(&[]).set("[registry.quotas]", quota).start().await;
    let (first, second) = (begin(&proxy, "small/app").await, begin(&proxy, "small/app").await);
    let content = bytes(3, 700_000);
    assert_eq!(chunk(&proxy, &first, 0, &content).await.status, 202);
    let said = stream_to(&proxy, Method::PATCH, &second, 700_000).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    assert_eq!(uploaded_bytes(&proxy), 700_000);
    // An upload that is given up makes room, and pushed content counts once.
    assert_eq!(status(&proxy, Method::DELETE, &first).await, 204);
    assert_eq!(chunk(&proxy, &second, 0, &content).await.status, 202);
    assert_eq!(finish(&proxy, &second, &digest_of(&content).to_string()).await.status, 201);
    let third = begin(&proxy, "small/app").await;
    assert_eq!(chunk(&proxy, &third, 0, &content[..300_000]).await.status, 202);
    assert_eq!(chunk(&proxy, &third, 300_000, &content[300_000..400_000]).await.status, 413);
}

#[tokio::test]
async fn a_wrong_digest_leaves_no_bytes_behind() {
    let proxy = registry().await;
    let place = begin(&proxy, "app").await;
    assert_eq!(chunk(&proxy, &place, 0, &bytes(4, 1000)).await.status, 202);
    let path = format!("{place}?digest={}", digest_of(b"another"));
    proxy.registry(Method::PUT, &path).body(bytes(5, 70_000)).send().await.is_error(400, "DIGEST_INVALID");
    assert_eq!(uploaded_bytes(&proxy), 1000);
    assert_eq!(finish(&proxy, &place, &digest_of(&bytes(4, 1000)).to_string()).await.status, 201);
}

#[tokio::test]
async fn a_stranger_with_a_thousand_uploads_stops_nobody_elses_push() {
    let proxy = registry().await;
    let path = "/v2/strange/app/blobs/uploads/";
    // One address, then so many that together they could have every place.
    for addresses in [1, 20] {
        let going_on = async {
            for number in 0.. {
                let from = [127, 0, 1, (number % addresses) as u8 + 1];
                let status = proxy.registry(Method::POST, path).from(from).send().await.status;
                assert!(matches!(status, 202 | 429), "{status}");
            }
        };
        let honest = async {
            // The stranger has had all that it can get.
            let local = &proxy.state().registry.local;
            let most = if addresses == 1 { 100 } else { 1000 };
            eventually("the stranger has its most", || local.uploads() >= most).await;
            for seed in 0..3 {
                let content = bytes(seed, 200_000);
                let pushed = tokio::time::timeout(Duration::from_secs(5), push_blob(&proxy, "honest/app", &content));
                pushed.await.expect("within seconds, while the stranger goes on");
            }
        };
        tokio::select! {
            () = going_on => unreachable!("it has no end"),
            () = honest => {}
        }
        assert!(proxy.state().registry.local.uploads() <= 1000);
    }
    let refused = async {
        loop {
            let reply = proxy.registry(Method::POST, path).from([127, 0, 1, 1]).send().await;
            if reply.status == 429 {
                return reply;
            }
        }
    };
    let refused = in_time("a refusal", refused).await;
    refused.is_error(429, "TOOMANYREQUESTS");
    assert_eq!(refused.header("retry-after"), "60");
}
