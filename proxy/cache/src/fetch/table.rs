//! The flights that are under way, one for each digest, and only so many: a flight goes on when its clients have left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use entrepot_core::digest::Digest;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::fetch::driver;
use crate::fetch::hashing::HashThreads;
use crate::fetch::inflight::{InflightFetch, Subscription};
use crate::fetch::source::Source;
use entrepot_observe::metrics::Metrics;
use entrepot_store::Store;
use entrepot_upstream::operation::ByteRange;

/// InflightFetches at once. Each has a task, a file, requests to upstream and room on the disk, and no client of its own that
/// would bound it.
pub const FLIGHTS_MAX: usize = 512;

/// Finds and starts flights.
pub struct InflightFetches {
    running: Mutex<HashMap<Digest, Arc<InflightFetch>>>,
    landed: Notify,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    hash_threads: Arc<HashThreads>,
    /// Fills outlive the connections that begin them.
    runtime: Handle,
}

/// What a request wants of a flight.
pub struct Wish {
    /// The part of the blob.
    pub range: Option<ByteRange>,
    /// Whether the blob's end is needed as part of the whole.
    pub whole: bool,
    /// A blob of which only ranges are asked is completed all the same up to this size.
    pub complete_up_to_bytes: u64,
}

impl InflightFetches {
    /// No flights yet; they will run on the current runtime.
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            landed: Notify::new(),
            store,
            metrics,
            hash_threads: Arc::default(),
            runtime: Handle::current(),
        })
    }

    /// The flight of `digest`, if one is under way.
    pub fn find(&self, digest: &Digest) -> Option<Arc<InflightFetch>> {
        self.lock().get(digest).cloned()
    }

    /// A seat in the flight of `digest`, which is started with `source` if there is none. True for who started it. No seat
    /// where it is not under way and [`FLIGHTS_MAX`] others are.
    pub async fn board(
        self: &Arc<Self>,
        digest: &Digest,
        source: &Source,
        wish: &Wish,
    ) -> Option<(Subscription, bool)> {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            {
                let mut running = self.lock();
                match running.get(digest) {
                    Some(fetch) => {
                        if let Some(subscription) = fetch.join(Some(source.clone()), wish.whole) {
                            return Some((subscription, false));
                        }
                    }
                    None if running.len() >= FLIGHTS_MAX => return None,
                    None => {
                        let fetch = InflightFetch::new(*digest, source.clone());
                        running.insert(*digest, fetch.clone());
                        if let Some(subscription) = fetch.join(None, wish.whole) {
                            self.launch(fetch, wish);
                            return Some((subscription, true));
                        }
                    }
                }
            }
            landed.await;
        }
    }

    fn launch(self: &Arc<Self>, fetch: Arc<InflightFetch>, wish: &Wish) {
        let landing = Landing { inflight: Arc::downgrade(self), digest: fetch.digest };
        let driver = driver::Driver {
            fetch,
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            hash_threads: self.hash_threads.clone(),
            complete_up_to_bytes: wish.complete_up_to_bytes,
        };
        let range = wish.range;
        self.runtime.spawn(async move {
            driver.run(range).await;
            drop(landing);
        });
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Returns when this flight is under way no more.
    pub async fn gone(&self, fetch: &Arc<InflightFetch>) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if !self.find(&fetch.digest).is_some_and(|running| Arc::ptr_eq(&running, fetch)) {
                return;
            }
            landed.await;
        }
    }

    /// Returns once every blob that clients could finish reading is published, or has failed to be.
    pub async fn settle(&self) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if !self.lock().values().any(|fetch| fetch.is_verified()) {
                return;
            }
            landed.await;
        }
    }

    /// Pauses all flights, whoever still reads them, and returns once none is under way. The caller has a deadline, and has
    /// given readers theirs.
    pub async fn drain(&self) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let running: Vec<_> = self.lock().values().cloned().collect();
            if running.is_empty() {
                return;
            }
            for fetch in running {
                driver::interrupt(&fetch);
            }
            landed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<InflightFetch>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a flight off the table however its driver ended, a panic included: no digest stays wedged.
struct Landing {
    inflight: Weak<InflightFetches>,
    digest: Digest,
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(inflight) = self.inflight.upgrade() {
            let fetch = inflight.lock().remove(&self.digest);
            if let Some(fetch) = fetch {
                driver::abandon(&fetch);
            }
            inflight.landed.notify_waiters();
        }
    }
}
