//! The fetches in flight, one for each origin and name of content. Their number is bounded, because a fetch goes on when its
//! clients have left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::Instrument;

use crate::fetch::driver;
use crate::fetch::hashing::HashThreads;
use crate::fetch::inflight::{InflightFetch, Subscription, Target};
use crate::fetch::source::BlobSource;
use crate::fetch::window::Windows;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{ContentKey, Store};
use entrepot_upstream::operation::ByteRange;

/// The most fetches at once. Each has a task, a file, requests to upstream and room on the disk. No client of its
/// own bounds it.
pub const FETCHES_MAX: usize = 512;

/// Finds and starts fetches.
pub struct InflightFetches {
    running: Mutex<HashMap<ContentKey, Arc<InflightFetch>>>,
    /// Tells that a fetch has ended.
    ended: Notify,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    hash_threads: Arc<HashThreads>,
    windows: Arc<Windows>,
    /// Fetches outlive the connections that begin them.
    runtime: Handle,
}

/// The bytes that a request wants of a fetch.
pub struct Wish {
    /// The part of the blob. None for the whole.
    pub range: Option<ByteRange>,
    /// Whether the blob's end is needed as part of the whole.
    pub whole: bool,
    /// A blob up to this size is completed even if clients ask only for ranges of it.
    pub complete_up_to_bytes: u64,
}

impl InflightFetches {
    /// An empty table. Its fetches will run on the current runtime.
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            ended: Notify::new(),
            store,
            metrics,
            hash_threads: Arc::default(),
            windows: Arc::default(),
            runtime: Handle::current(),
        })
    }

    /// The fetch of this content, if one is in flight.
    pub fn find(&self, target: &Target) -> Option<Arc<InflightFetch>> {
        self.lock().get(&target.key()).cloned()
    }

    /// Subscribes to the fetch of this content. If there is none, starts it with `source`; the flag is true if this call
    /// started it. None if it is not in flight and [`FETCHES_MAX`] others are.
    pub async fn join_or_start(
        self: &Arc<Self>,
        target: &Target,
        source: &BlobSource,
        wish: &Wish,
    ) -> Option<(Subscription, bool)> {
        let key = target.key();
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut running = self.lock();
                match running.get(&key) {
                    Some(fetch) => {
                        if let Some(subscription) = fetch.join(Some(source.clone()), wish.whole) {
                            return Some((subscription, false));
                        }
                    }
                    None if running.len() >= FETCHES_MAX => return None,
                    None => {
                        let fetch = InflightFetch::new(target.clone(), source.clone());
                        running.insert(key.clone(), fetch.clone());
                        if let Some(subscription) = fetch.join(None, wish.whole) {
                            self.start(fetch, wish);
                            return Some((subscription, true));
                        }
                    }
                }
            }
            ended.await;
        }
    }

    fn start(self: &Arc<Self>, fetch: Arc<InflightFetch>, wish: &Wish) {
        let registration = Registration { inflight: Arc::downgrade(self), key: fetch.target.key() };
        let driver = driver::Driver {
            fetch,
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            hash_threads: self.hash_threads.clone(),
            windows: self.windows.clone(),
            complete_up_to_bytes: wish.complete_up_to_bytes,
        };
        let range = wish.range;
        // The events of the fetch carry the id of the request that began it.
        let fetching = async move {
            driver.run(range).await;
            drop(registration);
        };
        self.runtime.spawn(fetching.in_current_span());
    }

    /// The number of fetches in flight.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Returns when this fetch is no longer in flight.
    pub async fn gone(&self, fetch: &Arc<InflightFetch>) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.lock().get(&fetch.target.key()).is_some_and(|running| Arc::ptr_eq(running, fetch)) {
                return;
            }
            ended.await;
        }
    }

    /// Returns once every blob that clients could finish reading is published, or could not be published.
    pub async fn settle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.lock().values().any(|fetch| fetch.is_verified()) {
                return;
            }
            ended.await;
        }
    }

    /// Pauses all fetches, also those that are still read. Returns once none is in flight. The caller has a deadline,
    /// and has given readers theirs.
    pub async fn drain(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let running: Vec<_> = self.lock().values().cloned().collect();
            if running.is_empty() {
                return;
            }
            for fetch in running {
                driver::interrupt(&fetch);
            }
            ended.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContentKey, Arc<InflightFetch>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a fetch off the table however its driver ended, a panic included, so that no digest stays blocked.
struct Registration {
    inflight: Weak<InflightFetches>,
    key: ContentKey,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(inflight) = self.inflight.upgrade() {
            let fetch = inflight.lock().remove(&self.key);
            if let Some(fetch) = fetch {
                driver::abandon(&fetch);
            }
            inflight.ended.notify_waiters();
        }
    }
}
