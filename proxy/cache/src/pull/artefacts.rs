//! Other immutable content of intercepted hosts, by the path patterns of the configuration (`cache.patterns`): an npm
//! tarball, a chart. Fetched once like a blob, stored under the digest that it turns out to have, found again by host,
//! path and query.
//!
//! No digest tells beforehand what it must be, so only a complete 200 with a length that is no page for people is
//! stored (`fetch/artefact.rs`), and `Cache-Control: no-store` or `private` is obeyed. Rights are as for a repository of
//! one path: the bytes of a fetch go to a client whose own request was allowed, of the same state of the artefact.

use std::sync::{Arc, PoisonError};

use entrepot_core::digest::DOCKER_CONTENT_DIGEST;
use entrepot_core::validator::Validator;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_RANGE, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::fetch::artefact::own_fields;
use crate::fetch::inflight::{InflightFetch, Opening, Subscription, Target};
use crate::fetch::source::{BlobSource, Opened, SourcePath, UpstreamRefusal, validator};
use crate::fetch::window::Window;
use crate::pull::asking::{Asked, Wanted};
use crate::pull::error::{PullError, is_denial, is_refusal};
use crate::pull::pipeline::{Joined, is_own_answer};
use crate::pull::replies::relayed_headers;
use crate::pull::request::AskedPart;
use crate::pull::rights::{Object, Right};
use crate::pull::serve::{content_reply, passing_reader_of, reader_of, stored_reply};
use crate::pull::{Pull, RequestContext, replies};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Served, UpstreamOutcome};
use entrepot_observe::trail::Decision;
use entrepot_store::ArtefactEntry;
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::{Answer, outcome_of};

/// A request for an artefact.
struct ArtefactRequest<'a> {
    request: &'a RequestContext,
    path: Arc<str>,
    /// The thing that rights to it are about.
    object: Object,
}

impl ArtefactRequest<'_> {
    fn target(&self) -> Target {
        Target::Artefact { origin: self.request.registry.origin.clone(), path: self.path.clone() }
    }

    /// Upstream's HEAD. The part that the client wants is of no concern for it.
    fn head(&self) -> Operation {
        let mut operation = Operation::relay(Method::HEAD, self.path.to_string(), &self.request.headers, None);
        operation.headers.remove(RANGE);
        operation
    }

    /// The Range header, if it is about this state of the artefact (RFC 9110 section 13.1.5).
    fn range(&self, state: Option<&Validator>) -> Option<&str> {
        let condition = self.request.headers.get(IF_RANGE);
        let holds =
            |condition: &HeaderValue| state.is_some_and(|state| condition.as_bytes() == state.if_range().as_bytes());
        self.request.range().filter(|_| condition.is_none_or(holds))
    }
}

impl Pull {
    pub(super) fn is_artefact(&self, request: &RequestContext, path: &str) -> bool {
        let cache = &request.snapshot.config.cache;
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        cache.enabled && reads && cache.patterns.iter().any(|pattern| pattern.is_match(path))
    }

    pub(super) async fn artefact(self: &Arc<Self>, request: &RequestContext) -> Result<Reply, PullError> {
        let path: Arc<str> = request.path_and_query.as_str().into();
        let object = Object::Artefact(request.registry.origin.clone(), path.as_ref().into());
        let artefact = ArtefactRequest { request, path, object };
        loop {
            // Fetches first: one that is published between the two looks is found in the store.
            let fetch = self.inflight.find(&artefact.target()).filter(|_| !request.is_head());
            let joined = match fetch {
                Some(fetch) => self.join_artefact(&artefact, &fetch).await?,
                None => match self.store.names.artefact(&request.registry.origin, &artefact.path).await {
                    Some(entry) => self.known_artefact(&artefact, entry).await?,
                    None => self.lead_or_join_artefact(&artefact).await?,
                },
            };
            match joined {
                Joined::Served(reply) => return Ok(reply),
                Joined::TooLate(fetch) => self.inflight.gone(&fetch).await,
            }
        }
    }

    /// It is stored. This client gets it if its own request is allowed.
    async fn known_artefact(
        self: &Arc<Self>,
        artefact: &ArtefactRequest<'_>,
        entry: ArtefactEntry,
    ) -> Result<Joined, PullError> {
        let (request, object) = (artefact.request, &artefact.object);
        let (public_for, offline_for) = {
            let proofs = &request.snapshot.config.proofs;
            (proofs.public_for, proofs.offline_for)
        };
        let fields = fields_of(&entry);
        let (served, right) = if let Some(right) = self.right_to_artefact(request, object, &entry.link, public_for) {
            (Served::Hit, right)
        } else {
            let size = Wanted::Content(Some(entry.size_bytes));
            match self.ask_about(&request.checking(), object, &artefact.head(), size).await {
                Asked::Allowed(answer, _) | Asked::Unproven(answer) => {
                    if !is_the_same(&answer, Some(entry.size_bytes), validator(&fields).as_ref()) {
                        return self.relay_artefact(artefact, None).await.map(Joined::Served);
                    }
                    if let Some(now) = self.public_now(request) {
                        let (origin, path) = (&request.registry.origin, &request.path_and_query);
                        self.store.names.prove_artefact_public(origin, path, now).await;
                    }
                    (Served::Revalidated, self.approve(request, object))
                }
                Asked::Refused(error) => return Err(error),
                Asked::Down(error) => match self.right_to_artefact(request, object, &entry.link, offline_for) {
                    Some(right) => (Served::Stale, right),
                    None => return Err(error),
                },
            }
        };
        let Ok(Some(blob)) = self.store.blobs.get(&entry.digest).await else {
            return self.lead_or_join_artefact(artefact).await;
        };
        let source = || Some(self.artefact_source(artefact));
        let range = artefact.range(validator(&fields).as_ref());
        let asked = AskedPart { range, is_head: request.is_head() };
        let reply = stored_reply(&self.store, &request.trail, blob, &asked, source, served, right)?;
        Ok(Joined::Served(with_fields(reply, fields)))
    }

    /// Starts the fetch with this client's credential, unless another request was faster: then the right to that fetch is
    /// asked like to any other. HEAD stays HEAD.
    async fn lead_or_join_artefact(self: &Arc<Self>, artefact: &ArtefactRequest<'_>) -> Result<Joined, PullError> {
        let (request, object) = (artefact.request, &artefact.object);
        if request.is_head() {
            return match self.ask_about(request, object, &artefact.head(), Wanted::Content(None)).await {
                Asked::Allowed(answer, _) | Asked::Unproven(answer) => {
                    Ok(Joined::Served(replies::head(request, None, replies::relayed(*answer))))
                }
                Asked::Refused(error) | Asked::Down(error) => Err(error),
            };
        }
        // A range of a state that is not known yet is answered when it is.
        let range = request.range().filter(|_| !request.headers.contains_key(IF_RANGE));
        let wish = self.wish(request, object, range, artefact.head()).await?;
        let source = self.artefact_source(artefact);
        let Some((subscription, leads)) = self.inflight.join_or_start(&artefact.target(), &source, &wish).await else {
            request.trail.record(Decision::PassedThrough(Bypass::TooManyFills));
            return self.relay_artefact(artefact, None).await.map(Joined::Served);
        };
        if !leads {
            let fetch = subscription.fetch.clone();
            drop(subscription);
            return self.join_artefact(artefact, &fetch).await;
        }
        let reply = match subscription.fetch.opened().await {
            Opening::Filling { size, headers, host, elapsed, .. } => {
                request.record_upstream(&host, UpstreamOutcome::Ok, Some(elapsed));
                let right = self.approve(request, object);
                self.serve_artefact(artefact, subscription, size, &headers, true, right).await
            }
            Opening::Passing { window, reason, size, headers, host, elapsed, .. } => {
                request.record_upstream(&host, UpstreamOutcome::Ok, Some(elapsed));
                let right = self.approve(request, object);
                self.serve_passing_artefact(artefact, (&window, reason), subscription, size, &headers, right).await
            }
            Opening::NotStored(spare, reason) => {
                drop(subscription);
                request.trail.record(Decision::PassedThrough(reason));
                let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                // The range may have been shortened by bytes that were paused.
                self.relay_artefact(artefact, spare.filter(|opened| opened.asked == wish.range)).await
            }
            Opening::Refused(refusal) => Err(self.artefact_refused(artefact, refusal).await),
            Opening::Failed(error) => Err(self.fetch_failed(request, error)),
            Opening::Broken(error) => Err(PullError::Broken(error)),
        };
        reply.map(Joined::Served)
    }

    /// Another request's fetch runs. The leader's answer counts for its own credential. Any other client asks upstream,
    /// which has to show the same state of the artefact.
    async fn join_artefact(
        self: &Arc<Self>,
        artefact: &ArtefactRequest<'_>,
        fetch: &Arc<InflightFetch>,
    ) -> Result<Joined, PullError> {
        let (request, object) = (artefact.request, &artefact.object);
        let is_leaders = fetch.led_by(&artefact.target(), request.credential.id());
        let was_open_at = fetch.opened_at();
        let (size, headers, passing) = match fetch.opened().await {
            Opening::Filling { size, headers, .. } => (size, headers, None),
            Opening::Passing { window, reason, size, headers, .. } => (size, headers, Some((window, reason))),
            Opening::NotStored(_, reason) => {
                request.trail.record(Decision::PassedThrough(reason));
                return self.relay_artefact(artefact, None).await.map(Joined::Served);
            }
            Opening::Refused(refusal) if is_leaders && is_refusal(refusal.status) => {
                return Err(self.artefact_refused(artefact, refusal).await);
            }
            Opening::Failed(error) => return Err(self.fetch_failed(request, error)),
            Opening::Broken(error) if is_leaders => return Err(PullError::Broken(error)),
            Opening::Refused(_) | Opening::Broken(_) => return Ok(Joined::TooLate(fetch.clone())),
        };
        let right = match is_leaders && is_own_answer(was_open_at) {
            true => Some(self.right_of_answer(request)),
            false => self.right_to_fetch(request, object, fetch.opened_at()),
        };
        let right = match right {
            Some(right) => right,
            None => match self.ask_about(request, object, &artefact.head(), Wanted::Content(size)).await {
                Asked::Allowed(answer, _) | Asked::Unproven(answer)
                    if is_the_same(&answer, size, validator(&headers).as_ref()) =>
                {
                    self.approve(request, object)
                }
                Asked::Allowed(..) | Asked::Unproven(_) => {
                    request.trail.record(Decision::PassedThrough(Bypass::Unfit));
                    return self.relay_artefact(artefact, None).await.map(Joined::Served);
                }
                Asked::Refused(error) | Asked::Down(error) => return Err(error),
            },
        };
        let Some(subscription) = fetch.join(Some(self.artefact_source(artefact)), false) else {
            return Ok(Joined::TooLate(fetch.clone()));
        };
        let reply = match passing {
            None => self.serve_artefact(artefact, subscription, size, &headers, false, right).await,
            Some((window, reason)) => {
                self.serve_passing_artefact(artefact, (&window, reason), subscription, size, &headers, right).await
            }
        };
        reply.map(Joined::Served)
    }

    /// Answers from a fetch that this client has the right to.
    async fn serve_artefact(
        &self,
        artefact: &ArtefactRequest<'_>,
        subscription: Subscription,
        size: Option<u64>,
        headers: &HeaderMap,
        leads: bool,
        _: Right,
    ) -> Result<Reply, PullError> {
        let request = artefact.request;
        request.trail.record(Decision::Subscribed { leads });
        let served = match leads {
            true => Served::Led,
            false if subscription.fetch.is_verified() => Served::Hit,
            false => Served::Joined,
        };
        let range = artefact.range(validator(headers).as_ref());
        let (answer, reader) = reader_of(subscription, self.artefact_source(artefact), range, size).await?;
        request.trail.record(Decision::Content { served, digest: None, stored_at: None });
        Ok(with_fields(content_reply(answer, size, ReplyBody::pieces(reader)), own_fields(headers)))
    }

    /// The same from a fetch that nothing is kept of.
    async fn serve_passing_artefact(
        &self,
        artefact: &ArtefactRequest<'_>,
        (window, reason): (&Arc<Window>, Bypass),
        subscription: Subscription,
        size: Option<u64>,
        headers: &HeaderMap,
        _: Right,
    ) -> Result<Reply, PullError> {
        artefact.request.trail.record(Decision::PassedThrough(reason));
        let range = artefact.range(validator(headers).as_ref());
        match passing_reader_of(window, subscription, self.artefact_source(artefact), range, size)? {
            Some((answer, reader)) => {
                Ok(with_fields(content_reply(answer, size, ReplyBody::pieces(reader)), own_fields(headers)))
            }
            None => self.relay_artefact(artefact, None).await,
        }
    }

    /// Upstream's answer to this client alone, past the store: the one that is open, or one to its own request.
    async fn relay_artefact(&self, artefact: &ArtefactRequest<'_>, opened: Option<Opened>) -> Result<Reply, PullError> {
        let request = artefact.request;
        let Some(opened) = opened else {
            let operation = Operation::relay(request.method.clone(), artefact.path.to_string(), &request.headers, None);
            let answer = request.execute(&operation).await;
            let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
            if is_denial(answer.status) && !answer.crossed {
                self.deny(request, &artefact.object, answer.status, &answer.headers).await;
            }
            return Ok(replies::relayed(answer));
        };
        request.record_upstream(&opened.host, UpstreamOutcome::Ok, Some(opened.elapsed));
        let status = if opened.is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let headers = relayed_headers(&opened.headers);
        Ok(Reply { status, headers, body: ReplyBody::relayed(opened.body), refused: None })
    }

    /// Upstream refused it, in its own words. A refusal ends the rights that it speaks about.
    async fn artefact_refused(&self, artefact: &ArtefactRequest<'_>, refusal: UpstreamRefusal) -> PullError {
        let request = artefact.request;
        request.record_upstream(request.registry.host(), outcome_of(refusal.status), None);
        if is_denial(refusal.status) {
            self.deny(request, &artefact.object, refusal.status, &refusal.headers).await;
        }
        PullError::answered(refusal)
    }

    fn artefact_source(&self, artefact: &ArtefactRequest<'_>) -> BlobSource {
        let client = &artefact.request.headers;
        let named = |name: HeaderName| client.get(&name).map(|value| (name, value.clone()));
        let headers = [ACCEPT, USER_AGENT].into_iter().filter_map(named).collect();
        self.source(artefact.request, SourcePath::Artefact { path: artefact.path.clone(), headers })
    }
}

/// Whether the answer to HEAD shows the artefact of this size and state. The page that asks for a login has another
/// length. Upstreams that tell a validator in one answer and none in the other are taken by the length.
fn is_the_same(answer: &Answer, size: Option<u64>, state: Option<&Validator>) -> bool {
    let told = validator(&answer.headers);
    let is_other = matches!((state, &told), (Some(state), Some(told)) if state != told);
    answer.status.is_success() && answer.content_length() == size && !is_other
}

/// The fields that were stored with an artefact.
fn fields_of(entry: &ArtefactEntry) -> HeaderMap {
    let field = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
    let mut fields: HeaderMap = entry.headers.iter().filter_map(field).collect();
    fields.extend(entry.content_type.parse().ok().map(|value: HeaderValue| (CONTENT_TYPE, value)));
    fields
}

/// A reply with the artefact's own fields, and without those of a blob: a digest that only we know is left out.
fn with_fields(mut reply: Reply, fields: HeaderMap) -> Reply {
    for name in [&DOCKER_CONTENT_DIGEST, &ETAG, &CONTENT_TYPE] {
        reply.headers.remove(name);
    }
    reply.headers.extend(fields);
    reply
}
