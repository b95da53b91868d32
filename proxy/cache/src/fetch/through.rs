//! Content straight from upstream to one client, checked but not stored. It serves when the disk takes nothing, and for
//! a blob that another registry's copy may not stand in for.
//!
//! The last piece is held back until the digest is right, as on the stored path. A part with an end of its own cannot
//! be checked and is not held back.

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};
use entrepot_core::validator::Validator;

use crate::fetch::FetchError;
use crate::fetch::source::{BlobSource, Opened};
use crate::fetch::stream::BlobStream;
use entrepot_net::http::body::{BodyError, PieceSource};
use entrepot_store::ContentName;

/// Bytes of a blob or an artefact for one client.
pub struct Through {
    content: ContentName,
    stream: BlobStream,
    check: Check,
    held: Option<Bytes>,
    /// Bytes before this offset are hashed but not delivered.
    deliver_from: u64,
    /// Runs once the digest was right.
    proven: Option<Box<dyn FnOnce() + Send>>,
}

/// What tells whether the bytes are right.
enum Check {
    /// Nothing here: they are a part, or one state of an artefact.
    Nothing,
    /// The digest of all bytes. The hash is of everything before the stream's position.
    Whole(Digest, Hasher),
    /// The first bytes, up to this offset, which the client has already, and their digest.
    Start(u64, Digest, Hasher),
}

impl Through {
    fn new(stream: BlobStream, content: ContentName, check: Check, deliver_from: u64) -> Self {
        Self { content, stream, check, held: None, deliver_from, proven: None }
    }

    /// A blob from its first byte, delivered from `deliver_from` on.
    pub fn whole(digest: Digest, source: BlobSource, opened: Option<Opened>, deliver_from: u64) -> Self {
        let stream = BlobStream::new(digest.into(), vec![source], 0, None, None);
        let stream = match opened {
            Some(opened) => stream.with_opened(opened),
            None => stream,
        };
        let check = Check::Whole(digest, Hasher::new(digest.algorithm()));
        Self::new(stream, digest.into(), check, deliver_from)
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
        let stream = BlobStream::new(digest.into(), vec![source], prefix, None, size);
        Self::new(stream, digest.into(), Check::Whole(digest, hasher), deliver_from)
    }

    /// An artefact once more up to `end`, without a validator: it goes on after its first `given` bytes if their digest is
    /// `start`.
    pub fn after(content: ContentName, source: BlobSource, given: u64, start: Digest, end: Option<u64>) -> Self {
        let stream = BlobStream::new(content.clone(), vec![source], 0, end, None);
        let check = Check::Start(given, start, Hasher::new(start.algorithm()));
        Self::new(stream, content, check, given)
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

    /// A part of some content, unchecked. Of an artefact, it is of this state.
    pub fn part(
        content: ContentName,
        source: BlobSource,
        start: u64,
        end: u64,
        size: Option<u64>,
        state: Option<Validator>,
    ) -> Self {
        let stream = BlobStream::new(content.clone(), vec![source], start, Some(end), size).of_state(state);
        Self::new(stream, content, Check::Nothing, start)
    }

    /// The next bytes for the client. None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let Some(bytes) = self.stream.next().await? else {
                self.finish()?;
                return Ok(self.held.take());
            };
            match &mut self.check {
                // No digest judges a part.
                Check::Nothing => {
                    return match self.stream.coding() {
                        Some(coding) => Err(FetchError::Encoded { content: self.content.clone(), coding }),
                        None => Ok(Some(bytes)),
                    };
                }
                Check::Whole(_, hasher) => {
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
                Check::Start(given, _, hasher) => {
                    let new = self.stream.position().saturating_sub(*given).min(bytes.len() as u64) as usize;
                    let (known, new) = (bytes.slice(..bytes.len() - new), bytes.slice(bytes.len() - new..));
                    hasher.update(&known);
                    if self.stream.position() >= *given {
                        self.finish()?;
                    }
                    if !new.is_empty() {
                        return Ok(Some(new));
                    }
                }
            }
        }
    }

    /// Compares the bytes that the hash has seen, now that they are all there.
    fn finish(&mut self) -> Result<(), FetchError> {
        match std::mem::replace(&mut self.check, Check::Nothing) {
            Check::Whole(digest, hasher) => {
                let got = hasher.finish();
                if got != digest {
                    return Err(FetchError::wrong(self.content.clone(), got, self.stream.coding()));
                }
                if let Some(proven) = self.proven.take() {
                    proven();
                }
                Ok(())
            }
            Check::Start(_, start, hasher) if hasher.clone().finish() != start => {
                Err(FetchError::Changed { content: self.content.clone() })
            }
            Check::Start(..) | Check::Nothing => Ok(()),
        }
    }
}

impl PieceSource for Through {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.next().await.map_err(BodyError::new)
    }
}
