//! A connection of which some bytes were read already: they come first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use entrepot_kernel::ktls::TransmitKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::kernel_tls::Wire;

/// `prefix`, then the connection.
pub struct Rewind<IO> {
    /// What was read already.
    pub prefix: Bytes,
    /// Where the rest comes from.
    pub io: IO,
}

impl<IO: Wire> Wire for Rewind<IO> {
    fn take_over(&self, key: &TransmitKey) -> io::Result<()> {
        self.io.take_over(key)
    }

    fn change_key(&self, key: &TransmitKey) -> io::Result<()> {
        self.io.change_key(key)
    }

    fn poll_record(&mut self, context: &mut Context<'_>, kind: u8, content: &[u8]) -> Poll<io::Result<()>> {
        self.io.poll_record(context, kind, content)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
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
