//! Manifests and tags: taken verbatim, given back verbatim, deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use entrepot_core::conditional::{Conditions, Verdict};
use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::media::MANIFEST_MAX_BYTES;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use tracing::Instrument;

use super::LocalRegistry;
use super::access::{AccessRefusal, Principal};
use super::error::RegistryError;
use super::events::{Deed, Event};
use super::manifest_reading::{ReadManifest, Told};
use super::removal::{NotRemoved, RemovalTarget};
use super::request::LocalRequest;
use super::sessions::TooMany;
use super::uploads::empty;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::held_body::{HeldBody, NotHeld};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_observe::trail::Decision;
use entrepot_store::{Expected, NotPut, StoreError, StoredManifest};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may set.
const TAGS_MAX: usize = 100;

/// A manifest that may be taken, with where it is to go.
struct Arrived {
    body: HeldBody,
    read: ReadManifest,
    tags: Vec<Tag>,
    expected: Option<Expected>,
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
                if let Some(reply) = self.conditional(&manifest.digest)? {
                    return Ok(reply);
                }
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
        let (tags, manifest) = (arrived.tags.clone(), &arrived.read.manifest);
        let digest = manifest.digest;
        let (size_bytes, media_type) = (arrived.body.bytes().len() as u64, manifest.media_type.clone());
        let subject = arrived.read.info.subject.as_ref().map(|subject| subject.digest);
        // A client that leaves now does not stop it half way.
        let principal = self.visitor.principal.clone();
        let keeping = async move { keep(&registry, principal, named, arrived).await };
        match tokio::spawn(keeping.in_current_span()).await.unwrap_or(Err(StoreError::DiskThreadGone))? {
            Ok(()) => {}
            Err(NotPut::Missing(missing)) => return Err(RegistryError::Missing(missing)),
            Err(NotPut::Refused(refusal)) => return Err(refusal.into()),
            Err(NotPut::Unexpected) => return Err(RegistryError::Precondition),
        }
        // Each tag is told of: a receiver looks for its own.
        let told = if tags.is_empty() { vec![None] } else { tags.iter().cloned().map(Some).collect() };
        for tag in told {
            let media_type = Some(media_type.clone());
            let about = |event| Event { digest: Some(digest), size_bytes: Some(size_bytes), media_type, tag, ..event };
            self.tell(Deed::Push, repository, about);
        }
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
        let target = RemovalTarget::from(reference);
        let store = self.registry.store.repositories.at(repository);
        let removed = match (reference, store.digest_of(reference).await?) {
            (Reference::Tag(tag), Some(digest)) if !Conditions::of(&self.headers).is_empty() => {
                self.conditional(&digest)?;
                self.remove(repository, &RemovalTarget::TagAt(tag.clone(), digest)).await
            }
            (Reference::Digest(_), Some(digest)) => {
                self.conditional(&digest)?;
                self.remove(repository, &target).await
            }
            _ => self.remove(repository, &target).await,
        };
        match removed {
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

    /// Receives, reads and judges what is sent.
    async fn arrived(&self, reference: &Reference, body: &mut Incoming) -> Result<Arrived, RegistryError> {
        let tags = match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(_) => self.further_tags()?,
        };
        let told = Told {
            reference: reference.clone(),
            content_type: self.header(&CONTENT_TYPE).map(str::to_owned),
            pushed_by: self.visitor.principal.pushes_as(),
        };
        let (body, read) = self.registry.manifest_reader.read(self.whole(body).await?, told).await?;
        let conditions = Conditions::of(&self.headers);
        let holds = move |digest: Option<Digest>| {
            let tag = digest.map(|digest| digest.to_string());
            conditions.judge(&Method::PUT, tag.as_deref()) == Verdict::Proceed
        };
        let expected = (!Conditions::of(&self.headers).is_empty())
            .then(|| Expected { reference: reference.clone(), holds: Box::new(holds) });
        Ok(Arrived { body, read, tags, expected })
    }

    async fn whole(&self, body: &mut Incoming) -> Result<HeldBody, RegistryError> {
        let (client, patience) = (self.scope.connection.client.into(), self.scope.snapshot.config.client.body_timeout);
        self.reads_body.store(true, Ordering::Relaxed);
        let received = self.bodies.receive(client, body, MANIFEST_MAX_BYTES, patience).await;
        received.map_err(|why| match why {
            NotHeld::TooLarge => too_much(StatusCode::PAYLOAD_TOO_LARGE, "the manifest is larger than 4 MiB"),
            NotHeld::BrokeOff => RegistryError::broke_off(ErrorCode::ManifestInvalid),
            NotHeld::Stalled => RegistryError::stalled(),
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
    let Arrived { body, read: ReadManifest { manifest, info }, tags, expected } = arrived;
    let digest = manifest.digest;
    let bytes = body.bytes();
    let _turn = registry.turn(&repository).await;
    if let Some(refusal) = registry.overdrawn(&repository, &digest, bytes.len() as u64, None).await? {
        return Ok(Err(NotPut::Refused(refusal)));
    }
    let (repositories, access) = (&registry.store.repositories, registry.access());
    let hold = repositories.hold(&digest).await?;
    repositories.put(&digest, bytes.clone()).await?;
    let needed = info.children.iter().filter(|child| !child.is_foreign).map(|child| child.digest).collect();
    let named = repository.clone();
    let may_move = move |tag: &Tag, was| access.may_move(&principal, &named, tag, was);
    let put = repositories.at(&repository).put_manifest_if(expected, manifest, tags, needed, may_move).await;
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
