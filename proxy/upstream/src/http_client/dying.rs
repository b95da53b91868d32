//! Kept connections that die, and origins that do not answer, against scripted servers on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use entrepot_config::ready::Upstream;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::{HttpClient, Manner, Patience};
use crate::address_policy::Purpose;
use crate::error::{ErrorKind, Stage, UpstreamError};
use crate::own::Ourselves;
use crate::testing::{acceptor, get, listener, serve_plain, signed, upstream};

/// What a server does with a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Act {
    Answer,
    /// Answers by 408 and closes.
    TimesOut,
    /// Closes in the middle of the head.
    HalfHead,
    Close,
    Reset,
    Silent,
    /// h2 only: RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// h2 only: GOAWAY that excludes the stream, and the connection stays open or is closed.
    GoAway,
    GoAwayAndClose,
}

/// What a server did, as `connection.request METHOD`, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// The acts by the numbers of connection and request, both from 1. Everything else is answered.
type Script = HashMap<(usize, usize), Act>;

fn script(acts: &[(usize, usize, Act)]) -> Script {
    acts.iter().map(|(connection, request, act)| ((*connection, *request), *act)).collect()
}

/// An HTTP/1.1 server.
async fn plain(script: Script) -> (String, Log) {
    let (server, address) = listener().await;
    let log = Log::default();
    let seen = log.clone();
    tokio::spawn(async move {
        for connection in 1.. {
            let Ok((stream, _)) = server.accept().await else { return };
            tokio::spawn(speak_http_1(stream, connection, script.clone(), seen.clone()));
        }
    });
    (format!("http://{address}/v2/"), log)
}

async fn speak_http_1(mut stream: TcpStream, connection: usize, script: Script, log: Log) {
    for request in 1.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let method = String::from_utf8_lossy(&head).split(' ').next().unwrap_or_default().to_owned();
        log.lock().expect("no panic").push(format!("{connection}.{request} {method}"));
        let (text, stays) = match script.get(&(connection, request)).copied().unwrap_or(Act::Answer) {
            Act::Answer => ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            Act::TimesOut => ("HTTP/1.1 408 Late\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false),
            Act::HalfHead => ("HTTP/1.1 20", false),
            Act::Close | Act::Refuse | Act::GoAway | Act::GoAwayAndClose => ("", false),
            Act::Reset => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
                return;
            }
            Act::Silent => ("", true),
        };
        if stream.write_all(text.as_bytes()).await.is_err() || !stays {
            return;
        }
    }
}

/// An h2 server, frame by frame (RFC 9113 sections 4 to 6), because no library refuses a stream on demand.
async fn h2(script: Script) -> (String, Log, Upstream) {
    let (server, address) = listener().await;
    let identity = signed();
    let settings = Upstream { extra_roots: vec![identity.root.clone()], ..upstream() };
    let acceptor = acceptor(&identity, &["h2"]);
    let log = Log::default();
    let seen = log.clone();
    tokio::spawn(async move {
        for connection in 1.. {
            let Ok((stream, _)) = server.accept().await else { return };
            let (acceptor, script, seen) = (acceptor.clone(), script.clone(), seen.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    // The client notices if the connection breaks.
                    let _ = speak_h2(stream, connection, script, seen).await;
                }
            });
        }
    });
    (format!("https://{address}/v2/"), log, settings)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn speak_h2<S>(mut stream: S, connection: usize, script: Script, log: Log) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        let answer = match head[3] {
            1 => {
                let request = id.div_ceil(2) as usize;
                log.lock().expect("no panic").push(format!("{connection}.{request} h2"));
                let unprocessed = [(id.saturating_sub(2)).to_be_bytes(), [0; 4]].concat();
                match script.get(&(connection, request)).copied().unwrap_or(Act::Answer) {
                    // HPACK: `:status: 200` from the static table.
                    Act::Answer => frame(1, 5, id, &[0x88]),
                    Act::Refuse => frame(3, 0, id, &7u32.to_be_bytes()),
                    Act::GoAway => frame(7, 0, 0, &unprocessed),
                    Act::GoAwayAndClose => {
                        stream.write_all(&frame(7, 0, 0, &unprocessed)).await?;
                        return stream.shutdown().await;
                    }
                    Act::Silent => Vec::new(),
                    Act::Close | Act::Reset | Act::TimesOut | Act::HalfHead => return stream.shutdown().await,
                }
            }
            4 if head[4] == 0 => frame(4, 1, 0, &[]),
            6 if head[4] == 0 => frame(6, 1, 0, &payload),
            _ => continue,
        };
        stream.write_all(&answer).await?;
    }
}

fn client(settings: &Upstream) -> HttpClient {
    HttpClient::new(settings, &[], &Ourselves::default())
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().expect("no panic"))
}

async fn ask(client: &HttpClient, method: &Method, uri: &str, manner: Manner) -> Result<u16, UpstreamError> {
    let mut request = get(uri);
    *request.method_mut() = method.clone();
    let answer = client.send(request, Purpose::Registry, manner).await?;
    let status = answer.http.status().as_u16();
    answer.http.into_body().collect().await?;
    Ok(status)
}

const ONCE: Manner = Manner { patience: Patience::Full, may_race: false };
const RACED: Manner = Manner { patience: Patience::Full, may_race: true };
const CHECK: Manner = Manner { patience: Patience::Check, may_race: true };

#[tokio::test]
async fn a_request_whose_kept_connection_ends_goes_once_more() {
    for act in [Act::Close, Act::Reset, Act::HalfHead, Act::TimesOut] {
        for method in [Method::GET, Method::HEAD] {
            for manner in [ONCE, RACED, CHECK] {
                let (uri, log) = plain(script(&[(1, 2, act)])).await;
                let client = client(&upstream());
                for _ in 0..2 {
                    let status = ask(&client, &method, &uri, manner).await;
                    assert_eq!(status.expect("answered"), 200, "{act:?} {method} {manner:?}");
                }
                let expected = ["1.1", "1.2", "2.1"].map(|number| format!("{number} {method}"));
                assert_eq!(taken(&log), expected, "{act:?} {manner:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_goes_no_more_than_twice_and_a_fresh_connection_is_no_excuse() {
    for act in [Act::Close, Act::Reset] {
        let (uri, log) = plain(script(&[(1, 2, act), (2, 1, act), (3, 1, act)])).await;
        let client = client(&upstream());
        ask(&client, &Method::GET, &uri, ONCE).await.expect("answered");
        let error = ask(&client, &Method::GET, &uri, ONCE).await.expect_err("closed twice");
        assert_eq!((error.stage, error.kind), (Stage::Head, ErrorKind::Reset), "{act:?}");
        assert_eq!(taken(&log), ["1.1 GET", "1.2 GET", "2.1 GET"], "{act:?}");
        ask(&client, &Method::GET, &uri, ONCE).await.expect_err("closed at once");
        assert_eq!(taken(&log), ["3.1 GET"], "{act:?}");
    }
}

#[tokio::test]
async fn what_has_a_body_or_an_effect_goes_once() {
    for (method, body) in
        [(Method::POST, ""), (Method::PUT, "x"), (Method::PATCH, "x"), (Method::DELETE, ""), (Method::GET, "x")]
    {
        let (uri, log) = plain(script(&[(1, 2, Act::Close)])).await;
        let client = client(&upstream());
        ask(&client, &Method::GET, &uri, ONCE).await.expect("answered");
        let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(&method).uri(&uri).body(body).expect("a request");
        assert!(client.send(request, Purpose::Registry, RACED).await.is_err(), "{method}");
        assert_eq!(taken(&log), ["1.1 GET".to_owned(), format!("1.2 {method}")]);
    }
}

#[tokio::test]
async fn h2_streams_that_were_not_processed_go_once_more() {
    for act in [Act::Refuse, Act::GoAway, Act::GoAwayAndClose, Act::Close] {
        let (uri, log, settings) = h2(script(&[(1, 2, act)])).await;
        let client = client(&settings);
        for manner in [ONCE, CHECK] {
            assert_eq!(ask(&client, &Method::GET, &uri, manner).await.expect("answered"), 200, "{act:?}");
        }
        assert_eq!(taken(&log), ["1.1 h2", "1.2 h2", "2.1 h2"], "{act:?}");
    }
    // On a fresh connection, too: the server said that it did nothing.
    for act in [Act::Refuse, Act::GoAway, Act::GoAwayAndClose] {
        let (uri, log, settings) = h2(script(&[(1, 1, act)])).await;
        assert_eq!(ask(&client(&settings), &Method::GET, &uri, ONCE).await.expect("answered"), 200, "{act:?}");
        assert_eq!(taken(&log), ["1.1 h2", "2.1 h2"], "{act:?}");
    }
}

/// A kept connection that is silent is given up soon, and hears of no other request.
#[tokio::test]
async fn a_silent_kept_connection_is_raced_by_a_fresh_one() {
    let soon = Duration::from_millis(200);
    let settings = |of: Upstream| Upstream { connect_timeout: soon, check_connect_timeout: soon, ..of };
    for (method, manner) in [(Method::HEAD, RACED), (Method::GET, RACED), (Method::HEAD, CHECK)] {
        let (uri, log) = plain(script(&[(1, 2, Act::Silent)])).await;
        let client = client(&settings(upstream()));
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(ask(&client, &method, &uri, manner).await.expect("answered"), 200, "{method} {manner:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the read timeout is longer");
        let expected = ["1.1", "1.2", "2.1", "3.1"].map(|number| format!("{number} {method}"));
        assert_eq!(taken(&log), expected, "{manner:?}");
    }
    let (uri, log, of_h2) = h2(script(&[(1, 2, Act::Silent)])).await;
    let client = client(&settings(of_h2));
    for _ in 0..3 {
        assert_eq!(ask(&client, &Method::HEAD, &uri, RACED).await.expect("answered"), 200);
    }
    assert_eq!(taken(&log), ["1.1 h2", "1.2 h2", "2.1 h2", "3.1 h2"]);
}

#[tokio::test]
async fn what_upstream_counts_is_never_sent_twice_for_silence() {
    let soon = Duration::from_millis(200);
    let (uri, log) = plain(script(&[(1, 2, Act::Silent)])).await;
    let client = client(&Upstream { connect_timeout: soon, read_timeout: soon * 3, ..upstream() });
    ask(&client, &Method::GET, &uri, ONCE).await.expect("answered");
    let error = ask(&client, &Method::GET, &uri, ONCE).await.expect_err("silent");
    assert_eq!((error.stage, error.kind), (Stage::Head, ErrorKind::TimedOut));
    assert_eq!(taken(&log), ["1.1 GET", "1.2 GET"]);
}

/// A listener whose full queue makes the kernel drop further SYNs, and the connections that fill it.
async fn black_hole() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let full = socket.listen(0).expect("listening");
    let address = full.local_addr().expect("an address");
    let mut held = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        held.push(stream.expect("connected"));
        assert!(held.len() < 8, "the queue never fills");
    }
    (full, address, held)
}

/// What a check of a well origin never takes.
const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_origin_without_a_connection_is_remembered_until_one_stands() {
    let settings =
        Upstream { connect_timeout: LONG * 2, check_connect_timeout: Duration::from_millis(200), ..upstream() };
    let (full, address, held) = black_hole().await;
    let (client, uri) = (client(&settings), format!("http://{address}/"));
    let began = Instant::now();
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("no connection");
    assert_eq!((error.stage, error.kind), (Stage::Connect, ErrorKind::TimedOut));
    for _ in 0..100 {
        let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("remembered");
        assert_eq!(error.kind, ErrorKind::Remembered);
    }
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    // Another port of the host is another origin.
    let (well, other) = listener().await;
    tokio::spawn(serve_plain(well));
    assert_eq!(ask(&client, &Method::HEAD, &format!("http://{other}/"), CHECK).await.expect("answered"), 200);
    // A request that has nothing to fall back on goes out all the same, and waits.
    let patient = ask(&client, &Method::GET, &uri, ONCE);
    assert!(timeout(Duration::from_millis(400), patient).await.is_err());
    drop(held);
    tokio::spawn(serve_plain(full));
    let recovering = async {
        while ask(&client, &Method::HEAD, &uri, CHECK).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, recovering).await.expect("the probe finds it");
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_no_connection() {
    let settings = Upstream { check_connect_timeout: Duration::from_millis(200), ..upstream() };
    let (_silent, address) = listener().await;
    let (client, uri) = (client(&settings), format!("https://{address}/"));
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("no handshake");
    assert_eq!(error.kind, ErrorKind::TimedOut);
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("remembered");
    assert_eq!(error.kind, ErrorKind::Remembered);
}

/// A pull without a fallback finds out as well, and the checks after it do not wait.
#[tokio::test]
async fn what_a_patient_request_finds_out_is_remembered_too() {
    let settings = Upstream { check_connect_timeout: Duration::from_millis(200), ..upstream() };
    let (_full, address, _held) = black_hole().await;
    let (client, uri) = (client(&settings), format!("http://{address}/"));
    let patient = ask(&client, &Method::GET, &uri, ONCE);
    assert!(timeout(Duration::from_millis(600), patient).await.is_err());
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("remembered");
    assert_eq!(error.kind, ErrorKind::Remembered);
}

/// A kept connection to an origin that is gone: nothing says so, and no other connection stands.
#[tokio::test]
async fn a_dead_kept_connection_does_not_stretch_a_check() {
    let settings = Upstream { check_connect_timeout: Duration::from_millis(400), ..upstream() };
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let server = socket.listen(0).expect("listening");
    let address = server.local_addr().expect("an address");
    let (client, uri) = (client(&settings), format!("http://{address}/"));
    let kept = tokio::spawn(async move {
        let (stream, _) = server.accept().await.expect("a connection");
        speak_http_1(stream, 1, script(&[(1, 2, Act::Silent)]), Log::default()).await;
        drop(server);
    });
    ask(&client, &Method::HEAD, &uri, CHECK).await.expect("answered");
    let mut held = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        held.push(stream.expect("connected"));
    }
    let began = Instant::now();
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("nobody answers");
    assert_eq!((error.stage, error.kind), (Stage::Connect, ErrorKind::TimedOut));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("remembered");
    assert_eq!(error.kind, ErrorKind::Remembered);
    kept.abort();
}

#[tokio::test]
async fn a_connected_upstream_has_the_time_of_a_check() {
    let settings = Upstream { check_timeout: Duration::from_millis(300), ..upstream() };
    let (uri, log) = plain(script(&[(1, 1, Act::Silent)])).await;
    let client = client(&settings);
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("silent");
    assert_eq!((error.stage, error.kind), (Stage::Head, ErrorKind::TimedOut));
    let error = ask(&client, &Method::HEAD, &uri, CHECK).await.expect_err("remembered");
    assert_eq!(error.kind, ErrorKind::Remembered);
    assert_eq!(taken(&log), ["1.1 HEAD"]);
    // An answer to anybody ends it.
    ask(&client, &Method::GET, &uri, ONCE).await.expect("answered");
    ask(&client, &Method::HEAD, &uri, CHECK).await.expect("answered");
}
