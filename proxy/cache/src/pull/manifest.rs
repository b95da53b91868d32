//! One manifest: read from upstream, checked against its digest and its type, stored, and replied.
//!
//! Neighbours: `pipeline` decides which manifest a client gets; `oversize` passes on what is too large to be kept.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use entrepot_core::coding;
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::host::RegistryHost;
use entrepot_core::media::{self, AcceptClass, MANIFEST_MAX_BYTES, ManifestInfo, ManifestType};
use entrepot_core::name::{Reference, RepositoryName};
use entrepot_core::schema1;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;

use crate::pull::Pull;
use crate::pull::asking::{Asked, Wanted};
use crate::pull::error::PullError;
use crate::pull::oversize::Oversize;
use crate::pull::replies::relayed_headers;
use crate::pull::request::RequestContext;
use crate::pull::rights::{Object, Right};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{Bypass, Served};
use entrepot_observe::trail::Decision;
use entrepot_store::{Link, StoredManifest};
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::Answer;
use entrepot_upstream::timed_body::TimedBody;

/// A manifest in memory.
#[derive(Clone)]
pub struct Manifest {
    /// Its bytes, verbatim.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The digest it is named by.
    pub digest: Digest,
    /// Since when it is stored. None for one that was just fetched.
    pub stored_at: Option<SystemTime>,
}

/// A manifest as it came from upstream.
pub(super) enum Fetched {
    /// A manifest that is checked, and stored where the disk takes it; upstream gave it to this request.
    Manifest(Manifest, Right),
    /// The reply that passes it on to this client, because it cannot be kept.
    PassedThrough(Reply),
}

impl Fetched {
    /// The reply for the client that it was fetched for.
    pub(super) fn into_reply(self, request: &RequestContext, served: Served) -> Reply {
        match self {
            Self::Manifest(manifest, right) => reply(request, &manifest, served, right),
            Self::PassedThrough(reply) if request.is_head() => reply.without_body(),
            Self::PassedThrough(reply) => reply,
        }
    }
}

impl Pull {
    /// Reads a manifest from upstream, checks it against its digest, stores it and notes that the repository has it.
    pub(super) async fn fetch_manifest(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<Fetched, PullError> {
        let operation = Operation::manifest(Method::GET, repository, reference, class);
        let answer = match self.ask(request, repository, &operation, Wanted::Manifest).await {
            Asked::Allowed(answer, _) | Asked::Unproven(answer) => *answer,
            Asked::Refused(error) | Asked::Down(error) => return Err(error),
        };
        if answer.status != StatusCode::OK || is_encoded(&answer) {
            return Err(PullError::ManifestForm);
        }
        let (told, headers, host) = (answer.digest, answer.headers.clone(), answer.host.clone());
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let bytes = match read(answer).await {
            Ok(bytes) => bytes,
            Err(Unread::Broken(error)) => return Err(self.unreachable(request, Arc::new(error))),
            Err(Unread::TooLarge(start, _)) if !start.trim_ascii_start().starts_with(b"{") => {
                return Err(no_manifest(host, &headers, None));
            }
            Err(Unread::TooLarge(start, rest)) => {
                request.trail.record(Decision::PassedThrough(Bypass::TooLarge));
                return Ok(Fetched::PassedThrough(too_large(start, rest, &headers, expected)));
            }
        };
        let digest = Digest::of(expected.map_or(Algorithm::Sha256, |digest| digest.algorithm()), &bytes);
        let is_named = expected == Some(digest) && matches!(reference, Reference::Digest(_));
        if !is_named && !ManifestInfo::inspect(&bytes).is_ok_and(|info| info.is_manifest) {
            return Err(no_manifest(host, &headers, Some(bytes.len())));
        }
        if let Some(expected) = expected
            && expected != digest
        {
            if schema1::payload_digest(&bytes, expected.algorithm()) == Some(expected) {
                request.trail.record(Decision::PassedThrough(Bypass::Signed));
                return Ok(Fetched::PassedThrough(as_it_came(&headers, expected, bytes)));
            }
            let error = PullError::WrongManifest { got: digest };
            tracing::warn!(registry = %request.registry.origin, %repository, %reference, "{error}");
            return Err(error);
        }
        let Some(media_type) = agreed_media_type(&headers, &bytes) else {
            request.trail.record(Decision::PassedThrough(Bypass::Ambiguous));
            return Ok(Fetched::PassedThrough(as_it_came(&headers, digest, bytes)));
        };
        // A manifest, and the one that was named: whatever way it came, the registry led there.
        let right = self.approve(request, &Object::Repository(request.place(repository)));
        let manifest = Manifest { bytes, media_type, digest, stored_at: None };
        self.keep_manifest(request, repository, &manifest).await;
        Ok(Fetched::Manifest(manifest, right))
    }

    /// The stored manifest and its link. None if it is not stored, or this repository is not known to have it.
    pub(super) async fn stored_manifest(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<(Manifest, Link)> {
        let (stored, link) = self.store.names.manifest(&request.place(repository), digest).await?;
        Some((stored.into(), link))
    }

    async fn keep_manifest(&self, request: &RequestContext, repository: &RepositoryName, manifest: &Manifest) {
        if !request.snapshot.config.cache.enabled {
            return;
        }
        if let Err(error) = self.store.partial_blobs.put(&manifest.digest, manifest.bytes.clone()).await {
            tracing::warn!("a manifest was served but not stored: {error}");
            return request.trail.record(Decision::NotStored(error.bypass()));
        }
        let place = request.place(repository);
        let public_at = self.public_now(request);
        self.store.names.keep_manifest(&place, &manifest.digest, &manifest.media_type, public_at).await;
        self.confirm_told(&place, manifest).await;
        request.trail.record(Decision::Stored);
    }
}

/// Whether upstream says that the manifest is compressed. Words that mean nothing are taken for what they are.
fn is_encoded(answer: &Answer) -> bool {
    let value = answer.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| coding::changing(value).is_some())
}

/// The manifest for a client that has the right to it; only its head for HEAD.
pub(super) fn reply(request: &RequestContext, manifest: &Manifest, served: Served, _: Right) -> Reply {
    let (digest, stored_at) = (Some(manifest.digest), manifest.stored_at);
    request.trail.record(Decision::Content { served, digest, stored_at });
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&manifest.media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len() as u64));
    let body = ReplyBody::Full(if request.is_head() { Bytes::new() } else { manifest.bytes.clone() });
    Reply { status: StatusCode::OK, headers, body, refused: None }
        .with(DOCKER_CONTENT_DIGEST, &manifest.digest.to_string())
        .with(ETAG, &format!("\"{}\"", manifest.digest))
}

impl From<StoredManifest> for Manifest {
    fn from(stored: StoredManifest) -> Self {
        let StoredManifest { digest, bytes, media_type, stored_at } = stored;
        Self { bytes, media_type: media_type.as_ref().to_owned(), digest, stored_at }
    }
}

/// Why a manifest, or a list, was not read to its end.
pub(super) enum Unread {
    Broken(UpstreamError),
    TooLarge(Bytes, TimedBody),
}

pub(super) async fn read(answer: Answer) -> Result<Bytes, Unread> {
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

/// The one media type that Content-Type and the manifest itself agree on (T12 in `docs/threats.md`). A CDN behind a
/// redirect knows no manifest types; then the manifest's own word counts.
fn agreed_media_type(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let info = ManifestInfo::inspect(bytes).ok()?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match ManifestType::of(content_type) {
        Some(_) if media::agrees_by_shape(content_type, &info) => Some(content_type.to_owned()),
        Some(_) => None,
        None if !info.ambiguous => info.media_type,
        None => None,
    }
}

pub(super) fn too_large(start: Bytes, rest: TimedBody, headers: &HeaderMap, named: Option<Digest>) -> Reply {
    let body = ReplyBody::pieces(Oversize::new(start, rest, named));
    Reply { status: StatusCode::OK, headers: relayed_headers(headers), body, refused: None }
}

/// Says what came where a manifest should be. `length` is None if it is too long to be read.
fn no_manifest(host: RegistryHost, headers: &HeaderMap, length: Option<usize>) -> PullError {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("content of no type");
    let what = match length {
        Some(length) => format!("{content_type} ({length} bytes)"),
        None => content_type.to_owned(),
    };
    PullError::NoContent { host, what, wanted: "a manifest" }
}

/// A manifest that cannot be kept is passed on as it came: its type is in doubt, or its digest is not that of its bytes.
fn as_it_came(headers: &HeaderMap, digest: Digest, bytes: Bytes) -> Reply {
    let mut headers = relayed_headers(headers);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len() as u64));
    Reply { status: StatusCode::OK, headers, body: ReplyBody::Full(bytes), refused: None }
        .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
}
