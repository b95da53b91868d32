//! Listening sockets: bound before anything is served, accepting within the configured bounds ([`places`](crate::places)).

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::client::ClientKey;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::drain::Watch;
use crate::places::{Bounds, ConnectionSlot};
use entrepot_observe::labels::{ConnectionRefusal, Door};
use entrepot_observe::metrics::Metrics;

/// The pause after a failure to accept: the process may have no file descriptors left until a connection ends.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a connection was told to make room for its file descriptor.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);
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

/// Accepts connections at a door until the drain begins. `serve` gets each with its place, must not wait, and
/// serves it by [`Standing::serve`](crate::places::Standing::serve).
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
                let Some(client) = bounds.share(ClientKey::of(peer.ip()), &metrics) else {
                    metrics.connections_refused.inc(ConnectionRefusal::ClientLimit);
                    continue;
                };
                // If no connection rests, this one waits here for a place, and those after it in the kernel's queue.
                let place = tokio::select! {
                    place = bounds.place(client, &metrics) => place,
                    () = drain.draining() => return,
                };
                let Some(place) = place else { return };
                serve(stream, peer, bounds.slot(place, metrics.connection(door)));
            }
            Err(error) => {
                let is_exhausted = matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE));
                if is_exhausted && bounds.make_room(&metrics) {
                    // The descriptor is free as soon as the connection's thread has closed it.
                    tokio::time::sleep(CLOSING_PAUSE).await;
                    continue;
                }
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
    use crate::places::Standing;
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

    /// Whether the door has left the connection alone. Everything that it closed before is known by now.
    async fn is_open(stream: &mut tokio::net::TcpStream) -> bool {
        timeout(Duration::ZERO, stream.read(&mut [0])).await.is_err()
    }

    async fn is_closed(stream: &mut tokio::net::TcpStream) -> bool {
        timeout(PATIENCE, stream.read(&mut [0])).await.is_ok_and(|read| !matches!(read, Ok(1..)))
    }

    #[tokio::test]
    async fn one_client_cannot_take_every_place() {
        let bounds = Bounds::new(10, 2);
        let mut door = open(bounds.clone());
        let mut busy = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (stream, standing) = door.connect([127, 0, 0, 2]).await;
            busy.push(standing.expect("accepted").busy());
            streams.push(stream);
        }
        assert!(door.connect([127, 0, 0, 2]).await.1.is_none(), "a third of one client");
        let (mut other, taken) = door.connect([127, 0, 0, 3]).await;
        assert!(taken.is_some(), "another client");
        assert_eq!(bounds.free_places(), 7);
        // The second rests now, so it makes room for the next of the same client, and the other client's stays.
        busy.pop();
        let (_third, taken) = door.connect([127, 0, 0, 2]).await;
        assert!(taken.is_some(), "in place of the one that rests");
        assert!(is_closed(&mut streams[1]).await);
        assert!(is_open(&mut streams[0]).await && is_open(&mut other).await);
        assert_eq!(bounds.free_places(), 7);
        let refused = door.metrics.encode();
        assert!(refused.contains(r#"entrepot_connections_refused_total{reason="client_limit"} 1"#), "{refused}");
        assert!(refused.contains(r#"entrepot_connections_refused_total{reason="made_room"} 1"#), "{refused}");
        assert_eq!(bounds.clients(), 2);
        drop(door.trigger);
    }

    /// Each row: what the connections did, by their number, and the order in which they make room.
    #[tokio::test]
    async fn the_connection_that_has_rested_longest_makes_room() {
        enum Did {
            /// One request and its answer.
            Asked(usize),
            /// A request that is still answered, or a tunnel.
            Asks(usize),
        }
        use Did::{Asked, Asks};
        for (did, order) in [
            (vec![], vec![0, 1, 2]),
            (vec![Asked(0)], vec![1, 2, 0]),
            (vec![Asks(1)], vec![0, 2]),
            (vec![Asked(1), Asked(0), Asked(2), Asked(1)], vec![0, 2, 1]),
            (vec![Asks(0), Asked(0), Asked(1)], vec![2, 1]),
            (vec![Asks(0), Asks(1), Asks(2)], vec![]),
        ] {
            let bounds = Bounds::new(3, 100);
            let mut door = open(bounds.clone());
            let (mut streams, mut standings, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..3 {
                let (stream, standing) = door.connect([127, 0, 0, 2]).await;
                streams.push(stream);
                standings.push(standing.expect("accepted"));
            }
            for did in did {
                match did {
                    Asked(number) => drop(standings[number].busy()),
                    Asks(number) => kept.push(standings[number].busy()),
                }
            }
            let mut newcomers = Vec::new();
            for number in &order {
                let (stream, taken) = door.connect([127, 0, 0, 3]).await;
                newcomers.push((stream, taken.expect("accepted").busy()));
                assert!(is_closed(&mut streams[*number]).await, "{number} of {order:?}");
            }
            // Now none rests. A new client waits until one does.
            let address = SocketAddr::from(([127, 0, 0, 1], door.address.port()));
            let _waiting = tokio::net::TcpStream::connect(address).await.expect("in the queue");
            assert_eq!(bounds.free_places(), 0);
            kept.clear();
            newcomers.clear();
            timeout(PATIENCE, door.accepted.recv()).await.expect("one that rests makes room").expect("accepted");
            drop(door.trigger);
        }
    }
}
