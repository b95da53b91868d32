//! A client's view of a flight: waits for bytes, reads them from the file, holds the end of a whole blob back until it
//! is right, and goes on from upstream alone when the disk gives up.

use bytes::Bytes;
use entrepot_core::digest::Hasher;
use tokio::sync::watch;

use crate::fill::flight::{FlightEnd, Seat};
use crate::fill::source::Source;
use crate::fill::through::Through;
use crate::fill::{CHUNK_BYTES, FillError, HELD_BACK_BYTES};

/// Bytes `position..end` of a blob that is being filled.
pub struct FlightReader {
    seat: Seat,
    changes: watch::Receiver<()>,
    position: u64,
    /// End of a part; none for the whole or an open end.
    end: Option<u64>,
    source: Source,
    alone: Option<Through>,
}

/// What to do next, decided under the lock.
enum Step {
    Read(u64, usize),
    Wait,
    Finished,
    Fail(FillError),
    GoOnAlone(u64, Hasher, Option<u64>),
}

impl FlightReader {
    /// A reader of `start..end`; no end means up to the blob's, which is then held back until the digest is right.
    pub fn new(seat: Seat, source: Source, start: u64, end: Option<u64>) -> Self {
        if end.is_none() {
            seat.flight.want_whole();
        }
        let changes = seat.flight.changes();
        Self { seat, changes, position: start, end, source, alone: None }
    }

    /// The next bytes, `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            if let Some(alone) = &mut self.alone {
                return alone.next().await;
            }
            self.changes.mark_unchanged();
            match self.step() {
                Step::Read(offset, length) => match self.read(offset, length).await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(error) => self.go_on_without_the_file(&error),
                },
                Step::Finished => return Ok(None),
                Step::Fail(error) => return Err(error),
                Step::GoOnAlone(prefix, hasher, size) => self.go_on_alone(prefix, hasher, size),
                Step::Wait => {
                    let interrupted = FillError::Interrupted { digest: self.seat.flight.digest };
                    self.changes.changed().await.map_err(|_| interrupted)?;
                }
            }
        }
    }

    fn step(&self) -> Step {
        let state = self.seat.flight.state();
        let end = self.end.or(state.size);
        if end.is_some_and(|end| self.position >= end) && (state.verified || self.end.is_some()) {
            return Step::Finished;
        }
        let covered = state.extents.covered(self.position).min(self.end.unwrap_or(u64::MAX));
        let released = match state.size {
            // An open end completes the blob in the client's hands: not before every byte is known to be right.
            _ if state.verified || self.end.is_some() => covered,
            Some(size) => covered.min(size.saturating_sub(HELD_BACK_BYTES)),
            None => covered.saturating_sub(HELD_BACK_BYTES),
        };
        if self.position < released {
            let length = (released - self.position).min(CHUNK_BYTES as u64);
            return Step::Read(self.position, length as usize);
        }
        match &state.end {
            Some(FlightEnd::Failed(error)) => Step::Fail(error.clone()),
            Some(FlightEnd::HandedOver { prefix, hasher }) => self.after_hand_over(*prefix, hasher, state.size),
            None => {
                let wanted = end.unwrap_or(u64::MAX);
                drop(state);
                if covered < wanted {
                    self.seat.flight.demand(self.seat.id, covered.max(self.position), wanted);
                } else {
                    self.seat.flight.satisfied(self.seat.id);
                }
                Step::Wait
            }
        }
    }

    async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, FillError> {
        let digest = self.seat.flight.digest;
        let file = self.seat.flight.state().file.clone();
        let interrupted = FillError::Interrupted { digest };
        let file = file.ok_or(interrupted)?;
        let read = file.start_reading(offset, length).finish().await;
        let failed = |error: std::io::Error| FillError::Read { digest, error: std::sync::Arc::new(error) };
        let bytes = read.map_err(failed)?;
        if bytes.is_empty() {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// The disk is out. What it has up to `prefix` is still read from it, the rest comes from upstream, and the hash
    /// of the two together decides about the end.
    fn after_hand_over(&self, prefix: u64, hasher: &Hasher, size: Option<u64>) -> Step {
        let digest = self.seat.flight.digest;
        if size == Some(prefix) {
            let got = hasher.clone().finish();
            if got != digest {
                return Step::Fail(FillError::WrongDigest { digest, got: Box::new(got) });
            }
        }
        let readable = prefix.min(self.end.unwrap_or(u64::MAX));
        if self.position < readable {
            let length = (readable - self.position).min(CHUNK_BYTES as u64);
            return Step::Read(self.position, length as usize);
        }
        Step::GoOnAlone(prefix, hasher.clone(), size)
    }

    /// The file cannot be read, so everything comes from upstream once more, and what the client has is not repeated.
    fn go_on_without_the_file(&mut self, error: &FillError) {
        let (digest, source) = (self.seat.flight.digest, self.source.clone());
        tracing::warn!(%digest, offset = self.position, "a client goes on from upstream: {error}");
        let size = self.seat.flight.state().size;
        self.alone = Some(match self.end {
            Some(end) => Through::part(digest, source, self.position, end, size),
            None => Through::whole(digest, source, None, self.position),
        });
    }

    fn go_on_alone(&mut self, prefix: u64, hasher: Hasher, size: Option<u64>) {
        let (digest, source) = (self.seat.flight.digest, self.source.clone());
        self.alone = Some(match self.end {
            Some(end) => Through::part(digest, source, self.position, end, size),
            None => Through::rest(digest, source, prefix, hasher, size, self.position),
        });
    }
}
