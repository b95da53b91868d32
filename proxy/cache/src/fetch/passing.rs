//! A fetch whose bytes the store does not take: they go through a window in memory to every client that wants them now.
//! `Passing::run` is the driver of such a fetch from upstream's first answer on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};
use tokio::time::{Instant, sleep};

use crate::fetch::FetchError;
use crate::fetch::hashing::hash_aside;
use crate::fetch::inflight::InflightFetch;
use crate::fetch::stream::BlobStream;
use crate::fetch::window::{WINDOW_BYTES, Window};
use entrepot_observe::metrics::Metrics;

/// How long the slowest client may hold the others up for each window of bytes.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a client that holds the others up is looked for, once there is no patience left.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Passing {
    pub(super) fetch: Arc<InflightFetch>,
    pub(super) window: Arc<Window>,
    pub(super) stream: BlobStream,
    /// The hash of nothing. None if the answer is only a part.
    pub(super) hasher: Option<Hasher>,
    pub(super) metrics: Arc<Metrics>,
}

impl Passing {
    /// Fills the window to the end. Returns the digest of all bytes, which is right where one is known. None if nothing
    /// is known about the whole: upstream failed, no client is left, or only a part was asked for.
    pub(super) async fn run(mut self) -> Option<Digest> {
        let outcome = self.fill().await;
        let (outcome, digest) = match outcome {
            Ok(digest) => (Ok(()), digest),
            Err(error) => {
                if !matches!(error, FetchError::Interrupted { .. }) {
                    tracing::warn!(content = %self.fetch.content, "{error}");
                }
                (Err(error), None)
            }
        };
        if outcome.is_err() {
            // A client that comes now must get a fetch of its own, not this failure.
            self.fetch.state().closed = true;
        }
        self.window.finish(outcome);
        digest
    }

    async fn fill(&mut self) -> Result<Option<Digest>, FetchError> {
        let mut patience = PATIENCE;
        let mut until_next = WINDOW_BYTES;
        loop {
            while !self.window.has_room() {
                let began = Instant::now();
                tokio::select! {
                    () = self.window.moved.notified() => {}
                    () = self.fetch.wake.notified() => self.go_on()?,
                    () = sleep(patience.max(LOOK)) => self.window.leave_behind(),
                }
                patience = patience.saturating_sub(began.elapsed());
            }
            let Some(bytes) = self.more().await? else { return self.judge() };
            self.metrics.bytes_from_upstream.inc_by(bytes.len() as u64);
            until_next = until_next.saturating_sub(bytes.len() as u64);
            if until_next == 0 {
                (patience, until_next) = (PATIENCE, WINDOW_BYTES);
            }
            let before = self.hasher.clone();
            if let Some(hasher) = self.hasher.take() {
                self.hasher = hash_aside(hasher, bytes.clone()).await;
            }
            self.window.push(bytes, before);
        }
    }

    /// The next bytes of upstream. A request to upstream is not dropped half-way because a client came.
    async fn more(&mut self) -> Result<Option<Bytes>, FetchError> {
        let fetch = self.fetch.clone();
        let next = self.stream.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                next = &mut next => return next,
                () = fetch.wake.notified() => go_on(&fetch)?,
            }
        }
    }

    fn go_on(&self) -> Result<(), FetchError> {
        go_on(&self.fetch)
    }

    fn judge(&mut self) -> Result<Option<Digest>, FetchError> {
        let (content, size) = (&self.fetch.content, self.stream.size());
        self.fetch.update(|state| state.size = state.size.or(size));
        let Some(got) = self.hasher.take().map(Hasher::finish) else { return Ok(None) };
        match content.digest() {
            Some(digest) if *digest != got => Err(FetchError::wrong(content.clone(), got, self.stream.coding())),
            _ => Ok(Some(got)),
        }
    }
}

/// An error if the process ends or no client is left. It decides under the lock that clients take to join.
fn go_on(fetch: &InflightFetch) -> Result<(), FetchError> {
    let mut state = fetch.state();
    state.closed = state.end.is_some() || state.readers == 0;
    let is_over = state.closed;
    drop(state);
    if is_over { Err(fetch.interrupted()) } else { Ok(()) }
}

impl Drop for Passing {
    /// However the fetch ended, a panic included, no client waits for more.
    fn drop(&mut self) {
        self.window.finish(Err(self.fetch.interrupted()));
    }
}
