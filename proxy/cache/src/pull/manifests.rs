//! Manifests by digest, and what manifests by tag share with them: reading one from upstream, checking it, storing it,
//! giving it out.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::media::{self, AcceptClass, MANIFEST_MAX_BYTES, ManifestInfo, ManifestType};
use entrepot_core::name::{Reference, RepositoryName};
use entrepot_core::outcome::{CacheStatus, RequestType};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;

use crate::fetch::source::Refusal;
use crate::pull::oversize::Oversize;
use crate::pull::replies::relayed_headers;
use crate::pull::{Call, Pull, offload, replies};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::{Note, Reply};
use entrepot_observe::labels::{Bypass, RightsOutcome};
use entrepot_store::StoredManifest;
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::exchange::Answer;
use entrepot_upstream::operation::Operation;

/// A manifest in memory.
#[derive(Clone)]
pub struct Manifest {
    /// Its bytes, verbatim.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The digest it is named by.
    pub digest: Digest,
    /// Since when it is stored; none for one that was just fetched.
    pub stored_at: Option<SystemTime>,
}

impl From<StoredManifest> for Manifest {
    fn from(stored: StoredManifest) -> Self {
        let StoredManifest { digest, bytes, media_type, stored_at } = stored;
        Self { bytes, media_type: media_type.as_ref().to_owned(), digest, stored_at }
    }
}

impl Pull {
    /// `GET` or `HEAD /v2/<name>/manifests/<reference>`.
    pub async fn manifest(self: &Arc<Self>, call: &Call, repository: &RepositoryName, reference: &Reference) -> Reply {
        match reference {
            Reference::Tag(tag) => self.tag(call, repository, tag).await,
            Reference::Digest(digest) => {
                let reply = self.manifest_by_digest(call, repository, digest).await;
                let status = reply.note.cache_status;
                reply.noted(RequestType::ManifestByDigest, status).of(*digest)
            }
        }
    }

    async fn manifest_by_digest(self: &Arc<Self>, call: &Call, repository: &RepositoryName, digest: &Digest) -> Reply {
        let reference = Reference::Digest(*digest);
        if let Some(manifest) = self.stored_manifest(call, repository, digest).await {
            return self.known_manifest(call, repository, manifest).await;
        }
        if call.is_head() {
            return self.head_upstream(call, repository, &reference, accept_class(&call.headers)).await;
        }
        // One at a time for each digest: who waited finds it stored, and then needs only the right to it.
        let _turn = self.manifest_locks.lock(&place_of(call, repository, digest)).await;
        if let Some(manifest) = self.stored_manifest(call, repository, digest).await {
            return self.known_manifest(call, repository, manifest).await;
        }
        match self.fetch_manifest(call, repository, &reference, accept_class(&call.headers)).await {
            Ok((manifest, note)) => manifest_reply(call, &manifest, note),
            Err(reply) => *reply,
        }
    }

    /// A manifest that is stored and known to be in this repository: only the right to it is in question.
    async fn known_manifest(&self, call: &Call, repository: &RepositoryName, manifest: Manifest) -> Reply {
        if self.may_read(call, repository) {
            self.metrics.rights_checks.inc(RightsOutcome::Remembered);
            return manifest_reply(call, &manifest, hit(CacheStatus::Hit));
        }
        let reference = Reference::Digest(manifest.digest);
        let operation = Operation::manifest(Method::HEAD, repository, &reference, AcceptClass::ANY);
        match self.ask(call, repository, &operation, Wanted::Manifest).await {
            Asked::Allowed(_) => manifest_reply(call, &manifest, hit(CacheStatus::Revalidated)),
            Asked::Unproven(_) => match self.fetch_manifest(call, repository, &reference, AcceptClass::ANY).await {
                Ok((manifest, note)) => manifest_reply(call, &manifest, note),
                Err(reply) => *reply,
            },
            Asked::Refused(reply) => *reply,
            Asked::Down(reply) => {
                if !self.may_read_offline(call, repository).await {
                    return *reply;
                }
                manifest_reply(call, &manifest, hit(CacheStatus::Stale))
            }
        }
    }

    /// The stored manifest, if this repository is known to have it.
    pub(super) async fn stored_manifest(
        &self,
        call: &Call,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<Manifest> {
        // In memory on the spot; only else is a thread taken that may wait for the disk.
        if let Some(stored) = self.store.manifest_now(&call.registry.host, repository, digest) {
            return Some(stored.into());
        }
        let (store, digest) = (self.store.clone(), *digest);
        let (registry, repository) = (call.registry.host.clone(), repository.clone());
        offload(move || store.manifest(&registry, &repository, &digest)).await?.map(Manifest::from)
    }

    /// Asks upstream, and remembers what its answer says about the right to the repository.
    pub(super) async fn ask(
        &self,
        call: &Call,
        repository: &RepositoryName,
        operation: &Operation,
        wanted: Wanted,
    ) -> Asked {
        let answer = call.snapshot.upstream.execute(&call.registry, operation, &call.credential).await;
        match answer {
            Ok(answer) if wanted.is_shown_by(&answer) => {
                self.metrics.rights_checks.inc(RightsOutcome::Allowed);
                self.approve(call, repository).await;
                Asked::Allowed(Box::new(answer))
            }
            Ok(answer) if is_open_question(&answer) => Asked::Unproven(Box::new(answer)),
            Ok(answer) if is_transient(answer.status) => {
                self.metrics.rights_checks.inc(RightsOutcome::Unknown);
                Asked::Down(Box::new(replies::refused(Refusal::read(answer).await.worded(operation.unknown))))
            }
            Ok(answer) => {
                self.metrics.rights_checks.inc(RightsOutcome::Denied);
                if !answer.crossed && matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.deny(call, repository).await;
                }
                Asked::Refused(Box::new(self.refused_by_upstream(call, answer, operation.unknown).await))
            }
            Err(error) => {
                self.metrics.rights_checks.inc(RightsOutcome::Unknown);
                Asked::Down(Box::new(self.unreachable(call, &error)))
            }
        }
    }

    /// HEAD stays HEAD: nothing is fetched, upstream's head is the answer.
    pub(super) async fn head_upstream(
        &self,
        call: &Call,
        repository: &RepositoryName,
        reference: &Reference,
        class: AcceptClass,
    ) -> Reply {
        let operation = Operation::manifest(Method::HEAD, repository, reference, class);
        match self.ask(call, repository, &operation, Wanted::Manifest).await {
            Asked::Allowed(answer) | Asked::Unproven(answer) => {
                let digest = answer.digest;
                let reply = replies::relayed(*answer).noted(RequestType::Unknown, CacheStatus::Miss).without_body();
                match digest {
                    Some(digest) => reply.with(DOCKER_CONTENT_DIGEST, &digest.to_string()),
                    None => reply,
                }
            }
            Asked::Refused(reply) | Asked::Down(reply) => *reply,
        }
    }

    /// Reads a manifest from upstream, checks it against its digest, stores it and notes that the repository has it.
    /// What cannot be cached comes back as the reply that passes it through.
    pub(super) async fn fetch_manifest(
        &self,
        call: &Call,
        repository: &RepositoryName,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<(Manifest, Note), Box<Reply>> {
        let operation = Operation::manifest(Method::GET, repository, reference, class);
        let answer = match self.ask(call, repository, &operation, Wanted::Manifest).await {
            Asked::Allowed(answer) | Asked::Unproven(answer) => *answer,
            Asked::Refused(reply) | Asked::Down(reply) => return Err(reply),
        };
        if answer.status != StatusCode::OK || answer.headers.contains_key(CONTENT_ENCODING) {
            let message = "entrepot: upstream answered a manifest in a form that was not asked for";
            return Err(Box::new(Reply::error(ErrorCode::BadGateway, message).because("encoded")));
        }
        let note = Note {
            upstream: Some(answer.host.to_string()),
            upstream_time: Some(answer.elapsed),
            cache_status: CacheStatus::Miss,
            ..Note::default()
        };
        let (told, headers) = (answer.digest, answer.headers.clone());
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let bytes = read_manifest(answer).await.map_err(|unread| Box::new(self.unread(unread, &headers, expected)))?;
        let digest = Digest::of(expected.map_or(Algorithm::Sha256, |digest| digest.algorithm()), &bytes);
        if expected.is_some_and(|expected| expected != digest) {
            let message = format!("entrepot: upstream's manifest has the digest {digest}, not the one it is named by");
            tracing::warn!(registry = %call.registry.host, %repository, %reference, "{message}");
            return Err(Box::new(Reply::error(ErrorCode::BadGateway, &message).because("wrong_digest")));
        }
        let Some(media_type) = agreed_media_type(&headers, &bytes) else {
            self.metrics.bypass.inc(Bypass::Ambiguous);
            return Err(Box::new(ambiguous(&headers, digest, bytes, note)));
        };
        // A manifest, and the one that was named: whatever way it came, the registry led there.
        self.approve(call, repository).await;
        let manifest = Manifest { bytes, media_type, digest, stored_at: None };
        self.keep_manifest(call, repository, &manifest).await;
        Ok((manifest, note))
    }

    async fn keep_manifest(&self, call: &Call, repository: &RepositoryName, manifest: &Manifest) {
        if !call.snapshot.config.cache.enabled {
            return;
        }
        let (store, manifest) = (self.store.clone(), manifest.clone());
        let (registry, repository) = (call.registry.host.clone(), repository.clone());
        if let Err(error) = store.put_in_time(&manifest.digest, manifest.bytes).await {
            tracing::warn!("a manifest was served but not stored: {error}");
            return self.metrics.bypass.inc(error.bypass());
        }
        let noted = offload(move || {
            store.set_media_type(&manifest.digest, &manifest.media_type);
            store.link(&registry, &repository, &manifest.digest);
        });
        if noted.await.is_some() {
            self.metrics.stored.inc();
        }
    }

    /// A manifest that was not read to its end: too large to be kept, or broken.
    fn unread(&self, unread: Unread, headers: &HeaderMap, named: Option<Digest>) -> Reply {
        match unread {
            Unread::Broken(error) => replies::unreachable(&error),
            Unread::TooLarge(start, rest) => {
                self.metrics.bypass.inc(Bypass::TooLarge);
                let body = ReplyBody::pieces(Oversize::new(start, rest, named));
                let note = Note { cache_status: CacheStatus::Bypass, reason: Some("too_large"), ..Note::default() };
                Reply { status: StatusCode::OK, headers: relayed_headers(headers), body, note }
            }
        }
    }

    /// Upstream's refusal for the client, its challenge made one that the client can answer here where need be.
    pub(super) async fn refused_by_upstream(&self, call: &Call, answer: Answer, unknown: ErrorCode) -> Reply {
        if answer.crossed {
            let message = format!("entrepot: {}, where the registry led to, answered {}", answer.host, answer.status);
            return Reply::error(ErrorCode::BadGateway, &message).because("redirect_target");
        }
        let note =
            Note { upstream: Some(answer.host.to_string()), upstream_time: Some(answer.elapsed), ..Note::default() };
        let refusal = self.challenged(call, Refusal::read(answer).await.worded(unknown));
        Reply { note, ..replies::refused(refusal) }
    }

    /// Upstream could not be asked; said once for each request, with whose fault it is.
    pub(super) fn unreachable(&self, call: &Call, error: &UpstreamError) -> Reply {
        // Without the query, where tokens and signatures are.
        let path = call.path_and_query.split('?').next().unwrap_or_default();
        tracing::warn!(registry = %call.registry.host, path, "{error}");
        replies::unreachable(error)
    }
}

/// What is asked for, which tells when an answer shows that the registry itself gives it to this credential. A redirect
/// shows nothing, and neither does a page: both are ways to ask for a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Manifest,
    /// Content that is so long, where that is known.
    Content(Option<u64>),
}

impl Wanted {
    fn is_shown_by(self, answer: &Answer) -> bool {
        let is_it = || match self {
            Self::Manifest => {
                let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                content_type.is_some_and(|content_type| ManifestType::of(content_type).is_some())
            }
            Self::Content(size) => size.is_none() || answer.content_length() == size,
        };
        answer.status.is_success() && answer.is_registrys_word() && (answer.digest.is_some() || is_it())
    }
}

/// What asking upstream came to.
pub(super) enum Asked {
    /// Upstream serves it to this credential.
    Allowed(Box<Answer>),
    /// It led elsewhere, or takes no HEAD: only the content itself can tell.
    Unproven(Box<Answer>),
    Refused(Box<Reply>),
    /// It could not be asked, or was not in a state to say.
    Down(Box<Reply>),
}

enum Unread {
    Broken(UpstreamError),
    TooLarge(Bytes, entrepot_upstream::body::TimedBody),
}

fn is_open_question(answer: &Answer) -> bool {
    answer.status.is_success()
        || answer.status.is_redirection()
        || matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
        || (answer.crossed && answer.status.is_client_error())
}

/// Answers that say nothing about the content: what is cached may stand in.
pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// The name of a manifest's lock: another registry's slowness is not ours to wait for.
pub(super) fn place_of(call: &Call, repository: &RepositoryName, digest: &Digest) -> String {
    format!("{}/{repository}@{digest}", call.registry.host)
}

/// The manifest types that the client takes, as a set.
pub(super) fn accept_class(headers: &HeaderMap) -> AcceptClass {
    AcceptClass::of(headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()))
}

pub(super) fn hit(cache_status: CacheStatus) -> Note {
    Note { cache_status, ..Note::default() }
}

pub(super) fn manifest_reply(call: &Call, manifest: &Manifest, note: Note) -> Reply {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&manifest.media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len() as u64));
    let body = ReplyBody::Full(if call.is_head() { Bytes::new() } else { manifest.bytes.clone() });
    let note = Note { stored_at: manifest.stored_at, ..note };
    Reply { status: StatusCode::OK, headers, body, note }
        .with(DOCKER_CONTENT_DIGEST, &manifest.digest.to_string())
        .with(ETAG, &format!("\"{}\"", manifest.digest))
        .of(manifest.digest)
}

async fn read_manifest(answer: Answer) -> Result<Bytes, Unread> {
    let told = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut body = answer.body;
    let mut bytes = BytesMut::with_capacity(told.unwrap_or(8192).min(MANIFEST_MAX_BYTES));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Unread::Broken)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MANIFEST_MAX_BYTES {
            return Err(Unread::TooLarge(bytes.freeze(), body));
        }
    }
    Ok(bytes.freeze())
}

/// The one media type that Content-Type and the manifest itself agree on (T12). A CDN behind a redirect knows no
/// manifest types; then the manifest's own word counts.
fn agreed_media_type(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let info = ManifestInfo::inspect(bytes).ok()?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match ManifestType::of(content_type) {
        Some(_) if media::agrees(content_type, &info) => Some(content_type.to_owned()),
        Some(_) => None,
        None if !info.ambiguous => info.media_type,
        None => None,
    }
}

/// A manifest whose type is in doubt is passed on as it came, and not kept.
fn ambiguous(headers: &HeaderMap, digest: Digest, bytes: Bytes, note: Note) -> Reply {
    let mut headers = relayed_headers(headers);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len() as u64));
    let note = Note { cache_status: CacheStatus::Bypass, reason: Some("ambiguous"), ..note };
    Reply { status: StatusCode::OK, headers, body: ReplyBody::Full(bytes), note }
        .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
}
