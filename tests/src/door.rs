//! A bare HTTP client of the proxy: one CONNECT and one TLS handshake for each request, as in most runtimes. It sends
//! the headers of the test and repairs nothing. It is for cases that real clients cannot produce or report.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::provider;
use crate::images::sha256;
use crate::namespace::Namespace;
use crate::serve::{BoxError, full};
use crate::tokens::basic;
use crate::upstream::{Auth, Site};

/// The longest time of any request of the tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A client at the proxy's door.
#[derive(Clone)]
pub struct Door {
    runtime: Handle,
    proxy: SocketAddr,
    tls: TlsConnector,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body if it is complete, else the bytes that came and the reason why it ended.
    pub body: Result<Bytes, (Bytes, String)>,
}

/// An answer whose body is still coming.
pub struct Running {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Incoming,
}

impl Door {
    /// A client in `namespace` that trusts the certificates of `ca`.
    pub fn new(namespace: &Namespace, proxy: SocketAddr, ca: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).expect("a CA file") {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { runtime: namespace.handle().clone(), proxy, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// A GET, to its end.
    #[track_caller]
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Reply {
        self.request(Method::GET, url, headers)
    }

    /// A request without a body, to its end.
    #[track_caller]
    pub fn request(&self, method: Method, url: &str, headers: &[(&str, &str)]) -> Reply {
        self.request_with(method, url, headers, Bytes::new())
    }

    /// A request to its end.
    #[track_caller]
    pub fn request_with(&self, method: Method, url: &str, headers: &[(&str, &str)], body: Bytes) -> Reply {
        let (door, url, headers) = (self.clone(), url.to_owned(), owned(headers));
        let name = format!("{method} {url}");
        let whole = async move { Ok(door.start(method, &url, &headers, body).await?.finish().await) };
        self.wait(whole).unwrap_or_else(|error: BoxError| panic!("{name}: no answer: {error}"))
    }

    /// Runs `task` in the client's namespace, for at most `PATIENCE`.
    pub fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            let _ = done.send(timeout(PATIENCE, task).await);
        });
        result.recv().expect("the task did not panic").expect("an end within PATIENCE")
    }

    /// Begins a request. The caller reads the body.
    pub async fn start(
        &self,
        method: Method,
        url: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Running, BoxError> {
        let uri: Uri = url.parse()?;
        let host = uri.authority().ok_or("a host")?.to_string();
        let mut request = Request::builder().method(method).header("host", host);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !body.is_empty() {
            request = request.header("content-length", body.len());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let answer = if uri.scheme_str() == Some("https") {
            let stream = self.intercepted(&uri).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender.send_request(request.uri(path).body(full(body))?).await?
        } else {
            let stream = TcpStream::connect(self.proxy).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender.send_request(request.uri(url).body(full(body))?).await?
        };
        let (parts, body) = answer.into_parts();
        Ok(Running { status: parts.status, headers: parts.headers, body })
    }

    /// CONNECT and TLS to the host of `uri`.
    pub async fn intercepted(&self, uri: &Uri) -> Result<TlsStream<TcpStream>, BoxError> {
        let host = uri.host().ok_or("a host")?;
        let tcp = self.tunnel(&format!("{host}:{}", uri.port_u16().unwrap_or(443))).await?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        Ok(self.tls.connect(name, tcp).await?)
    }

    /// CONNECT. Returns the open tunnel, or the first line of a refusal as the error.
    pub async fn tunnel(&self, authority: &str) -> Result<TcpStream, BoxError> {
        let mut tcp = TcpStream::connect(self.proxy).await?;
        tcp.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.lines().next().unwrap_or_default();
        if line.contains(" 200") { Ok(tcp) } else { Err(line.to_owned().into()) }
    }

    /// CONNECT. Returns the first line of a refusal as the error.
    pub fn connect(&self, authority: &str) -> Result<(), String> {
        let (door, authority) = (self.clone(), authority.to_owned());
        self.wait(async move { door.tunnel(&authority).await.map(drop).map_err(|error| error.to_string()) })
    }

    /// Sends `bytes` to the door unchanged. Returns all bytes that came until the proxy closed, and whether it closed
    /// within
    /// `quiet`.
    pub fn raw(&self, bytes: &[u8], quiet: Duration) -> (String, bool) {
        let (proxy, bytes) = (self.proxy, bytes.to_vec());
        self.wait(async move {
            let tcp = TcpStream::connect(proxy).await.expect("the door is open");
            converse(tcp, &bytes, quiet).await
        })
    }

    /// Like `raw`, inside the intercepted TLS of `https://host`.
    pub fn raw_inside(&self, origin: &str, bytes: &[u8], quiet: Duration) -> (String, bool) {
        let (door, bytes, uri) = (self.clone(), bytes.to_vec(), origin.parse::<Uri>().expect("an address"));
        self.wait(async move {
            let stream = door.intercepted(&uri).await.expect("the host is intercepted");
            converse(stream, &bytes, quiet).await
        })
    }

    /// An Authorization value that may read `repository` of `site`. It is requested through the proxy, as clients do.
    /// None if the registry gives none.
    pub fn authorization(&self, site: &Site, repository: &str, account: Option<(&str, &str)>) -> Option<String> {
        let password = account.map(|(user, password)| basic(user, password));
        match site.auth {
            Auth::Open => None,
            Auth::Basic => password,
            Auth::Bearer { realm, service } => {
                let url = format!("{realm}?service={service}&scope=repository:{repository}:pull");
                let headers: Vec<_> = password.iter().map(|value| ("authorization", value.as_str())).collect();
                let reply = self.get(&url, &headers);
                let answer: serde_json::Value = serde_json::from_slice(&reply.body.ok()?).ok()?;
                Some(format!("Bearer {}", answer["token"].as_str()?))
            }
        }
    }
}

impl Running {
    /// Reads the body to its end.
    pub async fn finish(mut self) -> Reply {
        let mut bytes = Vec::new();
        let failure = loop {
            match self.body.frame().await {
                None => break None,
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => break Some(error.to_string()),
            }
        };
        let body = match failure {
            None => Ok(Bytes::from(bytes)),
            Some(error) => Err((Bytes::from(bytes), error)),
        };
        Reply { status: self.status, headers: self.headers, body }
    }

    /// The next bytes of the body. None at its end.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Some(data),
                    _ => {}
                },
                Err(_) => return None,
            }
        }
    }
}

impl Reply {
    /// A header's text. Empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The answer in a line: the body's digest if the answer was 2xx and complete, else a description.
    pub fn content(&self) -> String {
        match &self.body {
            Ok(body) if self.status.is_success() => sha256(body),
            Ok(body) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
                format!("{} with {} bytes: {text}", self.status, body.len())
            }
            Err((body, why)) => format!("{} broken off after {} bytes: {why}", self.status, body.len()),
        }
    }

    /// The body if the answer was 2xx and complete.
    pub fn complete(&self) -> Option<&Bytes> {
        self.body.as_ref().ok().filter(|_| self.status.is_success())
    }
}

/// The headers as owned texts.
pub fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn converse<S>(mut stream: S, bytes: &[u8], quiet: Duration) -> (String, bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let closed = timeout(quiet, stream.read_to_end(&mut answer)).await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}
