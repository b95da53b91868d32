//! The requests that a door refuses before it asks upstream or the store.

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Image, Proxy, Upstream, VIA, in_time};

#[tokio::test]
async fn another_host_than_the_connections_is_misdirected() {
    let (upstream, other) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    image.publish(&other, "1");
    let proxy = Proxy::before(&[&upstream, &other]).await;
    for host in [other.host(), "ghcr.io".into(), "127.0.0.1:1".into(), "-".into()] {
        let reply = proxy.get(&upstream, &image.tag_path("1")).header("host", &host).send().await;
        reply.is_error(421, "MISDIRECTED");
        let ask = proxy.get(&upstream, &image.tag_path("1")).header("host", &host);
        ask.start_over(proxy.visit(&upstream, 4096))
            .await
            .rest()
            .await
            .expect("an answer")
            .is_error(421, "MISDIRECTED");
    }
    assert!(upstream.seen().is_empty() && other.seen().is_empty());
    let own = proxy.get(&upstream, &image.tag_path("1")).start_over(proxy.visit(&upstream, 4096)).await;
    own.rest().await.expect("an answer").is_whole(&image.manifest);
}

#[tokio::test]
async fn a_request_that_came_back_is_a_loop() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    for via in [VIA.to_owned(), format!("1.1 other, {VIA}")] {
        proxy.get(&upstream, &image.tag_path("1")).header("via", &via).send().await.is_error(508, "LOOP");
    }
    assert!(upstream.seen().is_empty());
    // Upstream sees every hop in `Via`, so a longer loop is found by the first proxy that is passed twice.
    for path in [image.tag_path("1"), image.layer_path()] {
        proxy.get(&upstream, &path).header("via", "1.1 other").send().await;
        let seen = upstream.seen().pop().expect("asked");
        let hops: Vec<_> = seen.headers.get_all("via").iter().map(|hop| hop.to_str().expect("text")).collect();
        assert_eq!(hops, ["1.1 other", VIA]);
    }
    let connect = format!("CONNECT ghcr.io:443 HTTP/1.1\r\nhost: ghcr.io:443\r\nvia: 1.1 other, {VIA}\r\n\r\n");
    assert!(raw(&proxy, connect.as_bytes()).await.starts_with("HTTP/1.1 508 "));
}

#[tokio::test]
async fn what_the_grammar_does_not_know_is_refused_in_words() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let zeros = "0".repeat(64);
    for (path, code) in [
        ("/v2/team/app/blobs/sha256:abc".to_owned(), "DIGEST_INVALID"),
        (format!("/v2/team/app/blobs/sha256:{}", "G".repeat(64)), "DIGEST_INVALID"),
        (format!("/v2/team/app/blobs/md5:{zeros}"), "DIGEST_INVALID"),
        ("/v2/team/app/manifests/sha256:abc".into(), "DIGEST_INVALID"),
        ("/v2/Team_/app/manifests/latest".into(), "NAME_INVALID"),
        ("/v2/team/app/manifests/-bad".into(), "NAME_INVALID"),
        ("/v2/team//app/manifests/latest".into(), "NAME_INVALID"),
        ("/v2/team/../other/manifests/latest".into(), "NAME_INVALID"),
        ("/v2/team%2Fapp/manifests/latest".into(), "NAME_INVALID"),
        (format!("/v2/{}/manifests/latest", "a/".repeat(200)), "NAME_INVALID"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let reply = proxy.ask(method.clone(), &upstream, &path).send().await;
            match method {
                Method::GET => reply.is_error(400, code),
                _ => assert_eq!(reply.status, 400, "{path}"),
            }
        }
    }
    assert!(upstream.seen().is_empty());
    proxy.holds_nothing().await;
}

/// Writes bytes to the door and reads until it closes.
pub(crate) async fn raw(proxy: &Proxy, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(proxy.door).await.expect("the door is open");
    // The door may have closed before everything was written.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    // Bytes that arrived before a reset count.
    let _ = in_time("the door closes", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn framing_in_doubt_closes_the_connection() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let host = upstream.host();
    let follow = format!("GET http://{host}{} HTTP/1.1\r\nHost: {host}\r\n\r\n", image.tag_path("1"));
    for (fields, status) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("Content-Length: 4\r\nContent-Length: 5\r\n", "400"),
        ("Content-Length: +4\r\n", "400"),
        ("Transfer-Encoding: gzip, chunked\r\n", "400"),
        ("X : y\r\n", "400"),
        (" folded: y\r\n", "400"),
        (&format!("X: {}\r\n", "x".repeat(70_000)), "431"),
        (&"X: y\r\n".repeat(200), "431"),
    ] {
        let request = format!("PUT http://{host}/v2/team/app/manifests/1 HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        let answer = raw(&proxy, format!("{request}{follow}").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields:.40}: {answer:.200}");
        assert!(answer.contains(r#"{"errors":[{"code":"#), "{answer:.300}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing behind it is read: {answer:.300}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn nonsense_at_the_door() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::before(&[&upstream]).await;
    let host = upstream.host();
    for (request, status) in [
        ("CONNECT ghcr.io HTTP/1.1\r\nHost: ghcr.io\r\n\r\n".to_owned(), "400"),
        ("CONNECT ghcr.io:0 HTTP/1.1\r\nHost: ghcr.io\r\n\r\n".into(), "400"),
        ("CONNECT ghcr.io:99999 HTTP/1.1\r\nHost: ghcr.io\r\n\r\n".into(), "400"),
        (format!("GET ftp://{host}/v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        (format!("GET https://{host}/v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        ("hello\r\n\r\n".into(), "400"),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n".into(), "505"),
    ] {
        let answer = raw(&proxy, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:.200}");
    }
    // By TLS this door has pages only. Bytes that begin as TLS and are none end the connection,
    // with an alert if there is one.
    for (record, answer) in
        [(&b"\x16\x03\x01\0\x05hello\r\n\r\n"[..], ""), (b"\x16\x03\x01\0\x04\x02\0\0\0", "\u{15}\u{3}")]
    {
        assert!(raw(&proxy, record).await.starts_with(answer), "{record:?}");
    }
    assert!(upstream.seen().is_empty());
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn only_named_headers_travel_on() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    upstream.on("/v2/team/app/tags/list", |_| {
        Answer::json(200, r#"{"name":"team/app","tags":["1"]}"#)
            .header("set-cookie", "session=1")
            .header("link", "</v2/team/app/tags/list?n=1&last=1>; rel=\"next\"")
    });
    let proxy = Proxy::before(&[&upstream]).await;
    for path in [image.tag_path("1"), image.layer_path(), "/v2/team/app/tags/list?n=1".into()] {
        let ask = proxy.get(&upstream, &path).header("cookie", "a=b").header("x-forwarded-for", "10.0.0.1");
        let ask = ask.header("proxy-authorization", "Basic cHJveHk6c2VjcmV0").header("x-evil", "1");
        let reply = ask.header("accept-encoding", "gzip").send().await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("set-cookie").is_empty());
        let seen = upstream.seen().pop().expect("asked");
        for name in ["cookie", "x-forwarded-for", "proxy-authorization", "x-evil"] {
            assert_eq!(seen.header(name), "", "{name} at {path}");
        }
        assert_eq!(seen.header("accept-encoding"), "identity");
        assert_eq!(seen.header("host"), upstream.host());
    }
    let list = proxy.get(&upstream, "/v2/team/app/tags/list?n=1").send().await;
    assert!(list.header("link").contains("rel=\"next\""));
    assert_eq!(upstream.seen().pop().expect("asked").query, "n=1");
}

#[tokio::test]
async fn many_requests_share_a_connection_and_a_pipeline_is_answered_in_order() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    let mut session = crate::harness::Session::to(proxy.door).await;
    for _ in 0..5 {
        session.ask(proxy.get(&upstream, &image.layer_path())).await.is_whole(&image.layer);
        session.ask(proxy.get(&upstream, &image.tag_path("1"))).await.is_whole(&image.manifest);
        session.ask(proxy.head(&upstream, &image.layer_path())).await.is_whole(&Bytes::new());
    }
    let host = upstream.host();
    let one = |path: &str, close: &str| format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n");
    let pipeline = one(&image.tag_path("1"), "") + &one("/v2/", "Connection: close\r\n");
    let answer = raw(&proxy, pipeline.as_bytes()).await;
    let manifest = answer.find(std::str::from_utf8(&image.manifest).expect("text")).expect("the manifest");
    assert!(answer[manifest..].contains("HTTP/1.1 200"), "then the ping");
}
