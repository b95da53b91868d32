//! Other immutable content of intercepted hosts, by the path patterns of the configuration (`cache.patterns`): an npm
//! tarball, a chart. Stored under the digest that it turns out to have, found again by host, path and query.
//!
//! No digest tells beforehand what it must be, so only a complete 200 with a length that is no page for people is
//! stored, and `Cache-Control: no-store` or `private` is obeyed. Rights are as for a repository of one path.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest, Hasher};
use entrepot_core::origin::Origin;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::fetch::FetchError;
use crate::fetch::hashing::hash_aside;
use crate::fetch::source::SourcePath;
use crate::pull::asking::{Asked, Wanted};
use crate::pull::error::PullError;
use crate::pull::replies::relayed_headers;
use crate::pull::rights::Object;
use crate::pull::serve::stored_reply;
use crate::pull::{Pull, RequestContext, replies};
use entrepot_net::http::body::{BodyError, PieceSource, ReplyBody};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Served};
use entrepot_observe::trail::{Decision, Trail};
use entrepot_store::{ArtefactEntry, Link, PartialBlob, StoreError};
use entrepot_upstream::operation::Operation;
use entrepot_upstream::timed_body::TimedBody;

/// Pieces on their way to the client while the same pieces go to the disk.
const PIECES_IN_FLIGHT: usize = 8;

impl Pull {
    pub(super) fn is_artefact(&self, request: &RequestContext, path: &str) -> bool {
        let cache = &request.snapshot.config.cache;
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        cache.enabled && reads && cache.patterns.iter().any(|pattern| pattern.is_match(path))
    }

    pub(super) async fn artefact(self: &Arc<Self>, request: &RequestContext) -> Result<Reply, PullError> {
        match self.store.names.artefact(&request.registry.origin, &request.path_and_query).await {
            Some(entry) => self.known_artefact(request, entry).await,
            None => self.fetch_artefact(request, true).await,
        }
    }

    async fn known_artefact(
        self: &Arc<Self>,
        request: &RequestContext,
        entry: ArtefactEntry,
    ) -> Result<Reply, PullError> {
        let object = object(request);
        let (public_for, offline_for) = {
            let proofs = &request.snapshot.config.proofs;
            (proofs.public_for, proofs.offline_for)
        };
        let (served, right) = if let Some(right) = self.right_to_artefact(request, &object, &entry.link, public_for) {
            (Served::Hit, right)
        } else {
            let path = request.path_and_query.clone();
            let probe = Operation::relay(Method::HEAD, path, &HeaderMap::new(), None);
            let size = Wanted::Content(Some(entry.size_bytes));
            match self.ask_about(&request.checking(), &object, &probe, size).await {
                Asked::Allowed(answer, _) | Asked::Unproven(answer) => {
                    // The page that asks for a login is not the artefact.
                    if answer.content_length() != Some(entry.size_bytes) || !answer.status.is_success() {
                        return self.fetch_artefact(request, false).await;
                    }
                    if let Some(now) = self.public_now(request) {
                        let (origin, path) = (&request.registry.origin, &request.path_and_query);
                        self.store.names.prove_artefact_public(origin, path, now).await;
                    }
                    (Served::Revalidated, self.approve(request, &object))
                }
                Asked::Refused(error) => return Err(error),
                Asked::Down(error) => match self.right_to_artefact(request, &object, &entry.link, offline_for) {
                    Some(right) => (Served::Stale, right),
                    None => return Err(error),
                },
            }
        };
        let digest = entry.digest;
        let Ok(Some(blob)) = self.store.blobs.get(&digest).await else {
            return self.fetch_artefact(request, true).await;
        };
        let path = SourcePath::Artefact(request.path_and_query.as_str().into());
        let source = || Some(self.source(request, path));
        let reply = stored_reply(&self.store, &request.trail, blob, &request.asked_part(), source, served, right)?;
        Ok(with_headers_of(reply, &entry))
    }

    async fn fetch_artefact(self: &Arc<Self>, request: &RequestContext, keeps: bool) -> Result<Reply, PullError> {
        let path = request.path_and_query.clone();
        let operation = Operation::relay(request.method.clone(), path, &request.headers, None);
        let answer = request.execute(&operation).await;
        let answer = answer.map_err(|error| self.unreachable(request, Arc::new(error)))?;
        // A page is nothing immutable. It may ask for a login, and clients that have one would be given it as well.
        let length = answer.content_length().filter(|_| keeps && !answer.is_page());
        let (Some(length), true) = (length, request.method == Method::GET && answer.status == StatusCode::OK) else {
            return Ok(replies::relayed(answer));
        };
        if !may_store(&answer.headers) {
            request.trail.record(Decision::PassedThrough(Bypass::NoStore));
            return Ok(replies::relayed(answer));
        }
        let _right = self.approve(request, &object(request));
        let partial = match self.store.partial_blobs.begin_unnamed(Some(length)).await {
            Ok(partial) => partial,
            Err(error) => {
                request.trail.record(Decision::PassedThrough(error.bypass()));
                return Ok(replies::relayed(answer));
            }
        };
        request.trail.record(Decision::Content { served: Served::Led, digest: None, stored_at: None });
        let headers = relayed_headers(&answer.headers);
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let trail = request.trail.clone();
        let copy = Copy { pull: self.clone(), trail, partial: Some(Arc::new(partial)), sender, length };
        let name = Name {
            origin: request.registry.origin.clone(),
            path_and_query: request.path_and_query.clone(),
            is_public: self.is_public_answer(request),
        };
        tokio::spawn(copy.run(answer.body, name, headers.clone()).in_current_span());
        Ok(Reply { status: StatusCode::OK, headers, body: ReplyBody::pieces(Copied(receiver)), refused: None })
    }
}

/// An artefact on its way to one client and to the disk. The client's pace is the pace; a client that leaves does not
/// stop the rest.
struct Copy {
    pull: Arc<Pull>,
    trail: Arc<Trail>,
    /// None once the disk has failed.
    partial: Option<Arc<PartialBlob>>,
    sender: mpsc::Sender<Result<Bytes, FetchError>>,
    length: u64,
}

/// The name that an artefact is found by, and whether an anonymous client was given it.
struct Name {
    origin: Origin,
    path_and_query: String,
    is_public: bool,
}

/// The client's end of a copy.
struct Copied(mpsc::Receiver<Result<Bytes, FetchError>>);

impl PieceSource for Copied {
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.0.recv().await.transpose().map_err(BodyError::new)
    }
}

impl Copy {
    async fn run(mut self, mut body: TimedBody, name: Name, headers: HeaderMap) {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut position = 0;
        while let Some(frame) = body.frame().await {
            let bytes = match frame.map(http_body::Frame::into_data) {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(_)) => continue,
                Err(error) => {
                    let digest = hasher.finish();
                    let error = FetchError::Upstream { digest, error: Arc::new(error) };
                    // A client that left needs no error.
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            };
            hasher = self.write(position, bytes.clone(), hasher).await;
            position += bytes.len() as u64;
            // A client that left does not stop the copy.
            let _ = self.sender.send(Ok(bytes)).await;
        }
        if position == self.length {
            self.publish(hasher.finish(), name, &headers).await;
        }
    }

    /// The disk and the hash take the same bytes at the same time.
    async fn write(&mut self, position: u64, bytes: Bytes, hasher: Hasher) -> Hasher {
        let (partial, piece) = (self.partial.clone(), bytes.clone());
        let writing = async move {
            match partial {
                Some(partial) => partial.write(position, piece).await,
                None => Ok(()),
            }
        };
        let (written, hasher) = tokio::join!(writing, hash_aside(hasher, bytes));
        if let Err(error) = written {
            self.give_up(&error);
        }
        hasher.unwrap_or_else(|| {
            self.partial = None;
            Hasher::new(Algorithm::Sha256)
        })
    }

    fn give_up(&mut self, error: &StoreError) {
        tracing::warn!("an artefact is passed on without being stored: {error}");
        self.trail.record(Decision::NotStored(error.bypass()));
        self.partial = None;
    }

    async fn publish(mut self, digest: Digest, name: Name, headers: &HeaderMap) {
        let Some(partial) = self.partial.take() else { return };
        let size_bytes = self.length;
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        if let Err(error) = partial.publish(Some(&digest), &[]).await {
            return self.give_up(&error);
        }
        let now = SystemTime::now();
        let link = Link { linked_at: now, public_at: name.is_public.then_some(now) };
        let entry = ArtefactEntry { digest, size_bytes, content_type, headers: Vec::new(), link };
        self.pull.store.names.set_artefact(&name.origin, &name.path_and_query, entry).await;
        self.trail.record(Decision::Stored);
    }
}

/// The thing that rights to this artefact are about.
fn object(request: &RequestContext) -> Object {
    Object::Artefact(request.registry.origin.clone(), request.path_and_query.as_str().into())
}

fn may_store(headers: &HeaderMap) -> bool {
    let control = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let forbidden = |value: &str| {
        let mut directives = value.split(',').map(|directive| directive.trim().to_ascii_lowercase());
        directives.any(|directive| directive == "no-store" || directive == "private")
    };
    !headers.contains_key(CONTENT_ENCODING) && !control.into_iter().any(forbidden)
}

/// The reply of a blob as that of an artefact: of its own type, and with a digest that only we know left out.
fn with_headers_of(mut reply: Reply, entry: &ArtefactEntry) -> Reply {
    reply.headers.remove(DOCKER_CONTENT_DIGEST);
    reply.headers.remove(ETAG);
    match HeaderValue::from_str(&entry.content_type) {
        Ok(value) => _ = reply.headers.insert(CONTENT_TYPE, value),
        Err(_) => _ = reply.headers.remove(CONTENT_TYPE),
    }
    reply
}
