//! Blobs: from the store, from a fill that runs, or by starting one.
//!
//! Whatever way the bytes are here, a client gets them only after its own registry has shown that it serves them to
//! this credential in this repository: by a verdict that lives and a blob that is known to be there, or by an answer
//! of its own. Another registry's copy stands in only where it is public there: an upstream that merely claims to have
//! somebody's private blob must show the bytes (T1, T9). `blob_reply.rs` dresses the answers.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::name::RepositoryName;
use entrepot_core::outcome::{CacheStatus, RequestType};
use entrepot_core::range::{self, ByteSpec, RangeHeader};
use http::{Method, StatusCode};

use crate::fetch::inflight::{InflightFetch, Opening, Subscription};
use crate::fetch::source::{OpenError, Opened, Refusal};
use crate::fetch::table::Wish;
use crate::pull::blob_reply::{range_header, unsatisfiable};
use crate::pull::manifests::{Asked, Wanted, hit};
use crate::pull::tags::shared_call;
use crate::pull::{Call, Pull, offload, replies};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, RightsOutcome};
use entrepot_store::Blob;
use entrepot_upstream::operation::{ByteRange, Operation};

/// How long after upstream's answer its verdict may still be on its way into the table of rights.
const VERDICT_LAG: Duration = Duration::from_secs(3);

/// One request for one blob.
pub(super) struct BlobCall<'a> {
    pub(super) call: &'a Call,
    pub(super) repository: &'a RepositoryName,
    pub(super) digest: Digest,
}

/// What came of the wish to join a flight.
enum Boarding {
    Answered(Box<Reply>),
    /// It takes no more readers, or ended in a way that says nothing about this one: look again when it is gone.
    TooLate(Arc<InflightFetch>),
}

impl From<Reply> for Boarding {
    fn from(reply: Reply) -> Self {
        Self::Answered(Box::new(reply))
    }
}

/// What the client's own registry says about a blob that is here already.
enum Probed {
    /// It serves it to this credential, of the same length.
    Serves,
    /// It may; only its bytes will tell.
    Unclear,
    Refused(Box<Reply>),
    Down(Box<Reply>),
}

impl Pull {
    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`.
    pub async fn blob(self: &Arc<Self>, call: &Call, repository: &RepositoryName, digest: &Digest) -> Reply {
        let blob = BlobCall { call, repository, digest: *digest };
        let mut reply = if call.is_head() { self.head_blob(&blob).await } else { self.get_blob(&blob).await };
        if is_refusal(reply.status)
            && let Some(shared) = shared_call(call, repository)
        {
            reply = Box::pin(self.blob(&shared, repository, digest)).await;
        }
        let status = reply.note.cache_status;
        reply.noted(RequestType::BlobByDigest, status).of(*digest)
    }

    /// HEAD is a question about upstream, above all before a push: a copy here that upstream has lost must not make a
    /// client skip a layer. Only when upstream is down does the copy answer.
    async fn head_blob(&self, blob: &BlobCall<'_>) -> Reply {
        let operation = Operation::blob(Method::HEAD, blob.repository, &blob.digest, None);
        match self.ask(blob.call, blob.repository, &operation, Wanted::Content(None)).await {
            Asked::Allowed(answer) | Asked::Unproven(answer) => replies::relayed(*answer)
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
        if !blob.call.snapshot.config.cache.enabled {
            return self.read_alone(blob, None, Bypass::CacheOff).await;
        }
        loop {
            // The flight first: one that lands between the two looks is found in the store.
            let boarding = match self.inflight.find(&blob.digest) {
                Some(fetch) => self.join_flight(blob, &fetch).await,
                None => match self.stored_blob(blob).await {
                    Some(stored) => return self.give_stored(blob, stored).await,
                    None => self.lead_or_join(blob).await,
                },
            };
            match boarding {
                Boarding::Answered(reply) => return *reply,
                Boarding::TooLate(fetch) => self.inflight.gone(&fetch).await,
            }
        }
    }

    async fn give_stored(self: &Arc<Self>, blob: &BlobCall<'_>, stored: Arc<Blob>) -> Reply {
        let linked = self.is_linked(blob).await;
        if linked && self.may_read(blob.call, blob.repository) {
            self.metrics.rights_checks.inc(RightsOutcome::Remembered);
            return self.stored_reply(blob, stored, hit(CacheStatus::Hit));
        }
        match self.probe(blob, Some(stored.size_bytes)).await {
            Probed::Serves => {
                if !linked && !self.may_share(blob, &stored).await {
                    return self.read_alone(blob, None, Bypass::CrossRegistry).await;
                }
                self.link(blob).await;
                self.stored_reply(blob, stored, hit(CacheStatus::Revalidated))
            }
            Probed::Unclear => self.read_alone(blob, None, Bypass::CrossRegistry).await,
            Probed::Refused(reply) => *reply,
            Probed::Down(reply) => {
                if !linked || !self.may_read_offline(blob.call, blob.repository).await {
                    return *reply;
                }
                self.stored_reply(blob, stored, hit(CacheStatus::Stale))
            }
        }
    }

    /// Asks the client's own registry by HEAD. Where that is answered by a redirect, one byte is fetched: the page that
    /// asks for a login has another length than the blob.
    async fn probe(&self, blob: &BlobCall<'_>, size: Option<u64>) -> Probed {
        let operation = Operation::probe(blob.repository, &blob.digest);
        match self.ask(blob.call, blob.repository, &operation, Wanted::Content(size)).await {
            Asked::Allowed(answer) => {
                let told = answer.content_length();
                if told.is_none() || size.is_none() || told == size { Probed::Serves } else { Probed::Unclear }
            }
            Asked::Unproven(_) => {
                let first_byte = ByteRange { start: 0, end: Some(1) };
                match blob.call.source(blob.repository).open(&blob.digest, Some(first_byte)).await {
                    Ok(opened) if opened.size.is_some() && opened.size == size => {
                        self.approve(blob.call, blob.repository).await;
                        Probed::Serves
                    }
                    Ok(_) | Err(OpenError::Broken(_)) => Probed::Unclear,
                    Err(OpenError::Refused(refusal)) => Probed::Refused(Box::new(self.refusal(blob, refusal))),
                    Err(OpenError::Failed(error)) => Probed::Down(Box::new(self.unreachable(blob.call, &error))),
                }
            }
            Asked::Refused(reply) => Probed::Refused(reply),
            Asked::Down(reply) => Probed::Down(reply),
        }
    }

    /// Somebody else's fill runs. In the same repository the leader's answer is awaited, since it proves that the blob
    /// is there; elsewhere this client's own registry is asked first.
    async fn join_flight(self: &Arc<Self>, blob: &BlobCall<'_>, fetch: &Arc<InflightFetch>) -> Boarding {
        let same_registry = fetch.origin.0 == blob.call.registry.host;
        let same_place = same_registry && fetch.origin.1 == *blob.repository;
        let alike = fetch.led_by(&blob.call.registry.host, blob.repository, blob.call.credential.id());
        let was_open = fetch.opened_for();
        let opening = fetch.opened().await;
        match &opening {
            Opening::Filling { .. } | Opening::NotStored(..) => {}
            // Who comes with the leader's credential has the leader's answer.
            Opening::Refused(refusal) if alike && is_refusal(refusal.status) => {
                return self.refusal(blob, refusal.clone()).into();
            }
            Opening::Failed(error) if same_registry => return self.unreachable(blob.call, error).into(),
            Opening::Broken(error) if alike => return replies::broken(error).into(),
            _ => return Boarding::TooLate(fetch.clone()),
        }
        let just_served = alike && was_open.is_none_or(|time| time < VERDICT_LAG);
        let allowed = same_place && (just_served || self.may_read(blob.call, blob.repository));
        let probed = match allowed {
            true => Probed::Serves,
            false => self.probe(blob, fetch.size()).await,
        };
        match probed {
            Probed::Serves if allowed || self.may_share_flight(blob, fetch).await => {
                match fetch.join(Some(blob.call.source(blob.repository)), false) {
                    Some(subscription) => {
                        self.metrics.followers_joined.inc();
                        self.ride(blob, subscription, opening, false).await.into()
                    }
                    None => Boarding::TooLate(fetch.clone()),
                }
            }
            Probed::Serves | Probed::Unclear => self.read_alone(blob, None, Bypass::CrossRegistry).await.into(),
            Probed::Refused(reply) | Probed::Down(reply) => Boarding::Answered(reply),
        }
    }

    /// Starts the blob's flight with this client's credential, unless somebody was faster: then the right to that
    /// flight is asked like to any other.
    async fn lead_or_join(self: &Arc<Self>, blob: &BlobCall<'_>) -> Boarding {
        let asked = match self.asked_part(blob).await {
            Ok(asked) => asked,
            Err(reply) => return Boarding::Answered(reply),
        };
        let range = asked.map(|(start, end)| ByteRange { start, end }).filter(|r| r.start > 0 || r.end.is_some());
        let whole = range.is_none_or(|range| range.end.is_none());
        let complete_up_to_bytes = blob.call.snapshot.config.cache.complete_up_to.0;
        let wish = Wish { range, whole, complete_up_to_bytes };
        let boarded = self.inflight.board(&blob.digest, &blob.call.source(blob.repository), &wish).await;
        let Some((subscription, leads)) = boarded else {
            return self.read_alone(blob, None, Bypass::TooManyFills).await.into();
        };
        if !leads {
            let fetch = subscription.fetch.clone();
            drop(subscription);
            return self.join_flight(blob, &fetch).await;
        }
        let opening = subscription.fetch.opened().await;
        if let Opening::Filling { is_registrys_word: true, .. } = opening {
            self.approve(blob.call, blob.repository).await;
        }
        self.ride(blob, subscription, opening, true).await.into()
    }

    /// Answers from a flight that this client has the right to. That the repository has the blob is noted when the
    /// flight has landed, with the digest proven.
    async fn ride(
        self: &Arc<Self>,
        blob: &BlobCall<'_>,
        subscription: Subscription,
        opening: Opening,
        leads: bool,
    ) -> Reply {
        match opening {
            Opening::Filling { size, .. } => self.fetch_reply(blob, subscription, size, leads),
            Opening::NotStored(spare, reason) => {
                let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(subscription);
                self.read_alone(blob, spare, reason).await
            }
            Opening::Refused(refusal) => {
                if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.deny(blob.call, blob.repository).await;
                }
                self.refusal(blob, refusal)
            }
            Opening::Failed(error) => self.unreachable(blob.call, &error),
            Opening::Broken(error) => replies::broken(&error),
        }
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
                let answer = match self.ask(blob.call, blob.repository, &operation, Wanted::Content(None)).await {
                    Asked::Allowed(answer) | Asked::Unproven(answer) => answer,
                    Asked::Refused(reply) | Asked::Down(reply) => return Err(reply),
                };
                let size = answer.content_length();
                match size.map(|size| (size, range::resolve(spec, size))) {
                    Some((_, Some((start, end)))) => Ok(Some((start, Some(end)))),
                    Some((size, None)) => Err(Box::new(unsatisfiable(size))),
                    None => Ok(None),
                }
            }
        }
    }

    /// Past the store: the client gets upstream's bytes, and whole ones checked.
    async fn read_alone(&self, blob: &BlobCall<'_>, spare: Option<Opened>, reason: Bypass) -> Reply {
        self.metrics.bypass.inc(reason);
        let part = match range_header(&blob.call.headers).map(range::parse) {
            Some(RangeHeader::Single(ByteSpec::FromTo(start, last))) => {
                last.checked_add(1).map(|end| ByteRange { start, end: Some(end) })
            }
            _ => None,
        };
        let spare = spare.filter(|opened| opened.start == 0 && !opened.is_part && part.is_none());
        let opened = match spare {
            Some(opened) => Ok(opened),
            None => blob.call.source(blob.repository).open(&blob.digest, part).await,
        };
        match opened {
            Ok(opened) => {
                if opened.is_registrys_word {
                    self.approve(blob.call, blob.repository).await;
                }
                self.alone_reply(blob, opened, reason)
            }
            Err(OpenError::Refused(refusal)) => self.refusal(blob, refusal),
            Err(OpenError::Failed(error)) => self.unreachable(blob.call, &error),
            Err(OpenError::Broken(error)) => replies::broken(&error),
        }
    }

    fn refusal(&self, blob: &BlobCall<'_>, refusal: Refusal) -> Reply {
        let unknown = entrepot_core::error::ErrorCode::BlobUnknown;
        replies::refused(self.challenged(blob.call, refusal.worded(unknown)))
    }

    async fn stored_blob(&self, blob: &BlobCall<'_>) -> Option<Arc<Blob>> {
        if let Some(open) = self.store.open_blob(&blob.digest) {
            return Some(open);
        }
        let (store, digest) = (self.store.clone(), blob.digest);
        let found = offload(move || store.blob(&digest)).await?;
        found.unwrap_or_else(|error| {
            tracing::warn!(%digest, "the store cannot be read, asking upstream: {error}");
            None
        })
    }

    async fn offline_copy(&self, blob: &BlobCall<'_>) -> Option<Arc<Blob>> {
        let permitted = self.is_linked(blob).await && self.may_read_offline(blob.call, blob.repository).await;
        if permitted { self.stored_blob(blob).await } else { None }
    }

    async fn is_linked(&self, blob: &BlobCall<'_>) -> bool {
        if self.store.linked_now(&blob.call.registry.host, blob.repository, &blob.digest) {
            return true;
        }
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
    async fn may_share(&self, blob: &BlobCall<'_>, stored: &Arc<Blob>) -> bool {
        let (store, digest, registry) = (self.store.clone(), blob.digest, blob.call.registry.host.clone());
        let stored = stored.clone();
        let shared = offload(move || {
            if stored.first_registry().as_ref() == Some(&registry) {
                return true;
            }
            let places = store.linked_repositories(&digest);
            let public = |host, name: &str| name.parse().is_ok_and(|name| store.last_public(host, &name).is_some());
            places.iter().any(|(host, name)| *host == registry || public(host, name))
        });
        shared.await.unwrap_or(false)
    }

    async fn may_share_flight(&self, blob: &BlobCall<'_>, fetch: &InflightFetch) -> bool {
        if fetch.origin.0 == blob.call.registry.host {
            return true;
        }
        let (store, (host, name)) = (self.store.clone(), fetch.origin.clone());
        offload(move || store.last_public(&host, &name).is_some()).await.unwrap_or(false)
    }
}

/// Upstream's no to this credential, as opposed to a request that nobody could answer.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
}
