//! One client connection that speaks HTTP: hyper over the guard, with the configured deadlines and the drain. It also
//! gives the plain connection behind a CONNECT.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::framing::HEAD_MAX_BYTES;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::drain::Watch;
use crate::http::exchange::LoggedBody;
use crate::http::guard::{Guard, GuardHandle};
use crate::stream::client_socket::ClientSocket;
use crate::stream::fair_writes::FairWrites;
use entrepot_config::ready::ClientDeadlines;

/// The size of hyper's own buffer: a whole head, and room for the bytes after it.
const BUFFER_MAX_BYTES: usize = HEAD_MAX_BYTES + 64 * 1024;

/// The times that a client may take, on one connection.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// The time for a head that has begun.
    pub head: Duration,
    /// The time between requests. Zero means one request for each connection.
    pub keepalive: Duration,
}

impl From<&ClientDeadlines> for Deadlines {
    fn from(client: &ClientDeadlines) -> Self {
        Self { head: client.header_timeout, keepalive: client.keepalive_timeout }
    }
}

/// Serves HTTP/1.1 on `io`. The answerer of a CONNECT takes the connection after it ([`behind_connect`]).
pub async fn serve<IO, Answer, Answering>(io: IO, deadlines: Deadlines, drain: Watch, answer: Answer)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Answer: Fn(GuardHandle, Request<Incoming>) -> Answering + Send + Sync,
    Answering: Future<Output = Response<LoggedBody>> + Send,
{
    let (guard, handle) = Guard::new(FairWrites::new(io), deadlines.head);
    let service = service_fn(|request| {
        // The future is on the heap, so that a connection that waits for its next request does not reserve memory for
        // it.
        let answering = Box::pin(answer(handle.clone(), request));
        async move { Ok::<_, Infallible>(answering.await) }
    });
    // hyper's timer runs from the end of the last answer, so it is the idle deadline. The guard limits the time of
    // begun heads.
    let idle = if deadlines.keepalive.is_zero() { deadlines.head } else { deadlines.keepalive };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .keep_alive(!deadlines.keepalive.is_zero())
        .max_buf_size(BUFFER_MAX_BYTES)
        .max_headers(entrepot_core::framing::HEAD_MAX_FIELDS + 1)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut draining = drain.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a client connection ended: {error}");
    }
}

/// The plain connection on which [`serve`] got a CONNECT that was granted. It replays the bytes that the client sent
/// before our answer. None if the client is gone, or if the connection is not a plain one.
pub async fn behind_connect(request: Request<Incoming>) -> Option<ClientSocket> {
    let upgraded: Upgraded = hyper::upgrade::on(request).await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Guard<FairWrites<ClientSocket>>>>().ok()?;
    let (writes, unread) = parts.io.into_inner().into_inner();
    let mut socket = writes.into_inner();
    // This copies few bytes, usually none. Without the copy, hyper's buffer would live as long as the connection.
    socket.replay(Bytes::from([&parts.read_buf[..], &unread].concat()));
    Some(socket)
}
