//! A request's body on its way into an upload: each piece is hashed and written while the next one comes, so memory
//! does not grow with the blob, and a slow disk slows its client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest, Hasher};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::access::AccessRefusal;
use super::quota::{Arrived, Budget};
use super::sessions::{Session, State};
use entrepot_cache::fetch::hashing::{hash_again, hash_aside};
use entrepot_store::{PartialBlob, StoreError};

/// Pieces up to this length are hashed where they arrive, in a few microseconds.
const HASHED_HERE_MAX_BYTES: usize = 16 * 1024;

/// The reason why a body was not taken to its end.
pub(super) enum Interrupted {
    /// The client left.
    Left,
    /// The client sent nothing for too long.
    Stalled,
    /// A quota is used up.
    Quota(AccessRefusal),
    /// The store refused.
    Store(StoreError),
}

/// Lets the bytes of one upload in, as far as the quotas do.
pub(super) struct Gate<'r> {
    /// None if no quota covers the repository.
    pub(super) budget: Option<Budget<'r>>,
    pub(super) arrived: &'r Arrived,
}

impl Gate<'_> {
    /// Whether the upload may have so many bytes, by what its client tells.
    pub(super) async fn announce(&mut self, bytes: u64) -> Result<(), Interrupted> {
        match &mut self.budget {
            Some(budget) => decided(budget.may_have(self.arrived, bytes).await),
            None => Ok(()),
        }
    }

    /// The upload is about to have so many bytes.
    async fn grow(&mut self, bytes: u64) -> Result<(), Interrupted> {
        match &mut self.budget {
            Some(budget) => decided(budget.grow(self.arrived, bytes).await),
            // A quota that a reload brings knows of them too.
            None => {
                self.arrived.set_to(bytes);
                Ok(())
            }
        }
    }
}

fn decided(outcome: Result<Result<(), AccessRefusal>, StoreError>) -> Result<(), Interrupted> {
    outcome.map_err(Interrupted::Store)?.map_err(Interrupted::Quota)
}

/// Adds a body to an upload; how many bytes that was. Each piece passes the gate before it is written. A client that is
/// silent loses its turn to a newer request.
pub(super) async fn receive(
    fill: &Arc<PartialBlob>,
    session: &Session,
    state: &mut State,
    body: &mut Incoming,
    gate: &mut Gate<'_>,
    timeout: Duration,
) -> Result<u64, Interrupted> {
    let begun_at = state.length;
    let mut piece = None;
    loop {
        let (next, kept) = tokio::join!(next_piece(session, body, timeout), keep(fill, state, piece.take()));
        kept.map_err(Interrupted::Store)?;
        match next? {
            Some(bytes) => {
                gate.grow(state.length + bytes.len() as u64).await?;
                piece = Some(bytes);
            }
            None => return Ok(state.length - begun_at),
        }
    }
}

async fn next_piece(session: &Session, body: &mut Incoming, timeout: Duration) -> Result<Option<Bytes>, Interrupted> {
    loop {
        let next = tokio::time::timeout(timeout, body.frame());
        let frame = tokio::select! {
            biased;
            frame = next => frame.map_err(|_| Interrupted::Stalled)?,
            () = session.is_wanted() => return Err(Interrupted::Left),
        };
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Interrupted::Left),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                _ => {}
            },
        }
    }
}

/// Writes and hashes one piece.
async fn keep(fill: &Arc<PartialBlob>, state: &mut State, piece: Option<Bytes>) -> Result<(), StoreError> {
    let Some(bytes) = piece else { return Ok(()) };
    let length = bytes.len() as u64;
    let write = fill.write(state.length, bytes.clone());
    let (written, hasher) = tokio::join!(write, hash(state.hasher.take(), bytes));
    // A write that failed leaves the hash ahead of the bytes: they are hashed again then.
    written?;
    state.hasher = hasher;
    state.length += length;
    Ok(())
}

async fn hash(hasher: Option<Hasher>, bytes: Bytes) -> Option<Hasher> {
    let mut hasher = hasher?;
    if bytes.len() <= HASHED_HERE_MAX_BYTES {
        hasher.update(&bytes);
        return Some(hasher);
    }
    hash_aside(hasher, bytes).await
}

/// The digest of everything that arrived: from the hash that ran along where it is of this algorithm, else from the
/// file.
pub(super) async fn digest(fill: &Arc<PartialBlob>, state: &State, algorithm: Algorithm) -> Result<Digest, StoreError> {
    if let Some(hasher) = state.hasher.as_ref().filter(|hasher| hasher.algorithm() == algorithm) {
        return Ok(hasher.clone().finish());
    }
    let hashed = hash_again(fill, 0..state.length, Hasher::new(algorithm)).await;
    hashed.map(Hasher::finish).map_err(|error| fill.unreadable(error))
}
