//! The pipeline: how a pull is answered, from its first decision to its last byte. It reads from the top.
//!
//! ```text
//! admit    is the method one that the route has; push, ping, token or page: elsewhere     answer
//! resolve  which digest is the tag: a young answer, upstream's HEAD, or the last answer   resolve
//! locate   the place of the digest: stored, on its way, missing; may this client have it   manifest, blob
//! fetch    begin a fetch for it, or join the one that runs                                lead_or_join, join_fetch
//! serve    status, range and body                                                         manifest.rs, serve.rs
//! ```
//!
//! Whatever way the bytes are here, a client gets them only after its own registry has shown that it serves them to
//! this credential in this repository: by a verdict that lives and content that is known to be there, or by an answer
//! of its own (`rights.rs`). Another registry's copy stands in only where it is public there: an upstream that merely
//! claims to have a private blob must show the bytes (T1 and T9 in `docs/threats.md`).
//!
//! Every phase records what it decides in the request's trail, and fails with a [`PullError`].

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName};
use entrepot_core::range;
use entrepot_core::route::Route;
use http::{Method, StatusCode};
use hyper::body::Incoming;

use crate::fetch::inflight::{InflightFetch, Opening, Subscription};
use crate::fetch::source::{OpenError, UpstreamRefusal};
use crate::pull::asking::{Asked, Probed, Wanted};
use crate::pull::error::{PullError, is_refusal};
use crate::pull::heads::{Doubt, HeadSaid};
use crate::pull::manifest::{self, Fetched, Manifest};
use crate::pull::request::{BlobRequest, RequestContext, TagRequest};
use crate::pull::rights::{Object, Right};
use crate::pull::stale::Why;
use crate::pull::tag_policy::{is_fresh, tier, trusted_for};
use crate::pull::{Pull, replies, told};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Refused, Served, TagCheck, UpstreamOutcome};
use entrepot_observe::trail::Decision;
use entrepot_store::{Blob, Link, TagEntry};
use entrepot_upstream::http_client::Patience;
use entrepot_upstream::operation::Operation;

/// Whether a tag is not remembered: the repository's name is outside the specification's grammar.
fn is_unkept(repository: &RepositoryName, reference: &Reference) -> bool {
    repository.has_capitals() && matches!(reference, Reference::Tag(_))
}

/// How long after upstream's answer its verdict may still be on its way into the table of rights.
const VERDICT_LAG: Duration = Duration::from_secs(3);

/// Whether a leader's answer is also that of a client with the same credential: it came just now, or was awaited.
/// `was_open_at` is when it came, before the client waited for it.
pub(super) fn is_own_answer(was_open_at: Option<SystemTime>) -> bool {
    was_open_at.is_none_or(|at| at.elapsed().is_ok_and(|age| age < VERDICT_LAG))
}

// ── admit ──────────────────────────────────────────────────────────────────────────────────────────────────────────

impl Pull {
    /// Answers a request that the grammar read as `route`.
    pub async fn answer(self: &Arc<Self>, request: &RequestContext, route: Route, body: Incoming) -> Reply {
        request.record_credential();
        if route != Route::Other {
            request.trail.record(request.route_decision(&route));
        }
        if route.is_push(&request.method) {
            return self.push(request, &route, body).await.unwrap_or_else(PullError::into_reply);
        }
        if !route.allows(&request.method) {
            return Reply::error(ErrorCode::Unsupported, "").because(Refused::Method);
        }
        let pulled = match &route {
            Route::Ping => self.ping(request).await,
            Route::Manifest { repository, reference } if is_unkept(repository, reference) => {
                self.unkept_tag(request, repository, reference).await
            }
            Route::Manifest { repository, reference: Reference::Tag(tag) } => {
                self.tag(TagRequest::new(request, repository, tag)).await
            }
            Route::Manifest { repository, reference: Reference::Digest(digest) } => {
                self.manifest(request, repository, digest).await
            }
            Route::Blob { repository, digest } => self.blob(BlobRequest { request, repository, digest: *digest }).await,
            Route::Other => self.other(request, body).await,
            Route::Tags { .. } | Route::Referrers { .. } => self.list(request, &route).await,
            route => self.read_through(request, route).await,
        };
        pulled.unwrap_or_else(|error| error.explained(request, route.repository()).into_reply())
    }

    /// Passes on a request to a host that is no listed registry: nothing of it is cached.
    pub async fn pass_on(&self, request: &RequestContext, body: Incoming) -> Reply {
        request.record_credential();
        self.pass(request, body).await.unwrap_or_else(PullError::into_reply)
    }
}

// ── a manifest by tag: resolve, then locate ────────────────────────────────────────────────────────────────────────

/// The outcome of resolving a tag.
enum Resolved {
    /// The last answer is young enough, and the client may have it.
    Fresh(Manifest, Right),
    /// Upstream told the digest, and serves the repository to this request. The reply is its HEAD.
    Told(Digest, Reply, Right),
    /// Upstream told none, so the manifest itself has to be read. The reply is its HEAD. None if HEAD was no answer to
    /// this client.
    Untold(Option<Reply>),
    /// HEAD was refused. The client's GET decides.
    Doubted(Doubt),
    /// Upstream said a moment ago that there is no such tag. That is remembered for its own time, however often it is
    /// asked.
    KnownMissing(UpstreamRefusal),
}

impl Pull {
    /// A tag of a repository outside the specification's grammar is passed through. Its manifest is kept by digest.
    async fn unkept_tag(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, PullError> {
        if request.is_head()
            && !self.heads_lie(request)
            && let Some(head) = self.head_upstream(request, repository, reference).await?
        {
            return Ok(head);
        }
        let fetched = self.fetch_manifest(request, repository, reference, request.accept_class()).await;
        match fetched {
            Ok(fetched) => Ok(fetched.into_reply(request, Served::Led)),
            Err(error) if error.is_refusal() => match request.with_next_credential(repository, error.status()) {
                Some(request) => Box::pin(self.unkept_tag(&request, repository, reference)).await,
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn tag(self: &Arc<Self>, tag: TagRequest<'_>) -> Result<Reply, PullError> {
        let known = self.tag_entry(&tag).await;
        if let (Some(known), Some(quota)) = (&known, tag.request.low_quota())
            && let Some(stale) = self.stale_tag(&tag, Some(known), Why::LowQuota(quota)).await
        {
            return Ok(stale);
        }
        match self.pull_tag(&tag, known.as_ref(), Patience::Check).await {
            Ok(reply) => Ok(reply),
            Err(error) => self.instead_of(tag, known.as_ref(), error).await,
        }
    }

    /// Asks upstream about the tag. If something could be served instead, upstream is given the time of a check.
    async fn pull_tag(
        self: &Arc<Self>,
        tag: &TagRequest<'_>,
        known: Option<&TagEntry>,
        patience: Patience,
    ) -> Result<Reply, PullError> {
        let is_check = patience == Patience::Check && !self.known_digests(tag, known).await.is_empty();
        let checking = is_check.then(|| tag.request.checking());
        let tag = &TagRequest { request: checking.as_ref().unwrap_or(tag.request), ..*tag };
        match self.resolve(tag, known).await {
            Ok(Resolved::Fresh(manifest, right)) => Ok(manifest::reply(tag.request, &manifest, Served::Hit, right)),
            // An answer already: as an error it would be remembered anew, and so for ever.
            Ok(Resolved::KnownMissing(refusal)) => Ok(PullError::answered(refusal).into_reply()),
            Ok(Resolved::Told(digest, head, right)) => self.told_tag(tag, known, digest, head, right).await,
            Ok(Resolved::Untold(Some(head))) if tag.request.is_head() => {
                if let Some(digest) = told::digest_in(&head.headers) {
                    self.told(tag, digest).await;
                }
                Ok(replies::head(tag.request, None, head))
            }
            Ok(Resolved::Untold(_)) => self.fetch_tag(tag, known).await,
            Ok(Resolved::Doubted(doubt)) => {
                let got = self.fetch_tag(tag, known).await;
                self.decided_by_get(tag.request, tag.repository, doubt, got).await
            }
            Err(error) => Err(error),
        }
    }

    /// Upstream's HEAD decides, unless the last answer is young enough, or upstream said a moment ago that there is
    /// none.
    async fn resolve(&self, tag: &TagRequest<'_>, known: Option<&TagEntry>) -> Result<Resolved, PullError> {
        let (request, repository) = (tag.request, tag.repository);
        let policy = &request.snapshot.config.tags;
        if let Some(entry) = known
            && is_fresh(entry, trusted_for(policy, tag.tag, tier(policy, tag.tag)))
            && let Some((manifest, link)) = self.stored_manifest(request, repository, &entry.digest).await
            && let Some(right) = self.right_to(request, &request.place(repository), &entry.digest, &link).await
        {
            request.trail.record(Decision::Tag(TagCheck::Fresh));
            return Ok(Resolved::Fresh(manifest, right));
        }
        let missing = |name: &str| self.negatives.get(name, request.credential.id());
        let by_head = || missing(&tag.name_for_heads()).filter(|_| request.is_head() && !self.heads_lie(request));
        if let Some(refusal) = missing(&tag.name()).or_else(by_head) {
            request.trail.record(Decision::Tag(TagCheck::KnownMissing));
            return Ok(Resolved::KnownMissing(refusal));
        }
        if self.heads_lie(request) {
            request.trail.record(Decision::Tag(TagCheck::Untold));
            return Ok(Resolved::Untold(None));
        }
        let operation = Operation::manifest(Method::HEAD, repository, &tag.reference(), tag.class);
        let said = match self.ask_head(request, repository, &operation).await {
            HeadSaid::Said(said) => said,
            HeadSaid::Doubted(doubt) => {
                request.trail.record(Decision::Tag(TagCheck::Untold));
                return Ok(Resolved::Doubted(doubt));
            }
        };
        let (check, resolved) = match said {
            Asked::Allowed(answer, right) if answer.status == StatusCode::OK => match answer.digest {
                Some(digest) => {
                    let check = match known {
                        Some(entry) if entry.digest == digest => TagCheck::Unchanged,
                        Some(_) => TagCheck::Changed,
                        None => TagCheck::New,
                    };
                    (check, Ok(Resolved::Told(digest, replies::relayed(*answer), right)))
                }
                None => (TagCheck::Untold, Ok(Resolved::Untold(Some(replies::relayed(*answer))))),
            },
            Asked::Allowed(..) => (TagCheck::Untold, Ok(Resolved::Untold(None))),
            // A head that names no manifest may be anybody's; the content tells.
            Asked::Unproven(answer) if answer.status.is_success() && !Wanted::is_typed(&answer) => {
                (TagCheck::Untold, Ok(Resolved::Untold(None)))
            }
            Asked::Unproven(answer) => (TagCheck::Untold, Ok(Resolved::Untold(Some(replies::relayed(*answer))))),
            Asked::Refused(error) => return Err(error),
            Asked::Down(error) => (TagCheck::Unanswered, Err(error)),
        };
        request.trail.record(Decision::Tag(check));
        resolved
    }

    /// Upstream's HEAD told the digest.
    async fn told_tag(
        self: &Arc<Self>,
        tag: &TagRequest<'_>,
        known: Option<&TagEntry>,
        digest: Digest,
        head: Reply,
        right: Right,
    ) -> Result<Reply, PullError> {
        let (request, repository) = (tag.request, tag.repository);
        if let Some((manifest, _)) = self.stored_manifest(request, repository, &digest).await {
            self.keep_tag(tag, &manifest).await;
            self.shown_again(request, &request.place(repository), &digest).await;
            let is_known = known.is_some_and(|entry| entry.digest == digest);
            let served = if is_known { Served::Revalidated } else { Served::Hit };
            return Ok(manifest::reply(request, &manifest, served, right));
        }
        if request.is_head() {
            // The GET by digest that follows brings the manifest; the tag is known from now on. What is known already
            // stays until then: it is what can be served should upstream go away.
            match known {
                None => self.keep_told_tag(tag, digest, &head.headers).await,
                Some(_) => self.told(tag, digest).await,
            }
            return Ok(replies::head(request, Some(digest), head));
        }
        let _turn = self.manifest_locks.lock(&request.manifest_name(repository, &digest)).await;
        if let Some((manifest, _)) = self.stored_manifest(request, repository, &digest).await {
            self.keep_tag(tag, &manifest).await;
            return Ok(manifest::reply(request, &manifest, Served::Joined, right));
        }
        match self.fetch_manifest(request, repository, &Reference::Digest(digest), tag.class).await {
            Ok(fetched) => Ok(self.fetched_tag(tag, known, fetched).await),
            // A registry that tells a digest and knows no manifest by it.
            Err(error) if error.status() == StatusCode::NOT_FOUND => self.fetch_tag(tag, known).await,
            Err(error) => Err(error),
        }
    }

    /// Upstream tells no digest, or takes no HEAD: the manifest itself has to be read.
    async fn fetch_tag(&self, tag: &TagRequest<'_>, known: Option<&TagEntry>) -> Result<Reply, PullError> {
        let _turn = self.manifest_locks.lock(&tag.name()).await;
        let fetched = self.fetch_manifest(tag.request, tag.repository, &tag.reference(), tag.class).await?;
        Ok(self.fetched_tag(tag, known, fetched).await)
    }

    async fn fetched_tag(&self, tag: &TagRequest<'_>, known: Option<&TagEntry>, fetched: Fetched) -> Reply {
        if let Fetched::Manifest(manifest, _) = &fetched {
            self.keep_tag(tag, manifest).await;
        }
        fetched.into_reply(tag.request, if known.is_some() { Served::Refetched } else { Served::Led })
    }

    /// Answers after upstream said no, or nothing: with the last known manifest if upstream cannot say, as the
    /// administrator's account if access is shared, or with the error.
    async fn instead_of(
        self: &Arc<Self>,
        tag: TagRequest<'_>,
        known: Option<&TagEntry>,
        error: PullError,
    ) -> Result<Reply, PullError> {
        let request = tag.request;
        if error.is_transient() {
            return match self.stale_tag(&tag, known, Why::Failed(&error)).await {
                Some(stale) => Ok(stale),
                None if error.is_impatient() && !self.known_digests(&tag, known).await.is_empty() => {
                    self.pull_tag(&tag, known, Patience::Full).await
                }
                None => self.no_referrers_by_tag(&tag, &error).await.ok_or(error),
            };
        }
        if error.is_refusal()
            && let Some(request) = request.with_next_credential(tag.repository, error.status())
        {
            let tag = TagRequest { request: &request, ..tag };
            return Box::pin(self.tag(tag)).await;
        }
        if let PullError::Answered(refusal) = &error
            && refusal.status == StatusCode::NOT_FOUND
        {
            let time = request.snapshot.config.tags.negative_time;
            // What a client's HEAD was told says nothing about a GET.
            let name = if request.is_head() { tag.name_for_heads() } else { tag.name() };
            self.negatives.note(&name, request.credential.id(), refusal.as_ref().clone(), time);
        }
        Err(error)
    }

    /// The last known manifest in place of upstream's answer. None if there is none, or the client may not read it.
    async fn stale_tag(&self, tag: &TagRequest<'_>, known: Option<&TagEntry>, why: Why<'_>) -> Option<Reply> {
        let place = tag.request.place(tag.repository);
        for digest in self.known_digests(tag, known).await {
            if let Some((manifest, link)) = self.stored_manifest(tag.request, tag.repository, &digest).await
                && let Some(right) = self.right_offline(tag.request, &place, &digest, &link).await
            {
                let reply = manifest::reply(tag.request, &manifest, Served::Stale, right);
                return Some(why.marked(tag.request, reply));
            }
        }
        None
    }
}

// ── a manifest by digest: locate ───────────────────────────────────────────────────────────────────────────────────

impl Pull {
    async fn manifest(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, PullError> {
        let reference = Reference::Digest(*digest);
        if let Some((manifest, link)) = self.stored_manifest(request, repository, digest).await {
            return self.known_manifest(request, repository, manifest, &link).await;
        }
        if request.is_head()
            && !self.heads_lie(request)
            && let Some(head) = self.head_upstream(request, repository, &reference).await?
        {
            return Ok(head);
        }
        // One at a time for each digest: a request that waited finds it stored, and then needs only the right to it.
        let _turn = self.manifest_locks.lock(&request.manifest_name(repository, digest)).await;
        if let Some((manifest, link)) = self.stored_manifest(request, repository, digest).await {
            return self.known_manifest(request, repository, manifest, &link).await;
        }
        let fetched = self.fetch_manifest(request, repository, &reference, request.accept_class()).await?;
        Ok(fetched.into_reply(request, Served::Led))
    }

    /// A manifest that is stored and known to be in this repository: only the right to it is in question.
    async fn known_manifest(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        manifest: Manifest,
        link: &Link,
    ) -> Result<Reply, PullError> {
        let place = request.place(repository);
        if let Some(right) = self.right_to(request, &place, &manifest.digest, link).await {
            return Ok(manifest::reply(request, &manifest, Served::Hit, right));
        }
        match self.ask_for_known(&request.checking(), repository, &manifest).await {
            Err(error) if error.is_transient() => {
                match self.right_offline(request, &place, &manifest.digest, link).await {
                    Some(right) => Ok(manifest::reply(request, &manifest, Served::Stale, right)),
                    // Nothing can be served instead, so upstream gets all the time that it needs.
                    None if error.is_impatient() => self.ask_for_known(request, repository, &manifest).await,
                    None => Err(error),
                }
            }
            asked => asked,
        }
    }

    /// Upstream's HEAD shows the right to a stored manifest, or its GET does.
    async fn ask_for_known(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<Reply, PullError> {
        let reference = Reference::Digest(manifest.digest);
        let fetch = async || {
            let fetched = self.fetch_manifest(request, repository, &reference, AcceptClass::ANY).await?;
            Ok(fetched.into_reply(request, Served::Led))
        };
        if self.heads_lie(request) {
            return fetch().await;
        }
        let operation = Operation::manifest(Method::HEAD, repository, &reference, AcceptClass::ANY);
        match self.ask_head(request, repository, &operation).await {
            HeadSaid::Doubted(doubt) => {
                let got = fetch().await;
                self.decided_by_get(request, repository, doubt, got).await
            }
            HeadSaid::Said(Asked::Allowed(_, right)) => {
                self.shown_again(request, &request.place(repository), &manifest.digest).await;
                Ok(manifest::reply(request, manifest, Served::Revalidated, right))
            }
            HeadSaid::Said(Asked::Unproven(_)) => fetch().await,
            HeadSaid::Said(Asked::Refused(error) | Asked::Down(error)) => Err(error),
        }
    }

    /// HEAD stays HEAD: nothing is fetched, upstream's head is the answer. None if that may be anybody's, because it names
    /// no manifest.
    async fn head_upstream(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Reply>, PullError> {
        let operation = Operation::manifest(Method::HEAD, repository, reference, request.accept_class());
        match self.ask(request, repository, &operation, Wanted::Manifest).await {
            Asked::Unproven(answer) if answer.status.is_success() && !Wanted::is_typed(&answer) => Ok(None),
            Asked::Allowed(answer, _) | Asked::Unproven(answer) => {
                Ok(Some(replies::head(request, answer.digest, replies::relayed(*answer))))
            }
            Asked::Refused(error) | Asked::Down(error) => Err(error),
        }
    }
}

// ── a blob: locate, then fetch or join ─────────────────────────────────────────────────────────────────────────────

/// The place of a blob.
enum Located {
    Stored(Arc<Blob>),
    Inflight(Arc<InflightFetch>),
    Missing,
}

/// The outcome of joining a fetch.
pub(super) enum Joined {
    Served(Reply),
    /// It takes no more readers, or ended in a way that says nothing about this one: look again when it is gone.
    TooLate(Arc<InflightFetch>),
}

impl Pull {
    async fn blob(self: &Arc<Self>, blob: BlobRequest<'_>) -> Result<Reply, PullError> {
        let pulled = if blob.request.is_head() { self.head_blob(&blob).await } else { self.get_blob(&blob).await };
        match pulled {
            Err(error) if error.is_refusal() => {
                match blob.request.with_next_credential(blob.repository, error.status()) {
                    Some(request) => Box::pin(self.blob(BlobRequest { request: &request, ..blob })).await,
                    None => Err(error),
                }
            }
            pulled => pulled,
        }
    }

    /// HEAD is a question about upstream, above all before a push: a copy here that upstream has lost must not make a
    /// client skip a layer. Only when upstream is down does the copy answer.
    async fn head_blob(&self, blob: &BlobRequest<'_>) -> Result<Reply, PullError> {
        let operation = Operation::blob(Method::HEAD, blob.repository, &blob.digest, None);
        let copy = self.offline_copy(blob).await;
        let asking = if copy.is_some() { &blob.request.checking() } else { blob.request };
        match self.ask(asking, blob.repository, &operation, Wanted::Content(None)).await {
            Asked::Allowed(answer, _) | Asked::Unproven(answer) => {
                Ok(replies::head(blob.request, Some(blob.digest), replies::relayed(*answer)))
            }
            Asked::Refused(error) => Err(error),
            Asked::Down(error) => match copy {
                Some((stored, right)) => self.serve_stored(blob, stored, Served::Stale, right),
                None => Err(error),
            },
        }
    }

    async fn get_blob(self: &Arc<Self>, blob: &BlobRequest<'_>) -> Result<Reply, PullError> {
        if !blob.request.snapshot.config.cache.enabled {
            return self.read_alone(blob, None, Bypass::CacheOff).await;
        }
        loop {
            let joined = match self.locate(blob).await {
                Located::Stored(stored) => match self.give_stored(blob, stored).await? {
                    Some(reply) => return Ok(reply),
                    None => continue,
                },
                Located::Inflight(fetch) => self.join_fetch(blob, &fetch).await?,
                Located::Missing => self.lead_or_join(blob).await?,
            };
            match joined {
                Joined::Served(reply) => return Ok(reply),
                Joined::TooLate(fetch) => self.inflight.gone(&fetch).await,
            }
        }
    }

    async fn locate(&self, blob: &BlobRequest<'_>) -> Located {
        // Fetches first: one that is published between the two looks is found in the store.
        if let Some(fetch) = self.inflight.find(&blob.target()) {
            return Located::Inflight(fetch);
        }
        self.stored_blob(blob).await.map_or(Located::Missing, Located::Stored)
    }

    /// The blob is stored, by whatever way. This client gets it if its own registry serves it. None if it turned out to
    /// have rotted, and is no longer stored.
    async fn give_stored(
        self: &Arc<Self>,
        blob: &BlobRequest<'_>,
        stored: Arc<Blob>,
    ) -> Result<Option<Reply>, PullError> {
        let place = blob.place();
        let link = self.store.names.link_of(&place, &blob.digest).await;
        if let Some(link) = &link
            && let Some(right) = self.right_to(blob.request, &place, &blob.digest, link).await
        {
            return self.serve_sound(blob, stored, Served::Hit, right).await;
        }
        let checking = blob.request.checking();
        let size = Some(stored.size_bytes);
        let probed = match (self.probe(&BlobRequest { request: &checking, ..*blob }, size).await, &link) {
            (Err(error), Some(link)) if error.is_transient() => {
                match self.right_offline(blob.request, &place, &blob.digest, link).await {
                    Some(right) => return self.serve_sound(blob, stored, Served::Stale, right).await,
                    None => Err(error),
                }
            }
            (probed, _) => probed,
        };
        let probed = match probed {
            // Nothing can be served instead, so upstream gets all the time that it needs.
            Err(error) if error.is_impatient() => self.probe(blob, size).await,
            probed => probed,
        };
        match probed {
            Ok(Probed::Serves(right)) => {
                if link.is_none() && !self.may_share(blob, &stored).await {
                    return self.read_alone(blob, None, Bypass::CrossRegistry).await.map(Some);
                }
                self.link(blob).await;
                self.serve_sound(blob, stored, Served::Revalidated, right).await
            }
            Ok(Probed::Unclear) => self.read_alone(blob, None, Bypass::CrossRegistry).await.map(Some),
            Err(error) => Err(error),
        }
    }

    /// Serves a stored blob, unless the client has reason to doubt it and it is bad: then None. Only a client with a right
    /// learns of it.
    async fn serve_sound(
        &self,
        blob: &BlobRequest<'_>,
        stored: Arc<Blob>,
        served: Served,
        right: Right,
    ) -> Result<Option<Reply>, PullError> {
        let client = blob.request.connection.client.into();
        let is_doubted = blob.request.range().is_none_or(range::begins_at_the_start);
        if is_doubted && !self.store.blobs.is_sound_for(&blob.digest, client).await {
            return Ok(None);
        }
        self.serve_stored(blob, stored, served, right).map(Some)
    }

    /// Another request's fetch runs. In the same repository the leader's answer is awaited, since it proves that the
    /// blob is there; for another repository the registry is asked first.
    async fn join_fetch(
        self: &Arc<Self>,
        blob: &BlobRequest<'_>,
        fetch: &Arc<InflightFetch>,
    ) -> Result<Joined, PullError> {
        let target = blob.target();
        let is_leaders = fetch.led_by(&target, blob.request.credential.id());
        let was_open_at = fetch.opened_at();
        let opening = fetch.opened().await;
        match &opening {
            Opening::Filling { .. } | Opening::Passing { .. } | Opening::NotStored(..) => {}
            // The leader's answer is the answer for its credential.
            Opening::Refused(refusal) if is_leaders && is_refusal(refusal.status) => {
                return Err(self.not_opened(blob, OpenError::Refused(refusal.clone())).await);
            }
            Opening::Failed(error) => return Err(self.fetch_failed(blob.request, error.clone())),
            Opening::Broken(error) if is_leaders => return Err(PullError::Broken(error.clone())),
            _ => return Ok(Joined::TooLate(fetch.clone())),
        }
        let right = match fetch.target == target {
            true if is_leaders && is_own_answer(was_open_at) => Some(self.right_of_answer(blob.request)),
            true => self.right_to_fetch(blob.request, &Object::Repository(blob.place()), fetch.opened_at()),
            false => None,
        };
        let right = match right {
            Some(right) => right,
            None => match self.probe(blob, fetch.size()).await? {
                Probed::Serves(right) => right,
                Probed::Unclear => {
                    return Ok(Joined::Served(self.read_alone(blob, None, Bypass::CrossRegistry).await?));
                }
            },
        };
        match fetch.join(Some(self.blob_source(blob)), false) {
            Some(subscription) => self.serve_subscribed(blob, subscription, opening, false, right).await,
            None => Ok(Joined::TooLate(fetch.clone())),
        }
    }

    /// Starts the blob's fetch with this client's credential, unless another request was faster: then the right to that
    /// fetch is asked like to any other.
    async fn lead_or_join(self: &Arc<Self>, blob: &BlobRequest<'_>) -> Result<Joined, PullError> {
        let head = Operation::blob(Method::HEAD, blob.repository, &blob.digest, None);
        let wish = self.wish(blob.request, &Object::Repository(blob.place()), blob.request.range(), head).await?;
        let joined = self.inflight.join_or_start(&blob.target(), &self.blob_source(blob), &wish).await;
        let Some((subscription, leads)) = joined else {
            return Ok(Joined::Served(self.read_alone(blob, None, Bypass::TooManyFills).await?));
        };
        if !leads {
            let fetch = subscription.fetch.clone();
            drop(subscription);
            return self.join_fetch(blob, &fetch).await;
        }
        let opening = subscription.fetch.opened().await;
        let right = match opening {
            Opening::Filling { is_registrys_word: true, .. } | Opening::Passing { is_registrys_word: true, .. } => {
                self.approve(blob.request, &Object::Repository(blob.place()))
            }
            _ => self.right_of_answer(blob.request),
        };
        self.serve_subscribed(blob, subscription, opening, true, right).await
    }

    /// Answers from a fetch that this client has the right to. That the repository has the blob is noted when the fetch
    /// has published it, with the digest proven.
    async fn serve_subscribed(
        &self,
        blob: &BlobRequest<'_>,
        subscription: Subscription,
        opening: Opening,
        leads: bool,
        right: Right,
    ) -> Result<Joined, PullError> {
        blob.request.trail.record(Decision::Subscribed { leads });
        let reply = match opening {
            Opening::Filling { size, host, elapsed, .. } => {
                if leads {
                    blob.request.record_upstream(&host, UpstreamOutcome::Ok, Some(elapsed));
                }
                self.serve_fetch(blob, subscription, size, leads, right).await
            }
            Opening::Passing { window, reason, size, host, elapsed, .. } => {
                if leads {
                    blob.request.record_upstream(&host, UpstreamOutcome::Ok, Some(elapsed));
                }
                self.serve_passing(blob, &window, subscription, size, reason, right).await
            }
            Opening::NotStored(spare, reason) => {
                let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(subscription);
                self.read_alone(blob, spare, reason).await
            }
            Opening::Refused(refusal) => Err(self.not_opened(blob, OpenError::Refused(refusal)).await),
            Opening::Failed(error) => Err(self.fetch_failed(blob.request, error)),
            Opening::Broken(error) => Err(PullError::Broken(error)),
        };
        reply.map(Joined::Served)
    }
}
