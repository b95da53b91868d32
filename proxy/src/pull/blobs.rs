//! Blobs: from the store, from a fill that runs, or by starting one; whole or a single range.
//!
//! Another registry's copy stands in only where it is public there: an upstream that claims to have somebody's private
//! blob must show the bytes (T1, T9).

use std::sync::{Arc, PoisonError};

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::name::RepositoryName;
use entrepot_core::outcome::{CacheStatus, RequestType};
use entrepot_core::range::{self, ByteSpec, ContentRange, RangeAnswer, RangeHeader};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::fill::HELD_BACK_BYTES;
use crate::fill::flight::{Flight, Opening, Seat};
use crate::fill::reader::FlightReader;
use crate::fill::source::Opened;
use crate::fill::table::Wish;
use crate::fill::through::Through;
use crate::http::body::{Producer, ReplyBody};
use crate::http::reply::{Note, Reply};
use crate::observe::labels::{Bypass, RightsOutcome};
use crate::pull::manifests::{Asked, hit};
use crate::pull::stored::StoredReader;
use crate::pull::tags::shared_call;
use crate::pull::{Call, Pull, offload};
use crate::store::Blob;
use crate::upstream::operation::{ByteRange, Operation};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// One request for one blob.
struct BlobCall<'a> {
    call: &'a Call,
    repository: &'a RepositoryName,
    digest: Digest,
}

impl Pull {
    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`.
    pub async fn blob(self: &Arc<Self>, call: &Call, repository: &RepositoryName, digest: &Digest) -> Reply {
        let blob = BlobCall { call, repository, digest: *digest };
        let mut reply = if call.is_head() { self.head_blob(&blob).await } else { self.get_blob(&blob).await };
        let refused = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        if refused && let Some(shared) = shared_call(call, repository) {
            reply = Box::pin(self.blob(&shared, repository, digest)).await;
        }
        let status = reply.note.cache_status;
        reply.noted(RequestType::BlobByDigest, status).of(*digest)
    }

    /// HEAD is a question about upstream, above all before a push: a copy here that upstream has lost must not make a
    /// client skip a layer. Only when upstream is down does the copy answer.
    async fn head_blob(&self, blob: &BlobCall<'_>) -> Reply {
        let operation = Operation::blob(Method::HEAD, blob.repository, &blob.digest, None);
        match self.ask(blob.call, blob.repository, &operation).await {
            Asked::Allowed(answer) => Reply::relayed(*answer)
                .noted(RequestType::BlobByDigest, CacheStatus::Miss)
                .without_body()
                .with(DOCKER_CONTENT_DIGEST, &blob.digest.to_string()),
            Asked::Refused(reply) => *reply,
            Asked::Down(reply) => match self.offline_copy(blob).await {
                Some(stored) => self.stored_reply(blob, stored, hit(CacheStatus::Stale)),
                None => *reply,
            },
        }
    }

    async fn get_blob(self: &Arc<Self>, blob: &BlobCall<'_>) -> Reply {
        if !blob.call.live.config.cache.enabled {
            return self.read_alone(blob, None, Bypass::CacheOff).await;
        }
        if let Some(stored) = self.stored_blob(blob).await {
            return self.give_stored(blob, stored).await;
        }
        if let Some(flight) = self.flights.find(&blob.digest) {
            return self.join_flight(blob, &flight).await;
        }
        self.fly(blob).await
    }

    async fn stored_blob(&self, blob: &BlobCall<'_>) -> Option<Arc<Blob>> {
        let (store, digest) = (self.store.clone(), blob.digest);
        let found = offload(move || store.blob(&digest)).await?;
        found.unwrap_or_else(|error| {
            tracing::warn!(%digest, "the store cannot be read, asking upstream: {error}");
            None
        })
    }

    async fn give_stored(self: &Arc<Self>, blob: &BlobCall<'_>, stored: Arc<Blob>) -> Reply {
        let linked = self.is_linked(blob).await;
        if linked && self.may_read(blob.call, blob.repository) {
            self.metrics.rights_checks.inc(RightsOutcome::Remembered);
            return self.stored_reply(blob, stored, hit(CacheStatus::Hit));
        }
        match self.ask(blob.call, blob.repository, &Operation::probe(blob.repository, &blob.digest)).await {
            Asked::Allowed(_) => {
                if !linked && !self.may_share(blob).await {
                    return self.read_alone(blob, None, Bypass::CrossRegistry).await;
                }
                self.link(blob).await;
                self.stored_reply(blob, stored, hit(CacheStatus::Revalidated))
            }
            Asked::Refused(reply) => *reply,
            Asked::Down(reply) => {
                if !linked || !self.may_read_offline(blob.call, blob.repository).await {
                    return *reply;
                }
                self.stored_reply(blob, stored, hit(CacheStatus::Stale))
            }
        }
    }

    async fn offline_copy(&self, blob: &BlobCall<'_>) -> Option<Arc<Blob>> {
        let permitted = self.is_linked(blob).await && self.may_read_offline(blob.call, blob.repository).await;
        if permitted { self.stored_blob(blob).await } else { None }
    }

    /// Somebody else's fill runs. In the same repository the leader's answer is awaited, since it proves that the blob
    /// is there; elsewhere this client's own registry is asked first.
    async fn join_flight(self: &Arc<Self>, blob: &BlobCall<'_>, flight: &Arc<Flight>) -> Reply {
        let same_place = flight.origin.0 == blob.call.registry.host && flight.origin.1 == *blob.repository;
        if same_place {
            // Who waits for the leader's answer with the leader's credential has the leader's answer.
            let alike = !flight.is_open()
                && flight.led_by(&blob.call.registry.host, blob.repository, blob.call.credential.id());
            flight.opened().await;
            if alike || self.may_read(blob.call, blob.repository) {
                return self.fly(blob).await;
            }
        }
        match self.ask(blob.call, blob.repository, &Operation::probe(blob.repository, &blob.digest)).await {
            Asked::Allowed(_) => {
                if same_place || self.may_share_flight(blob, flight).await {
                    self.fly(blob).await
                } else {
                    self.read_alone(blob, None, Bypass::CrossRegistry).await
                }
            }
            Asked::Refused(reply) | Asked::Down(reply) => *reply,
        }
    }

    /// Takes a seat in the blob's flight, which starts with this client's credential if there is none.
    async fn fly(self: &Arc<Self>, blob: &BlobCall<'_>) -> Reply {
        let asked = match self.asked_part(blob).await {
            Ok(asked) => asked,
            Err(reply) => return *reply,
        };
        let range = asked.map(|(start, end)| ByteRange { start, end }).filter(|r| r.start > 0 || r.end.is_some());
        let whole = range.is_none_or(|range| range.end.is_none());
        let complete_up_to_bytes = blob.call.live.config.cache.complete_up_to.0;
        let wish = Wish { range, whole, complete_up_to_bytes };
        let (seat, leads) = self.flights.board(&blob.digest, &blob.call.source(blob.repository), &wish).await;
        if !leads {
            self.metrics.followers_joined.inc();
        }
        match seat.flight.opened().await {
            Opening::Filling(size, _) => {
                if leads {
                    self.approve(blob.call, blob.repository).await;
                }
                self.link(blob).await;
                // All of a small blob is held back until it is right: then an error can still be told as one.
                if whole
                    && size.is_some_and(|size| size <= HELD_BACK_BYTES)
                    && let Err(error) = seat.flight.judged().await
                {
                    return Reply::broken(&error);
                }
                self.flight_reply(blob, seat, size, leads)
            }
            Opening::NotStored(spare, reason) => {
                if leads {
                    self.approve(blob.call, blob.repository).await;
                }
                let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(seat);
                self.read_alone(blob, spare, reason).await
            }
            // The refusal was about the leader's credential; a follower with another one asks for itself.
            Opening::Refused(_) | Opening::Failed(_) | Opening::Broken(_)
                if !leads && !self.same_asker(blob, &seat) =>
            {
                drop(seat);
                Box::pin(self.get_blob(blob)).await
            }
            Opening::Refused(refusal) => {
                if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.deny(blob.call, blob.repository, &refusal.headers).await;
                }
                Reply::refused(self.challenged(blob.call, refusal))
            }
            Opening::Failed(error) => self.unreachable(blob.call, &error),
            Opening::Broken(error) => Reply::broken(&error),
        }
    }

    fn same_asker(&self, blob: &BlobCall<'_>, seat: &Seat) -> bool {
        seat.flight.led_by(&blob.call.registry.host, blob.repository, blob.call.credential.id())
    }

    /// The range of a blob that is not here yet. A suffix needs the length, which upstream's HEAD tells.
    async fn asked_part(&self, blob: &BlobCall<'_>) -> Result<Option<(u64, Option<u64>)>, Box<Reply>> {
        let header = range_header(&blob.call.headers);
        let RangeHeader::Single(spec) = header.map_or(RangeHeader::Ignored, range::parse) else { return Ok(None) };
        match spec {
            ByteSpec::From(start) => Ok(Some((start, None))),
            ByteSpec::FromTo(start, last) => Ok(Some((start, last.checked_add(1)))),
            ByteSpec::Suffix(_) => {
                let operation = Operation::blob(Method::HEAD, blob.repository, &blob.digest, None);
                let answer = match self.ask(blob.call, blob.repository, &operation).await {
                    Asked::Allowed(answer) => answer,
                    Asked::Refused(reply) | Asked::Down(reply) => return Err(reply),
                };
                let size = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                match size.map(|size| (size, range::resolve(spec, size))) {
                    Some((_, Some((start, end)))) => Ok(Some((start, Some(end)))),
                    Some((size, None)) => Err(Box::new(unsatisfiable(size))),
                    None => Ok(None),
                }
            }
        }
    }

    fn flight_reply(&self, blob: &BlobCall<'_>, seat: Seat, size: Option<u64>, leads: bool) -> Reply {
        let status = if leads { CacheStatus::Miss } else { CacheStatus::Updating };
        let source = blob.call.source(blob.repository);
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(range_header(&blob.call.headers), size));
        let open_ended =
            matches!(range_header(&blob.call.headers).map(range::parse), Some(RangeHeader::Single(ByteSpec::From(_))));
        // A part that is the whole is held back like the whole.
        let is_all = |start, end| start == 0 && Some(end) == size;
        let reader = match answer {
            RangeAnswer::Unsatisfiable => return unsatisfiable(size.unwrap_or(0)),
            RangeAnswer::Whole => FlightReader::new(seat, source, 0, None),
            RangeAnswer::Part { start, end } => {
                FlightReader::new(seat, source, start, (!open_ended && !is_all(start, end)).then_some(end))
            }
        };
        let note = Note { upstream: Some(blob.call.registry.host.to_string()), ..hit(status) };
        blob_reply(blob, answer, size, Producer::Flight(reader).into(), note)
    }

    fn stored_reply(&self, blob: &BlobCall<'_>, stored: Arc<Blob>, note: Note) -> Reply {
        let size = stored.size_bytes;
        let note = Note { stored_at: stored.stored_at(), ..note };
        let answer = range::decide(range_header(&blob.call.headers).filter(|_| !blob.call.is_head()), size);
        let (start, end) = match answer {
            RangeAnswer::Unsatisfiable => return unsatisfiable(size),
            RangeAnswer::Whole => (0, size),
            RangeAnswer::Part { start, end } => (start, end),
        };
        if blob.call.is_head() {
            return blob_reply(blob, answer, Some(size), ReplyBody::Full(bytes::Bytes::new()), note);
        }
        let source = blob.call.source(blob.repository);
        let reader = StoredReader::new(stored, self.store.clone(), source, start, end);
        blob_reply(blob, answer, Some(size), Producer::Stored(reader).into(), note)
    }

    /// Past the store: the client gets upstream's bytes, checked. Of a part with an end of its own only the part is
    /// fetched, and cannot be checked; any other part ends with the blob, which is read from its first byte then.
    async fn read_alone(&self, blob: &BlobCall<'_>, spare: Option<Opened>, reason: Bypass) -> Reply {
        use crate::fill::source::OpenError;
        self.metrics.bypass.inc(reason);
        let asked = match self.asked_part(blob).await {
            Ok(asked) => asked,
            Err(reply) => return *reply,
        };
        let part = asked.and_then(|(start, end)| Some(ByteRange { start, end: Some(end?) }));
        let source = blob.call.source(blob.repository);
        // The leader's answer is of use where it holds what this client wants.
        let spare = spare.filter(|opened| !opened.is_part || part.is_some_and(|part| part.start == opened.start));
        let opened = match spare {
            Some(opened) => Ok(opened),
            None => source.open(&blob.digest, part).await,
        };
        // Where nobody tells the length, a part has no Content-Range that clients understand.
        let opened = match opened {
            Ok(Opened { size: None, is_part: true, .. }) => source.open(&blob.digest, None).await,
            opened => opened,
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(OpenError::Refused(refusal)) => return Reply::refused(self.challenged(blob.call, refusal)),
            Err(OpenError::Failed(error)) => return self.unreachable(blob.call, &error),
            Err(OpenError::Broken(error)) => return Reply::broken(&error),
        };
        self.approve(blob.call, blob.repository).await;
        let size = opened.size;
        let answer = size.map_or(RangeAnswer::Whole, |size| range::decide(range_header(&blob.call.headers), size));
        let through = match answer {
            RangeAnswer::Unsatisfiable => return unsatisfiable(size.unwrap_or(0)),
            RangeAnswer::Whole => Through::whole(blob.digest, source, Some(opened), 0),
            RangeAnswer::Part { start, end } if part.is_some() && (start > 0 || Some(end) != size) => {
                Through::part(blob.digest, source, Some(opened), start, end, size)
            }
            RangeAnswer::Part { start, .. } => Through::whole(blob.digest, source, Some(opened), start),
        };
        let note = Note { reason: Some(crate::observe::labels::Label::word(reason)), ..hit(CacheStatus::Bypass) };
        blob_reply(blob, answer, size, Producer::Through(through).into(), note)
    }

    async fn is_linked(&self, blob: &BlobCall<'_>) -> bool {
        let (store, digest) = (self.store.clone(), blob.digest);
        let (registry, repository) = (blob.call.registry.host.clone(), blob.repository.clone());
        offload(move || store.linked(&registry, &repository, &digest)).await.unwrap_or(false)
    }

    async fn link(&self, blob: &BlobCall<'_>) {
        let (store, digest) = (self.store.clone(), blob.digest);
        let (registry, repository) = (blob.call.registry.host.clone(), blob.repository.clone());
        offload(move || store.link(&registry, &repository, &digest)).await;
    }

    /// Whether the stored copy may stand in for what this registry says it has: the same registry gave it, or it is
    /// public somewhere.
    async fn may_share(&self, blob: &BlobCall<'_>) -> bool {
        let (store, digest, registry) = (self.store.clone(), blob.digest, blob.call.registry.host.clone());
        let shared = offload(move || {
            let places = store.linked_repositories(&digest);
            let public = |host, name: &str| name.parse().is_ok_and(|name| store.last_public(host, &name).is_some());
            places.iter().any(|(host, name)| *host == registry || public(host, name))
        });
        shared.await.unwrap_or(false)
    }

    async fn may_share_flight(&self, blob: &BlobCall<'_>, flight: &Flight) -> bool {
        if flight.origin.0 == blob.call.registry.host {
            return true;
        }
        let (store, (host, name)) = (self.store.clone(), flight.origin.clone());
        offload(move || store.last_public(&host, &name).is_some()).await.unwrap_or(false)
    }
}

fn range_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(RANGE)?.to_str().ok()
}

fn blob_reply(blob: &BlobCall<'_>, answer: RangeAnswer, size: Option<u64>, body: ReplyBody, note: Note) -> Reply {
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
        .with(DOCKER_CONTENT_DIGEST, &blob.digest.to_string())
        .with(ETAG, &format!("\"{}\"", blob.digest));
    match answer {
        RangeAnswer::Part { start, end } => {
            reply.with(CONTENT_RANGE, &ContentRange::Part { start, end, size }.to_string())
        }
        _ => reply,
    }
}

pub(super) fn unsatisfiable(size: u64) -> Reply {
    Reply::error(ErrorCode::RangeInvalid, "").with(CONTENT_RANGE, &ContentRange::Unsatisfied { size }.to_string())
}
