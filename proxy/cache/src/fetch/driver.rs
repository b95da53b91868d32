//! Runs one fetch from its first request to its end: opens the blob upstream, begins the partial blob, keeps fetchers
//! at work where readers wait, has the bytes hashed in order, publishes. Read `Driver::run` first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::Instrument;

use crate::fetch::FetchError;
use crate::fetch::fetcher::{self, TransferEnd};
use crate::fetch::hashing::{HashThreads, Hashed, Progress, hash_in_order};
use crate::fetch::inflight::{FetchEnd, InflightFetch, Opening};
use crate::fetch::plan::{Action, Stretch, Wanted, next_action};
use crate::fetch::source::{OpenError, Opened};
use crate::fetch::stream::BlobStream;
use entrepot_observe::labels::Bypass;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{PartialBlob, Store};
use entrepot_upstream::operation::ByteRange;

pub(super) struct Driver {
    pub(super) fetch: Arc<InflightFetch>,
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hash_threads: Arc<HashThreads>,
    pub(super) complete_up_to_bytes: u64,
}

/// What a fetch asks for first.
struct Missing {
    /// None for the whole blob.
    range: Option<ByteRange>,
    /// The blob's length, if bytes of it were paused.
    size: Option<u64>,
}

/// How fetching ended, if it did not fail.
enum Fetched {
    /// Every byte is there and right.
    Complete,
    /// No reader wants the rest.
    Unwanted,
    /// The disk failed. The readers go on without it.
    HandedOver,
}

/// How long the hash may take to catch up with a file that takes no more bytes. Bytes that it does not reach are
/// fetched again.
const CATCHING_UP: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) async fn run(self, range: Option<ByteRange>) {
        let Some(opened) = self.open(range).await else { return };
        let start = opened.start;
        let partial = match self.reserve(opened.size).await {
            Ok(partial) => partial,
            Err(reason) => {
                self.fetch.set_opening(Opening::NotStored(Arc::new(Mutex::new(Some(opened))), reason));
                return;
            }
        };
        self.metrics.fills_started.inc();
        let asked_end = range.filter(|_| opened.is_part).and_then(|range| range.end);
        // Without a length, the bytes that are missing behind a limit are unknown, so there is no limit.
        let limit = opened.size.map_or(u64::MAX, |size| asked_end.map_or(size, |end| end.min(size)));
        let (size, is_registrys_word, coding) = (opened.size, opened.is_registrys_word, opened.coding);
        let (host, elapsed) = (opened.host.clone(), opened.elapsed);
        self.fetch.update(|state| {
            state.size = size;
            state.coding = coding;
            state.extents = partial.extents().clone();
            state.file = Some(partial.clone());
        });
        self.fetch.set_opening(Opening::Filling { size, is_registrys_word, host, elapsed });
        let mut fetchers = JoinSet::new();
        // Paused bytes are not fetched again. The answer is read up to them, or given up if it begins within them. An
        // upstream that sends no part would begin there once more, so its bytes are skipped up to the first missing one.
        let serves_parts = opened.is_part;
        if let Some(gap) = partial.extents().first_gap(start, limit).filter(|gap| gap.start == start || !serves_parts) {
            self.start_fetcher(&mut fetchers, gap.start, gap.end, Some(opened));
        }
        match self.fetch_and_hash(&partial, &mut fetchers).await {
            Ok(Fetched::Complete) => self.publish(partial).await,
            Ok(Fetched::Unwanted) => self.pause(partial).await,
            Ok(Fetched::HandedOver) => {}
            Err(error) => {
                tracing::warn!(digest = %self.fetch.digest, registry = %self.fetch.place.origin(), repository = %self.fetch.place.repository(), "{error}");
                self.metrics.fills_failed.inc(error.reason());
                let is_sound = matches!(
                    error,
                    FetchError::Upstream { .. } | FetchError::Status { .. } | FetchError::Interrupted { .. }
                );
                self.fetch.update(|state| {
                    state.end = Some(FetchEnd::Failed(error));
                    // A client that comes now must get a fetch of its own, not this failure.
                    state.closed = true;
                });
                if is_sound {
                    // The bytes so far are as good as upstream is. The next pull goes on from them, and the hash
                    // decides.
                    self.pause(partial).await;
                }
            }
        }
    }

    /// Asks upstream for its first answer. If upstream ignores or refuses the range, the body begins at the first byte,
    /// and the fetch works with that.
    async fn open(&self, range: Option<ByteRange>) -> Option<Opened> {
        let source = self.fetch.state().sources.first().cloned()?;
        let digest = &self.fetch.digest;
        let missing = self.missing_part(range);
        let opened = match source.open(digest, missing.range, missing.size).await {
            // An upstream that breaks the connection at a range refuses it as well. Kept bytes must not make a blob
            // impossible to fetch.
            Err(OpenError::Failed(error)) if error.broke_off() && missing.range != range => {
                source.open(digest, range, missing.size).await
            }
            opened => opened,
        };
        match opened {
            Ok(opened) => Some(opened),
            Err(error) => {
                // A client that comes after this answer asks anew.
                self.fetch.state().closed = true;
                self.fetch.set_opening(match error {
                    OpenError::Refused(refusal) => Opening::Refused(refusal),
                    OpenError::Failed(error) => Opening::Failed(Arc::new(error)),
                    OpenError::Broken(error) => {
                        self.metrics.fills_started.inc();
                        self.metrics.fills_failed.inc(error.reason());
                        Opening::Broken(error)
                    }
                });
                None
            }
        }
    }

    /// The part of `range` to ask for: it begins after the paused bytes.
    fn missing_part(&self, range: Option<ByteRange>) -> Missing {
        let (asked_start, end) = range.map_or((0, None), |range| (range.start, range.end));
        let paused = self.store.partial_blobs.paused(self.fetch.place.origin(), &self.fetch.digest, asked_start);
        let Some(paused) = paused else { return Missing { range, size: None } };
        let start = paused.first_missing;
        let is_shorter = start > asked_start && end.is_none_or(|end| start < end);
        Missing {
            range: if is_shorter { Some(ByteRange { start, end }) } else { range },
            size: Some(paused.size_bytes),
        }
    }

    /// The partial blob, or the reason why there is none.
    async fn reserve(&self, size: Option<u64>) -> Result<Arc<PartialBlob>, Bypass> {
        let partial = self.store.partial_blobs.begin(self.fetch.place.origin(), &self.fetch.digest, size).await;
        partial.map(Arc::new).map_err(|error| {
            tracing::warn!(digest = %self.fetch.digest, "passing through without storing: {error}");
            error.bypass()
        })
    }

    async fn fetch_and_hash(
        &self,
        partial: &Arc<PartialBlob>,
        fetchers: &mut JoinSet<TransferEnd>,
    ) -> Result<Fetched, FetchError> {
        let fetch = &self.fetch;
        let progress = Progress::new(&fetch.digest);
        let in_order = hash_in_order(self.hash_threads.clone(), fetch.clone(), partial.clone(), progress.clone());
        let mut hashing = tokio::spawn(in_order.in_current_span());
        let result = loop {
            self.plan(fetchers);
            if self.close_if_unwanted() {
                break Ok(Fetched::Unwanted);
            }
            tokio::select! {
                Some(ended) = fetchers.join_next() => match ended {
                    Ok(TransferEnd::Done(id)) => fetch.update(|state| state.running.retain(|stretch| stretch.id != id)),
                    Ok(TransferEnd::Failed(error)) => break Err(error),
                    Ok(TransferEnd::DiskFailed) => {
                        self.metrics.bypass.inc(Bypass::IoError);
                        fetchers.abort_all();
                        let written = fetch.state().extents.covered(0);
                        tokio::select! {
                            () = progress.past(written) => {}
                            _ = &mut hashing => {}
                            () = sleep(CATCHING_UP) => {}
                        }
                        hand_over(fetch, &progress);
                        break Ok(Fetched::HandedOver);
                    }
                    Err(_) => break Err(FetchError::Interrupted { digest: fetch.digest }),
                },
                hashed = &mut hashing => match hashed {
                    Ok(Hashed::Right) => break Ok(Fetched::Complete),
                    Ok(Hashed::Wrong(got)) => break Err(FetchError::wrong(fetch.digest, got, fetch.coding())),
                    Ok(Hashed::Unreadable) | Err(_) => {
                        self.metrics.bypass.inc(Bypass::IoError);
                        hand_over(fetch, &progress);
                        break Ok(Fetched::HandedOver);
                    }
                },
                () = fetch.wake.notified() => {}
            }
        };
        hashing.abort();
        fetchers.abort_all();
        result
    }

    fn plan(&self, fetchers: &mut JoinSet<TransferEnd>) {
        loop {
            let mut state = self.fetch.state();
            let Some(size) = state.size else { return };
            let complete = state.wants_whole || size <= self.complete_up_to_bytes;
            let demands = state.demands();
            let wanted = Wanted { demands: &demands, complete };
            match next_action(size, &state.extents, &state.running, &wanted) {
                None => return,
                Some(Action::Shorten { index, limit }) => state.running[index].limit = limit,
                Some(Action::Fetch { start, limit }) => {
                    drop(state);
                    self.start_fetcher(fetchers, start, limit, None);
                }
            }
        }
    }

    fn start_fetcher(&self, fetchers: &mut JoinSet<TransferEnd>, start: u64, limit: u64, opened: Option<Opened>) {
        let fetch = self.fetch.clone();
        let mut state = fetch.state();
        let id = state.next_id();
        state.running.push(Stretch { id, position: start, limit });
        let until = (limit != u64::MAX).then_some(limit);
        let stream = BlobStream::new(fetch.digest, state.sources.clone(), start, until, state.size);
        drop(state);
        let stream = match opened {
            Some(opened) => stream.with_opened(opened),
            None => stream,
        };
        fetchers.spawn(fetcher::run(fetch, id, stream, self.metrics.clone()).in_current_span());
    }

    /// Closes the fetch if no reader wants it. It decides under the lock that readers take to join, so that no reader
    /// joins a fetch that has just ended.
    fn close_if_unwanted(&self) -> bool {
        let mut state = self.fetch.state();
        let complete = state.wants_whole || state.size.is_none_or(|size| size <= self.complete_up_to_bytes);
        state.closed = state.end.is_some() || (state.readers == 0 && !complete && state.running.is_empty());
        state.closed
    }

    /// Keeps the bytes so far for the next reader, because no reader wants the rest now.
    async fn pause(&self, partial: Arc<PartialBlob>) {
        let extents = self.fetch.state().extents.clone();
        if let Err(error) = partial.pause(&extents).await {
            tracing::debug!(digest = %self.fetch.digest, "partial content was not kept: {error}");
        }
    }

    /// Publishes the blob. Its bytes are right, so readers may have the last of them while the bytes are made durable.
    async fn publish(&self, partial: Arc<PartialBlob>) {
        self.fetch.update(|state| state.verified = true);
        let is_public = self.fetch.state().sources.first().is_some_and(|leader| leader.is_public);
        let link = (self.fetch.place.clone(), is_public.then(SystemTime::now));
        match partial.publish(None, &[link]).await {
            Ok(_) => {
                self.metrics.fills_finished.inc();
                self.metrics.stored.inc();
            }
            Err(error) => {
                tracing::warn!(digest = %self.fetch.digest, "served but not stored: {error}");
                self.metrics.bypass.inc(error.bypass());
            }
        }
    }
}

/// Stops a fetch, so that the process can end. Its bytes are kept, and clients that still read it are cut off.
pub(super) fn interrupt(fetch: &InflightFetch) {
    let mut state = fetch.state();
    if fetch.is_open() && !state.verified && state.end.is_none() {
        state.end = Some(FetchEnd::Failed(FetchError::Interrupted { digest: fetch.digest }));
        drop(state);
        fetch.wake.notify_one();
    }
}

/// Tells clients that still wait. It is called when the driver is gone.
pub(super) fn abandon(fetch: &InflightFetch) {
    let interrupted = FetchError::Interrupted { digest: fetch.digest };
    if !fetch.is_open() {
        fetch.set_opening(Opening::Broken(interrupted.clone()));
    }
    fetch.update(|state| {
        if !state.verified && state.end.is_none() {
            state.end = Some(FetchEnd::Failed(interrupted));
        }
    });
}

/// The file takes no more bytes. Every reader takes the hashed bytes from the file, and goes on alone from there.
fn hand_over(fetch: &InflightFetch, progress: &Progress) {
    let (prefix, hasher) = progress.reached();
    tracing::warn!(digest = %fetch.digest, prefix, "the disk took no more, clients go on without it");
    fetch.update(|state| state.end = Some(FetchEnd::HandedOver { prefix, hasher }));
}
