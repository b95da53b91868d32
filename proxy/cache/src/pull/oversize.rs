//! A manifest that is too large to be kept: passed on to one client while it is hashed. Its last piece waits until the
//! digest is right, so that no client takes a wrong manifest for complete.

use bytes::Bytes;
use entrepot_core::digest::{Digest, Hasher};
use http_body_util::BodyExt;

use crate::fetch::FetchError;
use entrepot_net::http::body::{BodyError, PieceSource};
use entrepot_upstream::timed_body::TimedBody;

/// The bytes of one such manifest.
pub struct Oversize {
    /// The piece that waits.
    held: Option<Bytes>,
    rest: TimedBody,
    /// The digest by which it was named, where it was, and the hash of all pieces so far.
    named: Option<(Digest, Hasher)>,
}

impl Oversize {
    /// `start` is what was read already.
    pub fn new(start: Bytes, rest: TimedBody, named: Option<Digest>) -> Self {
        let named = named.map(|digest| {
            let mut hasher = Hasher::new(digest.algorithm());
            hasher.update(&start);
            (digest, hasher)
        });
        Self { held: Some(start), rest, named }
    }
}

impl PieceSource for Oversize {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        while let Some(frame) = self.rest.frame().await {
            let Ok(bytes) = frame.map_err(BodyError::new)?.into_data() else { continue };
            if let Some((_, hasher)) = &mut self.named {
                hasher.update(&bytes);
            }
            if let Some(ready) = self.held.replace(bytes) {
                return Ok(Some(ready));
            }
        }
        match self.named.take().map(|(digest, hasher)| (digest, hasher.finish())) {
            Some((digest, got)) if got != digest => {
                Err(BodyError::new(FetchError::WrongDigest { content: digest.into(), got: Box::new(got) }))
            }
            _ => Ok(self.held.take()),
        }
    }
}
