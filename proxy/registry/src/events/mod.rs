//! What happened in our registry, for those who want to hear of it: webhooks in the format of Docker's registry.
//!
//! ```text
//! door, gc, import ─ tell ─► a bounded queue a receiver ─► delivery (tries again, in order) ─► envelope ─► POST
//! ```
//!
//! Invariants: telling never waits, so no push waits for a receiver; a queue that is full drops what is new, and says so;
//! a receiver hears of events in their order; its address and headers are secrets and are in no log.

mod delivery;
mod envelope;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
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
use entrepot_config::ready::Scheme;
use entrepot_config::ready::rights::Notification;
use entrepot_upstream::exchange::Upstream;
pub use envelope::Source;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A manifest or blob arrived.
    Push,
    /// A blob was taken over from another repository.
    Mount,
    /// A manifest, tag, blob or repository was taken away.
    Delete,
}

/// One thing that happened. It is durable before anybody hears of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub deed: Deed,
    /// When.
    pub at: SystemTime,
    /// Where.
    pub repository: RepositoryName,
    /// The content, where it is about one.
    pub digest: Option<Digest>,
    /// Its length, where known.
    pub size_bytes: Option<u64>,
    /// Its type.
    pub media_type: Option<String>,
    /// The tag that was set or deleted.
    pub tag: Option<Tag>,
    /// Whence a blob was taken over.
    pub from: Option<RepositoryName>,
    /// Who did it.
    pub actor: Principal,
    /// The request; none where an administrator did it.
    pub request: Option<EventRequest>,
}

/// The request behind an event.
#[derive(Clone, Debug)]
pub struct EventRequest {
    /// From where.
    pub client: IpAddr,
    /// What the client speaks.
    pub scheme: Scheme,
    /// The door's name as the client wrote it.
    pub host: String,
    /// The method.
    pub method: Method,
    /// What the client calls itself.
    pub user_agent: String,
}

/// The way out that holds now.
type WayOut = Arc<RwLock<Arc<Upstream>>>;
/// What events say about us now.
type SharedSource = Arc<RwLock<Source>>;

/// Where events go. Cloned freely; telling never waits.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    source: SharedSource,
    way_out: WayOut,
    runtime: Handle,
    pace: Pace,
    receivers: RwLock<Vec<Receiver>>,
    /// Deliveries that run, those of receivers that were taken out of the configuration included.
    running: Mutex<Vec<JoinHandle<()>>>,
}

struct Receiver {
    settings: Notification,
    queue: mpsc::Sender<Arc<Event>>,
    dropped: AtomicU64,
}

impl Events {
    /// To nobody yet; deliveries run on the current runtime.
    pub fn new(source: Source, way_out: Arc<Upstream>) -> Self {
        Self::with_pace(source, way_out, Pace::default())
    }

    fn with_pace(source: Source, way_out: Arc<Upstream>, pace: Pace) -> Self {
        let way_out = Arc::new(RwLock::new(way_out));
        let (receivers, running) = (RwLock::default(), Mutex::default());
        let inner = Inner {
            source: Arc::new(RwLock::new(source)),
            way_out,
            runtime: Handle::current(),
            pace,
            receivers,
            running,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes this way out from now on.
    pub fn set_way_out(&self, way_out: Arc<Upstream>) {
        *self.inner.way_out.write().unwrap_or_else(PoisonError::into_inner) = way_out;
    }

    /// Events that are sent from now on name the registry by this address.
    pub fn set_address(&self, address: String) {
        self.inner.source.write().unwrap_or_else(PoisonError::into_inner).address = address;
    }

    /// Tells these receivers from now on. One that was told before keeps its queue; one that is gone gets what it was
    /// promised.
    pub fn set_receivers(&self, wanted: &[Notification]) {
        let mut receivers = self.inner.receivers.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *receivers);
        for settings in wanted {
            let kept = before.iter().position(|receiver| receiver.settings == *settings);
            receivers.push(kept.map_or_else(|| self.start(settings), |at| before.swap_remove(at)));
        }
    }

    /// Tells of an event.
    pub fn tell(&self, event: Event) {
        let receivers = self.inner.receivers.read().unwrap_or_else(PoisonError::into_inner);
        if receivers.is_empty() {
            return;
        }
        let event = Arc::new(event);
        for receiver in receivers.iter() {
            if receiver.queue.try_send(event.clone()).is_err() {
                let before = receiver.dropped.fetch_add(1, Ordering::Relaxed);
                // Once at the beginning of each thousand: a dead receiver must not fill the log.
                if before.is_multiple_of(1000) {
                    tracing::warn!(
                        receiver = receiver.settings.name,
                        dropped = before + 1,
                        "events are dropped: as many as may already wait for the receiver (registry.notifications.queue)"
                    );
                }
            }
        }
    }

    /// Takes no more events, and waits until those that wait are delivered or given up. The caller has a deadline.
    pub async fn close(&self) {
        self.set_receivers(&[]);
        let running = std::mem::take(&mut *self.inner.running.lock().unwrap_or_else(PoisonError::into_inner));
        for delivery in running {
            // One that broke off has nothing more to deliver.
            let _ = delivery.await;
        }
    }

    fn start(&self, settings: &Notification) -> Receiver {
        let (queue, waiting) = mpsc::channel(settings.queue);
        let delivery = Delivery {
            settings: settings.clone(),
            source: self.inner.source.clone(),
            way_out: self.inner.way_out.clone(),
            pace: self.inner.pace,
        };
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|delivery| !delivery.is_finished());
        running.push(self.inner.runtime.spawn(delivery.run(waiting)));
        Receiver { settings: settings.clone(), queue, dropped: AtomicU64::new(0) }
    }
}
