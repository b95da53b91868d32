//! The address that a redirected connection was sent to, as the kernel tells it, and the guard against leading our own
//! connections back to ourselves.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the client dialled, where it is another than the door itself, which listens on `door_ports`:
/// what a gateway leads here has it as its own address; the agent on this machine and netfilter's REDIRECT answer
/// SO_ORIGINAL_DST.
pub fn original_destination(stream: &TcpStream, door_ports: &[u16]) -> Option<SocketAddr> {
    let (local, peer) = (canonical(stream.local_addr().ok()?), canonical(stream.peer_addr().ok()?));
    if !door_ports.contains(&local.port()) {
        return Some(local);
    }
    let socket = SockRef::from(stream);
    let told = if peer.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let told = told.ok().and_then(|address| address.as_socket()).map(canonical);
    told.filter(|told| *told != local)
}

/// A mapped IPv4 address as what it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Our own ends of the tunnels that run.
#[derive(Clone, Default)]
pub struct Outgoing(Arc<Mutex<HashSet<SocketAddr>>>);

/// An end that is known until this is dropped.
pub struct Known {
    outgoing: Outgoing,
    address: SocketAddr,
}

impl Outgoing {
    /// Remembers our end of `upstream`; call it before anything is sent there.
    pub fn remember(&self, upstream: &TcpStream) -> Option<Known> {
        let address = canonical(upstream.local_addr().ok()?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        Some(Known { outgoing: self.clone(), address })
    }

    /// Whether a connection from `peer` is one of ours that was led back.
    pub fn contains(&self, peer: SocketAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&canonical(peer))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.outgoing.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_ordinary_connection_meant_to_come_here() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connected");
        let (served, peer) = listener.accept().await.expect("accepted");
        assert_eq!(original_destination(&served, &[address.port()]), None);
        assert_eq!(original_destination(&served, &[3129]), Some(address), "as behind a gateway");
        let outgoing = Outgoing::default();
        assert!(!outgoing.contains(peer));
        let known = outgoing.remember(&client).expect("an address");
        assert!(outgoing.contains(peer), "our own connection came back");
        drop(known);
        assert!(!outgoing.contains(peer));
    }
}
