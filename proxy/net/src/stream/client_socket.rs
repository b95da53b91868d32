//! A client's socket that knows mapped files: a slice of one leaves by sendfile(2), from the page cache to the socket;
//! everything else is written as usual, and waits in the kernel for the file's bytes behind it (`MSG_MORE`).
//!
//! Invariant: sendfile is asked only for what the page cache has. It would wait for a disk however nonblocking the socket
//! is, and all of the thread's connections with it; what is missing is read first (`late`).

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use entrepot_kernel::ktls::{self, TransmitKey};
use entrepot_kernel::mapping::{Located, locate};
use entrepot_kernel::residency::resident_bytes;
use entrepot_kernel::send::send_file;
use nix::libc::MSG_MORE;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::cold_read::Late;
use super::kernel_tls::Wire;

/// A client's connection.
pub struct Outlet {
    stream: TcpStream,
    late: Option<Late>,
}

impl Outlet {
    /// Over this connection.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, late: None }
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

    /// Sends of the mapped file that the first slice is of what the page cache has, else has it read.
    fn poll_file(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        located: Located,
    ) -> Poll<io::Result<usize>> {
        // For a client that takes nothing, nothing is read.
        ready!(self.stream.poll_write_ready(context))?;
        let length = slices[0].len();
        match resident_bytes(located.file(), located.offset, length) {
            0 => self.poll_late(context, Late::read(slices, located, length)),
            length => self
                .poll_now(context, |stream| send_file(stream.as_fd(), located.file().as_fd(), located.offset, length)),
        }
    }

    /// Sends bytes that were read late, once they are there.
    fn poll_late(&mut self, context: &mut Context<'_>, mut late: Late) -> Poll<io::Result<usize>> {
        let written = match late.poll(context) {
            Poll::Ready(bytes) => Pin::new(&mut self.stream).poll_write(context, &bytes?),
            Poll::Pending => Poll::Pending,
        };
        let sent = if let Poll::Ready(Ok(sent)) = written { sent } else { 0 };
        self.late = late.sent(sent).then_some(late);
        written
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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(late) = this.late.take().filter(|late| late.is_next(slices)) {
            return this.poll_late(context, late);
        }
        let found = slices.iter().enumerate().find_map(|(at, slice)| Some((at, locate(slice)?)));
        match found {
            None => Pin::new(&mut this.stream).poll_write_vectored(context, slices),
            Some((0, located)) => this.poll_file(context, slices, located),
            Some((before, _)) => this.poll_now(context, |stream| {
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
    use super::*;
    use crate::stream::testing::write_all;
    use std::future::poll_fn;
    use std::io::Write;
    use std::sync::Arc;

    use bytes::Bytes;
    use entrepot_kernel::mapping::MappedFile;
    use entrepot_kernel::residency::is_resident;
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Outlet, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        (Outlet::new(listener.accept().await.expect("accepted").0), client)
    }

    /// What a client has of these slices in the end.
    async fn received(mut outlet: Outlet, mut client: TcpStream, slices: Vec<Bytes>) -> Vec<u8> {
        let writing = tokio::spawn(async move {
            write_all(&mut outlet, slices).await.expect("written");
            outlet.shutdown().await.expect("ended");
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("read");
        writing.await.expect("no panic");
        received
    }

    /// A file on a disk: what a memory file system holds is never cold.
    fn mapped_file(content: &[u8]) -> Arc<MappedFile> {
        let mut file = tempfile::tempfile_in(std::env::current_dir().expect("a folder")).expect("a file");
        file.write_all(content).expect("written");
        file.sync_all().expect("synced");
        MappedFile::new(Arc::new(file), content.len() as u64).expect("mapped")
    }

    #[tokio::test]
    async fn heads_memory_and_files_arrive_in_order() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
        let file = mapped_file(&content);
        let (outlet, client) = pair().await;
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
        assert!(received(outlet, client, slices).await == expected);
    }

    /// The pool, which reads where a thread has no ring, is kept busy: a write that comes back waits for it, and one that
    /// reads from the disk itself, as sendfile does, does not.
    #[test]
    fn what_left_the_page_cache_is_read_elsewhere_and_the_thread_goes_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
            let file = mapped_file(&content);
            let slices = vec![file.slice(5000..1_500_000), file.slice(1_500_000..3_000_000)];
            let (mut outlet, client) = pair().await;
            posix_fadvise(file.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
            assert!(!is_resident(file.file(), 5000, 100), "this test needs a folder on a disk");
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv());
            let borrowed: Vec<_> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let first = poll_fn(|context| {
                Poll::Ready(
                    Pin::new(&mut outlet).poll_write_vectored(context, &borrowed).map(|sent| sent.expect("sent")),
                )
            });
            assert_eq!(first.await, Poll::Pending);
            drop((borrowed, release));
            assert!(received(outlet, client, slices).await == content[5000..]);
            busy.await.expect("no panic").expect_err("released");
        });
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
