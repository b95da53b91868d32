//! Uploads: begin, add, ask, end, cancel; in one request, in two, in chunks or as a stream; and mounts, which need none
//! of it.
//!
//! 201 is said when the bytes have their digest, lie under it durably, and the repository's link to them does too.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::name::RepositoryName;
use entrepot_core::range::ChunkRange;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, StatusCode};
use hyper::body::{Body, Incoming};

use super::LocalRegistry;
use super::access::{AccessRefusal, Action, Wish};
use super::events::{Deed, Event};
use super::failure::{no_room, store_failed, unavailable};
use super::receive::{Interrupted, digest, receive};
use super::request::LocalRequest;
use super::sessions::{NotBegun, Session, State};
use entrepot_cache::pull::offload;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_observe::trail::Decision;
use entrepot_store::{PartialBlob, StoreError};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Of a blob in events, whatever manifests call it.
const BLOB_TYPE: &str = "application/octet-stream";

/// Where a session stood before a request, to be set back to where the request comes to nothing.
struct Mark {
    length: u64,
    hasher: Option<entrepot_core::digest::Hasher>,
}

impl LocalRequest {
    /// `POST /v2/<name>/blobs/uploads/`
    pub(super) async fn begin_upload(&self, repository: &RepositoryName, body: &mut Incoming) -> Reply {
        if let Some(mount) = self.parameter("mount") {
            let Ok(digest) = mount.parse::<Digest>() else { return Reply::error(ErrorCode::DigestInvalid, "") };
            if let Some(reply) = self.mount(repository, &digest).await {
                return reply;
            }
        }
        let whole = match self.parameter("digest").map(|text| text.parse::<Digest>()) {
            Some(Err(_)) => return Reply::error(ErrorCode::DigestInvalid, ""),
            Some(Ok(digest)) => Some(digest),
            None => None,
        };
        let named = self.parameter("digest-algorithm").map(|name| algorithm(&name));
        let algorithm = match (named, whole) {
            (Some(None), _) => return Reply::error(ErrorCode::DigestInvalid, "sha256 and sha512 are known here"),
            (Some(Some(algorithm)), _) => algorithm,
            (None, whole) => whole.map_or(Algorithm::Sha256, |digest| digest.algorithm()),
        };
        let session = match self.begin_session(repository, algorithm).await {
            Ok(session) => session,
            Err(reply) => return *reply,
        };
        match whole {
            // Without a body this only asks for a session, unless it is the empty blob that is pushed.
            Some(digest) if !body.is_end_stream() || digest == Digest::of(digest.algorithm(), b"") => {
                let reply = self.finish(&session, &digest, body).await;
                if reply.status != StatusCode::CREATED {
                    end(&self.registry, &session).await;
                }
                reply
            }
            _ => session_reply(StatusCode::ACCEPTED, &session, 0),
        }
    }

    /// `PATCH`: adds to an upload.
    pub(super) async fn add_to_upload(&self, repository: &RepositoryName, id: &str, body: &mut Incoming) -> Reply {
        let Some(session) = self.session(repository, id) else { return unknown_upload() };
        let mut state = session.state.lock().await;
        if state.is_over {
            return unknown_upload();
        }
        let added = self.append(&session, &mut state, body).await;
        session.touch();
        match added {
            Ok(_) => session_reply(StatusCode::ACCEPTED, &session, state.length),
            Err(reply) => *reply,
        }
    }

    /// `PUT`: ends an upload.
    pub(super) async fn end_upload(&self, repository: &RepositoryName, id: &str, body: &mut Incoming) -> Reply {
        let Some(session) = self.session(repository, id) else { return unknown_upload() };
        match self.parameter("digest").map(|text| text.parse::<Digest>()) {
            Some(Ok(digest)) => self.finish(&session, &digest, body).await,
            Some(Err(_)) => Reply::error(ErrorCode::DigestInvalid, ""),
            None => Reply::error(ErrorCode::DigestInvalid, "the parameter digest is missing"),
        }
    }

    /// `GET`: how far an upload is.
    pub(super) async fn upload_status(&self, repository: &RepositoryName, id: &str) -> Reply {
        let Some(session) = self.session(repository, id) else { return unknown_upload() };
        let state = session.state.lock().await;
        if state.is_over {
            return unknown_upload();
        }
        session_reply(StatusCode::NO_CONTENT, &session, state.length)
    }

    /// `DELETE`: gives an upload up.
    pub(super) async fn cancel_upload(&self, repository: &RepositoryName, id: &str) -> Reply {
        let Some(session) = self.session(repository, id) else { return unknown_upload() };
        let mut state = session.state.lock().await;
        if state.is_over {
            return unknown_upload();
        }
        state.is_over = true;
        drop(state);
        end(&self.registry, &session).await;
        empty(StatusCode::NO_CONTENT)
    }

    /// Takes a blob over from a repository that the client may read; none where there is none.
    async fn mount(&self, repository: &RepositoryName, digest: &Digest) -> Option<Reply> {
        let from = match self.parameter("from") {
            Some(name) => Some(name.parse::<RepositoryName>().ok()?),
            None => None,
        };
        let (registry, access, visitor) = (self.registry.clone(), self.registry.access(), self.visitor.clone());
        let (to, digest) = (repository.clone(), *digest);
        let _turn = self.registry.turn(repository).await;
        let mounted = offload(move || {
            let readable = |from: &RepositoryName| access.may(&visitor, &Wish::In(from, Action::Pull)).is_ok();
            let store = &registry.store;
            let from = match from {
                Some(from) => Some(from).filter(|from| readable(from) && store.has_pushed_blob(from, &digest)),
                None => store.pushed_holder(&digest, readable)?,
            };
            let Some(from) = from else { return Ok::<_, StoreError>(None) };
            let size_bytes = store.blob(&digest)?.map_or(0, |blob| blob.size_bytes);
            if let Some(refusal) = registry.overdrawn(&to, Some(&digest), size_bytes)? {
                return Ok(Some(Err(refusal)));
            }
            Ok(store.link_pushed(&to, &digest)?.then_some(Ok(from)))
        });
        match mounted.await? {
            Ok(Some(Err(refusal))) => Some(refusal.plain()),
            Ok(Some(Ok(from))) => {
                let media_type = Some(BLOB_TYPE.to_owned());
                let about = |event| Event { digest: Some(digest), from: Some(from), media_type, ..event };
                self.tell(Deed::Mount, repository, about);
                self.scope.trail.record(Decision::Pushed(digest));
                Some(created(&blob_location(repository, &digest), &digest))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%repository, "a blob cannot be mounted: {error}");
                None
            }
        }
    }

    async fn begin_session(
        &self,
        repository: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<Arc<Session>, Box<Reply>> {
        let (registry, repository) = (self.registry.clone(), repository.clone());
        let (principal, max) = (self.visitor.principal.clone(), self.scope.snapshot.config.registry.max_uploads);
        let begun = offload(move || registry.sessions.begin(&repository, &principal, algorithm, max)).await;
        begun.unwrap_or(Err(NotBegun::Random)).map_err(|why| {
            Box::new(match why {
                NotBegun::TooMany => Reply::error(ErrorCode::TooManyRequests, "too many uploads run at the moment"),
                NotBegun::Random => unavailable(),
                NotBegun::Store(error) => store_failed(&error),
            })
        })
    }

    fn session(&self, repository: &RepositoryName, id: &str) -> Option<Arc<Session>> {
        self.registry.sessions.find(id, repository, &self.visitor.principal)
    }

    /// Adds the request's body where its place is the right one. On a refusal the state is as before, except that what came
    /// of a body that broke off stays: the client asks how far it got, and goes on there.
    async fn append(
        &self,
        session: &Session,
        state: &mut State,
        body: &mut Incoming,
    ) -> Result<Arc<PartialBlob>, Box<Reply>> {
        let range = self.chunk_range()?;
        if range.is_some_and(|range| range.first != state.length) {
            return Err(Box::new(out_of_order(session, state.length)));
        }
        let told = self.header(&CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let (Some(range), Some(told)) = (range, told)
            && range.length() != told
        {
            return Err(Box::new(wrong_size()));
        }
        if let Some(refusal) =
            self.no_room_for(&session.repository, state.length.saturating_add(told.unwrap_or(0))).await
        {
            return Err(refusal);
        }
        let fill =
            self.registry.store.open_upload(&session.file).await.map_err(|error| Box::new(store_failed(&error)))?;
        let fill = Arc::new(fill);
        let mark = Mark::of(state);
        match receive(&fill, state, body, self.scope.snapshot.config.client.body_timeout).await {
            Ok(added) if range.is_some_and(|range| range.length() != added) => {
                mark.reset(state);
                Err(Box::new(wrong_size()))
            }
            Ok(_) => Ok(fill),
            Err(Interrupted::Client) => {
                let message = "the request's body broke off";
                Err(Box::new(Reply::error(ErrorCode::BlobUploadInvalid, message).because(Refused::ClientLeft)))
            }
            Err(Interrupted::Store(error)) => {
                mark.reset(state);
                Err(Box::new(if matches!(error, StoreError::NoSpace { .. }) {
                    no_room()
                } else {
                    store_failed(&error)
                }))
            }
        }
    }

    /// The refusal of an upload that would pass a quota by its length alone: better before its bytes than after them.
    async fn no_room_for(&self, repository: &RepositoryName, length: u64) -> Option<Box<Reply>> {
        if !self.registry.access().has_quota(repository) {
            return None;
        }
        let (registry, repository) = (self.registry.clone(), repository.clone());
        match offload(move || registry.overdrawn(&repository, None, length)).await? {
            Ok(refusal) => Some(Box::new(refusal?.plain())),
            Err(error) => Some(Box::new(store_failed(&error))),
        }
    }

    fn chunk_range(&self) -> Result<Option<ChunkRange>, Box<Reply>> {
        let Some(text) = self.header(&CONTENT_RANGE) else { return Ok(None) };
        let range = text.parse().map_err(|_| Reply::error(ErrorCode::BlobUploadInvalid, "Content-Range: first-last"));
        range.map(Some).map_err(Box::new)
    }

    /// Adds the last bytes, compares, publishes, links. What is not acknowledged leaves the session as it was before this
    /// request, except where the disk failed while publishing.
    async fn finish(&self, session: &Arc<Session>, digest_told: &Digest, body: &mut Incoming) -> Reply {
        let mut state = session.state.lock().await;
        if state.is_over {
            return unknown_upload();
        }
        let mut attempt = State { length: state.length, hasher: state.hasher.clone(), is_over: false };
        let fill = match self.append(session, &mut attempt, body).await {
            Ok(fill) => fill,
            Err(reply) => return *reply,
        };
        session.touch();
        match digest(&fill, &attempt, digest_told.algorithm()).await {
            Ok(actual) if actual == *digest_told => {}
            Ok(_) => return Reply::error(ErrorCode::DigestInvalid, "the content does not have this digest"),
            Err(error) => return store_failed(&error),
        }
        state.is_over = true;
        drop(state);
        let (registry, session, digest, length) =
            (self.registry.clone(), session.clone(), *digest_told, attempt.length);
        let repository = session.repository.clone();
        // A client that leaves now does not stop it half way.
        let kept = tokio::spawn(async move {
            let kept = keep(&registry, &session.repository, &fill, &digest, length).await;
            drop(fill);
            end(&registry, &session).await;
            kept
        });
        match kept.await.unwrap_or(Err(StoreError::DiskThreadGone)) {
            Ok(Some(refusal)) => refusal.plain(),
            Ok(None) => {
                let media_type = Some(BLOB_TYPE.to_owned());
                let about = |event| Event { digest: Some(digest), size_bytes: Some(length), media_type, ..event };
                self.tell(Deed::Push, &repository, about);
                self.scope.trail.record(Decision::Pushed(digest));
                created(&blob_location(&repository, &digest), &digest)
            }
            Err(error) => store_failed(&error),
        }
    }
}

async fn end(registry: &Arc<LocalRegistry>, session: &Session) {
    let (registry, id) = (registry.clone(), session.file.id);
    offload(move || registry.sessions.end(id)).await;
}

/// Makes the bytes of an upload content of the repository, if that has room for them.
async fn keep(
    registry: &Arc<LocalRegistry>,
    repository: &RepositoryName,
    fill: &Arc<PartialBlob>,
    digest: &Digest,
    length: u64,
) -> Result<Option<AccessRefusal>, StoreError> {
    let lost = || StoreError::DiskThreadGone;
    let _turn = registry.turn(repository).await;
    let (counting, into, named) = (registry.clone(), repository.clone(), *digest);
    let held = offload(move || {
        if let Some(refusal) = counting.overdrawn(&into, Some(&named), length)? {
            return Ok(Err(refusal));
        }
        // Pinned before it is there, so that no collection and no eviction comes in between.
        let hold = counting.store.hold(&named)?;
        Ok(Ok((hold, counting.store.has_content(&named, length))))
    });
    let (hold, is_there) = match held.await.ok_or_else(lost)?? {
        Ok(held) => held,
        Err(refusal) => return Ok(Some(refusal)),
    };
    if !is_there {
        fill.publish_upload(digest, length).await?;
    }
    let (store, repository) = (registry.store.clone(), repository.clone());
    let linked = offload(move || {
        let linked = store.link_pushed(&repository, &named);
        drop(hold);
        linked
    });
    if linked.await.ok_or_else(lost)?? { Ok(None) } else { Err(lost()) }
}

impl Mark {
    fn of(state: &State) -> Self {
        Self { length: state.length, hasher: state.hasher.clone() }
    }

    fn reset(self, state: &mut State) {
        state.length = self.length;
        state.hasher = self.hasher;
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|algorithm| algorithm.name() == name)
}

pub(super) fn blob_location(repository: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// 201 for content that is here to stay.
pub(super) fn created(location: &str, digest: &Digest) -> Reply {
    empty(StatusCode::CREATED).with(LOCATION, location).with(CONTENT_DIGEST, &digest.to_string())
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut headers = HeaderMap::new();
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, 0.into());
    }
    Reply { status, headers, body: ReplyBody::Full(Bytes::new()), refused: None }
}

/// Where the session goes on. Without any bytes the range is the one that Docker's registry says.
fn session_reply(status: StatusCode, session: &Session, length: u64) -> Reply {
    placed(empty(status), session, length)
}

fn placed(reply: Reply, session: &Session, length: u64) -> Reply {
    reply
        .with(LOCATION, &session.location())
        .with(RANGE, &format!("0-{}", length.saturating_sub(1)))
        .with(UPLOAD_UUID, &session.file.id.to_string())
}

fn out_of_order(session: &Session, length: u64) -> Reply {
    let message = "the chunk does not begin where the upload ends";
    let reply = Reply::error_with_status(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid, message);
    placed(reply, session, length)
}

fn wrong_size() -> Reply {
    Reply::error(ErrorCode::SizeInvalid, "")
}

fn unknown_upload() -> Reply {
    Reply::error(ErrorCode::BlobUploadUnknown, "")
}
