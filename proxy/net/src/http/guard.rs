//! The guard under hyper: hyper reads a client's bytes through it and sees only well-framed requests.
//!
//! The rules are `entrepot_core::framing`'s. This file applies them to a connection. Heads are passed to hyper
//! complete. Bodies pass in the caller's own buffer. When a head is refused, hyper gets a harmless request in its
//! place. The service then answers that request with the refusal (`GuardHandle::rejection_of`), after the answers to
//! earlier requests, and closes. A body that breaks its framing is an I/O error, because its head was passed on
//! already.
//!
//! After a refused head nothing more is read, and the reader stays pending instead of at its end: hyper takes an end of
//! the stream for a client that is gone and would drop the answer. `Connection: close` ends the connection.
//!
//! hyper is lenient where RFC 9112 allows it. Requests are smuggled through two programs that read one stream
//! differently. hyper itself accepts these requests, and the guard refuses them (the tests show both):
//!
//! - lines that end with a bare line feed; empty lines in front of a request;
//! - no Host, two Hosts, or one that is not a host;
//! - Content-Length together with Transfer-Encoding (hyper ignores the first), or the same Content-Length twice;
//! - another coding in front of `chunked`, in one field or in two, and `chunked` in capitals;
//! - a target with a fragment or with bytes beyond ASCII, of a form that the method does not have (`GET host:port`,
//!   `GET *`), or with another scheme than http and https;
//! - blanks after a chunk's size, and control characters in its extension.
//!
//! The guard has bounds that hyper does not have: 64 KiB for a head, with a deadline from its first byte (hyper's
//! starts with the connection's last answer), 1 KiB of chunk extensions, and 8 KiB of trailers. It also keeps the bytes
//! after a CONNECT from being read before the CONNECT is granted.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use entrepot_core::framing::{Pushed, Rejection, RequestFraming};
use http::{Method, Request, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::places::Busy;

/// The request that hyper reads in place of a refused head. No host can have this name (RFC 6761).
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: rejected.invalid\r\nConnection: close\r\n\r\n";
const SUBSTITUTE_HOST: &str = "rejected.invalid";

/// A client connection whose requests are checked before anything reads them.
pub(crate) struct Guard<IO> {
    io: IO,
    framing: RequestFraming,
    /// Checked bytes that wait for the caller.
    ready: Bytes,
    shared: Arc<Shared>,
    head_timeout: Duration,
    /// True until the first request is passed on. The first request must come as fast as a head.
    is_fresh: bool,
    /// Runs while a head has begun and is not complete.
    head_deadline: Option<Pin<Box<Sleep>>>,
}

/// The service's side of a guarded connection.
#[derive(Clone)]
pub struct GuardHandle {
    shared: Arc<Shared>,
}

/// See [`GuardHandle::until_flushed`].
pub(crate) struct UntilFlushed {
    busy: Option<Busy>,
    shared: Arc<Shared>,
}

impl Drop for UntilFlushed {
    fn drop(&mut self) {
        self.shared.ended().extend(self.busy.take());
    }
}

#[derive(Default)]
struct Shared {
    rejection: OnceLock<Rejection>,
    is_tunnel_open: AtomicBool,
    /// The ends of answers that may not have left for the socket yet.
    ended: Mutex<Vec<Busy>>,
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, Vec<Busy>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuardHandle {
    /// The reason why the connection is not read on. None while it is read. Earlier requests may still be in progress:
    /// use [`GuardHandle::rejection_of`] to decide about one.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        self.shared.rejection.get().copied()
    }

    /// The refusal that this request stands for. None if the request is not the substitute of a refused head.
    pub(crate) fn rejection_of<B>(&self, request: &Request<B>) -> Option<Rejection> {
        let rejection = self.rejection().filter(|rejection| !rejection.in_body)?;
        let is_substitute = request.method() == Method::GET
            && request.uri().path() == "/"
            && request.headers().get(header::HOST).is_some_and(|host| host == SUBSTITUTE_HOST);
        is_substitute.then_some(rejection)
    }

    /// Keeps the connection from resting until the result is dropped and everything that was written before has left
    /// for the socket.
    pub(crate) fn until_flushed(&self, busy: Busy) -> UntilFlushed {
        UntilFlushed { busy: Some(busy), shared: self.shared.clone() }
    }

    /// Grants the CONNECT: the bytes after it are not HTTP and pass unchecked. Without this call nothing after a
    /// CONNECT is ever read, so a refused one must be answered with `Connection: close`.
    pub fn open_tunnel(&self) {
        self.shared.is_tunnel_open.store(true, Ordering::Release);
    }
}

impl<IO> Guard<IO> {
    /// Guards a connection. A head that has begun must be complete within `head_timeout`.
    pub(crate) fn new(io: IO, head_timeout: Duration) -> (Self, GuardHandle) {
        let shared = Arc::new(Shared::default());
        let handle = GuardHandle { shared: shared.clone() };
        let framing = RequestFraming::default();
        let guard =
            Self { io, framing, ready: Bytes::new(), shared, head_timeout, is_fresh: true, head_deadline: None };
        (guard, handle)
    }

    /// The connection, and the bytes that were read from it but not passed on: after a CONNECT, the tunnel's first
    /// bytes.
    pub(crate) fn into_inner(mut self) -> (IO, Bytes) {
        let held = self.framing.take_held();
        let unread = if self.ready.is_empty() { held.into() } else { [&self.ready[..], &held].concat().into() };
        (self.io, unread)
    }

    fn is_tunnel_open(&self) -> bool {
        self.shared.is_tunnel_open.load(Ordering::Acquire)
    }

    /// Checks the bytes that were just read into the caller's buffer and leaves only the good ones there. A head that
    /// was held back may be longer than the buffer. Then it goes to `ready` instead.
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
            // Bytes from before the fault are still passed on, in front.
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

    /// A head is complete. The deadline of the next head begins with the next head.
    fn handed_on(&mut self) {
        self.is_fresh = false;
        self.head_deadline = None;
    }
}

impl<IO: AsyncRead + Unpin> Guard<IO> {
    /// After a CONNECT that is not granted yet, reads at most one buffer, to notice a client that is gone.
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
    /// Pending until a head that has begun takes too long (slow loris).
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

    /// hyper flushes when it has written everything that it holds.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        drop(std::mem::take(&mut *self.shared.ended()));
        Poll::Ready(flushed)
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
mod tests;
