//! Listening sockets that outlive the process. The service manager keeps each socket that we bind (its file descriptor
//! store) and passes it to our successor. Between the two processes connections wait in the socket, and none is
//! refused. The sockets of a socket unit are used in the same way.
//!
//! Only the configuration decides on which addresses this process listens. A socket is recognised by its address,
//! whatever its name is. A socket whose address is no longer configured is closed.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use entrepot_kernel::inherited;
use sd_notify::NotifyState;
use socket2::{Socket, Type};
use tokio::net::TcpListener;

use super::is_there;
use crate::listener::{self, BACKLOG, as_bound};

/// The sockets that were passed to this process and are not in use yet.
pub struct Listeners {
    passed: Vec<(SocketAddr, Socket)>,
}

/// The prefix of the names of the sockets that we gave to the service manager.
const OWN: &str = "entrepot.";

impl Listeners {
    /// Takes the sockets that were passed to this process and are `configured`, and closes the rest.
    pub fn take(configured: impl Iterator<Item = SocketAddr>) -> Self {
        let passed = inherited::take().unwrap_or_else(|error| {
            tracing::warn!("the sockets that the service manager passed cannot be taken: {error}");
            Vec::new()
        });
        Self::from_passed(passed.into_iter().map(|(socket, name)| (socket.into(), name)), configured)
    }

    fn from_passed(
        passed: impl Iterator<Item = (Socket, String)>,
        configured: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let configured: HashSet<_> = configured.map(as_bound).collect();
        let mut kept = Vec::new();
        for (socket, name) in passed {
            match address_of(&socket) {
                Some(address) if configured.contains(&address) => kept.push((address, socket)),
                _ => dismiss(&socket, &name),
            }
        }
        Self { passed: kept }
    }

    /// The socket for `address`: the one that was passed, or a new one, which the service manager then keeps too. Call
    /// it within a tokio runtime.
    pub fn bind(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        let bound = as_bound(address);
        if let Some(found) = self.passed.iter().position(|(passed, _)| *passed == bound) {
            let (_, socket) = self.passed.swap_remove(found);
            socket.set_nonblocking(true)?;
            // The program that opened it may have given it a shorter queue.
            socket.listen(BACKLOG)?;
            tracing::info!(%address, "took over the listening socket");
            return TcpListener::from_std(socket.into());
        }
        let listener = listener::bind(address)?;
        keep(&listener, bound);
        Ok(listener)
    }
}

fn address_of(socket: &Socket) -> Option<SocketAddr> {
    let listens = socket.r#type().ok()? == Type::STREAM && socket.is_listener().ok()?;
    socket.local_addr().ok()?.as_socket().filter(|_| listens)
}

/// Has the service manager keep the socket. It may block: this runs at the start, before any client is served.
fn keep(listener: &TcpListener, address: SocketAddr) {
    if !is_there() {
        return;
    }
    let name = name_of(address);
    let told = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[listener.as_fd()]);
    if let Err(error) = told {
        tracing::warn!(%address, "the service manager does not keep the listening socket over a restart: {error}");
    }
}

/// Closes a socket that is not configured, because this process would never accept connections there.
fn dismiss(socket: &Socket, name: &str) {
    let address = address_of(socket).map_or_else(|| "no address".to_owned(), |address| address.to_string());
    if !name.starts_with(OWN) {
        tracing::warn!("the socket {name:?} ({address}) of the service manager is not configured here and not used");
        return;
    }
    tracing::info!("{address} is no longer configured; its socket is closed");
    // The service manager has the socket too, and closes it later. The shutdown frees its address at once.
    let _ = socket.shutdown(std::net::Shutdown::Both);
    if is_there()
        && let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
    {
        tracing::warn!("the service manager could not be told: {error}");
    }
}

/// The name of a socket of ours. It has no colons, because the service manager separates names by colons.
fn name_of(address: SocketAddr) -> String {
    format!("{OWN}{address}").replace(':', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str) -> (Socket, SocketAddr) {
        let listener = std::net::TcpListener::bind(address).expect("bound");
        let address = listener.local_addr().expect("an address");
        (listener.into(), address)
    }

    #[tokio::test]
    async fn a_passed_socket_serves_its_address() {
        let (socket, address) = listening("127.0.0.1:0");
        let waiting = std::net::TcpStream::connect(address).expect("it waits in the socket");
        let passed = [(socket, "anything".to_owned())];
        let mut listeners = Listeners::from_passed(passed.into_iter(), [address].into_iter());
        let listener = listeners.bind(address).expect("taken over");
        let (_, peer) = listener.accept().await.expect("accepted");
        assert_eq!(peer, waiting.local_addr().expect("its end"));
    }

    #[tokio::test]
    async fn what_is_no_longer_configured_makes_room_at_once() {
        let (socket, address) = listening("127.0.0.1:0");
        // The service manager's copy.
        let elsewhere = socket.try_clone().expect("a copy");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let passed = [(socket, name_of(address))];
        let mut listeners = Listeners::from_passed(passed.into_iter(), [everywhere].into_iter());
        listeners.bind(everywhere).expect("the port is free");
        drop(elsewhere);
    }

    #[test]
    fn what_does_not_listen_is_left_alone() {
        let (one, _other) = Socket::pair(socket2::Domain::UNIX, Type::STREAM, None).expect("a pair");
        assert_eq!(address_of(&one), None);
        let unbound = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert_eq!(address_of(&unbound), None);
    }

    #[test]
    fn names_have_no_colons() {
        let address = "[::]:3128".parse().expect("an address");
        assert_eq!(name_of(address), "entrepot.[__]_3128");
    }
}
