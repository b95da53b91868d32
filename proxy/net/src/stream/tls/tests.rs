//! Real rustls clients on the other end of a socket.

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
use crate::stream::handshake::accept;
use crate::stream::handshake::tests::{client_with, host, roots, store};
use crate::stream::testing::{PATIENCE, mapped_file, socket_pair, write_all};

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
            let (mut tls, mut client) = pair(version, buffer_bytes).await;
            let slices = vec![
                Bytes::from_static(b"head"),
                file.slice(100..1_500_000),
                Bytes::from(vec![9; 40_000]),
                Bytes::new(),
                file.slice(0..20),
                file.slice(1_500_000..3_000_000),
                Bytes::from_static(b"tail"),
            ];
            let expected: Vec<u8> = slices.iter().flat_map(|bytes| bytes.to_vec()).collect();
            drop_cache(file.file());
            let writing = tokio::spawn(async move {
                write_all(&mut tls, slices).await.expect("written");
                tls.shutdown().await.expect("ended");
            });
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.expect("a clean end");
            writing.await.expect("no panic");
            assert!(received == expected);
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
