//! Manifests and tags: taken verbatim, given back verbatim, deleted.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::media::{self, MANIFEST_MAX_BYTES, ManifestInfo, ManifestType};
use entrepot_core::name::{Reference, RepositoryName, Tag};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::LocalRegistry;
use super::access::{Access, AccessRefusal};
use super::events::{Deed, Event};
use super::failure::{store_failed, unavailable, unknown};
use super::removal::{NotRemoved, Target};
use super::request::LocalRequest;
use super::uploads::{CONTENT_DIGEST, empty};
use entrepot_cache::pull::offload;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_observe::trail::Decision;
use entrepot_store::{PushedManifest, Store, StoreError, StoredManifest};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may set.
const TAGS_MAX: usize = 100;

/// Why a manifest is not taken although it is one.
enum Objection {
    /// It names what the repository has not.
    Missing(Digest),
    /// A tag of it stays where it is, or there is no room.
    Refused(AccessRefusal),
}

/// A manifest that may be taken, with where it is to go.
struct Arrived {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
    info: ManifestInfo,
    tags: Vec<Tag>,
}

impl LocalRequest {
    /// `GET` or `HEAD /v2/<name>/manifests/<reference>`
    pub(super) async fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Reply {
        let (store, named, wanted) = (self.registry.store.clone(), repository.clone(), reference.clone());
        let found = offload(move || {
            let found = store.pushed_manifest(&named, &wanted)?;
            Ok(found.ok_or_else(|| store.has_repository(&named)))
        });
        match found.await {
            Some(Ok(Ok(manifest))) => manifest_reply(&manifest, self.is_head()),
            Some(Ok(Err(has_repository))) => unknown(has_repository, ErrorCode::ManifestUnknown),
            Some(Err(error)) => store_failed(&error),
            None => unavailable(),
        }
    }

    /// `PUT /v2/<name>/manifests/<reference>`
    pub(super) async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        body: &mut Incoming,
    ) -> Reply {
        let arrived = match self.arrived(reference, body).await {
            Ok(arrived) => arrived,
            Err(reply) => return *reply,
        };
        let (registry, named) = (self.registry.clone(), repository.clone());
        let (tags, digest) = (arrived.tags.clone(), arrived.digest);
        let (size_bytes, media_type) = (arrived.bytes.len() as u64, arrived.media_type.clone());
        let subject = arrived.info.subject.as_ref().map(|subject| subject.digest);
        // A client that leaves now does not stop it half way.
        let kept = tokio::spawn(async move { keep(&registry, named, arrived).await });
        match kept.await.unwrap_or(Err(StoreError::DiskThreadGone)) {
            Ok(None) => {}
            Ok(Some(Objection::Missing(missing))) => {
                let message = format!("the repository has not {missing}, which the manifest names");
                return Reply::error(ErrorCode::ManifestBlobUnknown, &message);
            }
            Ok(Some(Objection::Refused(refusal))) => return refusal.plain(),
            Err(error) => return store_failed(&error),
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
            .with(CONTENT_DIGEST, &digest.to_string());
        self.scope.trail.record(Decision::Pushed(digest));
        if let Some(subject) = subject {
            reply = reply.with(OCI_SUBJECT, &subject.to_string());
        }
        if matches!(reference, Reference::Digest(_)) && !tags.is_empty() {
            let listed: Vec<_> = tags.iter().map(Tag::as_str).collect();
            reply = reply.with(OCI_TAG, &listed.join(", "));
        }
        reply
    }

    /// `DELETE /v2/<name>/manifests/<reference>`
    pub(super) async fn delete_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Reply {
        match self.remove(repository, &Target::from(reference)).await {
            Ok(_) => empty(StatusCode::ACCEPTED),
            Err(NotRemoved::Refused(refusal)) => refusal.plain(),
            Err(NotRemoved::Missing) => {
                let (store, named) = (self.registry.store.clone(), repository.clone());
                let has_repository = offload(move || store.has_repository(&named)).await.unwrap_or(false);
                unknown(has_repository, ErrorCode::ManifestUnknown)
            }
            Err(NotRemoved::Failed(error)) => store_failed(&error),
            Err(NotRemoved::BrokenOff) => unavailable(),
        }
    }

    /// Reads and judges what was sent.
    async fn arrived(&self, reference: &Reference, body: &mut Incoming) -> Result<Arrived, Box<Reply>> {
        let bytes = self.whole(body).await?;
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = Digest::of(algorithm, &bytes);
        let tags = match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(named) if *named != digest => {
                return Err(Box::new(Reply::error(ErrorCode::DigestInvalid, "the manifest does not have this digest")));
            }
            Reference::Digest(_) => self.further_tags()?,
        };
        let invalid = |message: &str| Box::new(Reply::error(ErrorCode::ManifestInvalid, message));
        let info = ManifestInfo::inspect(&bytes).map_err(|error| invalid(&error.to_string()))?;
        let content_type = self.header(&CONTENT_TYPE).map(|text| text.split(';').next().unwrap_or_default().trim());
        let media_type = match (content_type, info.media_type.as_deref()) {
            (Some(told), _) if media::agrees(told, &info) => told.to_owned(),
            (None, Some(own)) if !info.ambiguous => own.to_owned(),
            _ => return Err(invalid("the Content-Type is not the type that the manifest has by its own words")),
        };
        if matches!(ManifestType::of(&media_type), Some(ManifestType::Schema1 | ManifestType::Schema1Signed)) {
            return Err(invalid("manifests of Docker's schema 1 are not taken; push schema 2 or OCI"));
        }
        Ok(Arrived { bytes, media_type, digest, info, tags })
    }

    async fn whole(&self, body: &mut Incoming) -> Result<Bytes, Box<Reply>> {
        let body = Limited::new(body, MANIFEST_MAX_BYTES).collect();
        match tokio::time::timeout(self.scope.snapshot.config.client.body_timeout, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = "the manifest is larger than 4 MiB";
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Err(Box::new(
                    Reply::error_with_status(status, ErrorCode::ManifestInvalid, message).because(Refused::TooLarge),
                ))
            }
            _ => Err(Box::new(Reply::error(ErrorCode::ManifestInvalid, "the request's body broke off"))),
        }
    }

    /// `?tag=` of a push by digest.
    fn further_tags(&self) -> Result<Vec<Tag>, Box<Reply>> {
        let tags: Result<Vec<Tag>, _> = self.parameters("tag").map(|text| text.parse()).collect();
        match tags {
            Ok(tags) if tags.len() <= TAGS_MAX => Ok(tags),
            Ok(_) => {
                let message = "more than 100 tags";
                let status = StatusCode::URI_TOO_LONG;
                Err(Box::new(Reply::error_with_status(status, ErrorCode::ManifestInvalid, message)))
            }
            Err(_) => Err(Box::new(Reply::error(ErrorCode::NameInvalid, "a parameter tag is no tag"))),
        }
    }
}

/// Makes it content, then the repository's manifest, then what its tags point to.
async fn keep(
    registry: &Arc<LocalRegistry>,
    repository: RepositoryName,
    arrived: Arrived,
) -> Result<Option<Objection>, StoreError> {
    let Arrived { bytes, media_type, digest, info, tags } = arrived;
    let lost = || StoreError::DiskThreadGone;
    let _turn = registry.turn(&repository).await;
    let (counting, named, size_bytes) = (registry.clone(), repository.clone(), bytes.len() as u64);
    let held = offload(move || match counting.overdrawn(&named, Some(&digest), size_bytes)? {
        Some(refusal) => Ok(Err(refusal)),
        None => counting.store.hold(&digest).map(Ok),
    });
    let hold = match held.await.ok_or_else(lost)?? {
        Ok(hold) => hold,
        Err(refusal) => return Ok(Some(Objection::Refused(refusal))),
    };
    let (store, access) = (registry.store.clone(), registry.access());
    store.put_pushed_in_time(&digest, bytes.clone()).await?;
    let put = offload(move || {
        let manifest = PushedManifest::of(digest, &media_type, &info, &bytes);
        let objection = || objection(&store, &access, &repository, &digest, &info, &tags);
        let put = store.put_pushed_manifest(&repository, &manifest, &tags, objection);
        drop(hold);
        put
    });
    put.await.ok_or_else(lost)?
}

fn objection(
    store: &Store,
    access: &Access,
    repository: &RepositoryName,
    digest: &Digest,
    info: &ManifestInfo,
    tags: &[Tag],
) -> Option<Objection> {
    let needed = info.children.iter().filter(|child| !child.is_foreign).map(|child| child.digest);
    if let Some(missing) = needed.into_iter().find(|child| !store.has_pushed(repository, child)) {
        return Some(Objection::Missing(missing));
    }
    let is_elsewhere = |tag: &Tag| store.pushed_tag(repository, tag).ok().flatten().is_some_and(|at| at != *digest);
    let mut moved = tags.iter().filter(|tag| is_elsewhere(tag));
    moved.find_map(|tag| access.may_move(repository, tag).err()).map(Objection::Refused)
}

fn manifest_reply(manifest: &StoredManifest, is_head: bool) -> Reply {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&manifest.media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len() as u64));
    let body = ReplyBody::Full(if is_head { Bytes::new() } else { manifest.bytes.clone() });
    Reply { status: StatusCode::OK, headers, body, refused: None }
        .with(CONTENT_DIGEST, &manifest.digest.to_string())
        .with(ETAG, &format!("\"{}\"", manifest.digest))
}
