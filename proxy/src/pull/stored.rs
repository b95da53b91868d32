//! A published blob for one client, read in pieces off the event loop. When the disk fails in the middle, the client
//! goes on from upstream at the same offset, and the entry is put aside.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::fill::FillError;
use crate::fill::source::Source;
use crate::fill::through::Through;
use crate::store::{Blob, Store};

/// Bytes `position..end` of a stored blob.
pub struct StoredReader {
    blob: Arc<Blob>,
    store: Arc<Store>,
    source: Source,
    position: u64,
    end: u64,
    instead: Option<Through>,
}

/// One piece: large enough that a read costs little, small enough that many readers fit in memory.
const PIECE_BYTES: u64 = 256 * 1024;

impl StoredReader {
    /// A reader of `start..end`; `source` is asked where the disk fails.
    pub fn new(blob: Arc<Blob>, store: Arc<Store>, source: Source, start: u64, end: u64) -> Self {
        Self { blob, store, source, position: start, end, instead: None }
    }

    /// The next piece, `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            if let Some(through) = &mut self.instead {
                return through.next().await;
            }
            if self.position >= self.end {
                return Ok(None);
            }
            let (blob, position) = (self.blob.clone(), self.position);
            let length = (self.end - position).min(PIECE_BYTES) as usize;
            match spawn_blocking(move || blob.read_at(position, length)).await {
                Ok(Ok(bytes)) if !bytes.is_empty() => {
                    self.position += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(Ok(_)) => self.fail_over("it is shorter than it was").await,
                Ok(Err(error)) => self.fail_over(&error.to_string()).await,
                Err(_) => return Err(FillError::Interrupted { digest: self.blob.digest }),
            }
        }
    }

    async fn fail_over(&mut self, why: &str) {
        let (digest, size) = (self.blob.digest, self.blob.size_bytes);
        tracing::error!(%digest, offset = self.position, "a stored blob cannot be read ({why}); it is put aside, the client goes on from upstream");
        let store = self.store.clone();
        // Its outcome changes nothing for this client.
        let _ = spawn_blocking(move || store.quarantine(&digest)).await;
        let source = self.source.clone();
        self.instead = Some(if self.end == size {
            Through::whole(digest, source, None, self.position)
        } else {
            Through::part(digest, source, None, self.position, self.end, Some(size))
        });
    }
}
