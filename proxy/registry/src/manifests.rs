//! Manifests and tags: taken verbatim, given back verbatim, deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::media::{self, MANIFEST_MAX_BYTES, ManifestInfo, ManifestType};
use entrepot_core::name::{Reference, RepositoryName, Tag};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::body::Incoming;
use tracing::Instrument;

use super::LocalRegistry;
use super::access::{AccessRefusal, Principal};
use super::error::RegistryError;
use super::events::{Deed, Event};
use super::removal::{NotRemoved, RemovalTarget};
use super::request::LocalRequest;
use super::sessions::TooMany;
use super::uploads::empty;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::held_body::{HeldBody, NotHeld};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_observe::trail::Decision;
use entrepot_store::{NotPut, PushedManifest, StoreError, StoredManifest};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may set.
const TAGS_MAX: usize = 100;

/// A manifest that may be taken, with where it is to go.
struct Arrived {
    body: HeldBody,
    media_type: String,
    digest: Digest,
    info: ManifestInfo,
    tags: Vec<Tag>,
}

impl LocalRequest {
    /// `GET` or `HEAD /v2/<name>/manifests/<reference>`
    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, RegistryError> {
        let store = self.registry.store.repositories.at(repository);
        match store.manifest(reference).await? {
            Some(manifest) => {
                self.scope.trail.record(Decision::Given(manifest.digest));
                Ok(manifest_reply(&manifest, self.is_head()))
            }
            None => Err(unknown_manifest(store.exists().await)),
        }
    }

    /// `PUT /v2/<name>/manifests/<reference>`
    pub(super) async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        body: &mut Incoming,
    ) -> Result<Reply, RegistryError> {
        let arrived = self.arrived(reference, body).await?;
        let (registry, named) = (self.registry.clone(), repository.clone());
        let (tags, digest) = (arrived.tags.clone(), arrived.digest);
        let (size_bytes, media_type) = (arrived.body.bytes().len() as u64, arrived.media_type.clone());
        let subject = arrived.info.subject.as_ref().map(|subject| subject.digest);
        // A client that leaves now does not stop it half way.
        let principal = self.visitor.principal.clone();
        let keeping = async move { keep(&registry, principal, named, arrived).await };
        match tokio::spawn(keeping.in_current_span()).await.unwrap_or(Err(StoreError::DiskThreadGone))? {
            Ok(()) => {}
            Err(NotPut::Missing(missing)) => return Err(RegistryError::Missing(missing)),
            Err(NotPut::Refused(refusal)) => return Err(refusal.into()),
        }
        let about = |event| Event {
            digest: Some(digest),
            size_bytes: Some(size_bytes),
            media_type: Some(media_type),
            tag: tags.first().cloned(),
            ..event
        };
        self.tell(Deed::Push, repository, about);
        let mut reply = empty(StatusCode::CREATED)
            .with(LOCATION, &format!("/v2/{repository}/manifests/{digest}"))
            .with(DOCKER_CONTENT_DIGEST, &digest.to_string());
        self.scope.trail.record(Decision::Pushed(digest));
        if let Some(subject) = subject {
            reply = reply.with(OCI_SUBJECT, &subject.to_string());
        }
        if matches!(reference, Reference::Digest(_)) && !tags.is_empty() {
            let listed: Vec<_> = tags.iter().map(Tag::as_str).collect();
            reply = reply.with(OCI_TAG, &listed.join(", "));
        }
        Ok(reply)
    }

    /// `DELETE /v2/<name>/manifests/<reference>`
    pub(super) async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, RegistryError> {
        match self.remove(repository, &RemovalTarget::from(reference)).await {
            Ok(removed) => {
                removed.manifests.into_iter().for_each(|digest| self.scope.trail.record(Decision::Deleted(digest)));
                Ok(empty(StatusCode::ACCEPTED))
            }
            Err(NotRemoved::Refused(refusal)) => Err(refusal.into()),
            Err(NotRemoved::Missing) => {
                Err(unknown_manifest(self.registry.store.repositories.at(repository).exists().await))
            }
            Err(NotRemoved::Failed(error)) => Err(error.into()),
        }
    }

    /// Reads and judges what was sent.
    async fn arrived(&self, reference: &Reference, body: &mut Incoming) -> Result<Arrived, RegistryError> {
        let body = self.whole(body).await?;
        let bytes = body.bytes();
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = Digest::of(algorithm, bytes);
        let tags = match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(named) if *named != digest => {
                let why = "the manifest does not have this digest";
                return Err(RegistryError::invalid(ErrorCode::DigestInvalid, why));
            }
            Reference::Digest(_) => self.further_tags()?,
        };
        let invalid = |why| RegistryError::invalid(ErrorCode::ManifestInvalid, why);
        let info = ManifestInfo::inspect(bytes);
        let info = info.map_err(|error| RegistryError::invalid(ErrorCode::ManifestInvalid, error.to_string()))?;
        let content_type = self.header(&CONTENT_TYPE).map(|text| text.split(';').next().unwrap_or_default().trim());
        let media_type = match (content_type, info.media_type.as_deref()) {
            (Some(told), _) if media::agrees(told, &info) => told.to_owned(),
            (None, Some(own)) if !info.ambiguous => own.to_owned(),
            _ => return Err(invalid("the Content-Type is not the type that the manifest has by its own words")),
        };
        if matches!(ManifestType::of(&media_type), Some(ManifestType::Schema1 | ManifestType::Schema1Signed)) {
            return Err(invalid("manifests of Docker's schema 1 are not taken; push schema 2 or OCI"));
        }
        Ok(Arrived { body, media_type, digest, info, tags })
    }

    async fn whole(&self, body: &mut Incoming) -> Result<HeldBody, RegistryError> {
        let (client, patience) = (self.scope.connection.client.into(), self.scope.snapshot.config.client.body_timeout);
        self.reads_body.store(true, Ordering::Relaxed);
        let received = self.bodies.receive(client, body, MANIFEST_MAX_BYTES, patience).await;
        received.map_err(|why| match why {
            NotHeld::TooLarge => too_much(StatusCode::PAYLOAD_TOO_LARGE, "the manifest is larger than 4 MiB"),
            NotHeld::BrokeOff => RegistryError::broke_off(ErrorCode::ManifestInvalid),
            NotHeld::Busy => RegistryError::TooManyUploads(TooMany::Total),
            NotHeld::Disk => RegistryError::DiskFailed,
        })
    }

    /// `?tag=` of a push by digest.
    fn further_tags(&self) -> Result<Vec<Tag>, RegistryError> {
        let tags: Result<Vec<Tag>, _> = self.parameters("tag").map(|text| text.parse()).collect();
        match tags {
            Ok(tags) if tags.len() <= TAGS_MAX => Ok(tags),
            Ok(_) => Err(too_much(StatusCode::URI_TOO_LONG, "more than 100 tags")),
            Err(_) => Err(RegistryError::invalid(ErrorCode::NameInvalid, "a parameter tag is no tag")),
        }
    }
}

fn unknown_manifest(has_repository: bool) -> RegistryError {
    RegistryError::Unknown { has_repository, code: ErrorCode::ManifestUnknown }
}

fn too_much(status: StatusCode, why: &'static str) -> RegistryError {
    let code = ErrorCode::ManifestInvalid;
    RegistryError::Invalid { code, status: Some(status), why: why.into(), refused: Refused::TooLarge }
}

/// Makes it content, then the repository's manifest, then what its tags point to.
async fn keep(
    registry: &Arc<LocalRegistry>,
    principal: Principal,
    repository: RepositoryName,
    arrived: Arrived,
) -> Result<Result<(), NotPut<AccessRefusal>>, StoreError> {
    let Arrived { body, media_type, digest, info, tags } = arrived;
    let bytes = body.bytes();
    let _turn = registry.turn(&repository).await;
    if let Some(refusal) = registry.overdrawn(&repository, &digest, bytes.len() as u64, None).await? {
        return Ok(Err(NotPut::Refused(refusal)));
    }
    let (repositories, access) = (&registry.store.repositories, registry.access());
    let hold = repositories.hold(&digest).await?;
    repositories.put(&digest, bytes.clone()).await?;
    let manifest = PushedManifest::of(digest, &media_type, &info, bytes, principal.pushes_as());
    let needed = info.children.iter().filter(|child| !child.is_foreign).map(|child| child.digest).collect();
    let named = repository.clone();
    let may_move = move |tag: &Tag, was| access.may_move(&principal, &named, tag, was);
    let put = repositories.at(&repository).put_manifest(manifest, tags, needed, may_move).await;
    drop(hold);
    put
}

fn manifest_reply(manifest: &StoredManifest, is_head: bool) -> Reply {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&manifest.media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len() as u64));
    let body = ReplyBody::Full(if is_head { Bytes::new() } else { manifest.bytes.clone() });
    Reply { status: StatusCode::OK, headers, body, refused: None }
        .with(DOCKER_CONTENT_DIGEST, &manifest.digest.to_string())
        .with(ETAG, &format!("\"{}\"", manifest.digest))
}
