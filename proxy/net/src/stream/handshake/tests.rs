//! Real handshakes in process: rustls clients against our leaves, over loopback.

use std::io::{self, IoSlice, Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use entrepot_core::host::RegistryHost;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::parse_x509_certificate;

use super::{HandshakeError, accept, classify};
use crate::stream::client_socket::ClientSocket;
use crate::stream::testing::{PATIENCE, socket_pair};
use crate::stream::tls::Tls;
use crate::tls::authority::Authority;
use crate::tls::certificate::CaCertificate;
use crate::tls::key::{CaKey, encode};
use crate::tls::leaf::{Clock, LeafStore};
use crate::tls::testdata::{EC_CA, EC_SEC1, RSA_CA, RSA_TRADITIONAL_3DES, ca_files};
use crate::tls::{OwnKey, Whose};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn host(text: &str) -> RegistryHost {
    text.parse().expect(text)
}

fn authority(certificate: &str, key: &str) -> Authority {
    let folder = tempfile::tempdir().expect("a folder");
    let files = ca_files(folder.path());
    if !certificate.is_empty() {
        std::fs::write(&files.certificate, certificate).expect("written");
        std::fs::write(&files.key, key).expect("written");
    }
    Authority::open_or_create(&files).expect("a CA")
}

fn store_of(authority: Authority, lifetime: Duration, clock: Clock) -> Arc<LeafStore> {
    Arc::new(LeafStore::new(Arc::new(authority), OwnKey::generate().expect("a key"), lifetime, clock).expect("a store"))
}

pub(crate) fn store() -> Arc<LeafStore> {
    store_of(authority("", ""), 7 * DAY, SystemTime::now)
}

/// Trusts the last certificate of the CA's file, which is the root.
pub(crate) fn roots(store: &LeafStore) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let blocks = pem::parse_many(store.authority().certificate_pem()).expect("PEM");
    let root = blocks.last().expect("a root").contents().to_vec();
    roots.add(CertificateDer::from(root)).expect("a usable root");
    roots
}

pub(crate) fn client(store: &LeafStore, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    client_with(aws_lc_rs::default_provider(), roots(store), versions)
}

pub(crate) fn client_with(
    provider: CryptoProvider,
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A connection over which a byte went in both directions, as the client saw it.
#[derive(Debug)]
struct Seen {
    version: Option<ProtocolVersion>,
    suite: Option<CipherSuite>,
    kind: Option<HandshakeKind>,
    alpn: Option<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
}

struct Outcome {
    client: io::Result<Seen>,
    server: Result<(), HandshakeError>,
}

/// A client's socket that sends pieces. It lets the server read each one before it sends the next.
struct Pieces {
    io: TcpStream,
    piece_bytes: usize,
    /// More of the same bytes follow.
    is_amid: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buf)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.is_amid) && pin!(tokio::task::yield_now()).poll(context).is_pending() {
            return Poll::Pending;
        }
        let piece = &bytes[..bytes.len().min(self.piece_bytes)];
        self.is_amid = piece.len() < bytes.len();
        Pin::new(&mut self.io).poll_write(context, piece)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // rustls's last message before an error is sent in one write or not at all.
        if slices.iter().map(|slice| slice.len()).sum::<usize>() <= self.piece_bytes {
            return Pin::new(&mut self.io).poll_write_vectored(context, slices);
        }
        self.poll_write(context, slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Connects. The client's bytes arrive in pieces of `piece_bytes`.
async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str, piece_bytes: usize) -> Outcome {
    let (socket, near) = socket_pair(PATIENCE).await;
    let near = Pieces { io: near, piece_bytes, is_amid: false };
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let served = async {
        let mut stream = accept(socket, server, PATIENCE, false).await?;
        // If the client left after the handshake, the client's side shows it.
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.expect("the client reads");
            stream.flush().await.expect("the client reads");
        }
        Ok(())
    };
    let asked = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        let (_, session) = stream.get_ref();
        Ok(Seen {
            version: session.protocol_version(),
            suite: session.negotiated_cipher_suite().map(|suite| suite.suite()),
            kind: session.handshake_kind(),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            chain: session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect(),
        })
    };
    let (server, client) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(served, asked) }).await.expect("in time");
    Outcome { client, server }
}

async fn seen(store: &Arc<LeafStore>, client: &Arc<ClientConfig>, name: &str) -> Seen {
    let config = store.server_config(&host(name)).await.expect("a leaf");
    let outcome = connect(config, Arc::clone(client), name, 16_384).await;
    outcome.server.expect("accepted");
    outcome.client.expect("connected")
}

#[tokio::test]
async fn each_version_prefers_aes_128_whatever_the_client_prefers() {
    let store = store();
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        for last in [false, true] {
            let mut provider = aws_lc_rs::default_provider();
            // ChaCha and AES-256 come before AES-128 in one round. The other round has no AES-128.
            provider.cipher_suites.sort_by_key(|suite| format!("{:?}", suite.suite()).contains("AES_128"));
            provider.cipher_suites.retain(|suite| !last || !format!("{:?}", suite.suite()).contains("AES_128"));
            let client = Arc::new(client_with(provider, roots(&store), &[version]));
            let seen = seen(&store, &client, "ghcr.io").await;
            assert_eq!(seen.version, Some(version.version));
            assert_eq!(seen.suite == Some(suite), !last, "{seen:?}");
        }
    }
}

#[tokio::test]
async fn clients_without_sni_and_address_literals_get_their_name() {
    let store = store();
    for sni in [true, false] {
        let mut client = client(&store, &[&TLS13, &TLS12]);
        client.enable_sni = sni;
        let client = Arc::new(client);
        let long = format!("{}.{}.example", "a".repeat(63), "b".repeat(63));
        for name in ["ghcr.io", "my_reg.example", "10.1.2.3", "2001:db8::1", &long] {
            let seen = seen(&store, &client, name).await;
            assert_eq!(seen.chain.len(), 1, "{name}");
        }
    }
}

#[tokio::test]
async fn sni_does_not_choose_the_certificate() {
    let store = store();
    let client = Arc::new(client(&store, &[&TLS13]));
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let outcome = connect(config, client, "quay.io", 16_384).await;
    assert!(outcome.client.expect_err("another name").to_string().contains("quay.io"));
}

#[tokio::test]
async fn both_versions_resume() {
    let store = store();
    for version in [&TLS13, &TLS12] {
        for sni in [true, false] {
            let mut client = client(&store, &[version]);
            client.enable_sni = sni;
            let client = Arc::new(client);
            let first = seen(&store, &client, "ghcr.io").await;
            assert_ne!(first.kind, Some(HandshakeKind::Resumed));
            let second = seen(&store, &client, "ghcr.io").await;
            assert_eq!(second.kind, Some(HandshakeKind::Resumed), "{version:?}, SNI {sni}");
            let other = seen(&store, &client, "quay.io").await;
            assert_ne!(other.kind, Some(HandshakeKind::Resumed));
        }
    }
    // TLS 1.2 without tickets: sessions are found by their number, in the bounded cache.
    let mut by_number = client(&store, &[&TLS12]);
    by_number.resumption =
        Resumption::in_memory_sessions(8).tls12_resumption(rustls::client::Tls12Resumption::SessionIdOnly);
    let by_number = Arc::new(by_number);
    seen(&store, &by_number, "ghcr.io").await;
    assert_eq!(seen(&store, &by_number, "ghcr.io").await.kind, Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn http_1_is_the_only_protocol() {
    let store = store();
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    for (offered, expected) in [
        (&[][..], Ok(None)),
        (&["http/1.1"], Ok(Some("http/1.1"))),
        (&["h2", "http/1.1"], Ok(Some("http/1.1"))),
        (&["h2"], Err(())),
    ] {
        let mut client = client(&store, &[&TLS13, &TLS12]);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let outcome = connect(Arc::clone(&config), Arc::new(client), "ghcr.io", 16_384).await;
        match expected {
            Ok(alpn) => assert_eq!(outcome.client.expect("connected").alpn.as_deref(), alpn.map(str::as_bytes)),
            Err(()) => {
                assert!(matches!(outcome.server, Err(HandshakeError::NoCommonProtocol)), "{:?}", outcome.server);
                let told = outcome.client.expect_err("refused").to_string();
                assert!(told.contains("NoApplicationProtocol"), "the client gets the alert: {told}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_without_our_ca_is_told_how_to_get_it() {
    let (store, stranger) = (store(), store());
    for version in [&TLS13, &TLS12] {
        let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
        let outcome = connect(config, Arc::new(client(&stranger, &[version])), "ghcr.io", 16_384).await;
        let error = outcome.server.expect_err("refused");
        assert!(matches!(error, HandshakeError::Untrusted { alert: "unknown_ca" }), "{error:?}");
        assert!(error.to_string().contains("/ca.crt") && error.to_string().contains("entrepot ca export"));
    }
}

#[tokio::test]
async fn a_hello_in_any_pieces_is_understood() {
    let store = store();
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    for version in [&TLS13, &TLS12] {
        // One byte at a time; then also many records for one message.
        for fragment in [None, Some(32)] {
            let mut client = client(&store, &[version]);
            client.max_fragment_size = fragment;
            client.alpn_protocols = vec![b"http/1.1".to_vec()];
            let outcome = connect(Arc::clone(&config), Arc::new(client), "ghcr.io", 1).await;
            outcome.server.expect("accepted");
            outcome.client.expect("connected");
        }
    }
}

#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let store = store();
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let name = ServerName::try_from("ghcr.io").expect("a name");
    for closes in [false, true] {
        let mut session = ClientConnection::new(Arc::new(client(&store, &[&TLS13])), name.clone()).expect("a client");
        let (socket, mut near) = socket_pair(PATIENCE).await;
        let served = tokio::spawn(serve_a_byte(socket, Arc::clone(&config)));
        let mut flight = Vec::new();
        while session.is_handshaking() {
            session.write_tls(&mut flight).expect("memory");
            near.write_all(&std::mem::take(&mut flight)).await.expect("written");
            receive(&mut session, &mut near).await;
        }
        // At once: the last message of the handshake, a key update that asks for one, a byte, and perhaps the end.
        session.refresh_traffic_keys().expect("TLS 1.3");
        session.writer().write_all(b"x").expect("memory");
        if closes {
            session.send_close_notify();
        }
        while session.wants_write() {
            session.write_tls(&mut flight).expect("memory");
        }
        near.write_all(&flight).await.expect("written");
        let mut heard = [0];
        while session.reader().read(&mut heard).is_err() {
            receive(&mut session, &mut near).await;
        }
        assert_eq!(&heard, b"x");
        if closes {
            assert_eq!(served.await.expect("no panic").read(&mut heard).await.expect("a clean end"), 0);
        }
    }
}

/// Takes a byte and sends it back.
async fn serve_a_byte(socket: ClientSocket, config: Arc<ServerConfig>) -> Tls {
    let mut stream = accept(socket, config, PATIENCE, false).await.expect("accepted");
    let byte = stream.read_u8().await.expect("a byte");
    stream.write_u8(byte).await.expect("written");
    stream.flush().await.expect("flushed");
    stream
}

async fn receive(session: &mut ClientConnection, near: &mut TcpStream) {
    let mut bytes = vec![0; 16 * 1024];
    let read = near.read(&mut bytes).await.expect("read");
    assert!(read > 0, "the server left");
    session.read_tls(&mut &bytes[..read]).expect("room");
    session.process_new_packets().expect("under the right key");
}

#[tokio::test]
async fn a_silent_client_is_dropped_in_time() {
    let store = store();
    let config = store.mint(&["ghcr.io".into()], Whose::Others, "ghcr.io").expect("a leaf");
    for prefix in [&b""[..], &[22, 3, 1, 2, 0, 1]] {
        let (socket, mut near) = socket_pair(PATIENCE).await;
        near.write_all(prefix).await.expect("written");
        let accepted = accept(socket, Arc::clone(&config), Duration::from_millis(30), false).await;
        let error = accepted.map(|_| ()).expect_err("too slow");
        assert!(matches!(error, HandshakeError::Timeout { timeout_ms: 30 }), "{error:?}");
    }
    let (socket, mut near) = socket_pair(PATIENCE).await;
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let error = accept(socket, config, PATIENCE, false).await.map(|_| ()).expect_err("no TLS");
    assert!(matches!(error, HandshakeError::Other(_)), "{error:?}");
}

#[tokio::test]
async fn a_message_that_is_too_long_for_its_kind_is_an_error_without_an_alert() {
    let store = store();
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let (socket, mut near) = socket_pair(PATIENCE).await;
    near.write_all(b"\x16\x03\x01\0\x05hello").await.expect("written");
    let error = accept(socket, config, PATIENCE, false).await.map(|_| ()).expect_err("no handshake");
    assert!(error.to_string().contains("HandshakePayloadTooLarge"), "{error}");
}

#[tokio::test]
async fn the_predecessors_rsa_ca_and_a_corporate_ca_are_trusted() {
    for (certificate, key) in [(RSA_CA, RSA_TRADITIONAL_3DES), (EC_CA, EC_SEC1)] {
        let store = store_of(authority(certificate, key), 7 * DAY, SystemTime::now);
        for version in [&TLS13, &TLS12] {
            let client = Arc::new(client(&store, &[version]));
            let seen = seen(&store, &client, "registry-1.docker.io").await;
            let (_, leaf) = parse_x509_certificate(&seen.chain[0]).expect("X.509");
            let ca = CaCertificate::from_pem(certificate.as_bytes()).expect("a CA");
            assert_eq!(leaf.issuer().as_raw(), ca.subject_der, "byte for byte");
        }
    }
}

#[tokio::test]
async fn an_intermediate_is_sent_along_and_its_root_is_not() {
    let (root_key, key) = (CaKey::generate().expect("a key"), CaKey::generate().expect("a key"));
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "the root");
    let root = params.self_signed(root_key.pair()).expect("a root");
    let issuer = rcgen::Issuer::new(params.clone(), root_key.pair());
    params.distinguished_name.push(rcgen::DnType::CommonName, "the intermediate");
    let intermediate = params.signed_by(key.pair(), &issuer).expect("an intermediate");
    let file = format!("{}{}", encode("CERTIFICATE", intermediate.der()), encode("CERTIFICATE", root.der()));
    let store = store_of(authority(&file, &key.to_pem()), 7 * DAY, SystemTime::now);
    assert_eq!(store.authority().subject(), "CN=the intermediate");
    let client = Arc::new(client(&store, &[&TLS13]));
    let seen = seen(&store, &client, "ghcr.io").await;
    assert_eq!(seen.chain[1..], [intermediate.der().clone()]);
}

static CLOCK_OFFSET_S: AtomicI64 = AtomicI64::new(0);

fn turned_clock() -> SystemTime {
    let offset_s = CLOCK_OFFSET_S.load(Ordering::SeqCst);
    let offset = Duration::from_secs(offset_s.unsigned_abs());
    if offset_s < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset }
}

/// A client whose clock is set like the server's.
#[derive(Debug)]
struct Turned;

impl TimeProvider for Turned {
    fn current_time(&self) -> Option<UnixTime> {
        turned_clock().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// One test for all changes of the clock, because they share it.
#[tokio::test]
async fn leaves_are_renewed_while_running() {
    let store = store_of(authority("", ""), 6 * DAY, turned_clock);
    let ghcr = host("ghcr.io");
    let turned_client = || {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(Turned));
        let builder = builder.with_protocol_versions(&[&TLS13]).expect("versions");
        Arc::new(builder.with_root_certificates(roots(&store)).with_no_client_auth())
    };
    let day = 86_400;
    let mut kept: Option<Arc<ServerConfig>> = None;
    // (the clock, whether the earlier leaf is still used). A leaf of 6 days has a third of its life left after 4 days.
    for (offset_s, same) in [
        (0, false),
        (4 * day - 60, true),
        (4 * day + 60, false),
        (30 * day, false),
        // The clock is set back by more than the backdated day: the leaf is not valid yet, so it is not used.
        (27 * day, false),
        (27 * day - 3600, true),
        (3651 * day, false),
    ] {
        CLOCK_OFFSET_S.store(offset_s, Ordering::SeqCst);
        assert_eq!(store.fresh(ghcr.name()).is_some(), same, "at {offset_s}");
        let config = store.server_config(&ghcr).await.expect("a leaf");
        assert_eq!(kept.is_some_and(|kept| Arc::ptr_eq(&kept, &config)), same, "at {offset_s}");
        let outcome = connect(Arc::clone(&config), turned_client(), "ghcr.io", 16_384).await;
        let chain = outcome.client.expect("valid at this time").chain;
        let (_, leaf) = parse_x509_certificate(&chain[0]).expect("X.509");
        let ca_end = x509_parser::time::ASN1Time::from(time::OffsetDateTime::from(store.authority().not_after()));
        assert!(leaf.validity().not_after <= ca_end, "never beyond the CA");
        kept = Some(config);
    }
    CLOCK_OFFSET_S.store(3653 * day, Ordering::SeqCst);
    let error = store.server_config(&ghcr).await.expect_err("the CA is over");
    assert!(error.to_string().contains("entrepot ca rotate"), "{error}");
}

#[test]
fn alerts_about_our_ca_are_told_apart() {
    for (alert, untrusted) in [
        (AlertDescription::UnknownCA, true),
        (AlertDescription::BadCertificate, true),
        (AlertDescription::CertificateUnknown, true),
        (AlertDescription::HandshakeFailure, false),
        (AlertDescription::CertificateExpired, false),
    ] {
        let error = classify(io::Error::other(rustls::Error::AlertReceived(alert)));
        assert_eq!(matches!(error, HandshakeError::Untrusted { .. }), untrusted, "{alert:?}");
    }
    let reset = classify(io::ErrorKind::ConnectionReset.into());
    assert!(matches!(reset, HandshakeError::Other(error) if error.kind() == io::ErrorKind::ConnectionReset));
}
