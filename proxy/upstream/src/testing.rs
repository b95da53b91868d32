//! Helpers of this crate's tests: settings, sentinels, and small servers on loopback.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::host::RegistryHost;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::address_policy::AddressPolicy;
use super::dial::DialSettings;
use super::own::OwnSockets;
use super::timed_body::RequestBody;
use entrepot_config::ready::{NoProxy, RegistryPolicy, Upstream};

/// A listener on a free port of 127.0.0.1.
pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Fails if there was a connection to `sentinel`. It asks the kernel, because tokio waits for its reactor first. A
/// connection over loopback is in the queue before `connect` returns.
pub(crate) fn assert_untouched(sentinel: &TcpListener) {
    let accepted = SockRef::from(sentinel).accept();
    assert!(accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "the sentinel was touched");
}

/// `host:port` of an address.
pub(crate) fn host_of(address: SocketAddr) -> RegistryHost {
    address.to_string().parse().expect("an address is a host")
}

/// The default settings: loopback is refused.
pub(crate) fn settings() -> DialSettings {
    DialSettings::new(AddressPolicy::default(), true, Duration::from_secs(10))
}

/// Settings that allow loopback.
pub(crate) fn loopback_settings() -> DialSettings {
    let policy = AddressPolicy::new(upstream().allow_addresses, OwnSockets::default());
    DialSettings::new(policy, true, Duration::from_secs(10))
}

/// `[upstream]` with loopback allowed.
pub(crate) fn upstream() -> Upstream {
    let allowed = ["127.0.0.0/8", "::1/128"];
    Upstream {
        proxy: None,
        no_proxy: NoProxy::default(),
        extra_roots: Vec::new(),
        verify: true,
        connect_timeout: Duration::from_secs(10),
        check_connect_timeout: Duration::from_secs(2),
        check_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(10),
        send_timeout: Duration::from_secs(10),
        tunnel_idle_timeout: Duration::from_secs(10),
        tunnel_connect_timeout: Duration::from_secs(10),
        ipv6: true,
        allow_addresses: allowed.iter().map(|net| net.parse().expect("a net")).collect(),
    }
}

/// `[registries."HOST"]` with the defaults.
pub(crate) fn registry(host: &str) -> RegistryPolicy {
    RegistryPolicy {
        registry: host.parse().expect("a pattern"),
        extra_roots: Vec::new(),
        verify: true,
        realm: None,
        access: None,
        headers: Vec::new(),
        header_methods: Vec::new(),
    }
}

/// A GET without a body.
pub(crate) fn get(uri: &str) -> http::Request<RequestBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    http::Request::get(uri).body(body).expect("a request")
}

/// A key, its certificate for 127.0.0.1 and localhost, and the certificate that signed it.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) root: CertificateDer<'static>,
}

/// The names of the certificates.
pub(crate) fn names() -> rcgen::CertificateParams {
    rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names")
}

/// An identity with its own root.
pub(crate) fn signed() -> Identity {
    let mut params = rcgen::CertificateParams::default();
    // Two roots with one name are taken for one another, and fail differently from unknown roots.
    static ROOTS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("root {}", ROOTS.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rcgen::KeyPair::generate().expect("a key");
    let root = params.self_signed(&root_key).expect("a root").der().clone();
    let issuer = rcgen::Issuer::new(params, root_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = names().signed_by(&key, &issuer).expect("a leaf");
    Identity { chain: vec![leaf.der().clone()], key: der(&key), root }
}

/// A self-signed identity, as `openssl req -x509` makes it.
pub(crate) fn self_signed(mut params: rcgen::CertificateParams) -> Identity {
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a certificate").der().clone();
    Identity { chain: vec![root.clone()], key: der(&key), root }
}

fn der(key: &rcgen::KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// A TLS acceptor that offers `protocols`.
pub(crate) fn acceptor(identity: &Identity, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .expect("a key that fits");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves HTTP over TLS, by h2 if `protocols` begins with it. Answers with the request's HTTP version and path. Counts the
/// connections.
pub(crate) async fn serve_tls(identity: &Identity, protocols: &[&str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let acceptor = acceptor(identity, protocols);
    let h2 = protocols.first() == Some(&"h2");
    let accepted = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::Relaxed);
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            tokio::spawn(serve(TokioIo::new(stream), h2));
        }
    });
    (address, accepted)
}

/// Serves HTTP/1.1.
pub(crate) async fn serve_plain(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(TokioIo::new(stream), false));
    }
}

/// Serves one connection.
pub(crate) async fn serve<I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(io: I, h2: bool) {
    let service = service_fn(|request: http::Request<Incoming>| async move {
        let text = format!("{:?} {}", request.version(), request.uri().path());
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(text))))
    });
    // The client notices if the connection breaks.
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}
