//! The last phase of a blob's pull: status, range and body, for a blob from the store, from a fetch that runs, or
//! straight from upstream. A range is answered alike, wherever the bytes come from.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::range::{self, ByteSpec, ContentRange, RangeAnswer, RangeHeader};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::Instrument;

use crate::fetch::FetchError;
use crate::fetch::inflight::Subscription;
use crate::fetch::reader::FetchReader;
use crate::fetch::source::{BlobSource, Known, Opened};
use crate::fetch::through::Through;
use crate::fetch::window::{Window, WindowReader};
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

/// The longest content whose digest is awaited before its head is sent, if upstream says that it is compressed.
const JUDGED_FIRST_MAX_BYTES: u64 = 1 << 20;

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
    pub(super) async fn serve_fetch(
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
        let (answer, reader) = reader_of(subscription, self.blob_source(blob), blob.request.range(), size).await?;
        blob.request.trail.record(Decision::Content { served, digest: Some(blob.digest), stored_at: None });
        Ok(blob_reply(&blob.digest, answer, size, ReplyBody::pieces(reader)))
    }

    /// A blob that is on its way and cannot be kept.
    pub(super) async fn serve_passing(
        &self,
        blob: &BlobRequest<'_>,
        window: &Arc<Window>,
        subscription: Subscription,
        size: Option<u64>,
        reason: Bypass,
        _: Right,
    ) -> Result<Reply, PullError> {
        let source = self.blob_source(blob);
        match passing_reader_of(window, subscription, source, blob.request.range(), size)? {
            Some((answer, reader)) => {
                blob.request.trail.record(Decision::PassedThrough(reason));
                Ok(blob_reply(&blob.digest, answer, size, ReplyBody::pieces(reader)))
            }
            None => self.read_alone(blob, None, reason).await,
        }
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
            None => match self.blob_source(blob).open(&blob.digest.into(), part, Known::default()).await {
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
        let (source, size, digest, answered_at) =
            (self.blob_source(blob), opened.size, blob.digest, opened.answered_at);
        let header = blob.request.range();
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
        let through = match answer {
            RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes: size.unwrap_or(0) }),
            RangeAnswer::Part { start, end } if opened.start > 0 || Some(end) != size => {
                if let Some(coding) = opened.coding {
                    return Err(PullError::Broken(FetchError::Encoded { content: digest.into(), coding }));
                }
                Through::part(digest.into(), source, start, end, size, None).with_opened(opened)
            }
            RangeAnswer::Part { start, .. } => Through::whole(digest, source, Some(opened), start),
            RangeAnswer::Whole => Through::whole(digest, source, Some(opened), 0),
        };
        let (store, place, is_public) = (self.store.clone(), blob.place(), self.is_public_answer(blob.request));
        let through = through.and_then(move || {
            tokio::spawn(
                async move { store.names.link(&place, &digest, is_public.then_some(answered_at)).await }
                    .in_current_span(),
            );
        });
        blob.request.trail.record(Decision::PassedThrough(reason));
        Ok(blob_reply(&blob.digest, answer, size, ReplyBody::pieces(through)))
    }
}

/// The part of a fetch that a Range header asks for, and its reader. Empty content is complete with the head of the
/// reply, so the head waits for what the last byte of other content waits for.
pub(super) async fn reader_of(
    subscription: Subscription,
    source: BlobSource,
    header: Option<&str>,
    size: Option<u64>,
) -> Result<(RangeAnswer, FetchReader), PullError> {
    // Whether upstream compressed the content is known at its end. Short content can wait for that.
    let is_short = size.is_some_and(|size| size <= JUDGED_FIRST_MAX_BYTES);
    if is_short && subscription.fetch.coding().is_some() {
        subscription.fetch.want_whole();
        subscription.fetch.judged().await.map_err(PullError::Broken)?;
    }
    if size == Some(0) {
        subscription.fetch.judged().await.map_err(PullError::Broken)?;
    }
    let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
    let reader = match answer {
        RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes: size.unwrap_or(0) }),
        RangeAnswer::Whole => FetchReader::new(subscription, source, 0, None),
        RangeAnswer::Part { start, end } => {
            let end = (!completes(header, start, end, size)).then_some(end);
            FetchReader::new(subscription, source, start, end)
        }
    };
    Ok((answer, reader))
}

/// The same of a fetch that nothing is kept of. None if its window does not have the bytes any more.
pub(super) fn passing_reader_of(
    window: &Arc<Window>,
    subscription: Subscription,
    source: BlobSource,
    header: Option<&str>,
    size: Option<u64>,
) -> Result<Option<(RangeAnswer, WindowReader)>, PullError> {
    let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
    let (start, end) = match answer {
        RangeAnswer::Unsatisfiable => return Err(PullError::Range { size_bytes: size.unwrap_or(0) }),
        RangeAnswer::Whole => (0, None),
        RangeAnswer::Part { start, end } => (start, (!completes(header, start, end, size)).then_some(end)),
    };
    Ok(window.reader(subscription, source, start, end).map(|reader| (answer, reader)))
}

/// Whether a part is the whole, or the rest of it: it ends only when the digest is right.
fn completes(header: Option<&str>, start: u64, end: u64, size: Option<u64>) -> bool {
    let open_ended = matches!(header.map(range::parse), Some(RangeHeader::Single(ByteSpec::From(_))));
    open_ended || (start == 0 && Some(end) == size)
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
    content_reply(answer, size, body)
        .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
        .with(ETAG, &format!("\"{digest}\""))
}

/// Status and length of any content, with the type of one that is not known.
pub(super) fn content_reply(answer: RangeAnswer, size: Option<u64>, body: ReplyBody) -> Reply {
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
    let reply = Reply { status, headers, body, refused: None };
    match answer {
        RangeAnswer::Part { start, end } => {
            reply.with(CONTENT_RANGE, &ContentRange::Part { start, end, size }.to_string())
        }
        _ => reply,
    }
}
