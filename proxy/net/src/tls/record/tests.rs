//! Our record layer against rustls's: a real handshake each, then records by hand.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConnection, ContentType, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{HEADER_BYTES, RECORD_MAX_BYTES, Received, RecordError, Session, record_bytes};
use crate::tls::handshake::accept;
use crate::tls::tests::{PATIENCE, client_with, host, roots, store};

/// A client's connection and ours, after their handshake.
async fn shaken(suite: SupportedCipherSuite) -> (ClientConnection, Session) {
    let store = store();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let client = TlsConnector::from(Arc::new(client_with(provider, roots(&store), &[version(suite)])));
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let (near, far) = tokio::io::duplex(1 << 20);
    let name = ServerName::try_from("ghcr.io").expect("a name");
    let (served, connected) = tokio::join!(accept(far, config, PATIENCE), client.connect(name, near));
    let (mut near, mut client) = connected.expect("connected").into_inner();
    let secured = served.expect("accepted");
    drop(secured.io);
    // Tickets that the client has not read yet.
    let mut left = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut near, &mut left).await.expect("read");
    take(&mut client, &left);
    (client, Session::new(secured.extracted, secured.secrets).expect("a session"))
}

fn version(suite: SupportedCipherSuite) -> &'static SupportedProtocolVersion {
    if suite.tls13().is_some() { &TLS13 } else { &TLS12 }
}

/// All suites that a client can agree on with an EC leaf.
fn suites() -> Vec<SupportedCipherSuite> {
    let all = aws_lc_rs::default_provider().cipher_suites;
    all.into_iter().filter(|suite| !format!("{:?}", suite.suite()).contains("RSA")).collect()
}

fn suite(name: &str) -> SupportedCipherSuite {
    suites().into_iter().find(|suite| format!("{:?}", suite.suite()) == name).expect("known")
}

fn take(client: &mut ClientConnection, mut records: &[u8]) {
    while !records.is_empty() {
        client.read_tls(&mut records).expect("room");
        client.process_new_packets().expect("honest records");
    }
}

/// Everything the client has to send, a record each.
fn records(client: &mut ClientConnection) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("written");
    }
    let mut records = Vec::new();
    while let Some(length) = record_bytes(&bytes).expect("records") {
        let rest = bytes.split_off(length);
        records.push(std::mem::replace(&mut bytes, rest));
    }
    assert!(bytes.is_empty());
    records
}

fn sealed(session: &mut Session, content: &[u8]) -> Vec<u8> {
    let sealer = session.sealer().expect("a key");
    let mut record = vec![0; sealer.prefix_bytes()];
    record.extend_from_slice(content);
    record.resize(record.len() + sealer.suffix_bytes(), 0);
    sealer.seal(ContentType::ApplicationData, &mut record).expect("sealed");
    [replied(session), record].concat()
}

fn replied(session: &mut Session) -> Vec<u8> {
    session.take_replies().into_iter().flat_map(|reply| reply.bytes).collect()
}

fn said(session: &mut Session, client: &mut ClientConnection, content: &[u8]) {
    take(client, &sealed(session, content));
    let mut read = vec![0; content.len()];
    client.reader().read_exact(&mut read).expect("content");
    assert!(read == content);
}

fn heard(session: &mut Session, client: &mut ClientConnection, content: &[u8]) {
    client.writer().write_all(content).expect("room");
    let mut read = Vec::new();
    for mut record in records(client) {
        match session.receive(&mut record).expect("an honest record") {
            Received::Data(range) => read.extend_from_slice(&record[range]),
            other => assert_eq!(other, Received::Nothing),
        }
    }
    assert!(read == content);
    take(client, &replied(session));
}

#[tokio::test]
async fn every_suite_of_both_versions_carries_both_directions() {
    assert_eq!(suites().len(), 6);
    for suite in suites() {
        let (mut client, mut session) = shaken(suite).await;
        for length in [1, 15, 16, 17, 1000, RECORD_MAX_BYTES - 1, RECORD_MAX_BYTES] {
            let content: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            said(&mut session, &mut client, &content);
            heard(&mut session, &mut client, &content);
        }
        session.close().expect("closed");
        take(&mut client, &replied(&mut session));
        assert_eq!(client.reader().read(&mut [0]).expect("a clean end"), 0);
        client.send_close_notify();
        let mut close = records(&mut client).pop().expect("a record");
        assert_eq!(session.receive(&mut close), Ok(Received::Closed));
    }
}

#[tokio::test]
async fn keys_change_when_the_client_wants_and_when_they_are_worn() {
    let (mut client, mut session) = shaken(suite("TLS13_AES_128_GCM_SHA256")).await;
    for round in 0..5 {
        client.refresh_traffic_keys().expect("TLS 1.3");
        heard(&mut session, &mut client, b"under the client's next key");
        said(&mut session, &mut client, b"an answer");
        if round % 2 == 0 {
            session.wear_out();
        }
        said(&mut session, &mut client, b"under our next key");
    }
    let (mut client, mut session) = shaken(suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")).await;
    said(&mut session, &mut client, b"while the key lasts");
    session.wear_out();
    assert_eq!(session.sealer().err(), Some(RecordError::WornOut));
}

#[tokio::test]
async fn a_changed_record_is_refused_wherever_it_was_changed() {
    for suite in suites() {
        for at in [0, 1, 4, HEADER_BYTES, HEADER_BYTES + 9, usize::MAX] {
            if at == 4 && suite.tls13().is_none() {
                // There the length is what the record was cut by, and authenticated as that.
                continue;
            }
            let (mut client, mut session) = shaken(suite).await;
            client.writer().write_all(b"twenty-four bytes of text").expect("room");
            let mut record = records(&mut client).remove(0);
            let at = at.min(record.len() - 1);
            record[at] ^= 1;
            let error = session.receive(&mut record).expect_err("changed");
            let RecordError::Broken { alert, .. } = error else { panic!("{error}") };
            // The client learns why.
            let reply = replied(&mut session);
            let mut reply = &reply[..];
            client.read_tls(&mut reply).expect("room");
            let told = client.process_new_packets().expect_err("a fatal alert");
            assert_eq!(told, rustls::Error::AlertReceived(alert), "{suite:?} at {at}");
        }
    }
}

#[tokio::test]
async fn replayed_and_reordered_records_are_refused() {
    for suite in suites() {
        let (mut client, mut session) = shaken(suite).await;
        client.writer().write_all(b"first").expect("room");
        let first = records(&mut client).remove(0);
        session.receive(&mut first.clone()).expect("once");
        session.receive(&mut first.clone()).expect_err("never twice");
    }
}

#[tokio::test]
async fn what_has_no_place_after_the_handshake_is_refused() {
    for (what, header, length, alert) in [
        ("plain alert", [21, 3, 3, 0, 2], 2, AlertDescription::UnexpectedMessage),
        ("change cipher spec", [20, 3, 3, 0, 1], 1, AlertDescription::UnexpectedMessage),
        ("too short", [23, 3, 3, 0, 3], 3, AlertDescription::BadRecordMac),
        ("empty", [23, 3, 3, 0, 0], 0, AlertDescription::BadRecordMac),
        ("too long", [23, 3, 3, 0x41, 0x01], 0x4101, AlertDescription::RecordOverflow),
        ("random", [23, 3, 3, 0, 64], 64, AlertDescription::BadRecordMac),
    ] {
        let (_, mut session) = shaken(suite("TLS13_AES_128_GCM_SHA256")).await;
        let mut record = header.to_vec();
        record.resize(HEADER_BYTES + length, 7);
        match session.receive(&mut record) {
            Err(RecordError::Broken { alert: told, .. }) => assert_eq!(told, alert, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn lengths_are_known_from_the_header_and_bounded() {
    assert_eq!(record_bytes(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(record_bytes(&[23, 3, 3, 1, 2, 9]), Ok(Some(5 + 258)));
    assert_eq!(record_bytes(&[23, 3, 3, 0x48, 0]), Ok(Some(5 + 0x4800)));
    assert!(matches!(record_bytes(&[23, 3, 3, 0x48, 1]), Err(RecordError::Broken { .. })));
    assert!(matches!(record_bytes(b"GET / HTTP/1.1"), Err(RecordError::Broken { .. })));
}

#[tokio::test]
async fn a_client_that_only_keeps_us_busy_is_ended() {
    let (mut client, mut session) = shaken(suite("TLS13_AES_256_GCM_SHA384")).await;
    let mut updates = 0;
    let ended = loop {
        client.refresh_traffic_keys().expect("TLS 1.3");
        let mut record = records(&mut client).remove(0);
        match session.receive(&mut record) {
            Ok(received) => assert_eq!(received, Received::Nothing),
            Err(error) => break error,
        }
        take(&mut client, &replied(&mut session));
        updates += 1;
        assert!(updates < 100, "for ever");
    };
    assert!(matches!(ended, RecordError::Broken { alert: AlertDescription::UnexpectedMessage, .. }), "{ended}");
}
