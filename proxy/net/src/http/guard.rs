//! The guard under hyper (T8): hyper reads a client's bytes through it and sees only well-framed requests.
//!
//! The rules are `entrepot_core::framing`'s; here they meet a connection. Heads are handed on complete, bodies pass
//! in the caller's own buffer. When a head is refused, hyper is given a harmless request in its place, so that the
//! service answers the refusal (`GuardHandle::rejection_of`) behind the answers to what came before, and closes.
//! A body that breaks its framing is an I/O error, as the head was handed on already.
//!
//! After a refused head nothing more is read, and the reader is left pending rather than at its end: hyper takes an
//! end of the stream for a client that is gone and would drop the answer. `Connection: close` ends the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use entrepot_core::framing::{Pushed, Rejection, RequestFraming};
use http::{Method, Request, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What hyper reads in place of a refused head. The name can belong to nobody (RFC 6761).
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: rejected.invalid\r\nConnection: close\r\n\r\n";
const SUBSTITUTE_HOST: &str = "rejected.invalid";

/// A client connection whose requests are checked before anybody reads them.
pub struct Guard<IO> {
    io: IO,
    framing: RequestFraming,
    /// Read before the guard existed, not yet checked.
    prefix: Bytes,
    /// Checked, and ready for the caller.
    ready: Bytes,
    shared: Arc<Shared>,
    head_timeout: Duration,
    /// No request was handed on yet: the first one is waited for no longer than for its head.
    is_fresh: bool,
    /// Runs while a head has begun and is not complete.
    head_deadline: Option<Pin<Box<Sleep>>>,
}

/// The service's side of a [`Guard`].
#[derive(Clone)]
pub struct GuardHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    rejection: OnceLock<Rejection>,
    is_tunnel_open: AtomicBool,
}

impl GuardHandle {
    /// Why the connection is not read on, once it is so. Requests that came before the fault may still be in work:
    /// use [`GuardHandle::rejection_of`] to decide about one.
    pub fn rejection(&self) -> Option<Rejection> {
        self.shared.rejection.get().copied()
    }

    /// The refusal that this request stands for, if it is the substitute of a refused head.
    pub fn rejection_of<B>(&self, request: &Request<B>) -> Option<Rejection> {
        let rejection = self.rejection().filter(|rejection| !rejection.in_body)?;
        let is_substitute = request.method() == Method::GET
            && request.uri().path() == "/"
            && request.headers().get(header::HOST).is_some_and(|host| host == SUBSTITUTE_HOST);
        is_substitute.then_some(rejection)
    }

    /// The CONNECT was granted: what follows is no HTTP and passes as it is. Without this, nothing behind a CONNECT
    /// is ever read, so a refused one must be answered with `Connection: close`.
    pub fn open_tunnel(&self) {
        self.shared.is_tunnel_open.store(true, Ordering::Release);
    }
}

impl<IO> Guard<IO> {
    /// Guards a connection of which `prefix` has been read already.
    /// A head that has begun must be complete within `head_timeout`.
    pub fn new(io: IO, prefix: Bytes, head_timeout: Duration) -> (Self, GuardHandle) {
        let shared = Arc::new(Shared::default());
        let handle = GuardHandle { shared: shared.clone() };
        let framing = RequestFraming::default();
        let guard = Self {
            io,
            framing,
            prefix,
            ready: Bytes::new(),
            shared,
            head_timeout,
            is_fresh: true,
            head_deadline: None,
        };
        (guard, handle)
    }

    /// The connection, and what was read from it but not handed on: behind a CONNECT, the tunnel's first bytes.
    pub fn into_inner(mut self) -> (IO, Bytes) {
        let held = self.framing.take_held();
        let unread = if held.is_empty() && self.ready.is_empty() {
            self.prefix
        } else {
            Bytes::from([&self.ready[..], &held, &self.prefix].concat())
        };
        (self.io, unread)
    }

    /// The connection itself, for its addresses and options.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    fn is_tunnel_open(&self) -> bool {
        self.shared.is_tunnel_open.load(Ordering::Acquire)
    }

    /// Checks the prefix; what is fine becomes ready.
    fn push_prefix(&mut self) {
        let bytes = std::mem::take(&mut self.prefix);
        let pushed = self.framing.push(&bytes);
        self.ready = match pushed.held {
            Some(mut held) => {
                held.extend_from_slice(&bytes[pushed.range]);
                Bytes::from(held)
            }
            None => bytes.slice(pushed.range),
        };
        self.note(pushed.rejection);
    }

    /// Checks what was just read into the caller's buffer and leaves there only what is fine. A head that comes out
    /// of the machine may be longer than the buffer; then it becomes ready instead.
    fn push_read(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Pushed { held, range, rejection } = self.framing.push(&buf.filled()[before..]);
        match held {
            Some(mut held) => {
                held.extend_from_slice(&buf.filled()[before..][range]);
                buf.set_filled(before);
                self.ready = Bytes::from(held);
            }
            None => buf.set_filled(before + range.end),
        }
        self.note(rejection);
    }

    fn note(&mut self, rejection: Option<Rejection>) {
        let Some(rejection) = rejection else {
            return;
        };
        // Only the first fault counts, and the machine reports no second one.
        let _ = self.shared.rejection.set(rejection);
        if !rejection.in_body {
            // What came before the fault is still handed on, in front.
            self.ready = if self.ready.is_empty() {
                Bytes::from_static(SUBSTITUTE)
            } else {
                Bytes::from([&self.ready[..], SUBSTITUTE].concat())
            };
        }
    }

    fn hand_on_ready(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.ready.len().min(buf.remaining());
        buf.put_slice(&self.ready[..length]);
        self.ready.advance(length);
        self.handed_on();
    }

    /// A head is complete, whether it was read here or before. The deadline of the next one begins with that one.
    fn handed_on(&mut self) {
        self.is_fresh = false;
        self.head_deadline = None;
    }
}

impl<IO: AsyncRead + Unpin> Guard<IO> {
    /// Behind a CONNECT that is not granted yet: at most one buffer is read, to notice a client that is gone.
    fn poll_waiting(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.framing.has_held() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        self.push_read(buf, before);
        Poll::Pending
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !guard.ready.is_empty() {
                guard.hand_on_ready(buf);
                return Poll::Ready(Ok(()));
            }
            match guard.shared.rejection.get() {
                Some(fault) if fault.in_body => return Poll::Ready(Err(broken_body(fault))),
                Some(_) => return Poll::Pending,
                None => {}
            }
            if !guard.prefix.is_empty() {
                guard.push_prefix();
                continue;
            }
            if guard.framing.is_tunnel() {
                if !guard.is_tunnel_open() {
                    return guard.poll_waiting(cx, buf);
                }
                if !guard.framing.has_held() {
                    return Pin::new(&mut guard.io).poll_read(cx, buf);
                }
                guard.ready = guard.framing.take_held().into();
                continue;
            }
            let before = buf.filled().len();
            if Pin::new(&mut guard.io).poll_read(cx, buf)?.is_pending() {
                return guard.poll_head_deadline(cx);
            }
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            guard.push_read(buf, before);
            if buf.filled().len() > before {
                guard.handed_on();
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO> Guard<IO> {
    /// Pending, until a head that has begun has taken too long (a slow loris).
    fn poll_head_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_fresh && !self.framing.has_held() {
            self.head_deadline = None;
            return Poll::Pending;
        }
        let timeout = self.head_timeout;
        let deadline = self.head_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took too long to send a request's head")))
    }
}

fn broken_body(fault: &Rejection) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client's request body is malformed: {}", fault.reason))
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const FIRST: &str = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    const SECOND: &str = "PUT /v2/two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
    const BAD: &str = "PUT /v2/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nGET /";

    /// Answers a refusal with its status, anything else with method, path and body.
    async fn answer(handle: GuardHandle, request: Request<Incoming>) -> http::Response<Full<Bytes>> {
        let refusal = handle.rejection_of(&request);
        let line = format!("<{} {} ", request.method(), request.uri().path());
        // Yields first, so that hyper reads ahead while this request is in work.
        tokio::task::yield_now().await;
        let (status, text) = match (refusal, request.into_body().collect().await) {
            (Some(refusal), _) => (refusal.status, format!("<refused oci={}>", refusal.oci)),
            (None, Ok(body)) => (200, line + &String::from_utf8(body.to_bytes().into()).unwrap() + ">"),
            (None, Err(_)) => (handle.rejection().map_or(500, |refusal| refusal.status), line + "broken>"),
        };
        http::Response::builder().status(status).body(Full::new(text.into())).unwrap()
    }

    fn serve(io: DuplexStream, prefix: &'static str) -> tokio::task::JoinHandle<()> {
        let (guard, handle) = Guard::new(io, Bytes::from_static(prefix.as_bytes()), HEAD_TIMEOUT);
        let service = service_fn(move |request| {
            let handle = handle.clone();
            async move { Ok::<_, std::convert::Infallible>(answer(handle, request).await) }
        });
        tokio::spawn(async move {
            // An error is a client's fault that the test sees on its own side.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
        })
    }

    /// Sends the slices one by one and returns everything that comes back until the server closes.
    async fn exchange(prefix: &'static str, slices: impl IntoIterator<Item = &[u8]>, buffer: usize) -> String {
        let (mut client, server) = duplex(buffer);
        let serving = serve(server, prefix);
        for slice in slices {
            // The server may have closed after a refusal.
            let _ = client.write_all(slice).await;
            tokio::task::yield_now().await;
        }
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        serving.await.unwrap();
        received
    }

    fn bodies(received: &str) -> Vec<&str> {
        received.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()).collect()
    }

    #[tokio::test]
    async fn hyper_serves_a_pipeline_and_answers_a_refusal_behind_it() {
        let stream = [FIRST, SECOND, BAD].concat();
        let expected = ["POST /one abc", "PUT /v2/two de", "refused oci=true"];
        let whole = exchange("", [stream.as_bytes()], 4096).await;
        assert_eq!(bodies(&whole), expected);
        assert!(whole.contains("HTTP/1.1 400") && whole.contains("connection: close"), "{whole}");
        assert_eq!(bodies(&exchange("", stream.as_bytes().chunks(1), 4096).await), expected);
        assert_eq!(bodies(&exchange("", stream.as_bytes().chunks(7), 4096).await), expected);
    }

    #[tokio::test]
    async fn what_was_read_before_is_replayed_and_checked() {
        let rest = &FIRST.as_bytes()[9..];
        let received = exchange("POST /one", [rest, BAD.as_bytes()], 4096).await;
        assert_eq!(bodies(&received), ["POST /one abc", "refused oci=true"]);
        assert_eq!(bodies(&exchange(BAD, [], 4096).await), ["refused oci=true"]);
    }

    /// What a client hears of a body whose every piece takes longer than a head may.
    async fn slow_body(prefix: &'static str, sent: &str) -> String {
        let (mut client, server) = duplex(4096);
        let (guard, _handle) = Guard::new(server, Bytes::from_static(prefix.as_bytes()), HEAD_TIMEOUT);
        let service = service_fn(|_request| async {
            let pieces = futures_util::stream::unfold(0, |number| async move {
                tokio::time::sleep(2 * HEAD_TIMEOUT).await;
                let piece = hyper::body::Frame::data(Bytes::from_static(b"piece "));
                (number < 3).then_some((Ok::<_, std::convert::Infallible>(piece), number + 1))
            });
            Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(Box::pin(pieces))))
        });
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service);
        let asking = async {
            client.write_all(sent.as_bytes()).await.expect("sent");
            let mut received = String::new();
            client.read_to_string(&mut received).await.expect("text");
            received
        };
        tokio::join!(async { drop(serving.await) }, asking).1
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_than_a_head() {
        const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Read before the guard existed, in part, and not at all.
        for (prefix, rest) in [(HEAD, ""), (&HEAD[..9], &HEAD[9..]), ("", HEAD)] {
            let received = slow_body(prefix, rest).await;
            assert_eq!(received.matches("piece").count(), 3, "{prefix:?}: {received}");
            assert!(received.ends_with("0\r\n\r\n"), "{prefix:?}: {received}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_is_not_waited_for() {
        for (prefix, handed_on) in [("", 0), ("GET / HT", 0), ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT", 27)] {
            let (_client, server) = duplex(4096);
            let (mut guard, _handle) = Guard::new(server, Bytes::from_static(prefix.as_bytes()), HEAD_TIMEOUT);
            guard.read_exact(&mut vec![0; handed_on]).await.expect("a head");
            let waited = tokio::time::timeout(2 * HEAD_TIMEOUT, guard.read_u8()).await.expect("no longer");
            assert_eq!(waited.expect_err("no byte").kind(), io::ErrorKind::TimedOut, "{prefix:?}");
        }
    }

    #[tokio::test]
    async fn a_large_head_is_refused_with_431() {
        let head = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        let received = exchange("", head.as_bytes().chunks(4096), 128 << 10).await;
        assert!(received.starts_with("HTTP/1.1 431"), "{received}");
    }

    #[tokio::test]
    async fn a_broken_body_fails_the_request_and_closes() {
        let broken = "PUT /v2/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ndeX";
        let received = exchange("", [broken.as_bytes(), FIRST.as_bytes()], 4096).await;
        assert_eq!(bodies(&received), ["PUT /v2/x broken"]);
        assert!(received.starts_with("HTTP/1.1 400"), "{received}");
    }

    #[tokio::test]
    async fn the_end_inside_a_head_is_an_end() {
        let (mut client, server) = duplex(4096);
        let (mut guard, handle) = Guard::new(server, Bytes::new(), HEAD_TIMEOUT);
        client.write_all(b"GET / HTT").await.unwrap();
        drop(client);
        let mut read = Vec::new();
        guard.read_to_end(&mut read).await.unwrap();
        assert_eq!((read, handle.rejection()), (Vec::new(), None));
    }

    #[tokio::test]
    async fn reads_of_one_byte_are_enough() {
        let (mut client, server) = duplex(4096);
        let (mut guard, _handle) = Guard::new(server, Bytes::new(), HEAD_TIMEOUT);
        let stream = [FIRST, SECOND].concat();
        client.write_all(stream.as_bytes()).await.unwrap();
        drop(client);
        let mut read = Vec::new();
        while let Ok(byte) = guard.read_u8().await {
            read.push(byte);
        }
        assert_eq!(String::from_utf8(read).unwrap(), stream);
    }

    #[tokio::test]
    async fn a_tunnel_is_read_only_when_granted() {
        let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        let (mut client, server) = duplex(4096);
        let (mut guard, handle) = Guard::new(server, Bytes::new(), HEAD_TIMEOUT);
        client.write_all(&[&head[..], b"hello"].concat()).await.unwrap();
        let mut read = vec![0; head.len()];
        guard.read_exact(&mut read).await.unwrap();
        assert_eq!(read, head);
        let mut more = [0; 16];
        let early = std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut more);
            Poll::Ready(Pin::new(&mut guard).poll_read(cx, &mut buf).is_pending())
        });
        assert!(early.await);

        handle.open_tunnel();
        client.write_all(b" \n\0 world").await.unwrap();
        let mut read = [0; 14];
        guard.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello \n\0 world");
    }

    #[tokio::test]
    async fn the_first_bytes_of_a_tunnel_come_out_with_the_connection() {
        let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        let prefix = Bytes::from([&head[..], b"hello"].concat());
        let (_client, server) = duplex(64);
        let (mut guard, _handle) = Guard::new(server, prefix, HEAD_TIMEOUT);
        let mut read = vec![0; head.len()];
        guard.read_exact(&mut read).await.unwrap();
        assert_eq!(guard.into_inner().1, "hello");
    }
}
