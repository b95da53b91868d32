//! A published blob for one client, handed out in windows, mapped where the page cache has them. When the disk fails in
//! the middle, the client goes on from upstream at the same offset, and the entry is put aside.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::fetch::FetchError;
use crate::fetch::source::BlobSource;
use crate::fetch::through::Through;
use entrepot_net::http::body::{BodyError, PieceSource};
use entrepot_store::{Blob, Store, Window};

/// Bytes `position..end` of a stored blob.
pub struct StoredReader {
    blob: Arc<Blob>,
    store: Arc<Store>,
    source: Option<BlobSource>,
    position: u64,
    end: u64,
    /// The window at `position`, where it was begun ahead of its time.
    ahead: Option<Window>,
    instead: Option<Through>,
}

impl StoredReader {
    /// A reader of `start..end`; `source` is asked where the disk fails, and without one the client is cut off there.
    pub fn new(blob: Arc<Blob>, store: Arc<Store>, source: Option<BlobSource>, start: u64, end: u64) -> Self {
        Self { blob, store, source, position: start, end, ahead: None, instead: None }
    }

    /// The next piece, `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if let Some(through) = &mut self.instead {
                return through.next().await;
            }
            if self.position >= self.end {
                return Ok(None);
            }
            let mut window = self.ahead.take().unwrap_or_else(|| self.blob.window(self.position, self.end));
            match self.blob.finish(&mut window).await {
                Ok(bytes) => {
                    self.position += bytes.len() as u64;
                    if matches!(window, Window::Coming(_)) && self.position < self.end {
                        // After a cold window the next one may be cold too: it is read while this one is sent.
                        self.ahead = Some(self.blob.window(self.position, self.end));
                    }
                    return Ok(Some(bytes));
                }
                Err(error) => self.fail_over(error).await?,
            }
        }
    }

    async fn fail_over(&mut self, why: io::Error) -> Result<(), FetchError> {
        let (digest, size) = (self.blob.digest, self.blob.size_bytes);
        tracing::error!(%digest, offset = self.position, "a stored blob cannot be read ({why}); it is put aside");
        self.store.blobs.unreadable(&digest).await;
        let Some(source) = self.source.clone() else {
            return Err(FetchError::Read { content: digest.into(), error: Arc::new(why) });
        };
        self.instead = Some(if self.end == size {
            Through::whole(digest, source, None, self.position)
        } else {
            Through::part(digest.into(), source, self.position, self.end, Some(size), None)
        });
        Ok(())
    }
}

impl PieceSource for StoredReader {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.next().await.map_err(BodyError::new)
    }
}
