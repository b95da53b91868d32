//! Content that cannot be kept, for all clients that want it at the same time: one fetch, whose last bytes lie in memory.
//!
//! ```text
//! driver ─ push ─► │ pieces, at most WINDOW_BYTES │ ─► each reader at its own place
//!                  the first piece goes when every reader has it, or when one holds the others up: then that one
//!                  goes on from upstream alone
//! ```
//!
//! Invariants: the last bytes of a whole blob reach no client before its digest is right. The hash that decides about a
//! reader's end has seen the very bytes that it was given. The memory of all windows is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use entrepot_core::digest::Hasher;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::fetch::inflight::Subscription;
use crate::fetch::source::BlobSource;
use crate::fetch::through::Through;
use crate::fetch::{FetchError, HELD_BACK_BYTES};
use entrepot_net::http::body::{BodyError, PieceSource};

/// The most bytes of one window.
pub(super) const WINDOW_BYTES: u64 = 4 << 20;
/// The most windows at a time. Content beyond is fetched by each client alone.
const WINDOWS_MAX: usize = 16;

/// Room for windows.
pub(super) struct Windows(Arc<Semaphore>);

/// The last bytes of a fetch.
pub struct Window {
    state: Mutex<State>,
    /// Tells readers of new bytes, or of the end.
    changed: watch::Sender<()>,
    /// Tells the driver that a reader has moved on.
    pub(super) moved: Notify,
    _room: OwnedSemaphorePermit,
}

struct State {
    pieces: VecDeque<Piece>,
    /// The first byte that the window still has, and the one behind its last.
    start: u64,
    end: u64,
    /// The end of what is coming. None if it is not known yet.
    limit: Option<u64>,
    /// The length of the whole. None if it is not known yet.
    size: Option<u64>,
    /// The next byte of each reader.
    readers: HashMap<u64, u64>,
    /// Readers that held the others up, with the hash of what they were given.
    left_behind: HashMap<u64, Option<Hasher>>,
    outcome: Option<Result<(), FetchError>>,
}

struct Piece {
    start: u64,
    bytes: Bytes,
    /// The hash of everything before it. None if the window begins in the middle.
    before: Option<Hasher>,
}

/// Bytes `position..end` of a window's content for one client.
pub struct WindowReader {
    window: Arc<Window>,
    subscription: Subscription,
    source: BlobSource,
    changes: watch::Receiver<()>,
    position: u64,
    /// End of a part. None for the whole or an open end.
    end: Option<u64>,
    alone: Option<Through>,
}

enum Step {
    Give(Bytes),
    Wait,
    Finished,
    Fail(FetchError),
    GoOnAlone(Option<Hasher>),
}

impl Default for Windows {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WINDOWS_MAX)))
    }
}

impl Windows {
    /// An empty window of `start..limit`. None if there are too many.
    pub(super) fn open(&self, start: u64, limit: Option<u64>, size: Option<u64>) -> Option<Arc<Window>> {
        let room = self.0.clone().try_acquire_owned().ok()?;
        let state = State {
            pieces: VecDeque::new(),
            start,
            end: start,
            limit,
            size,
            readers: HashMap::new(),
            left_behind: HashMap::new(),
            outcome: None,
        };
        let (changed, moved) = (watch::Sender::new(()), Notify::new());
        Some(Arc::new(Window { state: Mutex::new(state), changed, moved, _room: room }))
    }
}

impl Window {
    /// Whether another piece may come. Drops pieces that every reader has, as far as that is needed.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.lock();
        while state.is_full() {
            let slowest = state.readers.values().min().copied();
            let first_end = state.pieces.front().map(Piece::end);
            if slowest.is_none() || slowest < first_end {
                return false;
            }
            state.drop_first();
        }
        true
    }

    /// Leaves the slowest readers behind if others wait for them.
    pub(super) fn leave_behind(&self) {
        let mut state = self.lock();
        let others_wait = state.readers.values().any(|position| state.waits(*position));
        if !state.is_full() || !others_wait {
            return;
        }
        let Some(first) = state.pieces.front() else { return };
        let end = first.end();
        let slow: Vec<_> = state.readers.iter().filter(|(_, position)| **position < end).collect();
        let slow: Vec<_> = slow.into_iter().map(|(id, position)| (*id, first.hash_up_to(*position))).collect();
        for (id, hasher) in slow {
            state.readers.remove(&id);
            state.left_behind.insert(id, hasher);
        }
        state.drop_first();
        drop(state);
        self.changed.send_replace(());
    }

    /// Adds bytes; `before` is the hash of everything before them.
    pub(super) fn push(&self, bytes: Bytes, before: Option<Hasher>) {
        let mut state = self.lock();
        let start = state.end;
        state.end += bytes.len() as u64;
        state.pieces.push_back(Piece { start, bytes, before });
        drop(state);
        self.changed.send_replace(());
    }

    /// Says how the fetch ended. Its first end counts.
    pub(super) fn finish(&self, outcome: Result<(), FetchError>) {
        let mut state = self.lock();
        if outcome.is_ok() {
            let end = state.end;
            state.limit.get_or_insert(end);
            state.size.get_or_insert(end);
        }
        state.outcome.get_or_insert(outcome);
        drop(state);
        self.changed.send_replace(());
    }

    /// A reader of `start..end`, where no end means all of it. None if the window does not have its bytes any more, or
    /// gets only a part of them.
    pub fn reader(
        self: &Arc<Self>,
        subscription: Subscription,
        source: BlobSource,
        start: u64,
        end: Option<u64>,
    ) -> Option<WindowReader> {
        let mut state = self.lock();
        let is_within = start >= state.start && start <= state.end + WINDOW_BYTES;
        let is_to_come = match (end, state.limit) {
            (Some(end), limit) => limit.is_none_or(|limit| end <= limit),
            // Without a hash from the first byte on, nothing tells about its end.
            (None, limit) => limit == state.size && state.hashes_all(),
        };
        if !is_within || !is_to_come {
            return None;
        }
        state.readers.insert(subscription.id, start);
        drop(state);
        let changes = self.changed.subscribe();
        Some(WindowReader { window: self.clone(), subscription, source, changes, position: start, end, alone: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.end - self.start >= WINDOW_BYTES
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.pieces.pop_front() {
            self.start = first.end();
        }
    }

    /// Whether the hash has seen everything since the first byte.
    fn hashes_all(&self) -> bool {
        match self.pieces.front() {
            Some(first) => first.before.is_some(),
            None => self.start == 0,
        }
    }

    fn is_verified(&self) -> bool {
        matches!(self.outcome, Some(Ok(())))
    }

    /// The end of what a reader of everything may have now.
    fn released(&self) -> u64 {
        match self.size {
            _ if self.is_verified() => self.end,
            Some(size) => self.end.min(size.saturating_sub(HELD_BACK_BYTES)),
            None => self.end.saturating_sub(HELD_BACK_BYTES),
        }
    }

    /// Whether a reader at `position` can go on only when more comes.
    fn waits(&self, position: u64) -> bool {
        let index = self.pieces.partition_point(|piece| piece.end() <= position);
        self.pieces.get(index).is_none_or(|piece| piece.end() > self.released())
    }

    fn step(&mut self, id: u64, position: u64, end: Option<u64>) -> Step {
        if let Some(hasher) = self.left_behind.remove(&id) {
            return Step::GoOnAlone(hasher);
        }
        if end.is_some_and(|end| position >= end) || (end.is_none() && self.is_verified() && position >= self.end) {
            return Step::Finished;
        }
        let index = self.pieces.partition_point(|piece| piece.end() <= position);
        if let Some(piece) = self.pieces.get(index).filter(|piece| piece.start <= position) {
            // A whole piece is given or none, so that readers are found between two pieces.
            let may_be_given = end.is_some() || piece.end() <= self.released();
            if may_be_given {
                let to = end.map_or(piece.end(), |end| end.min(piece.end()));
                self.readers.insert(id, to);
                return Step::Give(piece.bytes.slice((position - piece.start) as usize..(to - piece.start) as usize));
            }
        }
        match &self.outcome {
            Some(Err(error)) => Step::Fail(error.clone()),
            // A part that reaches behind the end of the content.
            Some(Ok(())) => Step::Finished,
            None => Step::Wait,
        }
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The hash of everything before `position`, which is within this piece.
    fn hash_up_to(&self, position: u64) -> Option<Hasher> {
        let mut hasher = self.before.clone()?;
        let given = usize::try_from(position.saturating_sub(self.start)).unwrap_or(self.bytes.len());
        hasher.update(&self.bytes[..given.min(self.bytes.len())]);
        Some(hasher)
    }
}

impl WindowReader {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if let Some(alone) = &mut self.alone {
                return alone.next().await;
            }
            self.changes.mark_unchanged();
            let step = self.window.lock().step(self.subscription.id, self.position, self.end);
            match step {
                Step::Give(bytes) => {
                    self.position += bytes.len() as u64;
                    self.window.moved.notify_one();
                    return Ok(Some(bytes));
                }
                Step::Finished => return Ok(None),
                Step::Fail(error) => return Err(error),
                Step::GoOnAlone(hasher) => self.alone = Some(self.alone(hasher)),
                Step::Wait => {
                    let interrupted = self.subscription.fetch.interrupted();
                    self.changes.changed().await.map_err(|_| interrupted)?;
                }
            }
        }
    }

    /// The rest from upstream alone; `hasher` has seen everything before it.
    fn alone(&self, hasher: Option<Hasher>) -> Through {
        let fetch = &self.subscription.fetch;
        let (content, source, size) = (fetch.content.clone(), self.source.clone(), fetch.size());
        let state = fetch.state().validator.clone();
        tracing::debug!(%content, offset = self.position, "a slow client goes on from upstream alone");
        match (content.digest().copied(), self.end, hasher) {
            (Some(digest), None, Some(hasher)) => {
                Through::rest(digest, source, self.position, hasher, size, self.position)
            }
            (Some(digest), None, None) => Through::whole(digest, source, None, self.position),
            (None, end, Some(hasher)) if state.is_none() => {
                Through::after(content, source, self.position, hasher.finish(), end.or(size))
            }
            (_, end, _) => {
                let end = end.or(size).unwrap_or(u64::MAX);
                Through::part(content, source, self.position, end, size, state)
            }
        }
    }
}

impl PieceSource for WindowReader {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.next().await.map_err(BodyError::new)
    }
}

impl Drop for WindowReader {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        state.readers.remove(&self.subscription.id);
        state.left_behind.remove(&self.subscription.id);
        drop(state);
        self.window.moved.notify_one();
    }
}
