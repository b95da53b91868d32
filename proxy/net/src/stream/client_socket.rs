//! The lowest layer of every client's connection: a socket that
//!
//! - sends slices of mapped files by sendfile(2), from the page cache to the socket. All other bytes are written as
//!   usual, and wait in the kernel for the file's bytes behind them (`MSG_MORE`);
//! - gives up a client that takes no byte for too long. A slow client is served at its speed;
//! - replays bytes that were read already: a door looks at a connection's beginning, or HTTP reads ahead of a CONNECT.
//!
//! Invariant: sendfile is called only for bytes that the page cache has. Otherwise it would wait for the disk even on a
//! nonblocking socket, and block all connections of the thread. Missing bytes are read first (`cold_read.rs`).

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use entrepot_kernel::ktls::{self, TransmitKey};
use entrepot_kernel::mapping::{Located, locate};
use entrepot_kernel::residency::resident_bytes;
use entrepot_kernel::send::send_file;
use nix::libc::MSG_MORE;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::cold_read::ColdRead;

/// A client's socket.
pub struct ClientSocket {
    stream: TcpStream,
    /// Bytes that were read already. They are read again before those of the stream.
    replay: Bytes,
    timeout: WriteTimeout,
    cold: Option<ColdRead>,
    /// Encrypts in place of this machine's kernel, which may have no TLS.
    #[cfg(test)]
    pub(super) kernel: Option<super::testing::Kernel>,
}

/// The next request to a kernel that encrypts.
pub(super) enum KernelOrder<'a> {
    /// Records of application data, as many as the kernel makes of the beginning of these slices.
    Data(&'a [IoSlice<'a>]),
    /// One record of another type.
    Record { kind: u8, content: &'a [u8] },
    /// Another key for everything that is sent from now on.
    ChangeKey(&'a TransmitKey),
}

/// The bytes that the kernel may hold for the other side before they are sent. Bytes on the way do not count, so a long
/// fat link is filled all the same.
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// Bounds what the kernel holds unsent for a peer that reads slowly. Without a bound it is the whole send buffer, some
/// megabytes, and a few thousand such peers use up the memory of all connections of the machine.
fn bound_unsent(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_MAX_BYTES)
}

impl ClientSocket {
    /// Every write must take at least one byte within `send_timeout`.
    pub fn new(stream: TcpStream, send_timeout: Duration) -> Self {
        // A socket that refuses is served all the same.
        let _ = bound_unsent(&stream);
        let timeout = WriteTimeout { limit: send_timeout, deadline: None };
        Self {
            stream,
            replay: Bytes::new(),
            timeout,
            cold: None,
            #[cfg(test)]
            kernel: None,
        }
    }

    /// The socket, for its addresses and options.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Puts bytes that were read already back in front.
    pub fn replay(&mut self, read: Bytes) {
        self.replay = match (read.is_empty(), self.replay.is_empty()) {
            (true, _) => return,
            (false, true) => read,
            (false, false) => Bytes::from([read, self.replay.clone()].concat()),
        };
    }

    /// The next byte, which stays unread. None if the client is gone.
    pub async fn peek(&self) -> Option<u8> {
        if let Some(byte) = self.replay.first() {
            return Some(*byte);
        }
        let mut byte = [0];
        match self.stream.peek(&mut byte).await {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }

    /// Has the kernel encrypt everything that is sent from now on.
    pub(super) fn hand_to_kernel(&mut self, key: &TransmitKey) -> io::Result<()> {
        #[cfg(test)]
        if let Some(kernel) = &mut self.kernel {
            return kernel.take_over(key);
        }
        ktls::take_over(self.stream.as_fd(), key)
    }

    /// Has the kernel do what is next. Returns the bytes of application data that it took.
    pub(super) fn poll_kernel(
        &mut self,
        context: &mut Context<'_>,
        order: &KernelOrder<'_>,
    ) -> Poll<io::Result<usize>> {
        #[cfg(test)]
        if let Some(mut kernel) = self.kernel.take() {
            let done = kernel.poll(context, self, order);
            self.kernel = Some(kernel);
            return done;
        }
        match *order {
            KernelOrder::Data(slices) => Pin::new(self).poll_write_vectored(context, slices),
            KernelOrder::Record { kind, content } => {
                let sent =
                    self.poll_now(context, |stream| ktls::send_record(stream.as_fd(), kind, content).map(|()| 0));
                self.timeout.watch(context, sent)
            }
            KernelOrder::ChangeKey(key) => Poll::Ready(ktls::change_key(self.stream.as_fd(), key).map(|()| 0)),
        }
    }

    /// Writes bytes that are known not to belong to a mapped file.
    pub(super) fn poll_write_memory(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timeout.watch(context, written)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(cold) = self.cold.take().filter(|cold| cold.is_next(slices)) {
            return self.poll_cold(context, cold);
        }
        let found = slices.iter().enumerate().find_map(|(at, slice)| Some((at, locate(slice)?)));
        match found {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            Some((0, located)) => self.poll_file(context, slices, located),
            Some((before, _)) => self.poll_now(context, |stream| {
                SockRef::from(stream).send_vectored_with_flags(&slices[..before], MSG_MORE)
            }),
        }
    }

    /// Sends the part of the first slice that the page cache has. The slice is of a mapped file. If the page cache has
    /// none of it, the bytes are read first.
    fn poll_file(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        located: Located,
    ) -> Poll<io::Result<usize>> {
        // If the client takes nothing, nothing is read.
        ready!(self.stream.poll_write_ready(context))?;
        let length = slices[0].len();
        match resident_bytes(located.file(), located.offset, length) {
            0 => self.poll_cold(context, ColdRead::start(slices, located, length)),
            length => self
                .poll_now(context, |stream| send_file(stream.as_fd(), located.file().as_fd(), located.offset, length)),
        }
    }

    /// Sends bytes that the page cache did not have, once they are read.
    fn poll_cold(&mut self, context: &mut Context<'_>, mut cold: ColdRead) -> Poll<io::Result<usize>> {
        let written = match cold.poll(context) {
            Poll::Ready(bytes) => Pin::new(&mut self.stream).poll_write(context, &bytes?),
            Poll::Pending => Poll::Pending,
        };
        let sent = if let Poll::Ready(Ok(sent)) = written { sent } else { 0 };
        self.cold = cold.sent(sent).then_some(cold);
        written
    }

    /// Runs `write` when the socket can take bytes.
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

/// The longest time that a write may wait for the client to take a byte.
struct WriteTimeout {
    limit: Duration,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    /// Passes a write's result on, or an error when the time is over.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buf);
        }
        let length = self.replay.len().min(buf.remaining());
        buf.put_slice(&self.replay[..length]);
        self.replay.advance(length);
        if self.replay.is_empty() {
            // The memory behind an empty slice would live as long as the connection.
            self.replay = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = this.poll_send(context, slices);
        this.timeout.watch(context, sent)
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
    use crate::stream::testing::{PATIENCE, mapped_file, socket_pair, write_all};
    use std::future::poll_fn;

    use bytes::Bytes;
    use entrepot_kernel::residency::is_resident;
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// All bytes of these slices that a client gets.
    async fn received(mut socket: ClientSocket, mut client: TcpStream, slices: Vec<Bytes>) -> Vec<u8> {
        let writing = tokio::spawn(async move {
            write_all(&mut socket, slices).await.expect("written");
            socket.shutdown().await.expect("ended");
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("read");
        writing.await.expect("no panic");
        received
    }

    #[tokio::test]
    async fn heads_memory_and_files_arrive_in_order() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
        let file = mapped_file(&content);
        let (socket, client) = socket_pair(PATIENCE).await;
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
        assert!(received(socket, client, slices).await == expected);
    }

    /// The pool, which reads for a thread without a ring, is kept busy. So a write that returns has to wait for the
    /// pool. A write that reads from the disk itself, as sendfile does, would not wait.
    #[test]
    fn what_left_the_page_cache_is_read_elsewhere_and_the_thread_goes_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
            let file = mapped_file(&content);
            let slices = vec![file.slice(5000..1_500_000), file.slice(1_500_000..3_000_000)];
            let (mut socket, client) = socket_pair(PATIENCE).await;
            posix_fadvise(file.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
            assert!(!is_resident(file.file(), 5000, 100), "this test needs a folder on a disk");
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv());
            let borrowed: Vec<_> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let first = poll_fn(|context| {
                Poll::Ready(
                    Pin::new(&mut socket).poll_write_vectored(context, &borrowed).map(|sent| sent.expect("sent")),
                )
            });
            assert_eq!(first.await, Poll::Pending);
            drop((borrowed, release));
            assert!(received(socket, client, slices).await == content[5000..]);
            busy.await.expect("no panic").expect_err("released");
        });
    }

    #[tokio::test]
    async fn a_file_that_was_cut_is_an_error_and_never_a_short_body() {
        let file = mapped_file(&[5; 500_000]);
        let (mut socket, mut client) = socket_pair(PATIENCE).await;
        file.file().set_len(100_000).expect("cut");
        let writing = tokio::spawn(async move { write_all(&mut socket, vec![file.slice(0..500_000)]).await });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("read");
        assert_eq!(received.len(), 100_000);
        writing.await.expect("no panic").expect_err("cut");
    }

    #[tokio::test]
    async fn bytes_that_were_read_come_again_first() {
        let (mut socket, mut client) = socket_pair(PATIENCE).await;
        client.write_all(b"GET / HTTP/1.1").await.expect("sent");
        assert_eq!(socket.peek().await, Some(b'G'), "from the socket");
        let mut read = [0; 6];
        socket.read_exact(&mut read).await.expect("read");
        socket.replay(Bytes::copy_from_slice(&read[3..]));
        socket.replay(Bytes::copy_from_slice(&read[..3]));
        socket.replay(Bytes::new());
        assert_eq!(socket.peek().await, Some(b'G'), "from memory");
        let mut one = [0];
        socket.read_exact(&mut one).await.expect("reads of one byte are enough");
        assert_eq!(one, *b"G");
        let mut rest = [0; 13];
        socket.read_exact(&mut rest).await.expect("read");
        assert_eq!(&rest, b"ET / HTTP/1.1");
        drop(client);
        assert_eq!(socket.peek().await, None);
    }

    /// Every kind of bytes: of files, by sendfile; of memory, as slices and as records. The client reads nothing, and
    /// its receive buffer is small, so nearly everything that was taken waits in our kernel.
    #[tokio::test]
    async fn what_waits_for_a_slow_client_is_bounded() {
        const TAKEN_MAX_BYTES: usize = 1 << 20;
        let file = mapped_file(&[5; 16 << 20]);
        for bytes in [file.slice(0..16 << 20), Bytes::from(vec![5; 16 << 20])] {
            let (mut socket, client) = socket_pair(PATIENCE).await;
            SockRef::from(&client).set_recv_buffer_size(64 * 1024).expect("a small receive buffer");
            let mut taken = 0;
            while let Some(sent) = futures_util::FutureExt::now_or_never(poll_fn(|context| {
                Pin::new(&mut socket).poll_write_vectored(context, &[IoSlice::new(&bytes[taken..])])
            })) {
                taken += sent.expect("sent");
            }
            assert!(taken < TAKEN_MAX_BYTES, "{taken} bytes are held for a client that reads nothing");
        }
        let (mut socket, _client) = socket_pair(PATIENCE).await;
        let mut taken = 0;
        while let Some(sent) =
            futures_util::FutureExt::now_or_never(poll_fn(|context| socket.poll_write_memory(context, &[5; 16 << 10])))
        {
            taken += sent.expect("sent");
        }
        assert!(taken < TAKEN_MAX_BYTES, "{taken} bytes are held for a client that reads nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_served_and_a_stopped_one_is_let_go() {
        let mut timeout = WriteTimeout { limit: Duration::from_secs(60), deadline: None };
        let mut watch = |written: Poll<io::Result<usize>>| {
            let polled = timeout.watch(&mut Context::from_waker(std::task::Waker::noop()), written);
            polled.map(|written| written.map_err(|error| error.kind()))
        };
        for _ in 0..8 {
            assert_eq!(watch(Poll::Pending), Poll::Pending);
            tokio::time::advance(Duration::from_secs(50)).await;
            assert_eq!(watch(Poll::Pending), Poll::Pending, "slow, but it goes on");
            assert_eq!(watch(Poll::Ready(Ok(1))), Poll::Ready(Ok(1)));
        }
        assert_eq!(watch(Poll::Pending), Poll::Pending);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(watch(Poll::Pending), Poll::Ready(Err(io::ErrorKind::TimedOut)));
    }

    #[tokio::test]
    async fn every_kind_of_write_has_the_timeout() {
        let limit = Duration::from_millis(30);
        let file = mapped_file(&[5; 1 << 20]);
        for slices in [vec![file.slice(0..1 << 20); 64], vec![Bytes::from(vec![5; 1 << 20]); 64]] {
            let (mut socket, _client) = socket_pair(limit).await;
            let error = write_all(&mut socket, slices).await.expect_err("the client reads nothing");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        let (mut socket, _client) = socket_pair(limit).await;
        let error = loop {
            if let Err(error) = poll_fn(|context| socket.poll_write_memory(context, &[5; 1 << 16])).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
