//! A client of the proxy: single requests on their own connections, or many on one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::in_time;

/// A request that is not sent yet.
#[derive(Clone)]
pub(crate) struct Ask {
    door: SocketAddr,
    /// The client's own address. None for the system's choice.
    from: Option<IpAddr>,
    method: Method,
    host: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer that is being read.
pub(crate) struct Reading {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Keeps the connection open.
    _session: Session,
}

/// A connection.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    /// Whether requests name only the path, because the connection is to the registry already.
    is_origin: bool,
}

impl Ask {
    pub(super) fn new(door: SocketAddr, method: Method, host: &str, path: &str) -> Self {
        let (host, path) = (host.to_owned(), path.to_owned());
        Self { door, from: None, method, host, path, headers: HeaderMap::new(), body: Bytes::new() }
            .header("accept", "*/*")
    }

    /// Comes from this address of the loopback network.
    pub(crate) fn from(self, address: [u8; 4]) -> Self {
        Self { from: Some(address.into()), ..self }
    }

    /// Sets a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header's name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    pub(crate) fn range(self, range: &str) -> Self {
        self.header("range", &format!("bytes={range}"))
    }

    pub(crate) fn basic(self, user: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization", &format!("Basic {pair}"))
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The complete answer. A broken one fails the test.
    pub(crate) async fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The complete answer, or the error that broke it.
    pub(crate) async fn try_send(self) -> Result<Reply, hyper::Error> {
        in_time("an answer", self.try_start()).await?.rest().await
    }

    /// The answer's head. The test reads the body.
    pub(crate) async fn start(self) -> Reading {
        self.try_start().await.expect("an answer's head")
    }

    async fn try_start(self) -> Result<Reading, hyper::Error> {
        let mut session = Session::from_to(self.from, self.door).await;
        let response = session.send(self.into_request(true)).await?;
        Ok(Reading::new(response, session))
    }

    /// The same over a connection that is to the registry already.
    pub(crate) async fn start_over(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Reading {
        let mut session = Session::over(io).await;
        let response = session.send(self.into_request(false)).await.expect("an answer's head");
        Reading::new(response, session)
    }

    fn into_request(self, absolute: bool) -> Request<Full<Bytes>> {
        let uri = if absolute { format!("http://{}{}", self.host, self.path) } else { self.path };
        let mut request =
            Request::builder().method(self.method).uri(uri).body(Full::new(self.body)).expect("a request");
        let host = HeaderValue::from_str(&self.host).expect("a host");
        *request.headers_mut() = self.headers;
        request.headers_mut().entry("host").or_insert(host);
        request
    }
}

impl Session {
    /// Keeps one connection to the door for many requests.
    pub(crate) async fn to(door: SocketAddr) -> Self {
        Self::from_to(None, door).await
    }

    async fn from_to(from: Option<IpAddr>, door: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0)).expect("an address of this machine");
        }
        Self::over(socket.connect(door).await.expect("the door is open")).await
    }

    /// The same inside TLS, after a CONNECT. Requests are in origin form there.
    pub(super) async fn sealed(door: SocketAddr, host: &str, roots: RootCertStore) -> Self {
        let mut stream = TcpStream::connect(door).await.expect("the door is open");
        let connect = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(connect.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(in_time("an answer to CONNECT", stream.read_u8()).await.expect("an answer"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
        let name = ServerName::try_from(name).expect("a name");
        let sealed = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
        Self { is_origin: true, ..Self::over(sealed).await }
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.expect("a connection");
        // The task ends with its sender. The answer reports the error.
        tokio::spawn(connection);
        Self { sender, is_origin: false }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.send_request(request).await
    }

    /// The head of an answer. The test reads the body, and the connection ends with it.
    pub(crate) async fn start(mut self, ask: Ask) -> Reading {
        let request = ask.into_request(!self.is_origin);
        let response = in_time("an answer", self.send(request)).await.expect("an answer's head");
        Reading::new(response, self)
    }

    /// Whether the door has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request of many.
    pub(crate) async fn ask(&mut self, ask: Ask) -> Reply {
        let is_origin = self.is_origin;
        in_time("the connection is free", self.sender.ready()).await.expect("the connection is kept");
        let response = in_time("an answer", self.send(ask.into_request(!is_origin))).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = in_time("a body", body.collect()).await.expect("a whole body").to_bytes();
        Reply { status: head.status.as_u16(), headers: head.headers, body }
    }
}

impl Reading {
    fn new(response: Response<Incoming>, session: Session) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, _session: session }
    }

    /// Reads until at least `length` bytes are there.
    pub(crate) async fn read(&mut self, length: usize) -> Bytes {
        let mut bytes = BytesMut::new();
        while bytes.len() < length {
            let frame = in_time("more of the body", self.body.frame()).await.expect("the body goes on");
            bytes.extend_from_slice(&frame.expect("the body is whole").into_data().unwrap_or_default());
        }
        bytes.freeze()
    }

    /// Every byte that comes, up to the end or to the error that breaks the body.
    pub(crate) async fn until_it_ends(mut self) -> Bytes {
        let mut bytes = BytesMut::new();
        while let Some(Ok(frame)) = in_time("more of the body", self.body.frame()).await {
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        bytes.freeze()
    }

    /// The rest of the answer, or the error that broke it.
    pub(crate) async fn rest(self) -> Result<Reply, hyper::Error> {
        let body = in_time("the rest of the body", self.body.collect()).await?.to_bytes();
        Ok(Reply { status: self.status.as_u16(), headers: self.headers, body })
    }
}

impl Reply {
    /// A header as text. Empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of the cache's header (hit, miss, …).
    pub(crate) fn cache(&self) -> &str {
        self.header("x-cache")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts that the answer is an OCI error of this status and code.
    pub(crate) fn is_error(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.header("content-type")), (status, "application/json"), "{}", self.text());
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(json["errors"][0]["code"], code, "{json}");
    }

    /// Asserts that the answer is the whole of `content`.
    pub(crate) fn is_whole(&self, content: &[u8]) {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.body.len(), content.len());
        assert!(self.body == content, "other bytes");
    }
}
