//! Webhooks: events of our registry, in the format of Docker's registry, to receivers of the configuration.
//!
//! ```text
//! door, collection, import ─ tell ─► a bounded queue for each receiver ─► spool (files) ─► delivery (retries, in order)
//!                                                                    envelope ─► POST ◄─┘
//! ```
//!
//! Invariants: `tell` never waits, so no push waits for a receiver. A full queue drops new events and logs that. A
//! receiver gets the events in their order, also those that waited when the process ended. Its address and headers are
//! secrets and are never logged.

mod delivery;
mod envelope;
mod spool;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use http::Method;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::access::Principal;
use delivery::{Delivery, Pace};
use entrepot_config::ready::rights::Notification;
use entrepot_core::origin::Scheme;
use entrepot_upstream::registry_client::RegistryClient;
pub use envelope::EventSource;
use spool::Spool;

/// The kind of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A manifest or blob was pushed.
    Push,
    /// A blob was mounted from another repository.
    Mount,
    /// A manifest, tag, blob or repository was deleted.
    Delete,
}

/// An event. The change is durable before the event is told.
#[derive(Clone, Debug)]
pub struct Event {
    pub deed: Deed,
    pub at: SystemTime,
    pub repository: RepositoryName,
    /// None if the event is not about one manifest or blob.
    pub digest: Option<Digest>,
    /// None if unknown.
    pub size_bytes: Option<u64>,
    /// None if unknown.
    pub media_type: Option<String>,
    /// The tag that was set or deleted.
    pub tag: Option<Tag>,
    /// The repository from which a blob was mounted.
    pub from: Option<RepositoryName>,
    pub actor: Principal,
    /// None if an administrator made the change.
    pub request: Option<EventRequest>,
}

/// The request behind an event.
#[derive(Clone, Debug)]
pub struct EventRequest {
    pub client: IpAddr,
    pub scheme: Scheme,
    /// The host of the registry in the client's request.
    pub host: String,
    pub method: Method,
    pub user_agent: String,
}

/// The present way to receivers; a reload replaces it.
type WayOut = Arc<RwLock<Arc<RegistryClient>>>;
/// The facts about this appliance that every event carries.
type SharedSource = Arc<RwLock<EventSource>>;

/// The receivers. Clones share them.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    source: SharedSource,
    way_out: WayOut,
    runtime: Handle,
    pace: Pace,
    /// The place of events that wait.
    data_dir: PathBuf,
    /// Whether receivers were set before. The first ones get what an earlier process left.
    has_begun: AtomicBool,
    receivers: RwLock<Vec<Receiver>>,
    /// The running deliveries, with those of receivers that a reload removed.
    running: Mutex<Vec<JoinHandle<()>>>,
}

struct Receiver {
    settings: Notification,
    queue: mpsc::Sender<Arc<Event>>,
    dropped: Arc<Dropped>,
}

/// The number of events that a receiver did not get because too many waited.
#[derive(Default)]
struct Dropped(AtomicU64);

impl Dropped {
    fn note(&self, receiver: &Notification) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // One line for each thousand events: a dead receiver must not fill the log.
        if before.is_multiple_of(1000) {
            tracing::warn!(
                receiver = receiver.name,
                dropped = before + 1,
                "events are dropped: the queue of the receiver is full (registry.notifications.queue)"
            );
        }
    }
}

impl Events {
    /// Without receivers. Deliveries run on the current runtime. Events wait in files below `data_dir`.
    pub fn new(source: EventSource, way_out: Arc<RegistryClient>, data_dir: PathBuf) -> Self {
        Self::with_pace(source, way_out, data_dir, Pace::default())
    }

    fn with_pace(source: EventSource, way_out: Arc<RegistryClient>, data_dir: PathBuf, pace: Pace) -> Self {
        let way_out = Arc::new(RwLock::new(way_out));
        let (receivers, running) = (RwLock::default(), Mutex::default());
        let inner = Inner {
            source: Arc::new(RwLock::new(source)),
            way_out,
            runtime: Handle::current(),
            pace,
            data_dir,
            has_begun: AtomicBool::new(false),
            receivers,
            running,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Replaces the way to receivers, for later tries.
    pub fn set_way_out(&self, way_out: Arc<RegistryClient>) {
        *self.inner.way_out.write().unwrap_or_else(PoisonError::into_inner) = way_out;
    }

    /// Events that are sent from now on name the registry by this address.
    pub fn set_address(&self, address: String) {
        self.inner.source.write().unwrap_or_else(PoisonError::into_inner).address = address;
    }

    /// Replaces the receivers. A receiver that stays keeps its queue. A receiver that is removed still gets the events
    /// that wait for it.
    pub fn set_receivers(&self, wanted: &[Notification]) {
        let is_first = !self.inner.has_begun.swap(true, Ordering::Relaxed);
        if is_first {
            let (data_dir, wanted) = (self.inner.data_dir.clone(), wanted.to_vec());
            self.inner.runtime.spawn_blocking(move || spool::forget_others(&data_dir, &wanted));
        }
        let mut receivers = self.inner.receivers.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *receivers);
        for settings in wanted {
            let kept = before.iter().position(|receiver| receiver.settings == *settings);
            receivers.push(kept.map_or_else(|| self.start(settings, is_first), |at| before.swap_remove(at)));
        }
    }

    /// Queues an event for every receiver. Never waits.
    pub fn tell(&self, event: Event) {
        let receivers = self.inner.receivers.read().unwrap_or_else(PoisonError::into_inner);
        if receivers.is_empty() {
            return;
        }
        let event = Arc::new(event);
        for receiver in receivers.iter() {
            if receiver.queue.try_send(event.clone()).is_err() {
                receiver.dropped.note(&receiver.settings);
            }
        }
    }

    /// Takes no more events, and waits until the queued ones are delivered or given up. The caller sets a deadline. Those
    /// that are still there are sent by the next process.
    pub async fn close(&self) {
        self.set_receivers(&[]);
        let running = std::mem::take(&mut *self.inner.running.lock().unwrap_or_else(PoisonError::into_inner));
        for delivery in running {
            // A delivery that panicked has nothing more to deliver.
            let _ = delivery.await;
        }
    }

    fn start(&self, settings: &Notification, is_first: bool) -> Receiver {
        let dropped = Arc::<Dropped>::default();
        let (queue, told) = mpsc::channel(settings.queue);
        let delivery = Delivery {
            settings: settings.clone(),
            source: self.inner.source.clone(),
            way_out: self.inner.way_out.clone(),
            pace: self.inner.pace,
            spool: Spool::of(&self.inner.data_dir, settings),
            is_first,
            dropped: dropped.clone(),
        };
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|delivery| !delivery.is_finished());
        running.push(self.inner.runtime.spawn(delivery.run(told)));
        Receiver { settings: settings.clone(), queue, dropped }
    }
}
