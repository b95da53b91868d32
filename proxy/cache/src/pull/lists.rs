//! Lists of tags and of referrers, kept by the rules of a tag: upstream is asked each time, at most once in a tag's
//! interval, and what it last said is given while it cannot say.
//!
//! A list is content like a manifest: its bytes are stored under their digest, its repository is linked to it, and its
//! name (registry, path, filter and page) leads to the digest. So the rights to it are those of `rights`, and the store
//! evicts it like anything else. `list_query` knows names and pages.
//!
//! While upstream is down, a client may ask for what is not known. Docker asks for the referrers of each attestation of
//! an image and gives the pull up at any answer but a list or 404, so an unknown list of referrers is empty then, and
//! says so in its `Warning`. An unknown list of tags is made of the tags that are known.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::freshness::{is_referrers_fallback, referrers_fallback};
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use entrepot_core::referrer::{self, ListText, REFERRERS_TYPE};
use entrepot_core::route::Route;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LINK};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::fetch::source::UpstreamRefusal;
use crate::pull::error::{PullError, is_denial, is_transient};
use crate::pull::list_query::{self, ListKind, TagPage};
use crate::pull::manifest::{Unread, read, too_large};
use crate::pull::replies::relayed_headers;
use crate::pull::request::TagRequest;
use crate::pull::rights::{Object, Right};
use crate::pull::stale::Why;
use crate::pull::{Pull, RequestContext, replies};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Refused, Served};
use entrepot_observe::trail::Decision;
use entrepot_store::{ArtefactEntry, Link, Place};
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::Answer;

/// What this process remembers of lists, besides what is stored.
pub(super) struct ListMemory {
    /// When upstream last told each list.
    told: Mutex<Recent<(Origin, String), Instant>>,
    /// Pages that upstream wrote into a `Link`.
    pages: Mutex<Recent<(Origin, String), ()>>,
}

const REMEMBERED_MAX: usize = 4096;
/// The most tags that a list is made of here.
const TAGS_MAX: usize = 1000;
/// Headers of a list that are kept with it.
const KEPT_HEADERS: [HeaderName; 2] = [LINK, FILTERS_APPLIED];
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Default for ListMemory {
    fn default() -> Self {
        Self { told: Mutex::new(Recent::new(REMEMBERED_MAX)), pages: Mutex::new(Recent::new(REMEMBERED_MAX)) }
    }
}

impl ListMemory {
    /// Something was written to the repository: its lists are asked for anew.
    pub(super) fn forget(&self, registry: &Origin, repository: &RepositoryName) {
        let mut told = lock(&self.told);
        let prefix = format!("/v2/{repository}/");
        let lists =
            told.iter().map(|(list, _)| list).filter(|(origin, key)| origin == registry && key.starts_with(&prefix));
        let lists: Vec<_> = lists.cloned().collect();
        for list in lists {
            told.remove(&list);
        }
    }
}

fn lock<T>(memory: &Mutex<T>) -> MutexGuard<'_, T> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request for a list that may be kept.
struct ListRequest<'a> {
    request: &'a RequestContext,
    repository: &'a RepositoryName,
    kind: ListKind,
    /// The list's name.
    key: String,
}

/// A list that is stored.
struct StoredList {
    body: Bytes,
    headers: HeaderMap,
    digest: Digest,
    link: Link,
    /// None for a list that was made out of another one.
    stored_at: Option<SystemTime>,
}

impl Pull {
    /// A list of tags or referrers.
    pub(super) async fn list(&self, request: &RequestContext, route: &Route) -> Result<Reply, PullError> {
        let Some(list) = self.named_list(request, route) else { return self.read_through(request, route).await };
        let known = self.known_list(&list, &list.key).await;
        let place = request.place(list.repository);
        if let Some(known) = &known {
            let is_fresh =
                self.told_at(&list).is_some_and(|at| at.elapsed() < request.snapshot.config.tags.revalidate_interval);
            let low_quota = request.low_quota();
            if (is_fresh || low_quota.is_some())
                && let Some(right) = self.right_to_list(request, &place, &known.digest, &known.link, false).await
            {
                return Ok(match low_quota.filter(|_| !is_fresh) {
                    Some(quota) => Why::LowQuota(quota).marked(request, known.reply(request, Served::Stale, right)),
                    None => known.reply(request, Served::Hit, right),
                });
            }
        }
        match self.ask_for_list(&list, known.as_ref()).await {
            Err(error) if error.is_refusal() => match request.with_next_credential(list.repository, error.status()) {
                Some(request) => Box::pin(self.list(&request, route)).await,
                None => Err(error),
            },
            Err(error) if error.is_transient() => {
                let was_known = known.is_some();
                match self.instead_of_list(&list, known, &error).await {
                    Some(reply) => Ok(reply),
                    // The client may not have what is stored, so upstream gets all the time that it needs.
                    None if was_known && error.is_impatient() => self.ask_for_list(&list, None).await,
                    None => Err(error),
                }
            }
            answered => answered,
        }
    }

    /// An empty index in place of the referrers' fallback tag, which nobody here knows while upstream cannot say. None for
    /// any other tag, and for a client that takes no index.
    pub(super) async fn no_referrers_by_tag(&self, tag: &TagRequest<'_>, error: &PullError) -> Option<Reply> {
        if !is_referrers_fallback(tag.tag) || !tag.class.admits(REFERRERS_TYPE) || !is_upstreams(error) {
            return None;
        }
        let place = tag.request.place(tag.repository);
        if !self.store.names.tag_in_all_classes(&place, tag.tag).await.is_empty() {
            return None;
        }
        let subject = tag.tag.as_str().replacen('-', ":", 1).parse::<Digest>().ok();
        if let Some(subject) = subject
            && !self.may_hear_of_nothing(tag.request, &place, &subject).await
        {
            return None;
        }
        let body = Bytes::from(ListText::default().finish());
        let digest = Digest::of(Algorithm::Sha256, &body);
        let reply = empty_list(tag.request, body);
        let reply = reply.with(DOCKER_CONTENT_DIGEST, &digest.to_string()).with(ETAG, &format!("\"{digest}\""));
        Some(Why::Failed(error).marked_empty(tag.request, reply))
    }

    /// The list that is asked for. None if it cannot be kept.
    fn named_list<'a>(&self, request: &'a RequestContext, route: &'a Route) -> Option<ListRequest<'a>> {
        let (kind, repository) = ListKind::of(route).filter(|_| request.snapshot.config.cache.enabled)?;
        let asked = (request.registry.origin.clone(), request.path_and_query.clone());
        let key = list_query::key(&request.path_and_query, lock(&self.lists.pages).get(&asked).is_some())?;
        (!request.headers.contains_key(http::header::RANGE)).then_some(ListRequest { request, repository, kind, key })
    }

    fn told_at(&self, list: &ListRequest<'_>) -> Option<Instant> {
        lock(&self.lists.told).get(&(list.request.registry.origin.clone(), list.key.clone())).copied()
    }

    /// The stored list of this name, whoever may have it.
    async fn known_list(&self, list: &ListRequest<'_>, key: &str) -> Option<StoredList> {
        let entry = self.store.names.artefact(&list.request.registry.origin, key).await?;
        let link = self.store.names.link_of(&list.request.place(list.repository), &entry.digest).await?;
        let blob = self.store.blobs.get(&entry.digest).await.ok()??;
        let body = blob.read(0, usize::MAX).await.ok()?;
        // The disk may have lost bytes since.
        if Digest::of(entry.digest.algorithm(), &body) != entry.digest {
            return None;
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &entry.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
        if let Ok(value) = HeaderValue::from_str(&entry.content_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        Some(StoredList { body, headers, digest: entry.digest, link, stored_at: Some(entry.link.linked_at) })
    }

    /// Asks upstream, and keeps what it says.
    async fn ask_for_list(&self, list: &ListRequest<'_>, known: Option<&StoredList>) -> Result<Reply, PullError> {
        let request = list.request;
        let (path, repository) = (request.path_and_query.clone(), Some(list.repository.clone()));
        let operation = Operation::relay(request.method.clone(), path, &request.headers, repository);
        let asking = if known.is_some() { &request.checking() } else { request };
        let answer = asking.execute(&operation).await;
        let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
        if is_transient(answer.status) {
            return Err(PullError::answered(UpstreamRefusal::read(answer).await.worded(operation.unknown)));
        }
        if is_denial(answer.status) && !answer.crossed {
            let object = Object::Repository(request.place(list.repository));
            self.deny(request, &object, answer.status, &answer.headers).await;
            return Err(self.refused_by_upstream(request, answer, operation.unknown).await);
        }
        if answer.status != StatusCode::OK || request.is_head() || answer.headers.contains_key(CONTENT_ENCODING) {
            return Ok(replies::relayed(answer));
        }
        self.read_list(list, known, answer).await
    }

    async fn read_list(
        &self,
        list: &ListRequest<'_>,
        known: Option<&StoredList>,
        answer: Answer,
    ) -> Result<Reply, PullError> {
        let (request, place) = (list.request, list.request.place(list.repository));
        let (headers, is_registrys_word) = (answer.headers.clone(), answer.is_registrys_word());
        let told_length = answer.content_length();
        let body = match read(answer).await {
            Ok(body) => body,
            Err(Unread::Broken(error)) => return Err(self.unreachable(request, Arc::new(error))),
            Err(Unread::TooLarge(start, rest)) => {
                request.trail.record(Decision::PassedThrough(Bypass::TooLarge));
                return Ok(too_large(start, rest, &headers, None));
            }
        };
        if !list.kind.is_list(&body) {
            // A page for people, or for machines of another kind.
            return Err(PullError::ManifestForm);
        }
        if told_length.is_none_or(|length| length == body.len() as u64) {
            if is_registrys_word {
                let _right = self.approve(request, &Object::Lists(place.clone()));
            }
            self.keep_list(list, known, &headers, &body).await;
        }
        let mut headers = relayed_headers(&headers);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
        Ok(Reply { status: StatusCode::OK, headers, body: ReplyBody::Full(body), refused: None })
    }

    async fn keep_list(&self, list: &ListRequest<'_>, known: Option<&StoredList>, headers: &HeaderMap, body: &Bytes) {
        let (request, place) = (list.request, list.request.place(list.repository));
        let origin = &request.registry.origin;
        for page in list_query::told_pages(request.path(), headers) {
            lock(&self.lists.pages).insert(&(origin.clone(), page), ());
        }
        let digest = Digest::of(Algorithm::Sha256, body);
        let kept = kept_headers(headers);
        let is_known = known.is_some_and(|known| known.digest == digest && kept_headers(&known.headers) == kept);
        if is_known {
            self.shown_again(request, &place, &digest).await;
        } else {
            if let Err(error) = self.store.partial_blobs.put(&digest, body.clone()).await {
                tracing::warn!("a list was served but not stored: {error}");
                return request.trail.record(Decision::NotStored(error.bypass()));
            }
            self.store.names.link(&place, &digest, self.public_now(request)).await;
            let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            // The proofs of a list are those of the repository's link to it.
            let link = Link { linked_at: SystemTime::now(), public_at: None };
            let (size_bytes, content_type) = (body.len() as u64, content_type.to_owned());
            let entry = ArtefactEntry { digest, size_bytes, content_type, headers: kept, link };
            self.store.names.set_artefact(origin, &list.key, entry).await;
            request.trail.record(Decision::Stored);
        }
        lock(&self.lists.told).insert(&(origin.clone(), list.key.clone()), Instant::now());
    }

    /// The answer while upstream cannot say: the list that is known, or what is known of it.
    async fn instead_of_list(
        &self,
        list: &ListRequest<'_>,
        known: Option<StoredList>,
        error: &PullError,
    ) -> Option<Reply> {
        let (request, place, why) = (list.request, list.request.place(list.repository), Why::Failed(error));
        if let Some(known) = known {
            // Without the right to what is known, the client gets what it would get without us.
            let right = self.right_to_list(request, &place, &known.digest, &known.link, true).await?;
            return Some(why.marked(request, known.reply(request, Served::Stale, right)));
        }
        match list.kind {
            ListKind::Tags => {
                let page = self.known_tags(list, &place).await?;
                request.trail.record(Decision::Content { served: Served::Stale, digest: None, stored_at: None });
                let reply = Reply::full(StatusCode::OK, "application/json", page.body);
                let reply = if request.is_head() { reply.without_body() } else { reply };
                let reply = why.marked(request, reply);
                Some(match page.link {
                    Some(link) => reply.with(LINK, &link),
                    None => reply,
                })
            }
            ListKind::Referrers(_) if !is_upstreams(error) => None,
            ListKind::Referrers(digest) => {
                if let Some(reply) = self.filtered_here(list, &place).await {
                    return Some(why.marked(request, reply));
                }
                // The registry has no such lists: its clients use the fallback tag, and that is known.
                if self.has_fallback_tag(request, &place, &digest).await {
                    return Some(Reply::error(ErrorCode::ManifestUnknown, NO_SUCH_LISTS).because(Refused::Unknown));
                }
                if !self.may_hear_of_nothing(request, &place, &digest).await {
                    return None;
                }
                let reply = empty_list(request, ListText::default().finish().into());
                let has_filter = list_query::parameter(&list.key, ARTIFACT_TYPE).is_some();
                let reply = if has_filter { reply.with(FILTERS_APPLIED, ARTIFACT_TYPE) } else { reply };
                Some(why.marked_empty(request, reply))
            }
        }
    }

    /// The list of one type of referrers, made out of the whole one.
    async fn filtered_here(&self, list: &ListRequest<'_>, place: &Place) -> Option<Reply> {
        let wanted = list_query::parameter(&list.key, ARTIFACT_TYPE)?;
        let path = list.request.path();
        let whole = self.known_list(list, path).await.filter(|whole| !whole.headers.contains_key(LINK))?;
        if list.key != list_query::key(&format!("{path}?{ARTIFACT_TYPE}={}", encoded(&wanted)), false)? {
            return None;
        }
        let right = self.right_to_list(list.request, place, &whole.digest, &whole.link, true).await?;
        let body = Bytes::from(referrer::filtered(&whole.body, &wanted)?);
        let made = StoredList { body, stored_at: None, ..whole };
        Some(made.reply(list.request, Served::Stale, right).with(FILTERS_APPLIED, ARTIFACT_TYPE))
    }

    /// Whether the client may have the manifest that the digest's fallback tag pointed to.
    async fn has_fallback_tag(&self, request: &RequestContext, place: &Place, digest: &Digest) -> bool {
        let Some(tag) = referrers_fallback(digest) else { return false };
        for (_, entry) in self.store.names.tag_in_all_classes(place, &tag).await {
            if self.may_know(request, place, &entry.digest).await {
                return true;
            }
        }
        false
    }

    /// The page of tags that is asked for, made of the tags that are known and that the client may know of. None if there
    /// are none.
    async fn known_tags(&self, list: &ListRequest<'_>, place: &Place) -> Option<TagPage> {
        let (request, path) = (list.request, list.request.path());
        let mut tags = BTreeSet::new();
        if let Some(whole) = self.known_list(list, path).await
            && self.right_to_list(request, place, &whole.digest, &whole.link, true).await.is_some()
        {
            tags.extend(list_query::listed_tags(&whole.body).unwrap_or_default());
        }
        let last = list_query::parameter(&request.path_and_query, "last").unwrap_or_default();
        for (tag, digests) in self.store.names.tags_after(place, &last, TAGS_MAX).await {
            for digest in digests {
                if !tags.contains(tag.as_str()) && self.may_know(request, place, &digest).await {
                    tags.insert(tag.as_str().to_owned());
                }
            }
        }
        (!tags.is_empty()).then(|| list_query::page_of_tags(list.repository, &tags, &request.path_and_query))
    }

    /// Whether the client is told that nothing is known of a digest's referrers: it may have the repository, or nobody
    /// here knows the digest. A client without a right gets the error that it would get without us.
    async fn may_hear_of_nothing(&self, request: &RequestContext, place: &Place, digest: &Digest) -> bool {
        if self.store.names.link_of(place, digest).await.is_some() {
            return self.may_know(request, place, digest).await;
        }
        let has_right = self.right_to_fetch(request, &Object::Repository(place.clone()), None).is_some();
        has_right || self.store.names.places(digest).await.is_empty()
    }

    /// Whether the client may know that the repository has this manifest.
    async fn may_know(&self, request: &RequestContext, place: &Place, digest: &Digest) -> bool {
        match self.store.names.link_of(place, digest).await {
            Some(link) => self.right_to_list(request, place, digest, &link, true).await.is_some(),
            None => false,
        }
    }
}

const ARTIFACT_TYPE: &str = "artifactType";
const NO_SUCH_LISTS: &str = "entrepot: upstream cannot say; the referrers' fallback tag of this digest is known here";

impl StoredList {
    fn reply(&self, request: &RequestContext, served: Served, _: Right) -> Reply {
        let digest = self.stored_at.map(|_| self.digest);
        request.trail.record(Decision::Content { served, digest, stored_at: self.stored_at });
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len() as u64));
        let body = ReplyBody::Full(if request.is_head() { Bytes::new() } else { self.body.clone() });
        Reply { status: StatusCode::OK, headers, body, refused: None }
    }
}

/// The headers that are kept with a list, as text.
fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let of = |name: &HeaderName| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.map(|value| (name.as_str().to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    KEPT_HEADERS.iter().flat_map(of).collect()
}

/// Whether the failure is upstream's. One of ours, such as an address that may not be dialled, is no outage.
fn is_upstreams(error: &PullError) -> bool {
    !matches!(error, PullError::Unreachable(error) if error.is_ours())
}

fn empty_list(request: &RequestContext, body: Bytes) -> Reply {
    request.trail.record(Decision::Content { served: Served::Stale, digest: None, stored_at: None });
    let reply = Reply::full(StatusCode::OK, REFERRERS_TYPE, body);
    if request.is_head() { reply.without_body() } else { reply }
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
