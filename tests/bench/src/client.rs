//! The client's side: how a server is reached, requests, and answers that are read and checked in full. What is measured
//! in bulk is read by `sink` instead.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::BoxError;
use crate::content::{Blob, Hash};

/// No single answer takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
const HEAD_BYTES_MAX: usize = 16 << 10;
const READ_BYTES: usize = 256 << 10;

/// A way to a registry: straight, or through one of the servers.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Host and port of the registry, as clients call it.
    pub(crate) authority: String,
    pub(crate) manner: Manner,
    /// The trust in whoever answers, where there is TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// What is said to the server before and in a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing: it is the registry, or says so.
    Origin,
    /// CONNECT, then TLS.
    Connect,
    /// `GET http://…`.
    Forward,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length_bytes: u64,
    /// docker-registry-proxy's header, which both servers send; empty from the registry itself.
    pub(crate) cache_status: String,
}

/// A connection that decrypts.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Trust in `pem`, offering TLS 1.3 with AES-128-GCM alone: every server is measured with the same cipher.
pub(crate) fn trust(pem: &str) -> Result<Arc<ClientConfig>, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Target {
    /// TCP, and the tunnel where there is one. `source` is a client's address, for servers that bound those.
    pub(crate) async fn dial(&self, source: Option<Ipv4Addr>) -> Result<TcpStream, BoxError> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let mut tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        if self.manner == Manner::Connect {
            let authority = &self.authority;
            tcp.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
            let mut head = Vec::new();
            // Byte by byte: what follows belongs to TLS.
            while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
                head.push(tcp.read_u8().await?);
            }
            match parse_head(&head)? {
                Some((Head { status: 200, .. }, _)) => {}
                _ => return Err(format!("CONNECT was refused: {}", String::from_utf8_lossy(&head)).into()),
            }
        }
        Ok(tcp)
    }

    /// A connection that is ready for requests.
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>, BoxError> {
        let tcp = self.dial(None).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        Ok(Box::new(TlsConnector::from(tls.clone()).connect(self.server_name()?, tcp).await?))
    }

    /// The name in the handshake.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, BoxError> {
        let name = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(name, _)| name);
        Ok(ServerName::try_from(name.to_owned())?)
    }

    /// A GET's bytes.
    pub(crate) fn request(&self, path: &str) -> Vec<u8> {
        let authority = &self.authority;
        let origin = if self.manner == Manner::Forward { format!("http://{authority}") } else { String::new() };
        let accept = crate::content::MANIFEST;
        format!("GET {origin}{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: {accept}, */*\r\n\r\n").into_bytes()
    }

    /// Reads `blob` from `path` and compares its length and digest.
    pub(crate) async fn pull_checked(&self, path: &str, blob: &Blob) -> Result<Head, BoxError> {
        let pulling = async {
            let mut stream = self.open().await?;
            stream.write_all(&self.request(path)).await?;
            stream.flush().await?;
            let mut buffer = vec![0; READ_BYTES];
            let mut have = 0;
            let (head, body) = loop {
                let read = stream.read(&mut buffer[have..]).await?;
                if read == 0 {
                    return Err("the connection ended in an answer's head".into());
                }
                have += read;
                if let Some(parsed) = parse_head(&buffer[..have])? {
                    break parsed;
                }
            };
            head.expect(blob.size_bytes)?;
            let mut hash = Hash::new();
            hash.update(&buffer[body..have]);
            let mut left = blob.size_bytes.checked_sub((have - body) as u64).ok_or("more than was announced")?;
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Err(format!("the body ended {left} bytes early").into());
                }
                hash.update(&buffer[..read]);
                left = left.checked_sub(read as u64).ok_or("more than was announced")?;
            }
            let digest = hash.finish();
            if digest != blob.digest {
                return Err(format!("the body has the digest {digest}").into());
            }
            Ok(head)
        };
        let pulled: Result<Head, BoxError> = tokio::time::timeout(PATIENCE, pulling).await?;
        pulled.map_err(|error| format!("{path} from {}: {error}", self.address).into())
    }
}

impl Head {
    /// Fails unless it announces the whole of a blob.
    pub(crate) fn expect(&self, length_bytes: u64) -> Result<(), BoxError> {
        if self.status == 200 && self.length_bytes == length_bytes {
            return Ok(());
        }
        Err(format!("status {} with {} bytes, not 200 with {length_bytes}", self.status, self.length_bytes).into())
    }

    /// Fails unless the answer came from the cache.
    pub(crate) fn expect_hit(&self) -> Result<(), BoxError> {
        // entrepot asks upstream again about the right to read once in five minutes.
        if matches!(self.cache_status.as_str(), "HIT" | "REVALIDATED") {
            return Ok(());
        }
        Err(format!("a measured answer was {:?}, not a hit", self.cache_status).into())
    }
}

/// The head, and where the body begins; `None` while it is incomplete.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, BoxError> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err("an endless head".into()) };
    };
    let text = std::str::from_utf8(&bytes[..end])?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or("not an HTTP answer")?;
    let mut head = Head { status, length_bytes: 0, cache_status: String::new() };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            head.length_bytes = value.trim().parse()?;
        } else if name.eq_ignore_ascii_case("x-docker-registry-proxy-cache-upstream-status") {
            head.cache_status = value.trim().to_owned();
        }
    }
    Ok(Some((head, end + 4)))
}
