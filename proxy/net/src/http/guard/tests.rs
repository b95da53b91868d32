//! Tests of the guard with hyper behind it, over a pipe in memory: each refusal, and that hyper alone would accept it.
//! They use the guard as `serve.rs` does. There is no socket, and where time matters the clock is paused.

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST: &str = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
const SECOND: &str = "PUT /v2/two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
const BAD: &str = "PUT /v2/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nGET /";

/// Answers a refusal with its status, anything else with method, path and body.
async fn answer(handle: GuardHandle, request: Request<Incoming>) -> http::Response<Full<Bytes>> {
    let refusal = handle.rejection_of(&request);
    let line = format!("<{} {} ", request.method(), request.uri().path());
    // Yields first, so that hyper reads ahead while this request is in work.
    tokio::task::yield_now().await;
    let (status, text) = match (refusal, request.into_body().collect().await) {
        (Some(refusal), _) => (refusal.status, format!("<refused oci={}>", refusal.oci)),
        (None, Ok(body)) => (200, line + &String::from_utf8(body.to_bytes().into()).unwrap() + ">"),
        (None, Err(_)) => (handle.rejection().map_or(500, |refusal| refusal.status), line + "broken>"),
    };
    http::Response::builder().status(status).body(Full::new(text.into())).unwrap()
}

fn serve(io: DuplexStream) -> tokio::task::JoinHandle<()> {
    let (guard, handle) = Guard::new(io, HEAD_TIMEOUT);
    let service = service_fn(move |request| {
        let handle = handle.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(handle, request).await) }
    });
    tokio::spawn(async move {
        // An error is a client's fault. The test sees it on the client's side.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
    })
}

/// Sends the slices one by one and returns everything that comes back until the server closes.
async fn exchange(slices: impl IntoIterator<Item = &[u8]>, buffer: usize) -> String {
    let (mut client, server) = duplex(buffer);
    let serving = serve(server);
    for slice in slices {
        // The server may have closed after a refusal.
        let _ = client.write_all(slice).await;
        tokio::task::yield_now().await;
    }
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    serving.await.unwrap();
    received
}

fn bodies(received: &str) -> Vec<&str> {
    received.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()).collect()
}

#[tokio::test]
async fn hyper_serves_a_pipeline_and_answers_a_refusal_behind_it() {
    let stream = [FIRST, SECOND, BAD].concat();
    let expected = ["POST /one abc", "PUT /v2/two de", "refused oci=true"];
    let whole = exchange([stream.as_bytes()], 4096).await;
    assert_eq!(bodies(&whole), expected);
    assert!(whole.contains("HTTP/1.1 400") && whole.contains("connection: close"), "{whole}");
    assert_eq!(bodies(&exchange(stream.as_bytes().chunks(1), 4096).await), expected);
    assert_eq!(bodies(&exchange(stream.as_bytes().chunks(7), 4096).await), expected);
}

/// The bytes that a client gets of a body whose pieces each take longer than a head may.
async fn slow_body(sent: &[&str]) -> String {
    let (mut client, server) = duplex(4096);
    let (guard, _handle) = Guard::new(server, HEAD_TIMEOUT);
    let service = service_fn(|_request| async {
        let pieces = futures_util::stream::unfold(0, |number| async move {
            tokio::time::sleep(2 * HEAD_TIMEOUT).await;
            let piece = hyper::body::Frame::data(Bytes::from_static(b"piece "));
            (number < 3).then_some((Ok::<_, std::convert::Infallible>(piece), number + 1))
        });
        Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(Box::pin(pieces))))
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service);
    let asking = async {
        for piece in sent {
            client.write_all(piece.as_bytes()).await.expect("sent");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut received = String::new();
        client.read_to_string(&mut received).await.expect("text");
        received
    };
    tokio::join!(async { drop(serving.await) }, asking).1
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_longer_than_a_head() {
    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for sent in [&[HEAD][..], &[&HEAD[..9], &HEAD[9..]]] {
        let received = slow_body(sent).await;
        assert_eq!(received.matches("piece").count(), 3, "{sent:?}: {received}");
        assert!(received.ends_with("0\r\n\r\n"), "{sent:?}: {received}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    for (sent, handed_on) in [("", 0), ("GET / HT", 0), ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT", 27)] {
        let (mut client, server) = duplex(4096);
        client.write_all(sent.as_bytes()).await.expect("sent");
        let (mut guard, _handle) = Guard::new(server, HEAD_TIMEOUT);
        guard.read_exact(&mut vec![0; handed_on]).await.expect("a head");
        let waited = tokio::time::timeout(2 * HEAD_TIMEOUT, guard.read_u8()).await.expect("no longer");
        assert_eq!(waited.expect_err("no byte").kind(), io::ErrorKind::TimedOut, "{sent:?}");
    }
}

#[tokio::test]
async fn a_large_head_is_refused_with_431() {
    let head = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let received = exchange(head.as_bytes().chunks(4096), 128 << 10).await;
    assert!(received.starts_with("HTTP/1.1 431"), "{received}");
}

#[tokio::test]
async fn a_broken_body_fails_the_request_and_closes() {
    let broken = "PUT /v2/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ndeX";
    let received = exchange([broken.as_bytes(), FIRST.as_bytes()], 4096).await;
    assert_eq!(bodies(&received), ["PUT /v2/x broken"]);
    assert!(received.starts_with("HTTP/1.1 400"), "{received}");
}

#[tokio::test]
async fn the_end_inside_a_head_is_an_end() {
    let (mut client, server) = duplex(4096);
    let (mut guard, handle) = Guard::new(server, HEAD_TIMEOUT);
    client.write_all(b"GET / HTT").await.unwrap();
    drop(client);
    let mut read = Vec::new();
    guard.read_to_end(&mut read).await.unwrap();
    assert_eq!((read, handle.rejection()), (Vec::new(), None));
}

#[tokio::test]
async fn reads_of_one_byte_are_enough() {
    let (mut client, server) = duplex(4096);
    let (mut guard, _handle) = Guard::new(server, HEAD_TIMEOUT);
    let stream = [FIRST, SECOND].concat();
    client.write_all(stream.as_bytes()).await.unwrap();
    drop(client);
    let mut read = Vec::new();
    while let Ok(byte) = guard.read_u8().await {
        read.push(byte);
    }
    assert_eq!(String::from_utf8(read).unwrap(), stream);
}

#[tokio::test]
async fn a_tunnel_is_read_only_when_granted() {
    let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let (mut client, server) = duplex(4096);
    let (mut guard, handle) = Guard::new(server, HEAD_TIMEOUT);
    client.write_all(&[&head[..], b"hello"].concat()).await.unwrap();
    let mut read = vec![0; head.len()];
    guard.read_exact(&mut read).await.unwrap();
    assert_eq!(read, head);
    let mut more = [0; 16];
    let early = std::future::poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut more);
        Poll::Ready(Pin::new(&mut guard).poll_read(cx, &mut buf).is_pending())
    });
    assert!(early.await);

    handle.open_tunnel();
    client.write_all(b" \n\0 world").await.unwrap();
    let mut read = [0; 14];
    guard.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello \n\0 world");
}

#[tokio::test]
async fn the_first_bytes_of_a_tunnel_come_out_with_the_connection() {
    let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let (mut client, server) = duplex(64);
    client.write_all(&[&head[..], b"hello"].concat()).await.unwrap();
    let (mut guard, _handle) = Guard::new(server, HEAD_TIMEOUT);
    assert_eq!(guard.read(&mut [0; 64]).await.unwrap(), head.len());
    assert_eq!(guard.into_inner().1, "hello");
}

/// Requests that hyper itself accepts, each with its oddity. The list in `guard.rs` is this one: if hyper begins to
/// refuse an entry, the test fails.
const HYPER_LETS_THROUGH: &[(&str, &str)] = &[
    ("a bare line feed ends a line", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("a Host that is none", "GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n"),
    (
        "Content-Length and Transfer-Encoding",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two Content-Lengths", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    ("another coding", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("two codings", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding in capitals", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"),
    ("a fragment in the target", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a byte beyond ASCII in the target", "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target that only CONNECT has", "GET a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target that only OPTIONS has", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a scheme that is none of HTTP", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "blanks behind a chunk's size",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
    ),
    (
        "a control character in a chunk's extension",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\u{1}\r\nx\r\n0\r\n\r\n",
    ),
];

#[tokio::test]
async fn requests_that_hyper_would_take_are_refused() {
    let mut odd = Vec::new();
    for (what, sent) in HYPER_LETS_THROUGH {
        let (mut client, server) = duplex(4096);
        let alone = tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let taken = request.into_body().collect().await.map(drop);
                taken.map(|()| http::Response::new(Full::new(Bytes::new())))
            });
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).await);
        });
        client.write_all(sent.as_bytes()).await.expect("sent");
        let mut received = vec![0; 4096];
        let length = client.read(&mut received).await.expect("read");
        let received = String::from_utf8_lossy(&received[..length]);
        alone.abort();
        odd.extend((!received.contains(" 200 ")).then(|| format!("hyper refuses {what} by itself: {received:?}")));

        let guarded = exchange([sent.as_bytes()], 4096).await;
        odd.extend((!guarded.starts_with("HTTP/1.1 400 ")).then(|| format!("{what} passed: {guarded:?}")));
    }
    assert!(odd.is_empty(), "{odd:#?}");
}
