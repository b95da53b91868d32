//! Real rustls clients on the other end of a socket. This process encrypts, or a kernel that the tests have with them
//! (`testing::Kernel`), so that both ways of sending are tested on every machine. `tests/vm` has a real kernel with
//! TLS.

use std::sync::Arc;

use bytes::Bytes;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::stream::handshake::tests::{client_with, host, roots, store};
use crate::stream::handshake::{accept, shake};
use crate::stream::testing::{Done, Kernel, PATIENCE, mapped_file, socket_pair, write_all};

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// A connection whose sockets hold about `buffer_bytes`.
async fn pair(version: &'static rustls::SupportedProtocolVersion, buffer_bytes: usize) -> (Tls, TlsStream<TcpStream>) {
    let store = store();
    let client = client_with(aws_lc_rs::default_provider(), roots(&store), &[version]);
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let (socket, near) = socket_pair(PATIENCE).await;
    SockRef::from(socket.tcp()).set_send_buffer_size(buffer_bytes).expect("an option");
    SockRef::from(&near).set_recv_buffer_size(buffer_bytes).expect("an option");
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("ghcr.io").expect("a name");
    let (served, client) = tokio::join!(accept(socket, config, PATIENCE, false), connector.connect(name, near));
    (served.expect("accepted"), client.expect("connected"))
}

/// Writes these slices and ends the connection. The client receives exactly the bytes that are expected.
async fn arrives(mut tls: Tls, mut client: TlsStream<TcpStream>, slices: Vec<Bytes>, expected: Vec<u8>) {
    let writing = tokio::spawn(async move {
        write_all(&mut tls, slices).await.expect("written");
        tls.shutdown().await.expect("ended");
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.expect("a clean end");
    writing.await.expect("no panic");
    assert!(received == expected);
}

fn drop_cache(file: &std::fs::File) {
    nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n / 5) as u8).collect()
}

#[tokio::test]
async fn heads_memory_and_files_arrive_in_order_warm_and_cold() {
    let content = content(3_000_000);
    let file = mapped_file(&content);
    for version in BOTH {
        for (buffer_bytes, cold) in [(100_000, false), (1 << 20, false), (200_000, true)] {
            if cold {
                drop_cache(file.file());
            }
            let (tls, client) = pair(version, buffer_bytes).await;
            let slices = vec![
                Bytes::from_static(b"head"),
                file.slice(100..1_500_000),
                Bytes::from(vec![9; 40_000]),
                Bytes::new(),
                file.slice(0..20),
                file.slice(1_500_000..3_000_000),
                Bytes::from_static(b"tail"),
            ];
            let expected = slices.concat();
            drop_cache(file.file());
            arrives(tls, client, slices, expected).await;
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_ends_the_connection_and_nothing_else() {
    let file = mapped_file(&[5; 500_000]);
    let (mut tls, mut client) = pair(&TLS13, 1 << 20).await;
    // Slices of every size. No page of them was touched before.
    file.file().set_len(100_000).expect("cut");
    let slices = vec![file.slice(0..100_000), file.slice(100_000..100_007), file.slice(200_000..500_000)];
    let error = write_all(&mut tls, slices).await.expect_err("cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    drop(tls);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.expect_err("no clean end");
    assert_eq!(received.len(), 100_000);
}

#[tokio::test]
async fn both_directions_go_on_at_once_and_keys_change_meanwhile() {
    let (mut tls, mut client) = pair(&TLS13, 100_000).await;
    let sent = content(2_000_000);
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let mut heard = Vec::new();
        let mut piece = vec![0; 10_000];
        loop {
            let read = tls.read(&mut piece).await.expect("read");
            if read == 0 {
                break;
            }
            heard.extend_from_slice(&piece[..read]);
            tls.write_all(&piece[..read]).await.expect("written");
            tls.flush().await.expect("flushed");
        }
        tls.shutdown().await.expect("ended");
        heard
    });
    let mut back = Vec::new();
    for piece in sent.chunks(50_000) {
        client.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
        client.write_all(piece).await.expect("written");
        client.flush().await.expect("flushed");
        let start = back.len();
        back.resize(start + piece.len(), 0);
        client.read_exact(&mut back[start..]).await.expect("echoed");
    }
    client.shutdown().await.expect("ended");
    assert_eq!(client.read(&mut [0]).await.expect("a clean end"), 0);
    assert!(echo.await.expect("no panic") == expected && back == expected);
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_is_no_clean_end() {
    for version in BOTH {
        let (mut tls, client) = pair(version, 100_000).await;
        client.into_inner().0.shutdown().await.expect("ended");
        let error = tls.read(&mut [0]).await.expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn nonsense_is_answered_by_an_alert() {
    let (mut tls, client) = pair(&TLS13, 100_000).await;
    let (mut pipe, mut session) = client.into_inner();
    pipe.write_all(b"GET /v2/ HTTP/1.1\r\n\r\n").await.expect("written");
    tls.read(&mut [0]).await.expect_err("no record");
    let mut answer = vec![0; 1000];
    let mut length = 0;
    // Session tickets come first.
    let told = loop {
        let read = pipe.read(&mut answer).await.expect("read");
        assert!(read > 0, "no alert after {length} bytes");
        length += read;
        let mut answer = &answer[..read];
        while !answer.is_empty() {
            session.read_tls(&mut answer).expect("room");
        }
        if let Err(error) = session.process_new_packets() {
            break error;
        }
    };
    assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told}");
}

const SUITES: [&str; 3] = ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"];

/// A connection with this suite, over which `kernel` encrypts.
async fn pair_with(kernel: Kernel, suite: &str) -> (Tls, TlsStream<TcpStream>) {
    let store = store();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|known| format!("{:?}", known.suite()) == suite);
    let client = client_with(provider, roots(&store), &[&TLS13]);
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let (mut socket, near) = socket_pair(PATIENCE).await;
    socket.kernel = Some(kernel);
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("ghcr.io").expect("a name");
    let (secured, client) = tokio::join!(shake(socket, config), connector.connect(name, near));
    (Tls::with(secured.expect("accepted"), true).expect("taken over"), client.expect("connected"))
}

/// Everything that the connection's kernel did.
fn done(tls: &Tls) -> &[Done] {
    &tls.socket.kernel.as_ref().expect("a kernel").done
}

/// Sends back everything that comes, under a key that each write wears out.
async fn echo(mut tls: Tls) -> (Tls, io::Result<()>) {
    tls.session.limit_key_use(2);
    let mut piece = vec![0; 10_000];
    let ended = loop {
        let read = match tls.read(&mut piece).await {
            Ok(0) => break tls.shutdown().await,
            Ok(read) => read,
            Err(error) => break Err(error),
        };
        if let Err(error) = tls.write_all(&piece[..read]).await {
            break Err(error);
        }
    };
    (tls, ended)
}

#[tokio::test]
async fn a_kernels_keys_change_for_both_reasons_and_everything_arrives() {
    for suite in SUITES {
        let (tls, mut client) = pair_with(Kernel::new(true), suite).await;
        let echoing = tokio::spawn(echo(tls));
        for round in 0..20u8 {
            if round % 3 == 0 {
                client.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
            }
            let sent = vec![round; 30_000];
            client.write_all(&sent).await.expect("written");
            client.flush().await.expect("flushed");
            let mut heard = vec![0; 30_000];
            client.read_exact(&mut heard).await.expect("echoed");
            assert!(heard == sent, "{suite}, round {round}");
        }
        client.shutdown().await.expect("ended");
        assert_eq!(client.read(&mut [0]).await.expect("a clean end"), 0);
        let (tls, ended) = echoing.await.expect("no panic");
        ended.expect("a clean end");
        assert_eq!(done(&tls).last(), Some(&Done::Alert));
        let count = |what| done(&tls).iter().filter(|done| **done == what).count();
        assert!(count(Done::KeyChanged) >= count(Done::Data) + 20 / 3, "each write and each question changes the key");
    }
}

#[tokio::test]
async fn a_key_that_a_write_wore_out_is_changed_before_the_next_write() {
    use Done::{Alert, Data, KeyChanged, KeyUpdate};
    let (mut tls, mut client) = pair_with(Kernel::new(true), SUITES[0]).await;
    tls.session.limit_key_use(2);
    for byte in *b"abc" {
        assert_eq!(tls.write(&[byte]).await.expect("written"), 1);
    }
    let (update, end) = ([KeyUpdate, KeyChanged], [Alert]);
    assert_eq!(done(&tls), [&[Data][..], &update, &[Data], &update, &[Data]].concat());
    tls.shutdown().await.expect("ended");
    assert_eq!(done(&tls)[7..], [&update[..], &end].concat());
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.expect("a clean end");
    assert_eq!(heard, b"abc");
}

#[tokio::test]
async fn mapped_files_and_memory_arrive_in_order_through_a_kernel() {
    let content = content(300_000);
    let file = mapped_file(&content);
    let (tls, client) = pair_with(Kernel::new(true), SUITES[0]).await;
    let slices = vec![Bytes::from_static(b"head"), file.slice(100..300_000), Bytes::from_static(b"tail")];
    let expected = slices.concat();
    arrives(tls, client, slices, expected).await;
}

#[tokio::test]
async fn a_kernel_that_takes_no_second_key_ends_the_connection() {
    let (tls, mut client) = pair_with(Kernel::new(false), SUITES[0]).await;
    let echoing = tokio::spawn(echo(tls));
    client.write_all(b"once").await.expect("written");
    client.flush().await.expect("flushed");
    let mut heard = [0; 4];
    client.read_exact(&mut heard).await.expect("under the first key");
    let (mut tls, ended) = echoing.await.expect("no panic");
    assert_eq!(ended.expect_err("refused").kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(tls.write(b"twice").await.expect_err("the key is worn out").kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(tls.shutdown().await.expect_err("not even an alert").kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(done(&tls), [Done::Data, Done::KeyUpdate]);
    drop(tls);
    client.read_exact(&mut heard).await.expect_err("no clean end");
}

#[tokio::test]
async fn a_kernel_sends_the_alert_that_answers_a_forged_record() {
    let (mut tls, client) = pair_with(Kernel::new(true), SUITES[0]).await;
    let (mut pipe, mut session) = client.into_inner();
    let forged: Vec<u8> = [23, 3, 3, 0, 20].into_iter().chain(1..=20).collect();
    pipe.write_all(&forged).await.expect("written");
    tls.read(&mut [0]).await.expect_err("no record of the client");
    drop(tls);
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.expect("read");
    let mut answer = &answer[..];
    let told = loop {
        session.read_tls(&mut answer).expect("room");
        if let Err(error) = session.process_new_packets() {
            break error;
        }
        assert!(!answer.is_empty(), "no alert");
    };
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
}
