//! One client connection that speaks HTTP: hyper over the guard, with the configuration's deadlines, drained on
//! request.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::framing::HEAD_MAX_BYTES;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::drain::Watch;
use crate::http::exchange::LoggedBody;
use crate::http::guard::{Guard, GuardHandle};
use crate::stream::fair_writes::Turns;
use entrepot_config::ready::ClientDeadlines;

/// hyper's own buffer: a whole head and room for the bytes behind it.
const BUFFER_MAX_BYTES: usize = HEAD_MAX_BYTES + 64 * 1024;

/// How long clients may take, on one connection.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// For a head that has begun.
    pub head: Duration,
    /// Between requests; zero: one request a connection.
    pub keepalive: Duration,
}

impl From<&ClientDeadlines> for Deadlines {
    fn from(client: &ClientDeadlines) -> Self {
        Self { head: client.header_timeout, keepalive: client.keepalive_timeout }
    }
}

/// Serves HTTP/1.1 on `io`; upgrades (CONNECT) are the answerer's to take.
pub async fn serve<IO, Answer, Answering>(io: IO, prefix: Bytes, deadlines: Deadlines, drain: Watch, answer: Answer)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Answer: Fn(GuardHandle, Request<Incoming>) -> Answering + Send + Sync,
    Answering: Future<Output = Response<LoggedBody>> + Send,
{
    let (guard, handle) = Guard::new(Turns::new(io), prefix, deadlines.head);
    let service = service_fn(|request| {
        // On the heap, so that a connection that waits for its next request does not hold room for an answer's making.
        let answering = Box::pin(answer(handle.clone(), request));
        async move { Ok::<_, Infallible>(answering.await) }
    });
    // hyper's timer runs from the end of the last answer, so it is the idle deadline; the guard times begun heads.
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
