//! Listening sockets: bound before anything is served, accepting within the configured bounds.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::drain::Watch;
use entrepot_observe::labels::{ConnectionRefusal, Door};
use entrepot_observe::metrics::{Metrics, OpenConnection};

/// The bounds on the connections of a door.
pub struct Bounds {
    places: Arc<Semaphore>,
    per_client_max: usize,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place among those allowed. It is given back when it is dropped.
pub struct ConnectionSlot {
    client: IpAddr,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _place: OwnedSemaphorePermit,
    _open: OpenConnection,
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
    /// At most `total_max` connections at once, `per_client_max` of them from one address.
    pub fn new(total_max: usize, per_client_max: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(total_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { places, per_client_max, clients: Arc::default() })
    }

    fn admit(&self, client: IpAddr, place: OwnedSemaphorePermit, open: OpenConnection) -> Option<ConnectionSlot> {
        let client = client.to_canonical();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_insert(0);
        if *count >= self.per_client_max {
            return None;
        }
        *count += 1;
        Some(ConnectionSlot { client, clients: self.clients.clone(), _place: place, _open: open })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Accepts connections at a door until the drain begins. `serve` gets each with its place, and must not wait.
pub async fn accept(
    listener: TcpListener,
    bounds: Arc<Bounds>,
    (metrics, door): (Arc<Metrics>, Door),
    mut drain: Watch,
    serve: impl Fn(TcpStream, SocketAddr, ConnectionSlot),
) {
    loop {
        // The place comes first, so a client without one waits in the kernel's queue.
        let next = async {
            let place = bounds.places.clone().acquire_owned().await;
            (place, accept_one(&listener).await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = drain.draining() => return,
        };
        let Ok(place) = place else { return };
        match accepted {
            Ok((stream, peer)) => match bounds.admit(peer.ip(), place, metrics.connection(door)) {
                Some(place) => serve(stream, peer, place),
                None => metrics.connections_refused.inc(ConnectionRefusal::ClientLimit),
            },
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

    #[tokio::test]
    async fn one_client_cannot_take_every_place() {
        let bounds = Bounds::new(10, 2);
        let metrics = Metrics::new();
        let client: IpAddr = "192.0.2.1".parse().expect("address");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("address");
        let place = || bounds.places.clone().try_acquire_owned().expect("place");
        let first = bounds.admit(client, place(), metrics.connection(Door::Proxy));
        let second = bounds.admit(mapped, place(), metrics.connection(Door::Proxy));
        assert!(first.is_some() && second.is_some());
        assert!(bounds.admit(client, place(), metrics.connection(Door::Proxy)).is_none());
        drop(first);
        assert!(bounds.admit(client, place(), metrics.connection(Door::Proxy)).is_some());
        assert_eq!(bounds.places.available_permits(), 9, "only the second's place is taken");
    }
}
