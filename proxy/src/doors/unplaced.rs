//! The connections of the last seconds that had no name, for the agents that redirected them: an agent lets further
//! connections to the same address pass. The report is a field of the answer to an agent's health question.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use entrepot_core::unplaced::{CONNECTIONS_MAX, Unplaced};
use tokio::time::Instant;

/// The time for which a connection is reported: agents ask twice a second.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// The latest connections without a name, at most [`CONNECTIONS_MAX`].
#[derive(Default)]
pub(super) struct UnplacedConnections(Mutex<VecDeque<Connection>>);

struct Connection {
    at: Instant,
    peer: IpAddr,
    unplaced: Unplaced,
}

impl UnplacedConnections {
    /// Notes a connection without a name.
    pub(super) fn note(&self, peer: SocketAddr, original: Option<SocketAddr>) {
        let unplaced = original.map_or(Unplaced::From(peer), |original| Unplaced::To(original.ip()));
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.retain(|connection| connection.unplaced != unplaced);
        if latest.len() == CONNECTIONS_MAX {
            latest.pop_front();
        }
        latest.push_back(Connection { at: Instant::now(), peer: peer.ip(), unplaced });
    }

    /// The report for an agent at `peer`, which asks at our address `local`. An agent on this machine hears all; any
    /// other agent, which could be any client, hears of its own connections.
    pub(super) fn told_to(&self, peer: IpAddr, local: IpAddr) -> Vec<Unplaced> {
        let is_here = peer.is_loopback() || peer == local;
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = latest.iter().filter(|connection| connection.at.elapsed() < TOLD_FOR);
        told.filter(|connection| is_here || connection.peer == peer).map(|connection| connection.unplaced).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_agent_hears_of_its_own_connections_for_some_seconds() {
        let connections = UnplacedConnections::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let here = address(1);
        let (first, second) = (SocketAddr::new(address(2), 40_000), SocketAddr::new(address(3), 40_000));
        connections.note(first, None);
        connections.note(second, Some("192.0.2.1:443".parse().expect("an address")));
        assert_eq!(connections.told_to(address(2), here), [Unplaced::From(first)]);
        assert_eq!(connections.told_to(address(4), here), []);
        let all = [Unplaced::From(first), Unplaced::To([192, 0, 2, 1].into())];
        assert_eq!(connections.told_to(here, here), all);
        assert_eq!(connections.told_to(std::net::Ipv4Addr::LOCALHOST.into(), here), all);
        tokio::time::advance(TOLD_FOR).await;
        assert_eq!(connections.told_to(here, here), []);
        for port in 0..1000 {
            connections.note(SocketAddr::new(address(2), port), None);
        }
        assert_eq!(connections.told_to(here, here).len(), CONNECTIONS_MAX);
    }
}
