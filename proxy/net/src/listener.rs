//! Listening sockets: bound before anything is served, accepting within the configured bounds.
//!
//! When every place is taken, the oldest connection whose client has not said anything yet makes room for a new one. So
//! silent connections, however many, never close the door to those who want something.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use entrepot_core::client::{ClientKey, ClientShare, ClientShares};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::drain::Watch;
use entrepot_observe::labels::{ConnectionRefusal, Door};
use entrepot_observe::metrics::{Metrics, OpenConnection};

/// The bounds on the connections of a door.
pub struct Bounds {
    places: Arc<Semaphore>,
    clients: ClientShares,
    silent: Arc<Silent>,
}

/// A connection's place among those allowed. It is given back when it is dropped.
pub struct ConnectionSlot {
    standing: Standing,
    _client: ClientShare,
    _place: OwnedSemaphorePermit,
    _open: OpenConnection,
}

/// Whether the client of a connection has said what it wants. Clones are the same connection's.
#[derive(Clone)]
pub struct Standing(Arc<Known>);

struct Known {
    number: u64,
    has_spoken: AtomicBool,
    let_go: Notify,
    silent: Arc<Silent>,
}

/// The connections whose clients have not said anything, by age.
#[derive(Default)]
struct Silent(Mutex<SilentTable>);

#[derive(Default)]
struct SilentTable {
    accepted: u64,
    waiting: BTreeMap<u64, Standing>,
}

/// The pause after a failure to accept: the process may have no file descriptors left until a connection ends.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The connections that may wait to be accepted.
pub(crate) const BACKLOG: i32 = 4096;

/// Binds a listening socket. `[::]` takes IPv4 too if the machine has both.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_socket(address) {
        // On a machine without IPv6, every address means every IPv4 address.
        Err(error)
            if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            bind_socket(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

/// The address that [`bind`] would bind here. Without IPv6, `[::]` means every IPv4 address.
pub(crate) fn as_bound(address: SocketAddr) -> SocketAddr {
    let no_ipv6 = || Socket::new(Domain::IPV6, Type::STREAM, None).is_err();
    match address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6() {
        true => SocketAddr::from(([0, 0, 0, 0], address.port())),
        false => address,
    }
}

fn bind_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts one connection. It belongs to no runtime yet; the thread that serves it registers it with its own.
async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    Ok((stream.into_std()?, peer))
}

impl Bounds {
    /// At most `total_max` connections at once, `per_client_max` of them from one client.
    pub fn new(total_max: usize, per_client_max: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(total_max.min(Semaphore::MAX_PERMITS)));
        let clients = ClientShares::new(per_client_max as u64);
        Arc::new(Self { places, clients, silent: Arc::default() })
    }

    /// A place for a connection, as soon as there is one. A silent connection makes room for it.
    async fn place(&self, metrics: &Metrics) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        if self.silent.let_oldest_go() {
            metrics.connections_refused.inc(ConnectionRefusal::MadeRoom);
        }
        self.places.clone().acquire_owned().await.ok()
    }

    fn slot(&self, client: ClientShare, place: OwnedSemaphorePermit, open: OpenConnection) -> ConnectionSlot {
        ConnectionSlot { standing: self.silent.clone().enter(), _client: client, _place: place, _open: open }
    }
}

impl ConnectionSlot {
    /// Whether the client has said what it wants.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.standing.spoke();
    }
}

impl Standing {
    /// The client has said what it wants: from now on its connection makes room for nobody.
    pub fn spoke(&self) {
        if !self.0.has_spoken.swap(true, Ordering::Relaxed) {
            self.0.silent.table().waiting.remove(&self.0.number);
        }
    }

    /// The standing of a connection that no door counts. It makes room for nobody.
    pub fn uncounted() -> Self {
        let (has_spoken, let_go) = (AtomicBool::new(true), Notify::new());
        Self(Arc::new(Known { number: 0, has_spoken, let_go, silent: Arc::default() }))
    }

    /// Serves the connection to its end, or until it must make room for another.
    pub async fn serve(self, serving: impl Future<Output = ()>) {
        tokio::select! {
            () = serving => {}
            () = self.0.let_go.notified() => {}
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_spoken = self.0.has_spoken.load(Ordering::Relaxed);
        out.debug_struct("Standing").field("has_spoken", &has_spoken).finish_non_exhaustive()
    }
}

impl Silent {
    fn enter(self: Arc<Self>) -> Standing {
        let mut table = self.table();
        table.accepted += 1;
        let (number, silent) = (table.accepted, self.clone());
        let known = Known { number, has_spoken: AtomicBool::new(false), let_go: Notify::new(), silent };
        let standing = Standing(Arc::new(known));
        table.waiting.insert(number, standing.clone());
        standing
    }

    /// Whether there was one.
    fn let_oldest_go(&self) -> bool {
        let oldest = self.table().waiting.pop_first();
        if let Some((_, standing)) = &oldest {
            standing.0.let_go.notify_one();
        }
        oldest.is_some()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, SilentTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections at a door until the drain begins. `serve` gets each with its place, must not wait, and
/// serves it by [`Standing::serve`].
pub async fn accept(
    listener: TcpListener,
    bounds: Arc<Bounds>,
    (metrics, door): (Arc<Metrics>, Door),
    mut drain: Watch,
    serve: impl Fn(TcpStream, SocketAddr, ConnectionSlot),
) {
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&listener) => accepted,
            () = drain.draining() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(client) = bounds.clients.take(ClientKey::of(peer.ip()), 1) else {
                    metrics.connections_refused.inc(ConnectionRefusal::ClientLimit);
                    continue;
                };
                // If every client has spoken, this one waits here for a place, and those after it in the kernel's queue.
                let place = tokio::select! {
                    place = bounds.place(&metrics) => place,
                    () = drain.draining() => return,
                };
                let Some(place) = place else { return };
                serve(stream, peer, bounds.slot(client, place, metrics.connection(door)));
            }
            Err(error) => {
                tracing::warn!("accepting a connection failed: {error}");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A door, and the connections that it accepted, in order. Each is closed when it is let go.
    struct Open {
        address: SocketAddr,
        metrics: Arc<Metrics>,
        accepted: mpsc::UnboundedReceiver<Standing>,
        trigger: drain::Trigger,
    }

    fn open(bounds: Arc<Bounds>) -> Open {
        let listener = bind("[::]:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (metrics, (trigger, watch)) = (Arc::new(Metrics::new()), drain::channel());
        let (tell, accepted) = mpsc::unbounded_channel();
        let serve = move |stream: TcpStream, _, slot: ConnectionSlot| {
            tell.send(slot.standing().clone()).expect("the test listens");
            tokio::spawn(slot.standing().clone().serve(async move {
                let _kept = (stream, slot);
                std::future::pending::<()>().await;
            }));
        };
        tokio::spawn(accept(listener, bounds, (metrics.clone(), Door::Proxy), watch, serve));
        Open { address, metrics, accepted, trigger }
    }

    impl Open {
        /// Connects from an address of loopback. None if the door closes it at once.
        async fn connect(&mut self, from: [u8; 4]) -> (tokio::net::TcpStream, Option<Standing>) {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((from, 0).into()).expect("an address of loopback");
            let to = SocketAddr::from(([127, 0, 0, 1], self.address.port()));
            let mut stream = socket.connect(to).await.expect("connected");
            let mut byte = [0];
            let answered = async {
                tokio::select! {
                    standing = self.accepted.recv() => standing,
                    _ = stream.read(&mut byte) => None,
                }
            };
            let standing = timeout(PATIENCE, answered).await.expect("accepted or closed");
            (stream, standing)
        }
    }

    async fn is_closed(stream: &mut tokio::net::TcpStream) -> bool {
        timeout(PATIENCE, stream.read(&mut [0])).await.is_ok_and(|read| !matches!(read, Ok(1..)))
    }

    #[tokio::test]
    async fn one_client_cannot_take_every_place() {
        let bounds = Bounds::new(10, 2);
        let mut door = open(bounds.clone());
        let (_first, taken) = door.connect([127, 0, 0, 2]).await;
        let (_second, too) = door.connect([127, 0, 0, 2]).await;
        assert!(taken.is_some() && too.is_some());
        assert!(door.connect([127, 0, 0, 2]).await.1.is_none(), "a third of one client");
        let (_other, taken) = door.connect([127, 0, 0, 3]).await;
        assert!(taken.is_some(), "another client");
        assert_eq!(bounds.places.available_permits(), 7);
        let refused = door.metrics.encode();
        assert!(refused.contains(r#"entrepot_connections_refused_total{reason="client_limit"} 1"#), "{refused}");
        assert_eq!(bounds.clients.clients(), 2);
        drop(door.trigger);
    }

    #[tokio::test]
    async fn silent_connections_make_room_and_others_never() {
        let bounds = Bounds::new(3, 100);
        let mut door = open(bounds.clone());
        let (_spoke, spoke) = door.connect([127, 0, 0, 2]).await;
        spoke.expect("accepted").spoke();
        let (mut oldest, _) = door.connect([127, 0, 0, 2]).await;
        let (mut next, _) = door.connect([127, 0, 0, 2]).await;
        // The door is full. The oldest that is silent goes, then the next.
        let mut honest = Vec::new();
        for (number, gone) in [&mut oldest, &mut next].into_iter().enumerate() {
            let (stream, taken) = door.connect([127, 0, 0, 3]).await;
            honest.push(stream);
            taken.expect("accepted beside the silent ones").spoke();
            assert!(is_closed(gone).await, "silent connection {number}");
        }
        // Now all have spoken. A new client waits until one ends.
        let address = SocketAddr::from(([127, 0, 0, 1], door.address.port()));
        let _waiting = tokio::net::TcpStream::connect(address).await.expect("in the queue");
        assert_eq!(bounds.places.available_permits(), 0);
        bounds.places.add_permits(1);
        timeout(PATIENCE, door.accepted.recv()).await.expect("a place is free").expect("accepted");
        let refused = door.metrics.encode();
        assert!(refused.contains(r#"entrepot_connections_refused_total{reason="made_room"} 2"#), "{refused}");
        drop(door.trigger);
    }
}
