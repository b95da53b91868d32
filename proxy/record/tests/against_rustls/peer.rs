//! The other side: a rustls client, and rustls's own ciphers for records that no rustls client would send.

use std::sync::{Arc, LazyLock};

use entrepot_record::{HEADER_BYTES, Session, record_bytes};
use rcgen::{CertifiedKey, KeyPair};
use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::cipher::{InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundPlainMessage};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    ClientConnection, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion, RootCertStore,
    SupportedCipherSuite,
};
use rustls_pki_types::{PrivateKeyDer, ServerName};

const NAME: &str = "server.example";

static EC: LazyLock<CertifiedKey<KeyPair>> = LazyLock::new(|| certified(&rcgen::PKCS_ECDSA_P256_SHA256));
static RSA: LazyLock<CertifiedKey<KeyPair>> = LazyLock::new(|| certified(&rcgen::PKCS_RSA_SHA256));

fn certified(algorithm: &'static rcgen::SignatureAlgorithm) -> CertifiedKey<KeyPair> {
    let signing_key = KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new([NAME.to_owned()]).expect("a name");
    CertifiedKey { cert: params.self_signed(&signing_key).expect("a certificate"), signing_key }
}

/// Every suite that rustls knows with aws-lc.
pub(crate) fn suites() -> Vec<SupportedCipherSuite> {
    aws_lc_rs::default_provider().cipher_suites
}

pub(crate) fn suites_of(version: ProtocolVersion) -> Vec<SupportedCipherSuite> {
    suites().into_iter().filter(|suite| suite.version().version == version).collect()
}

/// A client's connection and the secrets of the server's, after a handshake.
pub(crate) fn handshake(
    suite: SupportedCipherSuite,
) -> (ClientConnection, ExtractedSecrets, KernelConnection<ServerConnectionData>) {
    let identity = if format!("{:?}", suite.suite()).contains("RSA") { &RSA } else { &EC };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);

    let mut roots = RootCertStore::empty();
    roots.add(identity.cert.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[suite.version()])
        .expect("a version");
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    let name = ServerName::try_from(NAME).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");

    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[suite.version()]);
    let key = PrivateKeyDer::Pkcs8(identity.signing_key.serialize_der().into());
    let chain = vec![identity.cert.der().clone()];
    let mut server = server.expect("a version").with_no_client_auth().with_single_cert(chain, key).expect("a chain");
    server.enable_secret_extraction = true;
    let mut server = UnbufferedServerConnection::new(Arc::new(server)).expect("a server");

    let (mut to_server, mut to_client, mut is_done) = (Vec::new(), Vec::new(), false);
    while !is_done {
        while client.wants_write() {
            client.write_tls(&mut to_server).expect("memory");
        }
        loop {
            let UnbufferedStatus { discard, state } = server.process_tls_records(&mut to_server);
            let mut is_blocked = false;
            match state.expect("an honest client") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { panic!("no size") };
                    let start = to_client.len();
                    to_client.resize(start + size.required_size, 0);
                    data.encode(&mut to_client[start..]).expect("room");
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake => is_blocked = true,
                ConnectionState::WriteTraffic(_) => is_done = true,
                other => panic!("{other:?}"),
            }
            to_server.drain(..discard);
            if is_blocked || is_done {
                break;
            }
        }
        take(&mut client, &std::mem::take(&mut to_client));
    }
    let (extracted, secrets) = server.dangerous_into_kernel_connection().expect("secrets");
    (client, extracted, secrets)
}

/// A client's connection and our session.
pub(crate) fn pair(suite: SupportedCipherSuite) -> (ClientConnection, Session) {
    let (client, extracted, secrets) = handshake(suite);
    (client, Session::new(extracted, secrets).expect("a session"))
}

/// Has the client take these records.
pub(crate) fn take(client: &mut ClientConnection, mut records: &[u8]) {
    while !records.is_empty() {
        client.read_tls(&mut records).expect("room");
        client.process_new_packets().expect("honest records");
    }
}

/// Everything that the client has to send, a record each.
pub(crate) fn records(client: &mut ClientConnection) -> Vec<Vec<u8>> {
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

/// rustls's ciphers on the client's side. They seal whatever they are given.
pub(crate) struct Ciphers {
    encrypter: Sealing,
    decrypter: (u64, Box<dyn MessageDecrypter>),
}

impl Ciphers {
    /// In place of this client.
    pub(crate) fn of(client: ClientConnection, suite: SupportedCipherSuite) -> Self {
        let ExtractedSecrets { tx, rx } = client.dangerous_extract_secrets().expect("secrets");
        Self { encrypter: Sealing::new(suite, tx), decrypter: (rx.0, decrypter(suite, rx.1)) }
    }

    pub(crate) fn seal(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        self.encrypter.seal(kind, content)
    }

    /// The type and content of a record.
    pub(crate) fn open(&mut self, record: &[u8]) -> (ContentType, Vec<u8>) {
        let mut payload = record[HEADER_BYTES..].to_vec();
        let kind = ContentType::from(record[0]);
        let message = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, &mut payload);
        let opened = self.decrypter.1.decrypt(message, self.decrypter.0).expect("an honest record");
        self.decrypter.0 += 1;
        (opened.typ, opened.payload.to_vec())
    }
}

/// One of rustls's ciphers, which seals as a kernel does.
pub(crate) struct Sealing {
    cipher: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealing {
    /// Goes on behind the records that these secrets have protected. aws-lc wants to have sealed those itself.
    pub(crate) fn new(suite: SupportedCipherSuite, (records, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let mut sealing = Self { cipher: encrypter(suite, secrets), sequence: 0 };
        (0..records).for_each(|_| drop(sealing.seal(ContentType::Handshake, b"sealed before")));
        sealing
    }

    pub(crate) fn seal(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let payload = content.into();
        let message = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.cipher.encrypt(message, self.sequence).expect("sealed");
        self.sequence += 1;
        sealed.encode()
    }
}

fn encrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageEncrypter> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    match (suite, secrets) {
        (SupportedCipherSuite::Tls13(suite), Aes128Gcm { key, iv } | Aes256Gcm { key, iv })
        | (SupportedCipherSuite::Tls13(suite), Chacha20Poly1305 { key, iv }) => suite.aead_alg.encrypter(key, iv),
        (SupportedCipherSuite::Tls12(suite), Aes128Gcm { key, iv } | Aes256Gcm { key, iv }) => {
            let (salt, explicit) = iv.as_ref().split_at(4);
            suite.aead_alg.encrypter(key, salt, explicit)
        }
        (SupportedCipherSuite::Tls12(suite), Chacha20Poly1305 { key, iv }) => {
            suite.aead_alg.encrypter(key, iv.as_ref(), &[])
        }
        _ => panic!("an unknown cipher"),
    }
}

fn decrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageDecrypter> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    match (suite, secrets) {
        (SupportedCipherSuite::Tls13(suite), Aes128Gcm { key, iv } | Aes256Gcm { key, iv })
        | (SupportedCipherSuite::Tls13(suite), Chacha20Poly1305 { key, iv }) => suite.aead_alg.decrypter(key, iv),
        (SupportedCipherSuite::Tls12(suite), Aes128Gcm { key, iv } | Aes256Gcm { key, iv }) => {
            suite.aead_alg.decrypter(key, &iv.as_ref()[..4])
        }
        (SupportedCipherSuite::Tls12(suite), Chacha20Poly1305 { key, iv }) => {
            suite.aead_alg.decrypter(key, iv.as_ref())
        }
        _ => panic!("an unknown cipher"),
    }
}
