//! Servers inside the tests: a listener in a namespace that can be switched off and on, TLS in front of it, and HTTP
//! for those that do not write to the socket themselves.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::namespace::Namespace;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body of any kind.
pub type Body = BoxBody<Bytes, BoxError>;
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// The code that serves a connection.
pub type Handler = Arc<dyn Fn(Conn) -> BoxFuture<()> + Send + Sync>;

/// A listener and its connections. All end when this is dropped.
pub struct Server {
    commands: mpsc::Sender<(bool, oneshot::Sender<()>)>,
}

/// One accepted connection. With TLS, after the handshake.
pub enum Conn {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Server {
    /// Listens on `address` in `namespace`. Returns when connections are accepted.
    pub fn start(namespace: &Namespace, address: SocketAddr, tls: Option<Arc<ServerConfig>>, handler: Handler) -> Self {
        let (commands, received) = mpsc::channel(1);
        let listener = namespace.wait(TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|error| panic!("{address} in {}: {error}", namespace.name()));
        namespace.handle().spawn(accept_all(address, listener, tls.map(TlsAcceptor::from), handler, received));
        Self { commands }
    }

    /// Closes the listener and resets every connection. From now on connections are refused.
    pub fn switch_off(&self) {
        self.switch(false);
    }

    /// Listens again.
    pub fn switch_on(&self) {
        self.switch(true);
    }

    fn switch(&self, on: bool) {
        let (done, answer) = oneshot::channel();
        self.commands.blocking_send((on, done)).expect("the server runs until drop");
        answer.blocking_recv().expect("the server answers");
    }
}

/// A handler that serves HTTP/1.1, and HTTP/2 if TLS agreed on it.
pub fn http<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    Arc::new(move |conn| {
        let answer = answer.clone();
        Box::pin(async move {
            let service = service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(conn), service).await;
        })
    })
}

/// A body that is complete already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

async fn accept_all(
    address: SocketAddr,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: Handler,
    mut commands: mpsc::Receiver<(bool, oneshot::Sender<()>)>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            tcp = accept(listener.as_ref()) => {
                connections.spawn(serve_one(tcp, tls.clone(), Arc::clone(&handler)));
            }
            command = commands.recv() => match command {
                None => return,
                Some((true, done)) => {
                    listener = Some(TcpListener::bind(address).await.expect("the address that it had before"));
                    let _ = done.send(());
                }
                Some((false, done)) => {
                    listener = None;
                    connections.shutdown().await;
                    let _ = done.send(());
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    loop {
        let Some(listener) = listener else { return std::future::pending().await };
        if let Ok((tcp, _)) = listener.accept().await {
            return tcp;
        }
    }
}

async fn serve_one(tcp: TcpStream, tls: Option<TlsAcceptor>, handler: Handler) {
    let _ = tcp.set_nodelay(true);
    let conn = match tls {
        None => Conn::Plain(tcp),
        Some(tls) => match tls.accept(tcp).await {
            Ok(stream) => Conn::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    handler(conn).await;
}

impl Conn {
    /// Makes the next close a TCP reset.
    pub fn reset_on_close(&self) {
        let tcp = match self {
            Conn::Plain(tcp) => tcp,
            Conn::Tls(stream) => stream.get_ref().0,
        };
        let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Conn::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Conn::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
