//! A client's socket that knows mapped files: a slice of one leaves by sendfile(2), from the page cache to the socket;
//! everything else is written as usual, and waits in the kernel for the file's bytes behind it (`MSG_MORE`).

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use entrepot_kernel::ktls::{self, TransmitKey};
use entrepot_kernel::mapping::locate;
use entrepot_kernel::send::send_file;
use nix::libc::MSG_MORE;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::handed::Wire;

/// A client's connection.
pub struct Outlet {
    stream: TcpStream,
}

impl Outlet {
    /// Over this connection.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// The connection, for its addresses and options.
    pub fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// Runs `write` when the socket takes something.
    fn poll_now(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_io(Interest::WRITABLE, || write(&self.stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl Wire for Outlet {
    fn take_over(&self, key: &TransmitKey) -> io::Result<()> {
        ktls::take_over(self.stream.as_fd(), key)
    }

    fn change_key(&self, key: &TransmitKey) -> io::Result<()> {
        ktls::change_key(self.stream.as_fd(), key)
    }

    fn poll_record(&mut self, context: &mut Context<'_>, kind: u8, content: &[u8]) -> Poll<io::Result<()>> {
        let sent = self.poll_now(context, |stream| ktls::send_record(stream.as_fd(), kind, content).map(|()| 0));
        sent.map_ok(|_| ())
    }
}

impl AsyncRead for Outlet {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let found = slices.iter().enumerate().find_map(|(at, slice)| Some((at, locate(slice)?)));
        match found {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            Some((0, located)) => self.poll_now(context, |stream| {
                send_file(stream.as_fd(), located.file().as_fd(), located.offset, slices[0].len())
            }),
            Some((before, _)) => self.poll_now(context, |stream| {
                SockRef::from(stream).send_vectored_with_flags(&slices[..before], MSG_MORE)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::write_all;
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    use bytes::Bytes;
    use entrepot_kernel::mapping::MappedFile;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Outlet, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        (Outlet::new(listener.accept().await.expect("accepted").0), client)
    }

    fn mapped_file(content: &[u8]) -> Arc<MappedFile> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        MappedFile::new(Arc::new(file), content.len() as u64).expect("mapped")
    }

    #[tokio::test]
    async fn heads_memory_and_files_arrive_in_order() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
        let file = mapped_file(&content);
        let (mut outlet, mut client) = pair().await;
        let memory = Bytes::from(vec![9; 40_000]);
        let slices = vec![
            Bytes::from_static(b"head"),
            file.slice(100..1_500_000),
            memory.clone(),
            file.slice(0..20),
            file.slice(1_500_000..3_000_000),
            Bytes::from_static(b"tail"),
        ];
        let expected: Vec<u8> = slices.iter().flat_map(|bytes| bytes.to_vec()).collect();
        let writing = tokio::spawn(async move {
            write_all(&mut outlet, slices).await.expect("written");
            outlet.shutdown().await.expect("ended");
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("read");
        writing.await.expect("no panic");
        assert!(received == expected);
    }

    #[tokio::test]
    async fn a_file_that_was_cut_is_an_error_and_never_a_short_body() {
        let file = mapped_file(&[5; 500_000]);
        let (mut outlet, mut client) = pair().await;
        file.file().set_len(100_000).expect("cut");
        let writing = tokio::spawn(async move { write_all(&mut outlet, vec![file.slice(0..500_000)]).await });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("read");
        assert_eq!(received.len(), 100_000);
        writing.await.expect("no panic").expect_err("cut");
    }
}
