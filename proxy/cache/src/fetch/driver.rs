//! Runs one fetch from its first request to its end: opens the blob upstream, begins the partial blob, keeps fetchers
//! at work where readers wait, has the bytes hashed in order, publishes. Read `Driver::run` first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Digest, Hasher};
use entrepot_core::validator::Validator;
use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::Instrument;

use crate::fetch::FetchError;
use crate::fetch::artefact;
use crate::fetch::fetcher::{self, TransferEnd};
use crate::fetch::hashing::{HashThreads, Hashed, Progress, hash_in_order};
use crate::fetch::inflight::{FetchEnd, InflightFetch, Opening, Target};
use crate::fetch::passing::Passing;
use crate::fetch::plan::{Action, Stretch, Wanted, next_action};
use crate::fetch::source::{Known, OpenError, Opened};
use crate::fetch::stream::BlobStream;
use crate::fetch::window::Windows;
use entrepot_observe::labels::Bypass;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{ContentName, PartialBlob, Store};
use entrepot_upstream::operation::ByteRange;

pub(super) struct Driver {
    pub(super) fetch: Arc<InflightFetch>,
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hash_threads: Arc<HashThreads>,
    pub(super) windows: Arc<Windows>,
    pub(super) complete_up_to_bytes: u64,
}

/// What a fetch asks for first.
struct Missing {
    /// None for the whole content.
    range: Option<ByteRange>,
    /// The blob's length, if bytes of it were paused.
    size: Option<u64>,
    /// The state that paused bytes of an artefact are of.
    state: Option<Validator>,
}

/// How fetching ended, if it did not fail.
enum Fetched {
    /// Every byte is there and right. The digest is theirs.
    Complete(Digest),
    /// No reader wants the rest.
    Unwanted,
    /// The disk failed. The readers go on without it.
    HandedOver,
}

/// Why content is not kept.
enum NotKept {
    /// Its answer says so, or is none that may be kept.
    Unfit(Bypass),
    /// The store does not take it.
    ByTheStore(Bypass),
}

/// How long the hash may take to catch up with a file that takes no more bytes. Bytes that it does not reach are
/// fetched again.
const CATCHING_UP: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) async fn run(self, range: Option<ByteRange>) {
        let Some(opened) = self.open(range).await else { return };
        let (start, answered_at) = (opened.start, opened.answered_at);
        let partial = match self.reserve(&opened).await {
            Ok(partial) => partial,
            Err(NotKept::Unfit(reason)) => return self.not_stored(opened, reason),
            Err(NotKept::ByTheStore(reason)) => return self.pass(opened, range, reason).await,
        };
        self.metrics.fills_started.inc();
        let asked_end = range.filter(|_| opened.is_part).and_then(|range| range.end);
        // Without a length, the bytes that are missing behind a limit are unknown, so there is no limit.
        let limit = opened.size.map_or(u64::MAX, |size| asked_end.map_or(size, |end| end.min(size)));
        let (size, is_registrys_word) = (opened.size, opened.is_registrys_word);
        let (host, elapsed, headers) = (opened.host.clone(), opened.elapsed, Arc::new(opened.headers.clone()));
        let (validator, coding) = (opened.validator(), opened.coding);
        self.fetch.update(|state| {
            state.size = size;
            state.coding = coding;
            state.validator = validator;
            state.extents = partial.extents().clone();
            state.file = Some(partial.clone());
        });
        let filling = Opening::Filling { size, is_registrys_word, host, elapsed, headers: headers.clone() };
        self.fetch.set_opening(filling, answered_at);
        let mut fetchers = JoinSet::new();
        // Paused bytes are not fetched again. The answer is read up to them, or given up if it begins within them. An
        // upstream that sends no part would begin there once more, so its bytes are skipped up to the first missing one.
        let serves_parts = opened.is_part;
        if let Some(gap) = partial.extents().first_gap(start, limit).filter(|gap| gap.start == start || !serves_parts) {
            self.start_fetcher(&mut fetchers, gap.start, gap.end, Some(opened));
        }
        match self.fetch_and_hash(&partial, &mut fetchers).await {
            Ok(Fetched::Complete(digest)) => self.publish(partial, digest, &headers, answered_at).await,
            Ok(Fetched::Unwanted) => self.pause(partial).await,
            Ok(Fetched::HandedOver) => {}
            Err(error) => {
                tracing::warn!(content = %self.fetch.content, registry = %self.fetch.target.origin(), "{error}");
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

    /// Asks upstream for its first answer. If upstream ignores the range, the body begins at the first byte, and the
    /// fetch works with that.
    async fn open(&self, range: Option<ByteRange>) -> Option<Opened> {
        let source = self.fetch.state().sources.first().cloned()?;
        let content = &self.fetch.content;
        let missing = self.missing_part(range);
        let known = Known { size: missing.size, state: missing.state.as_ref() };
        let opened = match source.open(content, missing.range, known).await {
            // The kept bytes may be longer than the content that upstream has now.
            Err(OpenError::Refused(refusal))
                if refusal.status == StatusCode::RANGE_NOT_SATISFIABLE && missing.range != range =>
            {
                source.open(content, range, Known::default()).await
            }
            // An upstream that breaks the connection at a range refuses it as well. Kept bytes must not make a blob
            // impossible to fetch.
            Err(OpenError::Failed(error)) if error.broke_off() && missing.range != range => {
                source.open(content, range, Known::default()).await
            }
            opened => opened,
        };
        match opened {
            Ok(opened) => Some(opened),
            Err(error) => {
                // A client that comes after this answer asks anew.
                self.fetch.state().closed = true;
                let opening = match error {
                    OpenError::Refused(refusal) => Opening::Refused(refusal),
                    OpenError::Failed(error) => Opening::Failed(Arc::new(error)),
                    OpenError::Broken(error) => {
                        self.metrics.fills_started.inc();
                        self.metrics.fills_failed.inc(error.reason());
                        Opening::Broken(error)
                    }
                };
                self.fetch.set_opening(opening, SystemTime::now());
                None
            }
        }
    }

    /// The part of `range` to ask for: it begins after the paused bytes.
    fn missing_part(&self, range: Option<ByteRange>) -> Missing {
        let (asked_start, end) = range.map_or((0, None), |range| (range.start, range.end));
        let (origin, store) = (self.fetch.target.origin(), &self.store.partial_blobs);
        let (start, size, state) = match &self.fetch.content {
            ContentName::Digest(digest) => store
                .paused(origin, digest, asked_start)
                .map_or((asked_start, None, None), |paused| (paused.first_missing, Some(paused.size_bytes), None)),
            ContentName::Path(path) => {
                let (start, state) = store.artefact_missing(origin, path, asked_start).unwrap_or((asked_start, None));
                (start, None, state)
            }
        };
        match start > asked_start && end.is_none_or(|end| start < end) {
            true => Missing { range: Some(ByteRange { start, end }), size, state },
            false => Missing { range, size, state: None },
        }
    }

    /// The partial blob, or the reason why there is none.
    async fn reserve(&self, opened: &Opened) -> Result<Arc<PartialBlob>, NotKept> {
        let (origin, store) = (self.fetch.target.origin(), &self.store.partial_blobs);
        let partial = match &self.fetch.content {
            ContentName::Digest(digest) => store.begin(origin, digest, opened.size).await,
            ContentName::Path(path) => {
                if let Some(reason) = artefact::unfit(opened) {
                    return Err(NotKept::Unfit(reason));
                }
                store.begin_artefact(origin, path, opened.size, opened.validator()).await
            }
        };
        partial.map(Arc::new).map_err(|error| {
            // The store has said what is wrong with the disk, once.
            tracing::debug!(content = %self.fetch.content, "passing through without storing: {error}");
            NotKept::ByTheStore(error.bypass())
        })
    }

    fn not_stored(&self, opened: Opened, reason: Bypass) {
        let answered_at = opened.answered_at;
        self.fetch.set_opening(Opening::NotStored(Arc::new(Mutex::new(Some(opened))), reason), answered_at);
    }

    /// The store does not take it: all clients that want it now get it from one fetch. Once every byte is shown, the
    /// repository is known to have the blob.
    async fn pass(&self, opened: Opened, range: Option<ByteRange>, reason: Bypass) {
        let (start, size, answered_at) = (opened.start, opened.size, opened.answered_at);
        let asked_end = range.filter(|_| opened.is_part).and_then(|range| range.end);
        let limit = size.map(|size| asked_end.map_or(size, |end| end.min(size)));
        let Some(window) = self.windows.open(start, limit, size) else { return self.not_stored(opened, reason) };
        let fetch = self.fetch.clone();
        let (is_registrys_word, validator) = (opened.is_registrys_word, opened.validator());
        let (host, elapsed, headers) = (opened.host.clone(), opened.elapsed, Arc::new(opened.headers.clone()));
        let is_whole = start == 0 && limit == size;
        let hasher = is_whole.then(|| Hasher::new(fetch.target.algorithm()));
        let sources = fetch.state().sources.clone();
        let stream = BlobStream::new(fetch.content.clone(), sources, start, limit, size).with_opened(opened);
        fetch.update(|state| (state.size, state.validator) = (size, validator));
        if size == Some(0) {
            // There is no byte to wait for, and no other digest came this far.
            window.finish(Ok(()));
        }
        let (window, metrics) = (window.clone(), self.metrics.clone());
        let passing = Passing { fetch: fetch.clone(), window: window.clone(), stream, hasher, metrics };
        let opening = Opening::Passing { window, reason, size, is_registrys_word, host, elapsed, headers };
        fetch.set_opening(opening, answered_at);
        let (shown, is_public) =
            (passing.run().await, fetch.state().sources.first().is_some_and(|leader| leader.is_public));
        if let (Some(digest), Target::Blob { place, .. }) = (shown, &fetch.target) {
            self.store.names.link(place, &digest, is_public.then_some(answered_at)).await;
        }
    }

    async fn fetch_and_hash(
        &self,
        partial: &Arc<PartialBlob>,
        fetchers: &mut JoinSet<TransferEnd>,
    ) -> Result<Fetched, FetchError> {
        let fetch = &self.fetch;
        let progress = Progress::new(fetch.target.algorithm());
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
                    Err(_) => break Err(fetch.interrupted()),
                },
                hashed = &mut hashing => match hashed {
                    Ok(Hashed::Right(digest)) => break Ok(Fetched::Complete(digest)),
                    Ok(Hashed::Wrong(got)) => break Err(FetchError::wrong(fetch.content.clone(), got, fetch.coding())),
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
            let Some(size) = state.size.filter(|_| self.fetch.may_be_put_together(&state)) else { return };
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
        let stream = BlobStream::new(fetch.content.clone(), state.sources.clone(), start, until, state.size)
            .of_state(state.validator.clone());
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
            tracing::debug!(content = %self.fetch.content, "partial content was not kept: {error}");
        }
    }

    /// Publishes the content, which upstream's answer at `answered_at` gave. A blob's bytes are right, so readers may have
    /// the last of them while the bytes are made durable. An artefact is found by its path first.
    async fn publish(&self, partial: Arc<PartialBlob>, digest: Digest, headers: &HeaderMap, answered_at: SystemTime) {
        let is_public = self.fetch.state().sources.first().is_some_and(|leader| leader.is_public);
        let public_at = is_public.then_some(answered_at);
        let release = || self.fetch.update(|state| state.verified = true);
        let published = match &self.fetch.target {
            Target::Blob { place, .. } => {
                release();
                partial.publish(None, &[(place.clone(), public_at)]).await.map(drop)
            }
            Target::Artefact { origin, path } => {
                let size_bytes = self.fetch.size().unwrap_or_default();
                let complete = artefact::Complete { origin, path, digest, size_bytes, headers, public_at };
                let published = complete.publish(&self.store, &partial, release).await;
                release();
                published
            }
        };
        match published {
            Ok(()) => {
                self.metrics.fills_finished.inc();
                self.metrics.stored.inc();
            }
            Err(error) => {
                tracing::warn!(content = %self.fetch.content, "served but not stored: {error}");
                self.metrics.bypass.inc(error.bypass());
            }
        }
    }
}

/// Stops a fetch, so that the process can end. Its bytes are kept, and clients that still read it are cut off.
pub(super) fn interrupt(fetch: &InflightFetch) {
    let mut state = fetch.state();
    if fetch.is_open() && !state.verified && state.end.is_none() {
        state.end = Some(FetchEnd::Failed(fetch.interrupted()));
        drop(state);
        fetch.wake.notify_one();
    }
}

/// Tells clients that still wait. It is called when the driver is gone.
pub(super) fn abandon(fetch: &InflightFetch) {
    let interrupted = fetch.interrupted();
    if !fetch.is_open() {
        fetch.set_opening(Opening::Broken(interrupted.clone()), SystemTime::now());
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
    tracing::warn!(content = %fetch.content, prefix, "the disk took no more, clients go on without it");
    fetch.update(|state| state.end = Some(FetchEnd::HandedOver { prefix, hasher }));
}
