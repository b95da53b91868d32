//! Single requests, against small servers on loopback.

use super::*;
use crate::address_policy::AddressRefusal;
use crate::error::{ClientFault, Stage};
use crate::testing::{get, host_of, listener, registry, serve, serve_plain, serve_tls, signed, upstream};
use crate::timed_body::BoxError;
use bytes::Bytes;
use entrepot_config::ready::ParentProxy;
use futures_util::stream::{self, StreamExt};
use http::Version;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const SHORT: Duration = Duration::from_millis(400);

fn client(settings: &Upstream) -> HttpClient {
    HttpClient::new(settings, &[], &Ourselves::default())
}

fn impatient() -> Upstream {
    Upstream { read_timeout: SHORT, send_timeout: SHORT, connect_timeout: SHORT, ..upstream() }
}

async fn text(client: &HttpClient, uri: &str) -> Result<String, UpstreamError> {
    let answer = client.send(get(uri), Purpose::Registry, Manner::default()).await?;
    let body = answer.http.into_body().collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

#[test]
fn idle_connections_scale_with_the_limit_of_files() {
    for (limit, expected) in [(u64::MAX, 16), (1024, 16), (256, 4), (64, 1), (0, 1)] {
        assert_eq!(pool_idle_max(limit), expected, "{limit}");
    }
}

/// A server that reads one request head, sends `answer` and keeps the connection open.
async fn holding(answer: &'static str) -> SocketAddr {
    let (server, address) = listener().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = server.accept().await {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.expect("sent");
            held.push(stream);
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a byte"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test]
async fn http_1_and_h2_are_spoken_as_the_server_chooses() {
    let identity = signed();
    let settings = Upstream { extra_roots: vec![identity.root.clone()], ..upstream() };
    let client = client(&settings);
    for (protocols, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
    {
        let (address, accepted) = serve_tls(&identity, protocols).await;
        let uri = format!("https://{address}/v2/");
        assert_eq!(text(&client, &uri).await.expect("an answer"), format!("{version} /v2/"));
        let mut request = get(&uri);
        *request.version_mut() = Version::HTTP_2;
        let answer = client.send(request, Purpose::Registry, Manner::default()).await.expect("a second answer");
        assert_eq!(answer.peer_public, Some(false));
        if version == "HTTP/2.0" {
            assert_eq!(accepted.load(Ordering::Relaxed), 1, "both requests share a connection");
        }
    }
}

#[tokio::test]
async fn certificates_are_verified_unless_the_registry_says_otherwise() {
    let identity = signed();
    let (address, _) = serve_tls(&identity, &["h2"]).await;
    let uri = format!("https://{address}/");
    let error = text(&client(&upstream()), &uri).await.expect_err("not trusted");
    assert_eq!(error.stage, Stage::Tls);
    assert!(matches!(error.kind, ErrorKind::Certificate(_)), "{error:?}");
    assert!(error.to_string().contains("add ca_file or verify = false for this registry"), "{error}");
    let mut lenient = registry(&address.to_string());
    lenient.verify = false;
    let client = HttpClient::new(&upstream(), &[lenient], &Ourselves::default());
    assert_eq!(text(&client, &uri).await.expect("an answer"), "HTTP/2.0 /");
}

#[tokio::test]
async fn a_pooled_connection_is_not_found_under_stricter_rules() {
    let (server, address) = listener().await;
    tokio::spawn(serve_plain(server));
    let client = client(&Upstream { allow_addresses: Vec::new(), ..upstream() });
    let uri = format!("http://{address}/");
    // Loopback is allowed for a parent proxy only.
    let answer = client.send(get(&uri), Purpose::Parent, Manner::default()).await.expect("an answer");
    answer.http.into_body().collect().await.expect("a body");
    let error = text(&client, &uri).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Refused(AddressRefusal::Loopback));
}

#[tokio::test]
async fn refusals_are_ours_and_come_through_the_pool() {
    let (sentinel, address) = listener().await;
    let client = client(&Upstream { allow_addresses: Vec::new(), ..upstream() });
    let error = text(&client, &format!("http://{address}/")).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Refused(AddressRefusal::Loopback));
    assert!(error.is_ours() && *error.host == *host_of(address).to_string());
    crate::testing::assert_untouched(&sentinel);
}

#[tokio::test]
async fn plain_http_goes_through_the_parent_by_connect_too() {
    let (server, parent) = listener().await;
    let serving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("a connection");
        let head = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("sent");
        tokio::spawn(serve(TokioIo::new(stream), false));
        head
    });
    let proxy = Some(ParentProxy { host: host_of(parent), authorization: None });
    let client = client(&Upstream { proxy, ..upstream() });
    let answer =
        client.send(get("http://reg.invalid:5000/v2/"), Purpose::Registry, Manner::default()).await.expect("an answer");
    assert_eq!(answer.peer_public, None);
    let body = answer.http.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, "HTTP/1.1 /v2/");
    assert!(serving.await.expect("no panic").starts_with("CONNECT reg.invalid:5000 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_stall_is_found_in_each_stage() {
    let client = client(&impatient());
    let (silent, address) = listener().await;
    let error = text(&client, &format!("https://{address}/")).await.expect_err("no handshake");
    assert_eq!((error.stage, error.kind), (Stage::Tls, ErrorKind::TimedOut));
    drop(silent);
    let address = holding("").await;
    let error = text(&client, &format!("http://{address}/")).await.expect_err("no head");
    assert_eq!((error.stage, error.kind), (Stage::Head, ErrorKind::TimedOut));
    let address = holding("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let error = text(&client, &format!("http://{address}/")).await.expect_err("half a body");
    assert_eq!((error.stage, error.kind), (Stage::Body, ErrorKind::Stalled));
}

#[tokio::test]
async fn broken_and_foreign_answers_are_told_apart() {
    for (answer, stage, kind) in [
        (&b""[..], Stage::Head, Some(ErrorKind::Reset)),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Stage::Head, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Stage::Body, Some(ErrorKind::Reset)),
    ] {
        let (server, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.expect("a connection");
            read_head(&mut stream).await;
            stream.write_all(answer).await.expect("sent");
        });
        let error = text(&client(&upstream()), &format!("http://{address}/")).await.expect_err("no answer");
        assert_eq!(error.stage, stage, "{error:?}");
        match kind {
            Some(kind) => assert_eq!(error.kind, kind),
            None => assert!(matches!(error.kind, ErrorKind::Protocol(_)), "{error:?}"),
        }
    }
}

fn put(address: SocketAddr, body: RequestBody) -> Request<RequestBody> {
    Request::put(format!("http://{address}/")).body(body).expect("a request")
}

/// Reads the head of one request and nothing more.
async fn deaf(server: TcpListener, until: oneshot::Receiver<()>) {
    let (mut stream, _) = server.accept().await.expect("a connection");
    read_head(&mut stream).await;
    let _ = until.await;
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_is_found_and_a_slow_client_is_not_blamed() {
    let client = client(&impatient());
    let (server, address) = listener().await;
    let (_open, until) = oneshot::channel();
    tokio::spawn(deaf(server, until));
    let endless = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[0; 65536]))));
    let error =
        client.send(put(address, StreamBody::new(endless).boxed_unsync()), Purpose::Registry, Manner::default()).await;
    let error = error.err().expect("nobody reads");
    assert_eq!((error.stage, error.kind), (Stage::Send, ErrorKind::TimedOut));

    let (server, address) = listener().await;
    tokio::spawn(serve_plain(server));
    let late = stream::once(async {
        tokio::time::sleep(SHORT * 2).await;
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"late")))
    });
    let answer =
        client.send(put(address, StreamBody::new(late).boxed_unsync()), Purpose::Registry, Manner::default()).await;
    assert!(answer.is_ok(), "{:?}", answer.err());
}

#[tokio::test]
async fn a_body_that_breaks_at_its_source_is_the_clients_fault() {
    let stalled = ClientFault::Stalled(SHORT);
    for (failure, fault) in
        [(BoxError::from("gone"), ClientFault::BrokeOff("gone".into())), (BoxError::from(stalled.clone()), stalled)]
    {
        let (server, address) = listener().await;
        let (_open, until) = oneshot::channel();
        tokio::spawn(deaf(server, until));
        let parts: [Result<Frame<Bytes>, BoxError>; 2] = [Ok(Frame::data(Bytes::from_static(b"a"))), Err(failure)];
        let body = StreamBody::new(stream::iter(parts).chain(stream::pending())).boxed_unsync();
        let error = client(&upstream())
            .send(put(address, body), Purpose::Registry, Manner::default())
            .await
            .err()
            .expect("broken");
        assert_eq!(error.client_fault(), Some(&fault));
    }
}

#[tokio::test]
async fn only_a_missing_host_is_added() {
    for (given, sent) in [(None, "host: {}"), (Some("reg.example"), "host: reg.example")] {
        let (server, address) = listener().await;
        let reading = tokio::spawn(async move { read_head(&mut server.accept().await.expect("one").0).await });
        let mut request = get(&format!("http://{address}/v2/?a=b"));
        if let Some(host) = given {
            request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static(host));
        }
        let _ = client(&impatient()).send(request, Purpose::Registry, Manner::default()).await;
        let expected = format!("GET /v2/?a=b HTTP/1.1\r\n{}\r\n\r\n", sent.replace("{}", &address.to_string()));
        assert_eq!(reading.await.expect("no panic"), expected);
    }
}
