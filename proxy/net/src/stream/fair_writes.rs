//! Fairness between the connections of a thread: a connection that has written a piece lets the others run before it
//! writes the next, however fast its client takes them. Without this a stream into a large empty socket buffer keeps
//! its thread for milliseconds, and every other connection of the thread waits.
//!
//! It is below hyper and its guard, and above the encryption. Its Pending must end a task's turn, so no layer between
//! may call again by itself. hyper does so once, to flush, which makes a turn two pieces at most.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes that a connection may write in a turn. The write that reaches them is the last one.
const TURN_BYTES: usize = 256 * 1024;

/// A connection that takes turns with the others of its thread.
pub(crate) struct FairWrites<IO> {
    io: IO,
    written_bytes: usize,
}

impl<IO> FairWrites<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self { io, written_bytes: 0 }
    }

    pub(crate) fn into_inner(self) -> IO {
        self.io
    }

    /// Runs `write` if this turn has room for it. Otherwise the other connections run, and new events are read first.
    fn take(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut IO>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>>
    where
        IO: Unpin,
    {
        if self.written_bytes >= TURN_BYTES {
            self.written_bytes = 0;
            // This wakes the task after every task that is ready and after the events that the kernel has by then.
            if pin!(tokio::task::yield_now()).poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        let written = write(Pin::new(&mut self.io), context);
        match written {
            Poll::Ready(Ok(bytes)) => self.written_bytes += bytes,
            _ => self.written_bytes = 0,
        }
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FairWrites<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FairWrites<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.take(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::AsyncWriteExt;
    use tokio::task::{LocalSet, spawn_local};

    /// A client that takes all bytes at once.
    struct Sink;

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn no_stream_keeps_the_thread() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let stream = |name: char| {
            let order = order.clone();
            spawn_local(async move {
                let mut turns = FairWrites::new(Sink);
                let piece = vec![0; TURN_BYTES];
                for _ in 0..5 {
                    turns.write_all(&piece).await.expect("written");
                    order.borrow_mut().push(name);
                }
            })
        };
        LocalSet::new()
            .run_until(async {
                for stream in [stream('a'), stream('b')] {
                    stream.await.expect("no panic");
                }
            })
            .await;
        let order = order.borrow();
        // Each connection has one turn in each round, in any order.
        assert!(order.chunks(2).all(|round| round.contains(&'a') && round.contains(&'b')), "{order:?}");
    }
}
