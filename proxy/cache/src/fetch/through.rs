//! A blob straight from upstream to one client, checked but not stored. It serves when the disk takes nothing, and for
//! a blob that another registry's copy may not stand in for.
//!
//! The last piece is held back until the digest is right, as on the stored path. A part with an end of its own cannot
//! be checked and is not held back.

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};

use crate::fetch::FetchError;
use crate::fetch::source::{BlobSource, Opened};
use crate::fetch::stream::BlobStream;
use entrepot_net::http::body::{BodyError, PieceSource};

/// Bytes of a blob for one client.
pub struct Through {
    digest: Digest,
    stream: BlobStream,
    /// The hash of everything before the stream's position. None for a part.
    hasher: Option<Hasher>,
    held: Option<Bytes>,
    /// Bytes before this offset are hashed but not delivered.
    deliver_from: u64,
    /// Runs once the digest was right.
    proven: Option<Box<dyn FnOnce() + Send>>,
}

impl Through {
    /// A blob from its first byte, delivered from `deliver_from` on.
    pub fn whole(digest: Digest, source: BlobSource, opened: Option<Opened>, deliver_from: u64) -> Self {
        let stream = BlobStream::new(digest, vec![source], 0, None, None);
        let stream = match opened {
            Some(opened) => stream.with_opened(opened),
            None => stream,
        };
        Self { digest, stream, hasher: Some(Hasher::new(digest.algorithm())), held: None, deliver_from, proven: None }
    }

    /// The rest of a blob whose first `prefix` bytes `hasher` has seen, delivered from `deliver_from` on.
    pub fn rest(
        digest: Digest,
        source: BlobSource,
        prefix: u64,
        hasher: Hasher,
        size: Option<u64>,
        deliver_from: u64,
    ) -> Self {
        let stream = BlobStream::new(digest, vec![source], prefix, None, size);
        Self { digest, stream, hasher: Some(hasher), held: None, deliver_from, proven: None }
    }

    /// The same with an answer that is open already.
    #[must_use]
    pub fn with_opened(mut self, opened: Opened) -> Self {
        self.stream = self.stream.with_opened(opened);
        self
    }

    /// Runs `proven` once upstream has shown every byte of the digest.
    #[must_use]
    pub fn and_then(mut self, proven: impl FnOnce() + Send + 'static) -> Self {
        self.proven = Some(Box::new(proven));
        self
    }

    /// A part of a blob, unchecked.
    pub fn part(digest: Digest, source: BlobSource, start: u64, end: u64, size: Option<u64>) -> Self {
        let stream = BlobStream::new(digest, vec![source], start, Some(end), size);
        Self { digest, stream, hasher: None, held: None, deliver_from: start, proven: None }
    }

    /// The next bytes for the client. None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let Some(bytes) = self.stream.next().await? else {
                self.check()?;
                return Ok(self.held.take());
            };
            let Some(hasher) = self.hasher.as_mut() else {
                // No digest judges a part.
                return match self.stream.coding() {
                    Some(coding) => Err(FetchError::Encoded { digest: self.digest, coding }),
                    None => Ok(Some(bytes)),
                };
            };
            hasher.update(&bytes);
            let undelivered = self.stream.position().saturating_sub(self.deliver_from).min(bytes.len() as u64);
            if undelivered == 0 {
                continue;
            }
            let ready = self.held.replace(bytes.slice(bytes.len() - undelivered as usize..));
            if ready.is_some() {
                return Ok(ready);
            }
        }
    }

    fn check(&mut self) -> Result<(), FetchError> {
        match self.hasher.take().map(Hasher::finish) {
            Some(got) if got != self.digest => Err(FetchError::wrong(self.digest, got, self.stream.coding())),
            Some(_) => {
                if let Some(proven) = self.proven.take() {
                    proven();
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl PieceSource for Through {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.next().await.map_err(BodyError::new)
    }
}
