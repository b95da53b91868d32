//! Fetches one stretch of a blob into the file: reads upstream, has pieces written by a disk thread, reports how far it
//! is.
//!
//! Upstream is read while earlier pieces are written. A few writes run at once, and the pieces become readable in their
//! order. A piece is handed on when it is full, or when it is some milliseconds old and no piece of this stretch is at
//! the disk. So followers of a slow upstream wait for next to nothing, and many small packets of upstream share each
//! step between threads. Memory comes from the store's bounded buffers: if none is free, upstream waits.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::fetch::FetchError;
use crate::fetch::inflight::InflightFetch;
use crate::fetch::plan::NEAR_BYTES;
use crate::fetch::stream::BlobStream;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{PIECE_BYTES, PartialBlob, StoreError};

/// How long a piece that is not full waits for more.
const GATHERING: Duration = Duration::from_millis(4);
/// The most pieces of one stretch on their way to the disk.
const WRITING_MAX: usize = 4;
// Another fetcher takes over further ahead than this one can have bytes under way: see `run`.
const _: () = assert!(((WRITING_MAX + 1) * PIECE_BYTES) as u64 <= NEAR_BYTES / 2);

/// How a fetcher ended.
pub(super) enum TransferEnd {
    /// The fetcher with this number reached its limit.
    Done(u64),
    /// Upstream did not give the bytes.
    Failed(FetchError),
    /// The file did not take them.
    DiskFailed,
}

/// Bytes from upstream on their way into buffers.
struct Gatherer {
    stream: BlobStream,
    file: Arc<PartialBlob>,
    /// The bytes that upstream gave and no buffer has taken yet.
    rest: Bytes,
    /// How many pieces are being written.
    writing: watch::Receiver<usize>,
}

/// The result of gathering.
enum Gathered {
    Piece(Bytes),
    /// Nothing more comes.
    End,
    Failed(FetchError),
    /// The disk does not give buffers back.
    NoBuffer(StoreError),
}

pub(super) async fn run(fetch: Arc<InflightFetch>, id: u64, stream: BlobStream, metrics: Arc<Metrics>) -> TransferEnd {
    let Some(file) = fetch.state().file.clone() else { return TransferEnd::DiskFailed };
    let mut start = stream.position();
    let mut writing = FuturesOrdered::new();
    let (count, counted) = watch::channel(0);
    let gatherer = Gatherer { stream, file: file.clone(), rest: Bytes::new(), writing: counted };
    // This future is never dropped half-way, because it may be in the middle of a request to upstream.
    let gathering = gatherer.next();
    tokio::pin!(gathering);
    let (mut is_gathering, mut end, mut size) = (true, TransferEnd::Done(id), None);
    while is_gathering || !writing.is_empty() {
        tokio::select! {
            biased;
            Some(written) = writing.next(), if !writing.is_empty() => match written {
                Ok(piece) => {
                    commit(&fetch, id, piece);
                    count.send_replace(writing.len());
                }
                Err(error) => return disk_failed(&fetch, &error),
            },
            (mut gatherer, gathered) = &mut gathering, if is_gathering && writing.len() < WRITING_MAX => {
                metrics.fills_resumed.inc_by(gatherer.stream.take_resumed());
                size = gatherer.stream.size();
                if let Some(coding) = gatherer.stream.coding() {
                    // Before the piece can be read.
                    fetch.state().coding = Some(coding);
                }
                match gathered {
                    Gathered::Piece(mut piece) => {
                        // Another fetcher may have taken over from some offset on. Not one byte is written past that
                        // offset, because hashed bytes must not change. The offset is always further ahead of this
                        // fetcher's committed bytes than its bytes under way reach, so nothing is written past it yet.
                        let left = fetch.limit_of(id).saturating_sub(start);
                        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                        let length = piece.len() as u64;
                        metrics.bytes_from_upstream.inc_by(length);
                        is_gathering = length < left;
                        if length > 0 {
                            writing.push_back(write(file.clone(), start, piece));
                            count.send_replace(writing.len());
                            start += length;
                        }
                        gathering.set(gatherer.next());
                    }
                    Gathered::End => is_gathering = false,
                    // The pieces before the failure are kept.
                    Gathered::Failed(error) => (is_gathering, end) = (false, TransferEnd::Failed(error)),
                    Gathered::NoBuffer(error) => return disk_failed(&fetch, &error),
                }
            }
        }
    }
    // If the body had no length, its end tells the length.
    fetch.update(|state| state.size = state.size.or(size));
    end
}

async fn write(file: Arc<PartialBlob>, start: u64, piece: Bytes) -> Result<Range<u64>, StoreError> {
    let range = start..start + piece.len() as u64;
    file.write(start, piece).await?;
    Ok(range)
}

fn disk_failed(fetch: &InflightFetch, error: &StoreError) -> TransferEnd {
    tracing::warn!(content = %fetch.content, "the store takes no more: {error}");
    TransferEnd::DiskFailed
}

/// Makes the piece readable and moves this fetcher's stretch on.
fn commit(fetch: &InflightFetch, id: u64, piece: Range<u64>) {
    fetch.update(|state| {
        if let Some(stretch) = state.running.iter_mut().find(|stretch| stretch.id == id) {
            stretch.position = piece.end;
        }
        state.extents.insert(piece);
    });
}

impl Gatherer {
    /// The next piece. With a buffer in hand, it waits only for the writes before it, which end by themselves.
    async fn next(mut self) -> (Self, Gathered) {
        if self.rest.is_empty() {
            match self.stream.next().await {
                Ok(Some(bytes)) => self.rest = bytes,
                Ok(None) => return (self, Gathered::End),
                Err(error) => return (self, Gathered::Failed(error)),
            }
        }
        let mut buffer = match self.file.buffers().take().await {
            Ok(buffer) => buffer,
            Err(error) => return (self, Gathered::NoBuffer(error)),
        };
        let ripe = Instant::now() + GATHERING;
        loop {
            buffer.fill_from(&mut self.rest);
            if buffer.is_full() {
                break;
            }
            tokio::select! {
                biased;
                more = self.stream.more() => match more {
                    Some(bytes) => self.rest = bytes,
                    None => break,
                },
                () = async {
                    sleep_until(ripe).await;
                    // A fetcher that is gone waits for no piece.
                    let _ = self.writing.wait_for(|count| *count == 0).await;
                } => break,
            }
        }
        (self, Gathered::Piece(buffer.freeze()))
    }
}
