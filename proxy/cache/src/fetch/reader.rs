//! A client's view of a fetch. It waits for bytes, reads them from the file, holds the end of a whole blob back until
//! the digest is right, and goes on from upstream alone when the disk gives up.
//!
//! Invariant: the hash that decides about the end of a whole blob, or of its rest, has seen the very bytes that the
//! client was given. Bytes that upstream sends a second time do not stand in for those that it sent the first time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};
use entrepot_kernel::buffers;
use tokio::sync::watch;

use crate::fetch::hashing::hash_again;
use crate::fetch::inflight::{FetchEnd, Subscription};
use crate::fetch::source::BlobSource;
use crate::fetch::through::Through;
use crate::fetch::{CHUNK_BYTES, FetchError, HELD_BACK_BYTES};
use entrepot_net::http::body::{BodyError, PieceSource};

/// Bytes `position..end` of a blob that is being fetched.
pub struct FetchReader {
    subscription: Subscription,
    changes: watch::Receiver<()>,
    start: u64,
    position: u64,
    /// End of a part. None for the whole or an open end.
    end: Option<u64>,
    source: BlobSource,
    alone: Option<Through>,
}

/// The next step, decided under the lock.
enum Step {
    Read(u64, usize),
    Wait,
    Finished,
    Fail(FetchError),
    GoOnAlone(u64, Hasher),
}

impl FetchReader {
    /// A reader of `start..end`. Without an end it reads to the end of the blob, which is held back until the digest is
    /// right.
    pub fn new(subscription: Subscription, source: BlobSource, start: u64, end: Option<u64>) -> Self {
        if end.is_none() {
            subscription.fetch.want_whole();
        }
        let changes = subscription.fetch.changes();
        Self { subscription, changes, start, position: start, end, source, alone: None }
    }

    /// The next bytes. None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if let Some(alone) = &mut self.alone {
                return alone.next().await;
            }
            self.changes.mark_unchanged();
            match self.step() {
                Step::Read(offset, length) => match self.read(offset, length).await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(error) => self.go_on_without_the_file(&error).await?,
                },
                Step::Finished => return Ok(None),
                Step::Fail(error) => return Err(error),
                Step::GoOnAlone(prefix, hasher) => self.go_on_alone(prefix, hasher).await?,
                Step::Wait => {
                    let interrupted = self.subscription.fetch.interrupted();
                    self.changes.changed().await.map_err(|_| interrupted)?;
                }
            }
        }
    }

    fn step(&self) -> Step {
        let state = self.subscription.fetch.state();
        let end = self.end.or(state.size);
        if end.is_some_and(|end| self.position >= end) && (state.verified || self.end.is_some()) {
            return Step::Finished;
        }
        let covered = state.extents.covered(self.position).min(self.end.unwrap_or(u64::MAX));
        let is_doubtful_part = self.end.is_some() && state.coding.is_some() && !state.verified;
        let released = match (&state.end, state.size) {
            // No digest judges a part, so only that of the whole shows that these bytes are not compressed.
            _ if is_doubtful_part => self.position,
            // An open end completes the blob in the client's hands, so it waits until every byte is known to be right.
            _ if state.verified || self.end.is_some() => covered,
            // `after_hand_over` gives the bytes that the hash has seen.
            (Some(FetchEnd::HandedOver { .. }), _) => self.position,
            (_, Some(size)) => covered.min(size.saturating_sub(HELD_BACK_BYTES)),
            (_, None) => covered.saturating_sub(HELD_BACK_BYTES),
        };
        if self.position < released {
            let length = (released - self.position).min(CHUNK_BYTES as u64);
            return Step::Read(self.position, length as usize);
        }
        match &state.end {
            Some(FetchEnd::Failed(error)) => Step::Fail(error.clone()),
            Some(FetchEnd::HandedOver { prefix, hasher }) => self.after_hand_over(*prefix, hasher, state.size),
            None => {
                let wanted = end.unwrap_or(u64::MAX);
                drop(state);
                if is_doubtful_part {
                    self.subscription.fetch.want_whole();
                }
                if covered < wanted {
                    self.subscription.fetch.demand(self.subscription.id, covered.max(self.position), wanted);
                } else {
                    self.subscription.fetch.satisfied(self.subscription.id);
                }
                Step::Wait
            }
        }
    }

    async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, FetchError> {
        let fetch = &self.subscription.fetch;
        let file = fetch.state().file.clone();
        let file = file.ok_or_else(|| fetch.interrupted())?;
        // Many slow readers hold the bytes that they were given, so each of them gets little at once.
        let read = file.start_reading(offset, length.min(buffers::window_bytes())).finish().await;
        let failed = |error: io::Error| FetchError::Read { content: fetch.content.clone(), error: Arc::new(error) };
        let bytes = read.map_err(failed)?;
        if bytes.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// The disk takes no more. Bytes up to `prefix` are still read from the file, the rest comes from upstream, and the
    /// hash of both together decides about the end.
    fn after_hand_over(&self, prefix: u64, hasher: &Hasher, size: Option<u64>) -> Step {
        let content = &self.subscription.fetch.content;
        if let Some(digest) = content.digest().filter(|_| size == Some(prefix)) {
            let got = hasher.clone().finish();
            if got != *digest {
                return Step::Fail(FetchError::wrong(content.clone(), got, self.subscription.fetch.coding()));
            }
        }
        let readable = prefix.min(self.end.unwrap_or(u64::MAX));
        if self.position < readable {
            let length = (readable - self.position).min(CHUNK_BYTES as u64);
            return Step::Read(self.position, length as usize);
        }
        Step::GoOnAlone(prefix, hasher.clone())
    }

    /// The file cannot be read here, so everything comes from upstream once more. Bytes that the client has are not
    /// repeated.
    async fn go_on_without_the_file(&mut self, error: &FetchError) -> Result<(), FetchError> {
        let fetch = &self.subscription.fetch;
        tracing::warn!(content = %fetch.content, offset = self.position, "a client goes on from upstream: {error}");
        if let Some(digest) = fetch.content.digest()
            && self.end.is_none()
            && fetch.is_verified()
        {
            // The bytes that the client has are right.
            self.alone = Some(Through::whole(*digest, self.source.clone(), None, self.position));
            return Ok(());
        }
        self.go_on_alone(0, Hasher::new(fetch.target.algorithm())).await
    }

    /// Reads from upstream alone from here on; `hasher` has seen the first `prefix` bytes.
    async fn go_on_alone(&mut self, prefix: u64, hasher: Hasher) -> Result<(), FetchError> {
        let fetch = &self.subscription.fetch;
        let (content, source, size) = (fetch.content.clone(), self.source.clone(), fetch.size());
        let (state, end) = (fetch.state().validator.clone(), self.end.or(size));
        self.alone = Some(match (content.digest().copied(), self.end, end) {
            (Some(_), Some(end), _) => Through::part(content, source, self.position, end, size, None),
            (Some(digest), None, _) => {
                let (seen, hasher) = self.hash_what_was_given(prefix, hasher).await?;
                Through::rest(digest, source, seen, hasher, size, self.position)
            }
            // Upstream says that the artefact is the same, or shows the bytes that the client has once more.
            (None, _, Some(end)) if state.is_some() || self.position == self.start => {
                Through::part(content, source, self.position, end, size, state)
            }
            (None, ..) => {
                let start = self.hash_of_the_start().await?;
                Through::after(content, source, self.position, start, end)
            }
        });
        Ok(())
    }

    /// The digest of everything before the client's next byte, as the file has it.
    async fn hash_of_the_start(&mut self) -> Result<Digest, FetchError> {
        let hasher = Hasher::new(self.subscription.fetch.target.algorithm());
        let (seen, hasher) = self.hash_what_was_given(0, hasher).await?;
        if seen < self.position {
            return Err(self.subscription.fetch.interrupted());
        }
        Ok(hasher.finish())
    }

    /// Has the hash see the bytes after `prefix` that the client was given, as the file has them. Returns how far the
    /// hash has come. If the file lacks some of these bytes, the client is cut off.
    async fn hash_what_was_given(&mut self, prefix: u64, hasher: Hasher) -> Result<(u64, Hasher), FetchError> {
        if self.position <= prefix.max(self.start) {
            return Ok((prefix, hasher));
        }
        let (file, covered) = {
            let state = self.subscription.fetch.state();
            (state.file.clone(), state.extents.covered(prefix))
        };
        let hashed = match file.filter(|_| covered >= self.position) {
            Some(file) => hash_again(&file, prefix..self.position, hasher).await,
            None => Err(io::Error::other("what comes before the bytes that were given is not there")),
        };
        let content = &self.subscription.fetch.content;
        let failed = |error| FetchError::Read { content: content.clone(), error: Arc::new(error) };
        hashed.map(|hasher| (self.position, hasher)).map_err(failed)
    }
}

impl PieceSource for FetchReader {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.next().await.map_err(BodyError::new)
    }
}
