//! The answers of `blobs.rs`: status, range and body for a blob from the store, from a flight, or straight from
//! upstream. A range is answered alike, wherever the bytes come from.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::outcome::CacheStatus;
use entrepot_core::range::{self, ByteSpec, ContentRange, RangeAnswer, RangeHeader};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::fetch::inflight::Subscription;
use crate::fetch::reader::FetchReader;
use crate::fetch::source::Opened;
use crate::fetch::source::Source;
use crate::fetch::through::Through;
use crate::pull::Pull;
use crate::pull::blobs::BlobCall;
use crate::pull::manifests::hit;
use crate::pull::stored::StoredReader;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::{Note, Reply};
use entrepot_observe::labels::{Bypass, Label};
use entrepot_store::{Blob, Store};

impl Pull {
    pub(super) fn fetch_reply(
        &self,
        blob: &BlobCall<'_>,
        subscription: Subscription,
        size: Option<u64>,
        leads: bool,
    ) -> Reply {
        let status = match leads {
            true => CacheStatus::Miss,
            // Complete and right, only not yet moved to its place.
            false if subscription.fetch.is_verified() => CacheStatus::Hit,
            false => CacheStatus::Updating,
        };
        let source = blob.call.source(blob.repository);
        let header = range_header(&blob.call.headers);
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
        let open_ended = matches!(header.map(range::parse), Some(RangeHeader::Single(ByteSpec::From(_))));
        let reader = match answer {
            RangeAnswer::Unsatisfiable => return unsatisfiable(size.unwrap_or(0)),
            RangeAnswer::Whole => FetchReader::new(subscription, source, 0, None),
            RangeAnswer::Part { start, end } => {
                // A part that is the whole, or the rest of it, ends only when the digest is right.
                let completes = open_ended || (start == 0 && Some(end) == size);
                FetchReader::new(subscription, source, start, (!completes).then_some(end))
            }
        };
        let note = Note { upstream: Some(blob.call.registry.host.to_string()), ..hit(status) };
        blob_reply(&blob.digest, answer, size, ReplyBody::pieces(reader), note)
    }

    pub(super) fn stored_reply(&self, blob: &BlobCall<'_>, stored: Arc<Blob>, note: Note) -> Reply {
        if note.cache_status == CacheStatus::Stale {
            self.metrics.stale_served.inc();
        }
        let note = Note { stored_at: stored.stored_at(), ..note };
        let range = range_header(&blob.call.headers).filter(|_| !blob.call.is_head());
        let source = || Some(blob.call.source(blob.repository));
        stored_reply(&self.store, stored, range, blob.call.is_head(), source, note)
    }

    /// From upstream to this client alone. Once every byte is shown, the repository is known to have the blob.
    pub(super) fn alone_reply(&self, blob: &BlobCall<'_>, opened: Opened, reason: Bypass) -> Reply {
        let (source, size, digest) = (blob.call.source(blob.repository), opened.size, blob.digest);
        let header = range_header(&blob.call.headers);
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(header, size));
        let note = Note { reason: Some(reason.word()), ..hit(CacheStatus::Bypass) };
        let through = match answer {
            RangeAnswer::Unsatisfiable => return unsatisfiable(size.unwrap_or(0)),
            RangeAnswer::Part { start, end } if opened.start > 0 || Some(end) != size => {
                Through::part(digest, source, start, end, size).with_opened(opened)
            }
            RangeAnswer::Part { start, .. } => Through::whole(digest, source, Some(opened), start),
            RangeAnswer::Whole => Through::whole(digest, source, Some(opened), 0),
        };
        let (store, registry, repository) =
            (self.store.clone(), blob.call.registry.host.clone(), blob.repository.clone());
        let through = through.and_then(move || {
            tokio::task::spawn_blocking(move || store.link(&registry, &repository, &digest));
        });
        blob_reply(&blob.digest, answer, size, ReplyBody::pieces(through), note)
    }
}

/// A published blob, or the range of it; only its head where that was asked. `source` is where the bytes can be had when
/// the disk fails.
pub fn stored_reply(
    store: &Arc<Store>,
    stored: Arc<Blob>,
    range: Option<&str>,
    is_head: bool,
    source: impl FnOnce() -> Option<Source>,
    note: Note,
) -> Reply {
    let (digest, size) = (stored.digest, stored.size_bytes);
    let answer = range::decide(range, size);
    let (start, end) = match answer {
        RangeAnswer::Unsatisfiable => return unsatisfiable(size),
        RangeAnswer::Whole => (0, size),
        RangeAnswer::Part { start, end } => (start, end),
    };
    let body = match is_head {
        true => ReplyBody::Full(Bytes::new()),
        false => ReplyBody::pieces(StoredReader::new(stored, store.clone(), source(), start, end)),
    };
    blob_reply(&digest, answer, Some(size), body, note)
}

/// The request's Range, where it is text.
pub fn range_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(RANGE)?.to_str().ok()
}

/// 416
pub fn unsatisfiable(size: u64) -> Reply {
    Reply::error(ErrorCode::RangeInvalid, "").with(CONTENT_RANGE, &ContentRange::Unsatisfied { size }.to_string())
}

fn blob_reply(digest: &Digest, answer: RangeAnswer, size: Option<u64>, body: ReplyBody, note: Note) -> Reply {
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
    let reply = Reply { status, headers, body, note }
        .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
        .with(ETAG, &format!("\"{digest}\""));
    match answer {
        RangeAnswer::Part { start, end } => {
            reply.with(CONTENT_RANGE, &ContentRange::Part { start, end, size }.to_string())
        }
        _ => reply,
    }
}
