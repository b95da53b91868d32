//! The sealed tunnel: bytes copied both ways, never looked at, until both sides are done or nothing moves.
//!
//! A side that ends its half (FIN) has that passed on, and the other half goes on. A flow holds a buffer only while
//! bytes are in it, and returns it to its thread's stock, so an idle tunnel holds none; each busy one holds at most
//! two.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Bytes moved through tunnels, counted while they run.
#[derive(Default)]
pub struct TunnelCounters {
    /// From clients to upstreams.
    pub sent_bytes: AtomicU64,
    /// From upstreams to clients.
    pub received_bytes: AtomicU64,
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct TunnelEnd {
    /// From the client to upstream.
    pub sent_bytes: u64,
    /// From upstream to the client.
    pub received_bytes: u64,
    /// The reason for its end.
    pub reason: TunnelEndReason,
}

/// The reason for a tunnel's end.
#[derive(Debug)]
pub enum TunnelEndReason {
    /// Both sides were done.
    Closed,
    /// No byte moved either way for the idle timeout.
    Idle,
    /// Reading from the client or writing to upstream failed.
    SendFailed(io::Error),
    /// Reading from upstream or writing to the client failed.
    ReceiveFailed(io::Error),
}

const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers that each thread keeps for the next flow.
const SPARE_BUFFERS_MAX: usize = 32;

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Once the process is to stop, a tunnel that rests so long has nothing left to do.
const IDLE_WHILE_DRAINING: Duration = Duration::from_secs(1);

/// Copies between `client` and `upstream` until both have ended, one fails, or nothing moves for `idle_timeout`, which
/// is short once `draining` is ready. Both are dropped, and so closed, when it returns.
pub async fn splice<A, B>(
    mut client: A,
    mut upstream: B,
    mut idle_timeout: Duration,
    draining: impl Future<Output = ()>,
    counters: &TunnelCounters,
) -> TunnelEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut sent = Flow::new(&counters.sent_bytes);
    let mut received = Flow::new(&counters.received_bytes);
    let mut idle = pin!(sleep_until(Instant::now() + idle_timeout));
    let mut draining = pin!(draining.fuse());
    let reason = poll_fn(|cx| {
        let moved_before = sent.bytes + received.bytes;
        let sending = sent.poll(cx, Pin::new(&mut client), Pin::new(&mut upstream));
        let receiving = received.poll(cx, Pin::new(&mut upstream), Pin::new(&mut client));
        match (sending, receiving) {
            (Poll::Ready(Err(error)), _) => return Poll::Ready(TunnelEndReason::SendFailed(error)),
            (_, Poll::Ready(Err(error))) => return Poll::Ready(TunnelEndReason::ReceiveFailed(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(TunnelEndReason::Closed),
            _ => {}
        }
        let hurried = draining.as_mut().poll(cx).is_ready();
        if hurried {
            idle_timeout = idle_timeout.min(IDLE_WHILE_DRAINING);
        }
        if hurried || sent.bytes + received.bytes > moved_before {
            idle.as_mut().reset(Instant::now() + idle_timeout);
        }
        idle.as_mut().poll(cx).map(|()| TunnelEndReason::Idle)
    })
    .await;
    TunnelEnd { sent_bytes: sent.bytes, received_bytes: received.bytes, reason }
}

/// One direction.
struct Flow<'a> {
    state: State,
    bytes: u64,
    counter: &'a AtomicU64,
}

enum State {
    /// Nothing is held.
    Empty,
    /// `start..end` of the buffer is on its way.
    Full { buffer: Box<[u8]>, start: usize, end: usize },
    /// Everything was handed over, the writer may still hold some of it.
    Flushing,
    /// The reader ended; that is being passed on.
    Ending,
    /// The end was passed on.
    Ended,
}

impl<'a> Flow<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        Self { state: State::Empty, bytes: 0, counter }
    }

    /// Moves what can be moved now. Ready when this direction has ended.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut R>, mut to: Pin<&mut W>) -> Poll<io::Result<()>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        loop {
            match &mut self.state {
                State::Empty => self.state = ready!(poll_fill(cx, from.as_mut()))?,
                State::Full { buffer, start, end } => {
                    let taken = ready!(to.as_mut().poll_write(cx, &buffer[*start..*end]))?;
                    if taken == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *start += taken;
                    self.bytes += taken as u64;
                    self.counter.fetch_add(taken as u64, Ordering::Relaxed);
                    if start == end {
                        give_back(std::mem::take(buffer));
                        self.state = State::Flushing;
                    }
                }
                State::Flushing => {
                    ready!(to.as_mut().poll_flush(cx))?;
                    self.state = State::Empty;
                }
                State::Ending => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        if let State::Full { buffer, .. } = &mut self.state {
            give_back(std::mem::take(buffer));
        }
    }
}

fn poll_fill(cx: &mut Context<'_>, from: Pin<&mut impl AsyncRead>) -> Poll<io::Result<State>> {
    let mut buffer = take_buffer();
    let mut unfilled = ReadBuf::new(&mut buffer);
    let polled = from.poll_read(cx, &mut unfilled);
    let end = unfilled.filled().len();
    if end > 0 && matches!(polled, Poll::Ready(Ok(()))) {
        return Poll::Ready(Ok(State::Full { buffer, start: 0, end }));
    }
    give_back(buffer);
    polled.map_ok(|()| State::Ending)
}

fn take_buffer() -> Box<[u8]> {
    let spare = SPARE_BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    // A thread that is ending has no stock any more; the buffer is freed then.
    let _ = SPARE_BUFFERS.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);

    /// A tunnel over small pipes, its client's end and its upstream's end.
    fn tunnel(idle_timeout: Duration) -> (DuplexStream, DuplexStream, JoinHandle<TunnelEnd>, Arc<TunnelCounters>) {
        let ((client, inner_client), (upstream, inner_upstream)) = (duplex(16), duplex(16));
        let counters = Arc::new(TunnelCounters::default());
        let counting = Arc::clone(&counters);
        let running =
            tokio::spawn(async move { splice(inner_client, inner_upstream, idle_timeout, pending(), &counting).await });
        (client, upstream, running, counters)
    }

    #[tokio::test]
    async fn a_half_that_ends_leaves_the_other_open() {
        for client_first in [true, false] {
            let (client, upstream, running, counters) = tunnel(LONG);
            let (mut first, mut second) = if client_first { (client, upstream) } else { (upstream, client) };
            let mut heard = Vec::new();
            first.write_all(b"question").await.expect("sent");
            first.shutdown().await.expect("ended");
            second.read_to_end(&mut heard).await.expect("the end is passed on");
            assert_eq!(heard, b"question");
            let answer = vec![7; 100_000];
            let mut back = Vec::new();
            let (sent, received) = tokio::join!(
                async {
                    second.write_all(&answer).await?;
                    second.shutdown().await
                },
                first.read_to_end(&mut back)
            );
            sent.expect("the other half is open");
            received.expect("the answer");
            assert_eq!(back, answer);
            let end = running.await.expect("no panic");
            assert!(matches!(end.reason, TunnelEndReason::Closed), "{end:?}");
            let expected = if client_first { (8, 100_000) } else { (100_000, 8) };
            assert_eq!((end.sent_bytes, end.received_bytes), expected);
            let counted =
                (counters.sent_bytes.load(Ordering::Relaxed), counters.received_bytes.load(Ordering::Relaxed));
            assert_eq!(counted, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_counted_from_the_last_byte_either_way() {
        let idle = Duration::from_secs(10);
        let (mut client, mut upstream, running, _) = tunnel(idle);
        let began = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            upstream.write_all(b"x").await.expect("still open");
            client.read_u8().await.expect("a byte");
        }
        let end = running.await.expect("no panic");
        assert!(matches!(end.reason, TunnelEndReason::Idle), "{end:?}");
        assert_eq!(began.elapsed().as_secs(), 5 * 9 + 10);
        assert_eq!(end.received_bytes, 5);
        assert_eq!(client.read(&mut [0]).await.expect("closed"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_what_rests_and_lets_the_rest_move_on() {
        let ((mut client, inner_client), (mut upstream, inner_upstream)) = (duplex(16), duplex(16));
        let draining = tokio::time::sleep(Duration::from_secs(5));
        let running = tokio::spawn(async move {
            splice(inner_client, inner_upstream, LONG, draining, &TunnelCounters::default()).await
        });
        let began = Instant::now();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            upstream.write_all(b"x").await.expect("still open");
            client.read_u8().await.expect("a byte");
        }
        assert!(matches!(running.await.expect("no panic").reason, TunnelEndReason::Idle));
        assert_eq!(began.elapsed().as_secs(), 19);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_idle_too() {
        let (mut client, _upstream, running, _) = tunnel(Duration::from_secs(10));
        let writing = tokio::spawn(async move { client.write_all(&[0; 1000]).await });
        assert!(matches!(running.await.expect("no panic").reason, TunnelEndReason::Idle));
        assert!(writing.await.expect("no panic").is_err(), "the writer learns of it");
    }

    #[tokio::test]
    async fn a_reset_ends_the_tunnel_and_says_which_way() {
        let (mut client, inner_client) = duplex(16);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (peer, _) = listener.accept().await.expect("accepted");
        peer.set_zero_linger().expect("an option");
        drop(peer);
        let end = splice(inner_client, upstream, LONG, pending(), &TunnelCounters::default()).await;
        assert!(matches!(end.reason, TunnelEndReason::ReceiveFailed(_)), "{end:?}");
        assert_eq!(client.read(&mut [0]).await.expect("closed"), 0);
    }

    #[tokio::test]
    async fn an_idle_tunnel_holds_no_buffer() {
        let spare = || SPARE_BUFFERS.with_borrow(Vec::len);
        let (mut client, mut upstream, _running, _) = tunnel(LONG);
        client.write_all(b"x").await.expect("sent");
        upstream.read_u8().await.expect("a byte");
        tokio::task::yield_now().await;
        assert!((1..=2).contains(&spare()), "{}", spare());
    }
}
