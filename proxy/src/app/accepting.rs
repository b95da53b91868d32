//! Gives the connections of every listening socket to the serving threads.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::build::Server;
use super::file_limit;
use super::listening::Doors;
use crate::doors::transparent::TransparentDoor;
use crate::doors::{proxy, registry};
use entrepot_net::connection::Destination;
use entrepot_net::drain::Watch;
use entrepot_net::listener;
use entrepot_net::places::{Bounds, ConnectionSlot};
use entrepot_net::workers::Workers;
use entrepot_net::workers::load::Connected;
use entrepot_observe::labels::Door;
use entrepot_observe::metrics::Metrics;

/// The state that the doors share: their bounds count together.
struct Common<'a> {
    bounds: Arc<Bounds>,
    metrics: &'a Arc<Metrics>,
    workers: &'a Arc<Workers>,
    watch: Watch,
}

/// Accepts until the drain begins.
pub(super) fn accept_on_every_door(server: &Server, doors: Doors, workers: &Arc<Workers>, watch: Watch) {
    let wanted = &server.startup.proxy;
    let bounds = Bounds::new(file_limit::connections(wanted.max_connections), wanted.max_connections_per_client);
    let common = Common { bounds, metrics: &server.pull.metrics, workers, watch };
    let state = &server.reloader.state;
    let ports = doors.transparent.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
    let transparent = Arc::new(TransparentDoor::new(state.clone(), ports));
    for listener in doors.proxy {
        let state = state.clone();
        common.accept(listener, Door::Proxy, move |stream, peer, place, drain| {
            proxy::serve(state.clone(), stream, peer, place, drain)
        });
    }
    for listener in doors.transparent {
        let door = transparent.clone();
        common.accept(listener, Door::Transparent, move |stream, peer, place, drain| {
            door.clone().serve(stream, peer, place, drain)
        });
    }
    for (listeners, door, destination) in [
        (doors.registry.http, Door::Registry, Destination::Own),
        (doors.registry.https, Door::Registry, Destination::OwnByTls),
        (doors.mirror, Door::Mirror, Destination::DockerHubMirror),
    ] {
        for listener in listeners {
            let (state, destination) = (state.clone(), destination.clone());
            common.accept(listener, door, move |stream, peer, place, drain| {
                registry::serve(state.clone(), stream, peer, (place, door, destination.clone()), drain)
            });
        }
    }
}

impl Common<'_> {
    /// Gives each connection to the serving thread that has the fewest.
    fn accept<Serving>(
        &self,
        listener: TcpListener,
        door: Door,
        serve: impl Fn(std::net::TcpStream, SocketAddr, (ConnectionSlot, Connected), Watch) -> Serving
        + Clone
        + Send
        + Sync
        + 'static,
    ) where
        Serving: Future<Output = ()> + 'static,
    {
        let (drain, workers) = (self.watch.clone(), self.workers.clone());
        let hand = move |stream, peer, place: ConnectionSlot| {
            let (serve, drain) = (serve.clone(), drain.clone());
            let standing = place.standing().clone();
            workers.hand(move |connected| standing.serve(serve(stream, peer, (place, connected), drain)));
        };
        let metrics = (self.metrics.clone(), door);
        tokio::spawn(listener::accept(listener, self.bounds.clone(), metrics, self.watch.clone(), hand));
    }
}
