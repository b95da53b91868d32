//! The last phase of a blob's pull: status, range and body, for a blob from the store, from a fetch that runs, or
//! straight from upstream. A range is answered alike, wherever the bytes come from.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::range::{self, ByteSpec, ContentRange, RangeAnswer, RangeHeader};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::Instrument;

use crate::fetch::FetchError;
use crate::fetch::inflight::Subscription;
use crate::fetch::reader::FetchReader;
use crate::fetch::source::{BlobSource, Opened};
use crate::fetch::through::Through;
use crate::pull::Pull;
use crate::pull::error::PullError;
use crate::pull::request::{AskedPart, BlobRequest};
use crate::pull::rights::{Object, Right};
use crate::pull::stored::StoredReader;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Served, UpstreamOutcome};
use entrepot_observe::trail::{Decision, Trail};
use entrepot_store::{Blob, Store};
use entrepot_upstream::operation::ByteRange;

impl Pull {
    /// A blob that is published here.
    pub(super) fn serve_stored(
        &self,
        blob: &BlobRequest<'_>,
        stored: Arc<Blob>,
        served: Served,
        right: Right,
    ) -> Result<Reply, PullError> {
        let source = || Some(self.blob_source(blob));
        stored_reply(&self.store, &blob.request.trail, stored, &blob.request.asked_part(), source, served, right)
    }

    /// A blob that is on its way.
    pub(super) fn serve_fetch(
        &self,
        blob: &BlobRequest<'_>,
        subscription: Subscription,
        size: Option<u64>,
        leads: bool,
        _: Right,
    ) -> Result<Reply, PullError> {
        let served = match leads {
            true => Served::Led,
            // Complete and right, only not yet moved to its place.
            false if subscription.fetch.is_verified() => Served::Hit,
            false => Served::Joined,
        };
        let source = self.blob_source(blob);
        let header = blob.request.range();
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
        let open_ended = matches!(header.map(range::parse), Some(RangeHeader::Single(ByteSpec::From(_))));
        let reader = match answer {
            RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes: size.unwrap_or(0) }),
            RangeAnswer::Whole => FetchReader::new(subscription, source, 0, None),
            RangeAnswer::Part { start, end } => {
                // A part that is the whole, or the rest of it, ends only when the digest is right.
                let completes = open_ended || (start == 0 && Some(end) == size);
                FetchReader::new(subscription, source, start, (!completes).then_some(end))
            }
        };
        blob.request.trail.record(Decision::Content { served, digest: Some(blob.digest), stored_at: None });
        Ok(blob_reply(&blob.digest, answer, size, ReplyBody::pieces(reader)))
    }

    /// Past the store: the client gets upstream's bytes, and whole ones checked.
    pub(super) async fn read_alone(
        &self,
        blob: &BlobRequest<'_>,
        spare: Option<Opened>,
        reason: Bypass,
    ) -> Result<Reply, PullError> {
        let part = match blob.request.range().map(range::parse) {
            Some(RangeHeader::Single(ByteSpec::FromTo(start, last))) => {
                last.checked_add(1).map(|end| ByteRange { start, end: Some(end) })
            }
            _ => None,
        };
        let spare = spare.filter(|opened| opened.start == 0 && !opened.is_part && part.is_none());
        let opened = match spare {
            Some(opened) => opened,
            None => match self.blob_source(blob).open(&blob.digest, part, None).await {
                Ok(opened) => opened,
                Err(error) => return Err(self.not_opened(blob, error).await),
            },
        };
        blob.request.record_upstream(&opened.host, UpstreamOutcome::Ok, Some(opened.elapsed));
        if opened.is_registrys_word {
            let _right = self.approve(blob.request, &Object::Repository(blob.place()));
        }
        self.serve_alone(blob, opened, reason)
    }

    /// From upstream to this client alone. Once every byte is shown, the repository is known to have the blob.
    fn serve_alone(&self, blob: &BlobRequest<'_>, opened: Opened, reason: Bypass) -> Result<Reply, PullError> {
        let (source, size, digest) = (self.blob_source(blob), opened.size, blob.digest);
        let header = blob.request.range();
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
        let through = match answer {
            RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes: size.unwrap_or(0) }),
            RangeAnswer::Part { start, end } if opened.start > 0 || Some(end) != size => {
                if let Some(coding) = opened.coding {
                    return Err(PullError::Broken(FetchError::Encoded { digest, coding }));
                }
                Through::part(digest, source, start, end, size).with_opened(opened)
            }
            RangeAnswer::Part { start, .. } => Through::whole(digest, source, Some(opened), start),
            RangeAnswer::Whole => Through::whole(digest, source, Some(opened), 0),
        };
        let (store, place, is_public) = (self.store.clone(), blob.place(), self.is_public_answer(blob.request));
        let through = through.and_then(move || {
            tokio::spawn(
                async move { store.names.link(&place, &digest, is_public.then(SystemTime::now)).await }
                    .in_current_span(),
            );
        });
        blob.request.trail.record(Decision::PassedThrough(reason));
        Ok(blob_reply(&blob.digest, answer, size, ReplyBody::pieces(through)))
    }
}

/// The reply with a published blob. `source` has the bytes as well, in case the disk fails.
pub fn stored_reply(
    store: &Arc<Store>,
    trail: &Trail,
    stored: Arc<Blob>,
    asked: &AskedPart<'_>,
    source: impl FnOnce() -> Option<BlobSource>,
    served: Served,
    _: Right,
) -> Result<Reply, PullError> {
    let (digest, size_bytes) = (stored.digest, stored.size_bytes);
    let answer = range::decide(asked.range, size_bytes);
    let (start, end) = match answer {
        RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes }),
        RangeAnswer::Whole => (0, size_bytes),
        RangeAnswer::Part { start, end } => (start, end),
    };
    trail.record(Decision::Content { served, digest: Some(digest), stored_at: stored.stored_at() });
    let body = match asked.is_head {
        true => ReplyBody::Full(Bytes::new()),
        false => ReplyBody::pieces(StoredReader::new(stored, store.clone(), source(), start, end)),
    };
    Ok(blob_reply(&digest, answer, Some(size_bytes), body))
}

fn blob_reply(digest: &Digest, answer: RangeAnswer, size: Option<u64>, body: ReplyBody) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let (status, length) = match (answer, size) {
        (RangeAnswer::Part { start, end }, _) => (StatusCode::PARTIAL_CONTENT, Some(end - start)),
        (_, size) => (StatusCode::OK, size),
    };
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let reply = Reply { status, headers, body, refused: None }
        .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
        .with(ETAG, &format!("\"{digest}\""));
    match answer {
        RangeAnswer::Part { start, end } => {
            reply.with(CONTENT_RANGE, &ContentRange::Part { start, end, size }.to_string())
        }
        _ => reply,
    }
}
