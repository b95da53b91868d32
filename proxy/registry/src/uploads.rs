//! Uploads: begin, add, ask, end, cancel; in one request, in two, in chunks or as a stream; and mounts, which need none
//! of it.
//!
//! 201 is said when the bytes have their digest, lie under it durably, and the repository's link to them does too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::error::ErrorCode;
use entrepot_core::name::RepositoryName;
use entrepot_core::range::ChunkRange;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION};
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Incoming};
use tokio::sync::MutexGuard;
use tracing::Instrument;

use super::LocalRegistry;
use super::access::{AccessRefusal, Action, Wish};
use super::error::{RegistryError, placed};
use super::events::{Deed, Event};
use super::receive::{Gate, Interrupted, digest, receive};
use super::request::LocalRequest;
use super::sessions::{NotBegun, Session, State};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::trail::Decision;
use entrepot_store::{PartialBlob, StoreError};

/// The media type of blobs in events, whatever manifests call it.
const BLOB_TYPE: &str = "application/octet-stream";

/// The state of a session before a request. The session is set back to it if the request fails.
struct Mark {
    length: u64,
    hasher: Option<entrepot_core::digest::Hasher>,
}

impl LocalRequest {
    /// `POST /v2/<name>/blobs/uploads/`
    pub(super) async fn begin_upload(
        &self,
        repository: &RepositoryName,
        body: &mut Incoming,
    ) -> Result<Reply, RegistryError> {
        let no_digest = |_| RegistryError::invalid(ErrorCode::DigestInvalid, "");
        if let Some(mount) = self.parameter("mount") {
            let digest = mount.parse::<Digest>().map_err(no_digest)?;
            if let Some(reply) = self.mount(repository, &digest).await? {
                return Ok(reply);
            }
        }
        let whole = self.parameter("digest").map(|text| text.parse::<Digest>()).transpose().map_err(no_digest)?;
        let named = self.parameter("digest-algorithm").map(|name| algorithm(&name));
        let algorithm = match (named, whole) {
            (Some(None), _) => {
                let why = "sha256 and sha512 are known here";
                return Err(RegistryError::invalid(ErrorCode::DigestInvalid, why));
            }
            (Some(Some(algorithm)), _) => algorithm,
            (None, whole) => whole.map_or(Algorithm::Sha256, |digest| digest.algorithm()),
        };
        let session = self.begin_session(repository, algorithm).await?;
        match whole {
            // Without a body this only asks for a session, unless it is the empty blob that is pushed.
            Some(digest) if !body.is_end_stream() || digest == Digest::of(digest.algorithm(), b"") => {
                let finished = self.finish(&session, &digest, body).await;
                if finished.is_err() {
                    end(&self.registry, &session).await;
                }
                finished
            }
            _ => Ok(session_reply(StatusCode::ACCEPTED, &session, 0)),
        }
    }

    /// `PATCH`: adds to an upload.
    pub(super) async fn add_to_upload(
        &self,
        repository: &RepositoryName,
        id: &str,
        body: &mut Incoming,
    ) -> Result<Reply, RegistryError> {
        let session = self.session(repository, id)?;
        let mut state = running(&session).await?;
        let added = self.append(&session, &mut state, body).await.map(drop);
        session.touch();
        if let Err(error) = added {
            self.rewind(&session, &state).await;
            return Err(error);
        }
        Ok(session_reply(StatusCode::ACCEPTED, &session, state.length))
    }

    /// `PUT`: ends an upload.
    pub(super) async fn end_upload(
        &self,
        repository: &RepositoryName,
        id: &str,
        body: &mut Incoming,
    ) -> Result<Reply, RegistryError> {
        let session = self.session(repository, id)?;
        match self.parameter("digest").map(|text| text.parse::<Digest>()) {
            Some(Ok(digest)) => self.finish(&session, &digest, body).await,
            Some(Err(_)) => Err(RegistryError::invalid(ErrorCode::DigestInvalid, "")),
            None => Err(RegistryError::invalid(ErrorCode::DigestInvalid, "the parameter digest is missing")),
        }
    }

    /// `GET`: how far an upload is.
    pub(super) async fn upload_status(&self, repository: &RepositoryName, id: &str) -> Result<Reply, RegistryError> {
        let session = self.session(repository, id)?;
        let state = running(&session).await?;
        Ok(session_reply(StatusCode::NO_CONTENT, &session, state.length))
    }

    /// `DELETE`: gives an upload up.
    pub(super) async fn cancel_upload(&self, repository: &RepositoryName, id: &str) -> Result<Reply, RegistryError> {
        let session = self.session(repository, id)?;
        let mut state = running(&session).await?;
        state.is_over = true;
        drop(state);
        end(&self.registry, &session).await;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Takes a blob over from a repository that the client may read. None if there is no such repository: the client
    /// uploads the blob then.
    async fn mount(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<Reply>, RegistryError> {
        let from = match self.parameter("from").map(|name| name.parse::<RepositoryName>()) {
            Some(Ok(name)) => Some(name),
            Some(Err(_)) => return Ok(None),
            None => None,
        };
        let _turn = self.registry.turn(repository).await;
        match self.link_from(from, repository, digest).await {
            Ok(Some(Err(refusal))) => Err(refusal.into()),
            Ok(Some(Ok(from))) => {
                let digest = *digest;
                let media_type = Some(BLOB_TYPE.to_owned());
                let about = |event| Event { digest: Some(digest), from: Some(from), media_type, ..event };
                self.tell(Deed::Mount, repository, about);
                self.scope.trail.record(Decision::Pushed(digest));
                Ok(Some(created(&blob_location(repository, &digest), &digest)))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::warn!(%repository, "a blob cannot be mounted: {error}");
                Ok(None)
            }
        }
    }

    /// Links a blob that another repository has; the repository that it is taken over from. None if there is none that
    /// the client may read.
    async fn link_from(
        &self,
        from: Option<RepositoryName>,
        to: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Result<RepositoryName, AccessRefusal>>, StoreError> {
        let (store, access, visitor) = (&self.registry.store, self.registry.access(), self.visitor.clone());
        let readable = move |from: &RepositoryName| access.may(&visitor, &Wish::In(from, Action::Pull)).is_ok();
        let from = match from {
            Some(from) if readable(&from) && store.repositories.at(&from).has_blob(digest).await => from,
            Some(_) => return Ok(None),
            None => match store.repositories.holder(digest, readable).await? {
                Some(from) => from,
                None => return Ok(None),
            },
        };
        let Some(size_bytes) = store.repositories.content_bytes(digest).await else { return Ok(None) };
        if let Some(refusal) = self.registry.overdrawn(to, digest, size_bytes, None).await? {
            return Ok(Some(Err(refusal)));
        }
        Ok(store.repositories.at(to).link(digest).await?.then_some(Ok(from)))
    }

    async fn begin_session(
        &self,
        repository: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<Arc<Session>, RegistryError> {
        let client = (&self.visitor.principal, self.scope.connection.client);
        let limits = self.scope.snapshot.config.registry.uploads;
        self.registry.sessions.begin(repository, client, algorithm, limits).await.map_err(|why| match why {
            NotBegun::TooMany(which) => RegistryError::TooManyUploads(which),
            NotBegun::Random => RegistryError::DiskFailed,
            NotBegun::Store(error) => error.into(),
        })
    }

    fn session(&self, repository: &RepositoryName, id: &str) -> Result<Arc<Session>, RegistryError> {
        let session = self.registry.sessions.find(id, repository, &self.visitor.principal);
        session.ok_or_else(RegistryError::unknown_upload)
    }

    /// Adds the request's body where its place is the right one. On a refusal the state is as before, except that what
    /// came of a body that broke off stays: the client asks how far it got, and goes on there.
    async fn append(
        &self,
        session: &Session,
        state: &mut State,
        body: &mut Incoming,
    ) -> Result<Arc<PartialBlob>, RegistryError> {
        let range = self.chunk_range()?;
        if range.is_some_and(|range| range.first != state.length) {
            let (location, id) = (session.location(), session.file.id.to_string());
            return Err(RegistryError::OutOfOrder { location, id, length: state.length });
        }
        let told = self.header(&CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let (Some(range), Some(told)) = (range, told)
            && range.length() != told
        {
            return Err(wrong_size());
        }
        if session.arrived.bytes() != state.length {
            // A request that was given up half way could not do it itself.
            self.rewind(session, state).await;
        }
        let budget = self.registry.budget(&session.repository).await?;
        let mut gate = Gate { budget, arrived: &session.arrived };
        // Better before its bytes than among them: by its length alone the upload may pass a quota.
        match gate.announce(state.length.saturating_add(told.unwrap_or(0))).await {
            Ok(()) | Err(Interrupted::Left | Interrupted::Stalled) => {}
            Err(Interrupted::Quota(refusal)) => return Err(refusal.into()),
            Err(Interrupted::Store(error)) => return Err(error.into()),
        }
        let fill = Arc::new(self.registry.store.uploads.open(&session.file).await?);
        let mark = Mark::of(state);
        self.reads_body.store(true, Ordering::Relaxed);
        match receive(&fill, session, state, body, &mut gate, self.scope.snapshot.config.client.body_timeout).await {
            Ok(added) if range.is_some_and(|range| range.length() != added) => {
                mark.reset(state);
                Err(wrong_size())
            }
            Ok(_) => Ok(fill),
            Err(Interrupted::Left) => Err(RegistryError::broke_off(ErrorCode::BlobUploadInvalid)),
            Err(Interrupted::Stalled) => Err(RegistryError::stalled()),
            Err(Interrupted::Quota(refusal)) => {
                mark.reset(state);
                Err(refusal.into())
            }
            Err(Interrupted::Store(error)) => {
                mark.reset(state);
                Err(error.into())
            }
        }
    }

    /// After a request that failed: the file and the quotas are as the session is. Bytes that cannot be cut off now go
    /// with the session, and none of them is ever read.
    async fn rewind(&self, session: &Session, state: &State) {
        match self.registry.store.uploads.cut(&session.file, state.length).await {
            Ok(()) => session.arrived.set_to(state.length),
            Err(error) => tracing::warn!("the rest of a failed upload stays for now: {error}"),
        }
    }

    fn chunk_range(&self) -> Result<Option<ChunkRange>, RegistryError> {
        let Some(text) = self.header(&CONTENT_RANGE) else { return Ok(None) };
        let range = text.parse().map(Some);
        range.map_err(|_| RegistryError::invalid(ErrorCode::BlobUploadInvalid, "Content-Range: first-last"))
    }

    /// Adds the last bytes and compares the digest.
    async fn complete(
        &self,
        session: &Session,
        state: &mut State,
        told: &Digest,
        body: &mut Incoming,
    ) -> Result<Arc<PartialBlob>, RegistryError> {
        let fill = self.append(session, state, body).await?;
        match digest(&fill, state, told.algorithm()).await? == *told {
            true => Ok(fill),
            false => Err(RegistryError::invalid(ErrorCode::DigestInvalid, "the content does not have this digest")),
        }
    }

    /// Adds the last bytes, compares, publishes, links. A request that fails leaves the session as it was before, except
    /// if the disk failed while publishing.
    async fn finish(
        &self,
        session: &Arc<Session>,
        digest_told: &Digest,
        body: &mut Incoming,
    ) -> Result<Reply, RegistryError> {
        let mut state = running(session).await?;
        let mut attempt = State { length: state.length, hasher: state.hasher.clone(), is_over: false };
        let arrived = self.complete(session, &mut attempt, digest_told, body).await;
        session.touch();
        let fill = match arrived {
            Ok(fill) => fill,
            Err(error) => {
                self.rewind(session, &state).await;
                return Err(error);
            }
        };
        state.is_over = true;
        drop(state);
        let (registry, session, digest, length) =
            (self.registry.clone(), session.clone(), *digest_told, attempt.length);
        let repository = session.repository.clone();
        let grace = self.scope.snapshot.config.registry.grace;
        // A client that leaves now does not stop it half way.
        let keeping = async move {
            let kept = keep(&registry, &session, &fill, &digest, length, grace).await;
            drop(fill);
            end(&registry, &session).await;
            kept
        };
        if let Some(refusal) =
            tokio::spawn(keeping.in_current_span()).await.unwrap_or(Err(StoreError::DiskThreadGone))?
        {
            return Err(refusal.into());
        }
        let media_type = Some(BLOB_TYPE.to_owned());
        let about = |event| Event { digest: Some(digest), size_bytes: Some(length), media_type, ..event };
        self.tell(Deed::Push, &repository, about);
        self.scope.trail.record(Decision::Pushed(digest));
        Ok(created(&blob_location(&repository, &digest), &digest))
    }
}

async fn running(session: &Session) -> Result<MutexGuard<'_, State>, RegistryError> {
    session.running().await.ok_or_else(RegistryError::unknown_upload)
}

async fn end(registry: &LocalRegistry, session: &Session) {
    registry.sessions.end(session.file.id).await;
}

/// Makes the bytes of an upload content of the repository, if that has room for them.
async fn keep(
    registry: &LocalRegistry,
    session: &Session,
    fill: &Arc<PartialBlob>,
    digest: &Digest,
    length: u64,
    grace: Duration,
) -> Result<Option<AccessRefusal>, StoreError> {
    let repository = &session.repository;
    let _turn = registry.turn(repository).await;
    if let Some(refusal) = registry.overdrawn(repository, digest, length, Some(&session.arrived)).await? {
        return Ok(Some(refusal));
    }
    // Pinned before it is there, so that no collection and no eviction comes in between.
    let hold = registry.store.repositories.hold(digest).await?;
    // Also if the content is here already: it may have rotted, and these bytes have the digest.
    fill.publish_upload(digest, length).await?;
    let linked = registry.store.repositories.at(repository).link(digest).await;
    drop(hold);
    // In the same turn: its bytes are content from here on.
    session.arrived.set_to(0);
    if !linked? {
        return Err(StoreError::DiskThreadGone);
    }
    // The manifest comes next. Until it is there, this and what came before it wait for their grace period.
    if let Err(error) = registry.store.repositories.renew(repository, session.push.begun_at(), grace).await {
        tracing::warn!(%repository, "pushed content may be collected before its manifest comes: {error}");
    }
    Ok(None)
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
    empty(StatusCode::CREATED).with(LOCATION, location).with(DOCKER_CONTENT_DIGEST, &digest.to_string())
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut headers = HeaderMap::new();
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, 0.into());
    }
    Reply { status, headers, body: ReplyBody::Full(Bytes::new()), refused: None }
}

/// Tells the client where the session goes on.
fn session_reply(status: StatusCode, session: &Session, length: u64) -> Reply {
    placed(empty(status), &session.location(), &session.file.id.to_string(), length)
}

fn wrong_size() -> RegistryError {
    RegistryError::invalid(ErrorCode::SizeInvalid, "")
}
