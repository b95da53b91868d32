//! Fetches one stretch of a blob into the file: reads upstream, writes in pieces off the event loop, says how far.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

use crate::fill::flight::Flight;
use crate::fill::stream::BlobStream;
use crate::fill::{CHUNK_BYTES, FillError};
use crate::observe::metrics::Metrics;

/// How a fetcher ended.
pub(super) enum FetchEnd {
    /// The fetcher with this number reached its limit.
    Done(u64),
    /// Upstream did not give the bytes.
    Failed(FillError),
    /// The file did not take them.
    DiskFailed,
}

pub(super) async fn run(flight: Arc<Flight>, id: u64, mut stream: BlobStream, metrics: Arc<Metrics>) -> FetchEnd {
    let mut start = stream.position();
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        let gathered = gather(&mut stream, &mut buffer).await;
        metrics.fills_resumed.inc_by(stream.take_resumed());
        let ended = match gathered {
            Ok(ended) => ended,
            Err(error) => return FetchEnd::Failed(error),
        };
        let mut piece = buffer.split().freeze();
        // Another fetcher may have taken over from some offset on. Not one byte is written past it: what was hashed
        // is what stays. It is always further ahead than a piece is long, so nothing of it is written yet.
        let limit = flight.limit_of(id);
        piece.truncate(usize::try_from(limit.saturating_sub(start)).unwrap_or(usize::MAX));
        metrics.bytes_from_upstream.inc_by(piece.len() as u64);
        let length = piece.len() as u64;
        if length > 0 && write(&flight, start, piece).await.is_err() {
            return FetchEnd::DiskFailed;
        }
        let limit = commit(&flight, id, start..start + length, &stream);
        start += length;
        if ended || limit.is_some_and(|limit| start >= limit) {
            return FetchEnd::Done(id);
        }
    }
}

/// Reads until a piece is full or upstream pauses; true at the end of the stretch.
async fn gather(stream: &mut BlobStream, buffer: &mut BytesMut) -> Result<bool, FillError> {
    while buffer.len() < CHUNK_BYTES {
        tokio::select! {
            biased;
            next = stream.next() => match next? {
                Some(bytes) => buffer.extend_from_slice(&bytes),
                None => return Ok(true),
            },
            // Upstream has nothing at the moment: followers get what is there rather than wait for a full piece.
            () = std::future::ready(()), if !buffer.is_empty() => return Ok(false),
        }
    }
    Ok(false)
}

async fn write(flight: &Flight, start: u64, piece: Bytes) -> Result<(), ()> {
    let Some(file) = flight.state().file.clone() else { return Err(()) };
    match spawn_blocking(move || file.write_at(start, &piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(digest = %flight.digest, "the store takes no more: {error}");
            Err(())
        }
        Err(_) => Err(()),
    }
}

/// Makes the piece readable and moves this fetcher's stretch on; returns the stretch's limit, which may have been
/// shortened meanwhile. At the end of a body without a length, the length is known.
fn commit(flight: &Flight, id: u64, piece: Range<u64>, stream: &BlobStream) -> Option<u64> {
    let mut limit = None;
    flight.update(|state| {
        state.extents.insert(piece.clone());
        if let Some(stretch) = state.running.iter_mut().find(|stretch| stretch.id == id) {
            stretch.position = piece.end;
            limit = Some(stretch.limit);
        }
        state.size = state.size.or(stream.size());
    });
    limit
}
