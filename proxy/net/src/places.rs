//! The places for connections: how many there may be, in all and for each client, and which connection makes room.
//!
//! When every place is taken, or every place of one client, the connection that has rested longest gives its place to
//! the new one. A connection rests before its first request and between two requests, as soon as the last answer has
//! left for the socket. So connections that want nothing at the moment, however many, never close the door to clients
//! that want something, and no answer is cut off for another.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use entrepot_core::client::{ClientKey, ClientShare, ClientShares};
use entrepot_observe::labels::ConnectionRefusal;
use entrepot_observe::metrics::{Metrics, OpenConnection};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

/// The bounds on the connections of all doors.
pub struct Bounds {
    places: Arc<Semaphore>,
    clients: ClientShares,
    resting: Arc<Resting>,
}

/// The parts of the bounds that a connection has. They are given back when it is dropped.
pub(crate) struct Place {
    client: ClientShare,
    place: OwnedSemaphorePermit,
}

/// A connection's place among those allowed. It is given back when it is dropped, if the connection has not made room
/// before.
pub struct ConnectionSlot {
    standing: Standing,
    _open: OpenConnection,
}

/// Whether a connection rests. Clones are the same connection's.
#[derive(Clone)]
pub struct Standing(Arc<Known>);

/// As long as this exists, its connection does not rest.
pub struct Busy(Standing);

struct Known {
    client: Option<ClientKey>,
    /// None once the connection has ended or made room. Changed under the table's lock only.
    place: Mutex<Option<Place>>,
    /// The number of [`Busy`] that keep the connection from resting. Changed under the table's lock only.
    busy: AtomicUsize,
    /// The position in the table. Changed under the table's lock only.
    position: AtomicU64,
    /// True once the connection has to end.
    let_go: watch::Sender<bool>,
    resting: Arc<Resting>,
}

/// The connections that rest, by the time since which they do.
#[derive(Default)]
struct Resting {
    table: Mutex<Table>,
    /// Told when one more connection rests.
    rested: Notify,
}

#[derive(Default)]
struct Table {
    positions: u64,
    /// Each with its client: the next connection of a client that has too many takes the place of one of its own.
    waiting: BTreeMap<u64, (Option<ClientKey>, Weak<Known>)>,
}

impl Bounds {
    /// At most `total_max` connections at once, `per_client_max` of them from one client.
    pub fn new(total_max: usize, per_client_max: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(total_max.min(Semaphore::MAX_PERMITS)));
        let clients = ClientShares::new(per_client_max as u64);
        Arc::new(Self { places, clients, resting: Arc::default() })
    }

    /// A client's share for one more connection. If it has none left, its connection that has rested longest makes
    /// room. None if none of them rests.
    pub(crate) fn share(&self, client: ClientKey, metrics: &Metrics) -> Option<ClientShare> {
        if let Some(share) = self.clients.take(client, 1) {
            return Some(share);
        }
        drop(self.resting.let_oldest_go(Some(client), metrics)?);
        self.clients.take(client, 1)
    }

    /// A place for a connection. If there is none left, the connection that has rested longest makes room. If none
    /// rests, this waits until a connection ends.
    pub(crate) async fn place(&self, client: ClientShare, metrics: &Metrics) -> Option<Place> {
        loop {
            let mut rested = pin!(self.resting.rested.notified());
            rested.as_mut().enable();
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Some(Place { client, place });
            }
            if let Some(Place { place, .. }) = self.resting.let_oldest_go(None, metrics) {
                return Some(Place { client, place });
            }
            tokio::select! {
                place = self.places.clone().acquire_owned() => return Some(Place { client, place: place.ok()? }),
                () = rested => {}
            }
        }
    }

    /// Ends the connection that has rested longest, for its file descriptor. False if none rests.
    pub(crate) fn make_room(&self, metrics: &Metrics) -> bool {
        self.resting.let_oldest_go(None, metrics).is_some()
    }

    pub(crate) fn slot(&self, place: Place, open: OpenConnection) -> ConnectionSlot {
        let standing = Standing::new(self.resting.clone(), Some(place.client.client()), Some(place));
        standing.rest(&mut self.resting.table());
        ConnectionSlot { standing, _open: open }
    }

    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn clients(&self) -> usize {
        self.clients.clients()
    }
}

impl ConnectionSlot {
    pub fn standing(&self) -> &Standing {
        &self.standing
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let known = &self.standing.0;
        let mut table = known.resting.table();
        table.waiting.remove(&known.position.load(Ordering::Relaxed));
        let place = known.take_place();
        drop(table);
        drop(place);
    }
}

impl Standing {
    fn new(resting: Arc<Resting>, client: Option<ClientKey>, place: Option<Place>) -> Self {
        let (busy, position, let_go) = (AtomicUsize::new(0), AtomicU64::new(0), watch::Sender::new(false));
        Self(Arc::new(Known { client, place: Mutex::new(place), busy, position, let_go, resting }))
    }

    /// The standing of a connection that no door counts. It makes room for nobody.
    pub fn uncounted() -> Self {
        Self::new(Arc::default(), None, None)
    }

    /// Keeps the connection from resting until the result is dropped.
    pub fn busy(&self) -> Busy {
        let mut table = self.0.resting.table();
        if self.0.busy.fetch_add(1, Ordering::Relaxed) == 0 {
            table.waiting.remove(&self.0.position.load(Ordering::Relaxed));
        }
        Busy(self.clone())
    }

    /// Serves the connection, or what it becomes after a CONNECT, to its end or until it must make room for another.
    pub async fn serve(self, serving: impl Future<Output = ()>) {
        let mut let_go = self.0.let_go.subscribe();
        tokio::select! {
            () = serving => {}
            _ = let_go.wait_for(|let_go| *let_go) => {}
        }
    }

    /// The connection rests from now on.
    fn rest(&self, table: &mut Table) {
        table.positions += 1;
        self.0.position.store(table.positions, Ordering::Relaxed);
        table.waiting.insert(table.positions, (self.0.client, Arc::downgrade(&self.0)));
        self.0.resting.rested.notify_waiters();
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Standing").field("busy", &self.0.busy).finish_non_exhaustive()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let known = &self.0.0;
        let mut table = known.resting.table();
        // A connection that has no place any more has ended, or is about to.
        if known.busy.fetch_sub(1, Ordering::Relaxed) == 1 && known.has_place() {
            self.0.rest(&mut table);
        }
    }
}

impl Known {
    fn take_place(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn has_place(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Resting {
    /// Ends the connection that has rested longest, `of` a client if one is named, and returns its place.
    fn let_oldest_go(&self, of: Option<ClientKey>, metrics: &Metrics) -> Option<Place> {
        let mut table = self.table();
        let mut of_client = table.waiting.iter().filter(|(_, (client, _))| of.is_none() || *client == of);
        let (position, oldest) = of_client.find_map(|(position, (_, known))| Some((*position, known.upgrade()?)))?;
        table.waiting.remove(&position);
        let place = oldest.take_place();
        drop(table);
        oldest.let_go.send_replace(true);
        metrics.connections_refused.inc(ConnectionRefusal::MadeRoom);
        place
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
