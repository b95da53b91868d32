//! The pace of a client: a write that the client takes no byte of for too long ends the connection. A slow client is
//! served at its speed; one that stopped is let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use entrepot_kernel::ktls::TransmitKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::stream::kernel_tls::Wire;

/// A connection whose writes must progress.
pub struct Paced<IO> {
    io: IO,
    send_timeout: Duration,
    /// Runs while a write waits for the client.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<IO> Paced<IO> {
    /// Every write must take at least one byte within `send_timeout`.
    pub fn new(io: IO, send_timeout: Duration) -> Self {
        Self { io, send_timeout, deadline: None }
    }

    /// The connection, for its addresses and options.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.deadline = None;
            return progress;
        }
        let timeout = self.send_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<IO: Wire> Wire for Paced<IO> {
    fn take_over(&self, key: &TransmitKey) -> io::Result<()> {
        self.io.take_over(key)
    }

    fn change_key(&self, key: &TransmitKey) -> io::Result<()> {
        self.io.change_key(key)
    }

    fn poll_record(&mut self, context: &mut Context<'_>, kind: u8, content: &[u8]) -> Poll<io::Result<()>> {
        let progress = self.io.poll_record(context, kind, content);
        self.watch(context, progress)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.io).poll_flush(context);
        self.watch(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.io).poll_shutdown(context);
        self.watch(context, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_served_and_a_stopped_one_is_let_go() {
        let (mut client, server) = tokio::io::duplex(4);
        let mut server = Paced::new(server, Duration::from_secs(60));
        let slow = tokio::spawn(async move {
            let mut one = [0];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut one).await.expect("a byte");
            }
            client
        });
        server.write_all(b"twelve bytes").await.expect("slow, but it goes on");
        let _client = slow.await.expect("client");
        let error = server.write_all(b"more").await.expect_err("nobody reads any more");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
