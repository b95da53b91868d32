//! Content on its way into the store: a partial file that is written at any offsets, read while it grows, and ends in
//! one of three ways.
//!
//! ```text
//! begin ─► write … read … ─► publish   sync file, rename into blobs/, sync folder, then the index
//!                          ├► pause    sync file, sidecar; a later begin of the same origin, name and size goes on
//!                          └► drop     the file is gone, it never happened
//! ```
//!
//! Every step runs on a disk thread, which makes its calls by [`Calls`]. Each step that a client waits for has a
//! deadline (`data_plane.disk_timeout`). After the deadline the caller goes on without the disk. The disk still
//! finishes the step, but its result is dropped: a partial blob that was begun is dropped, and a write goes to one that
//! is about to be dropped. An upload's file outlives that: its next request waits until the write has ended
//! (`uploads`).
//!
//! Invariants: nothing is written after the end began (content under a digest is immutable), and the end waits for
//! writes that run. Nothing is visible before it is durable. Whatever fails, the file is removed and the reservation
//! given back. Bytes of one origin are never mixed with those of another before their digest was checked: each origin
//! has a file of its own, and if two publish the same digest, the later file replaces the earlier, which has the same
//! bytes. The caller has hashed the bytes: `publish` checks the length, not the digest again.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::origin::Origin;
use entrepot_core::validator::Validator;
use entrepot_kernel::read::{self, Reading};
use tokio::sync::{OwnedMutexGuard, RwLock};

use crate::blob::{Blob, mark_origin};
use crate::blobs::{Blobs, FileId};
use crate::blocking::blocking;
use crate::content::{ContentKey, ContentName};
use crate::disk_threads::buffers::Buffers;
use crate::disk_threads::calls::Calls;
use crate::disk_threads::{DiskSettings, DiskThreads, Lane};
use crate::errors::StoreError;
use crate::extents::Extents;
use crate::index::{Index, Job};
use crate::paths::{FillName, Paths};
use crate::paused::{Paused, PausedFill, PausedPart};
use crate::place::Place;
use crate::room::Room;
use crate::small_files::{self, random};
use crate::space::{Counters, Purpose, Reservation, count};
use crate::times::ms_of;
use crate::troubles::Refusals;
use crate::{disk, lock};

/// Bytes that content of unknown size reserves at a time.
const GROW_BYTES: u64 = 4 << 20;

/// Begins content, and resumes paused content.
pub struct PartialBlobs {
    pub(crate) paths: Paths,
    pub(crate) room: Arc<Room>,
    pub(crate) disk: DiskThreads,
    counters: Arc<Counters>,
    index: Arc<Index>,
    blobs: Arc<Blobs>,
    paused: Arc<Paused>,
    buffers: Buffers,
    /// The folders of blobs, of 512, whose own entries are on the medium.
    durable_shards: Mutex<HashSet<PathBuf>>,
    pub(crate) refusals: Refusals,
}

/// Content that is being written. All methods take a shared reference: a leader writes while followers read. Dropping
/// one that did not end removes its file.
pub struct PartialBlob {
    home: Arc<PartialBlobs>,
    path: PathBuf,
    begun: Begun,
    /// None once the end has begun. A write holds the lock for reading while it runs.
    reservation: RwLock<Option<Reservation>>,
}

/// Held by the request that may write the file of an upload.
pub(crate) type UploadTurn = OwnedMutexGuard<()>;

/// The parts of a new partial blob.
pub(crate) struct Begun {
    pub(crate) name: FillName,
    pub(crate) file: Arc<File>,
    /// The announced size. None if no size was announced.
    pub(crate) size: Option<u64>,
    /// The bytes that are in the file already.
    pub(crate) extents: Extents,
    pub(crate) purpose: Purpose,
    /// The origin that gives the bytes, and their name there. None for content that can be paused by nobody.
    pub(crate) key: Option<ContentKey>,
    /// The state of an artefact that the bytes are of. None for content that a digest names.
    pub(crate) validator: Option<Validator>,
    /// The turn at the file of an upload; None for other content. With a turn, the file stays when the partial blob is
    /// dropped, and until then no other request writes it. Every running write holds the partial blob, even if its
    /// caller has left.
    pub(crate) turn: Option<UploadTurn>,
}

/// The origin that gives new content, and the names that the content has.
struct Giver {
    digest: Option<Digest>,
    key: Option<ContentKey>,
    validator: Option<Validator>,
}

/// The name, length and places that content is published with.
struct Publication {
    digest: Digest,
    /// How many bytes of the file are the content. None if it is all of them, or the announced number.
    length: Option<u64>,
    /// The repositories that are known to have the content from then on, each with the time of its public proof. The
    /// origin of the first one gave the bytes.
    links: Vec<(Place, Option<SystemTime>)>,
}

impl Giver {
    /// No origin: the content cannot be paused.
    fn nobody(digest: Option<Digest>) -> Self {
        Self { digest, key: None, validator: None }
    }

    fn origin(key: ContentKey, validator: Option<Validator>) -> Self {
        Self { digest: key.name.digest().copied(), key: Some(key), validator }
    }
}

impl PartialBlobs {
    pub(crate) fn new(
        paths: Paths,
        room: Arc<Room>,
        counters: Arc<Counters>,
        index: Arc<Index>,
        blobs: Arc<Blobs>,
        paused: Arc<Paused>,
        disk: DiskSettings,
    ) -> Self {
        let (buffers, disk) = (Buffers::new(disk.buffers_bytes, disk.timeout), DiskThreads::new(disk));
        let (durable_shards, refusals) = (Mutex::default(), Refusals::default());
        Self { paths, room, disk, counters, index, blobs, paused, buffers, durable_shards, refusals }
    }

    /// Begins content that an origin gives under a digest, or resumes paused content of the same origin, digest and
    /// size ([`PartialBlob::extents`]). Makes room first; the error is `NoSpace` if that is impossible.
    pub async fn begin(
        self: &Arc<Self>,
        origin: &Origin,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<PartialBlob, StoreError> {
        let key = ContentKey { origin: origin.clone(), name: ContentName::Digest(*digest) };
        self.begin_or_resume(Lane::of(Some(digest), 0), key, size, None).await
    }

    /// Begins an artefact, whose digest is known only at its end, or resumes paused bytes of the same origin, path, size
    /// and state. Without a validator it cannot be paused.
    pub async fn begin_artefact(
        self: &Arc<Self>,
        origin: &Origin,
        path_and_query: &Arc<str>,
        size: Option<u64>,
        validator: Option<Validator>,
    ) -> Result<PartialBlob, StoreError> {
        let key = ContentKey { origin: origin.clone(), name: ContentName::Path(path_and_query.clone()) };
        self.begin_or_resume(Lane::of(None, random()), key, size, validator).await
    }

    async fn begin_or_resume(
        self: &Arc<Self>,
        lane: Lane,
        key: ContentKey,
        size: Option<u64>,
        validator: Option<Validator>,
    ) -> Result<PartialBlob, StoreError> {
        let home = self.clone();
        let begun = self.disk.run_in_time(lane, move |calls| async move {
            let paused = {
                let (home, key, validator) = (home.clone(), key.clone(), validator.clone());
                calls.aside(move || home.resume(key, size, validator)).await
            };
            let begun = match paused {
                Some(partial) => Ok(partial),
                None => home.begin_new(calls, size, Purpose::Cache, Giver::origin(key, validator)).await,
            };
            home.refusals.note(&begun);
            begun
        });
        begun.await?
    }

    /// Begins content whose digest is known only at its end.
    pub async fn begin_unnamed(self: &Arc<Self>, size: Option<u64>) -> Result<PartialBlob, StoreError> {
        self.begin_as(None, size, Purpose::Cache).await
    }

    /// Stores small content at once, durably. Its digest is checked on this thread. Content that is already here stays if
    /// it has these bytes; bytes that rotted are replaced.
    pub async fn put(self: &Arc<Self>, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.put_as(digest, bytes, Purpose::Cache).await
    }

    /// What the paused content of an origin lacks from `from` on. None if nothing is paused, or it lacks nothing there.
    pub fn paused(&self, origin: &Origin, digest: &Digest, from: u64) -> Option<PausedPart> {
        let key = ContentKey { origin: origin.clone(), name: ContentName::Digest(*digest) };
        self.paused.part(&key, from).map(|(part, _)| part)
    }

    /// The first missing byte of a paused artefact, with the state that its bytes are of. None if there are none.
    pub fn artefact_missing(
        &self,
        origin: &Origin,
        path_and_query: &Arc<str>,
        from: u64,
    ) -> Option<(u64, Option<Validator>)> {
        let key = ContentKey { origin: origin.clone(), name: ContentName::Path(path_and_query.clone()) };
        self.paused.part(&key, from).map(|(part, state)| (part.first_missing, state))
    }

    /// Drops the paused content that any origin gave under a digest. Returns its bytes; None if there is none.
    pub async fn drop_paused(self: &Arc<Self>, digest: &Digest) -> Option<u64> {
        let (home, digest) = (self.clone(), *digest);
        blocking(move || home.paused.remove(&home.paths, &digest)).await.flatten()
    }

    pub(crate) async fn begin_as(
        self: &Arc<Self>,
        digest: Option<Digest>,
        size: Option<u64>,
        purpose: Purpose,
    ) -> Result<PartialBlob, StoreError> {
        let home = self.clone();
        let lane = digest.map_or_else(|| Lane::of(None, random()), |digest| Lane::of(Some(&digest), 0));
        let begun = self.disk.run_in_time(lane, move |calls| async move {
            let begun = home.begin_new(calls, size, purpose, Giver::nobody(digest)).await;
            home.refusals.note(&begun);
            begun
        });
        begun.await?
    }

    pub(crate) async fn put_as(
        self: &Arc<Self>,
        digest: &Digest,
        bytes: Bytes,
        purpose: Purpose,
    ) -> Result<(), StoreError> {
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) });
        }
        let (home, digest) = (self.clone(), *digest);
        let put = self.disk.run_in_time(Lane::of(Some(&digest), 0), move |calls| async move {
            let size_bytes = bytes.len() as u64;
            let (blobs, wanted) = (home.blobs.clone(), bytes.clone());
            if calls.aside(move || blobs.has_bytes(&digest, &wanted)).await {
                return Ok(());
            }
            let begun = home.begin_new(calls, Some(size_bytes), purpose, Giver::nobody(Some(digest))).await;
            home.refusals.note(&begun);
            let partial = begun?;
            partial.write_now(calls, 0, &bytes).await?;
            partial.publish_now(calls, Publication { digest, length: None, links: Vec::new() }).await.map(drop)
        });
        put.await?
    }

    /// Resumes the paused content of an origin. None if there is none of that size and state. Blocks.
    fn resume(
        self: &Arc<Self>,
        key: ContentKey,
        size: Option<u64>,
        validator: Option<Validator>,
    ) -> Option<PartialBlob> {
        let paused = self.paused.take(&self.paths, &key, size, validator.as_ref())?;
        let PausedFill { name, size_bytes, extents, reservation, .. } = paused;
        let path = self.paths.fill(name);
        let reopened = self.blobs.with_files(|| disk::reopen(&path));
        let file = reopened.inspect_err(|_| drop(disk::unlink(&path))).ok()?;
        let (file, size, purpose, key) = (Arc::new(file), Some(size_bytes), Purpose::Cache, Some(key));
        Some(PartialBlob::new(
            self,
            path,
            Begun { name, file, size, extents, purpose, key, validator, turn: None },
            reservation,
        ))
    }

    async fn begin_new(
        self: &Arc<Self>,
        calls: Calls,
        size: Option<u64>,
        purpose: Purpose,
        giver: Giver,
    ) -> Result<PartialBlob, StoreError> {
        let Giver { digest, key, validator } = giver;
        let name = FillName { digest, random: random() };
        let path = self.paths.fill(name);
        let reserved = self.reserve_file(calls, &path, size.unwrap_or(0), purpose).await;
        let (file, reservation) = reserved.inspect_err(|_| count(&self.counters.write_errors))?;
        let begun = Begun { name, file, size, extents: Extents::new(), purpose, key, validator, turn: None };
        Ok(PartialBlob::new(self, path, begun, reservation))
    }

    /// Makes the folder that a blob goes to. Its entry is on the medium when this returns: the first publication into a
    /// folder syncs it, also if another one, or an earlier run, has made the folder and did not get that far.
    async fn make_shard(&self, calls: Calls, folder: &Path) -> Result<(), StoreError> {
        let is_durable = lock(&self.durable_shards).contains(folder);
        let shard = folder.to_owned();
        if is_durable {
            return calls.aside(move || small_files::make_folder(&shard)).await;
        }
        calls.aside(move || small_files::make_folder_durable(&shard)).await?;
        lock(&self.durable_shards).insert(folder.to_owned());
        Ok(())
    }

    /// Makes a new file with room for `size_bytes`.
    async fn reserve_file(
        &self,
        calls: Calls,
        path: &Path,
        size_bytes: u64,
        purpose: Purpose,
    ) -> Result<(Arc<File>, Reservation), StoreError> {
        let room = self.room.clone();
        let mut reservation = calls.aside(move || room.reserve(size_bytes, purpose)).await?;
        let create = async || {
            let (path, folder, blobs) = (path.to_owned(), self.paths.fills(), self.blobs.clone());
            // A start on a disk that took no writes could not make the folder.
            let made = move || small_files::make_folder(&folder).and_then(|()| disk::create(&path));
            calls.aside(move || blobs.with_files(made)).await
        };
        let file = Arc::new(self.room.with_room(calls, 0, create).await?);
        let allocate = async || calls.allocate(&file, path, 0, size_bytes).await;
        match self.room.with_room(calls, size_bytes, allocate).await {
            Ok(true) => reservation.set_allocated(),
            Ok(false) => {}
            Err(error) => {
                // It has no content yet. A file that cannot be removed now is removed at the next start.
                let _ = calls.unlink(path).await;
                return Err(error);
            }
        }
        Ok((file, reservation))
    }
}

impl PartialBlob {
    /// A partial blob over a file that is at `path` already.
    pub(crate) fn new(home: &Arc<PartialBlobs>, path: PathBuf, begun: Begun, reservation: Reservation) -> Self {
        Self { home: home.clone(), path, begun, reservation: RwLock::new(Some(reservation)) }
    }

    /// The announced size. None if no size was announced.
    pub fn size(&self) -> Option<u64> {
        self.begun.size
    }

    /// The bytes that were on disk at the beginning: none, or those that were paused. The caller tracks later writes.
    pub fn extents(&self) -> &Extents {
        &self.begun.extents
    }

    /// The memory for bytes on their way to the disk.
    pub fn buffers(&self) -> &Buffers {
        &self.home.buffers
    }

    /// How long the disk may take before clients go on without it.
    pub fn disk_timeout(&self) -> Duration {
        self.home.disk.timeout()
    }

    /// Begins to read bytes that were written, without blocking this thread. It also works after the end: a follower
    /// keeps the file.
    pub fn start_reading(&self, offset: u64, length: usize) -> Reading {
        read::start(&self.begun.file, offset, length)
    }

    /// Fills the buffer with bytes that were written. Blocks, so it is for the hash threads.
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.begun.file.read_exact_at(buffer, offset);
        read.inspect_err(|_| count(&self.home.counters.read_errors))
    }

    /// The error for bytes that were written and cannot be read back.
    pub fn unreadable(&self, error: io::Error) -> StoreError {
        StoreError::from_io("read", &self.path, error)
    }

    /// Writes bytes at an offset, within the deadline. Two writes may run at once if they do not overlap.
    pub async fn write(self: &Arc<Self>, offset: u64, bytes: Bytes) -> Result<(), StoreError> {
        let partial = self.clone();
        let disk = &self.home.disk;
        let written =
            disk.run_in_time(self.lane(), move |calls| async move { partial.write_now(calls, offset, &bytes).await });
        written.await?
    }

    /// Publishes the content as `digest`, by default the one that it was begun with. The caller has checked it. The
    /// content is known to be at `links` from then on, each with the time of its public proof, if it has one (see
    /// [`crate::Names::link`]). The origin of the first gave it. After an error the partial blob is over: its file is
    /// gone and nothing is visible. There is no deadline: clients have every byte already, and a slow disk takes long
    /// for a large file.
    pub async fn publish(
        self: &Arc<Self>,
        digest: Option<&Digest>,
        links: &[(Place, Option<SystemTime>)],
    ) -> Result<Arc<Blob>, StoreError> {
        let digest = match (self.begun.name.digest, digest) {
            (Some(own), None) => own,
            (own, Some(digest)) if own.is_none_or(|own| own == *digest) => *digest,
            _ => return Err(StoreError::FillState),
        };
        self.publish_as(Publication { digest, length: None, links: links.to_vec() }).await
    }

    /// Publishes the first `length` bytes of an upload as `digest`, which the caller has compared with them. The upload
    /// is over afterwards, also after an error. There is no deadline either.
    pub async fn publish_upload(self: &Arc<Self>, digest: &Digest, length: u64) -> Result<Arc<Blob>, StoreError> {
        self.publish_as(Publication { digest: *digest, length: Some(length), links: Vec::new() }).await
    }

    /// Keeps the bytes for a later `begin`, within the deadline; `extents` says which bytes were written. Content
    /// without an origin or size is dropped, because a later `begin` could not find it, and so is an artefact without a
    /// validator, because the rest could be of another state.
    pub async fn pause(self: &Arc<Self>, extents: &Extents) -> Result<(), StoreError> {
        let (partial, extents) = (self.clone(), extents.clone());
        let disk = &self.home.disk;
        let paused =
            disk.run_in_time(self.lane(), move |calls| async move { partial.pause_now(calls, &extents).await });
        paused.await?
    }

    async fn publish_as(self: &Arc<Self>, publication: Publication) -> Result<Arc<Blob>, StoreError> {
        let partial = self.clone();
        let disk = &self.home.disk;
        disk.run(self.lane(), move |calls| async move { partial.publish_now(calls, publication).await }).await?
    }

    async fn write_now(&self, calls: Calls, offset: u64, bytes: &Bytes) -> Result<(), StoreError> {
        let counters = &self.home.counters;
        let len = bytes.len() as u64;
        let end = offset.saturating_add(len);
        if let Some(size) = self.begun.size.filter(|size| end > *size) {
            return Err(StoreError::WrongSize { expected_bytes: size, actual_bytes: end });
        }
        if self.begun.size.is_none() {
            self.grow(calls, end).await.inspect_err(|_| count(&counters.write_errors))?;
        }
        // Held while writing, so that the end waits for running writes.
        let running = self.reservation.read().await;
        if running.is_none() {
            return Err(StoreError::FillState);
        }
        let write = async || calls.write_at(&self.begun.file, &self.path, offset, bytes).await;
        self.home.room.with_room(calls, len, write).await.inspect_err(|_| count(&counters.write_errors))
    }

    async fn grow(&self, calls: Calls, end: u64) -> Result<(), StoreError> {
        let mut running = self.reservation.write().await;
        let Some(reservation) = running.as_mut() else { return Err(StoreError::FillState) };
        let have = reservation.bytes();
        if end <= have {
            return Ok(());
        }
        let (room, missing, purpose) = (self.home.room.clone(), end - have, self.begun.purpose);
        room.check_size(end, purpose)?;
        let reserve =
            move || room.reserve(GROW_BYTES.max(missing), purpose).or_else(|_| room.reserve(missing, purpose));
        let mut grown = calls.aside(reserve).await?;
        if calls.allocate(&self.begun.file, &self.path, have, grown.bytes()).await? {
            grown.set_allocated();
        }
        reservation.absorb(grown);
        Ok(())
    }

    async fn pause_now(&self, calls: Calls, extents: &Extents) -> Result<(), StoreError> {
        let reservation = self.end().await?;
        let (name, validator) = (self.begun.name, self.begun.validator.clone());
        let is_one = name.digest.is_some() || validator.is_some();
        let (Some(key), Some(size_bytes)) = (self.begun.key.clone().filter(|_| is_one), self.begun.size) else {
            return calls.unlink(&self.path).await.map(drop);
        };
        let (extents, paused_at) = (extents.clone(), SystemTime::now());
        let paused = PausedFill { name, size_bytes, validator, extents, reservation, paused_at };
        let kept = match calls.sync(&self.begun.file, &self.path).await {
            Ok(()) => {
                let home = self.home.clone();
                calls.aside(move || home.paused.keep(&home.paths, key, paused)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            self.abandon(calls, error).await;
        }
        kept
    }

    async fn publish_now(&self, calls: Calls, publication: Publication) -> Result<Arc<Blob>, StoreError> {
        let reservation = self.end().await?;
        let Publication { digest, length, links } = publication;
        if let Some((giver, _)) = links.first().cloned() {
            let file = self.begun.file.clone();
            calls.aside(move || mark_origin(&file, giver.origin())).await;
        }
        let blob = match self.move_into_place(calls, &digest, length).await {
            Ok(blob) => blob,
            Err(error) => {
                self.abandon(calls, &error).await;
                return Err(error);
            }
        };
        self.home.blobs.published(blob.clone());
        let (index, size_bytes, at_ms) = (self.home.index.clone(), blob.size_bytes, ms_of(SystemTime::now()));
        let job = Job::new(move |tables| {
            tables.published(&digest, size_bytes, at_ms)?;
            links
                .iter()
                .try_for_each(|(place, public_at)| tables.link(place, &digest, at_ms, public_at.map_or(0, ms_of)))
        });
        calls.aside(move || index.change(job.holding(reservation))).await;
        Ok(blob)
    }

    /// Waits for running writes and allows no more.
    async fn end(&self) -> Result<Reservation, StoreError> {
        self.reservation.write().await.take().ok_or(StoreError::FillState)
    }

    /// Each step is done before the next begins (invariant 6 of ARCHITECTURE.md).
    async fn move_into_place(
        &self,
        calls: Calls,
        digest: &Digest,
        length: Option<u64>,
    ) -> Result<Arc<Blob>, StoreError> {
        let (paths, file, announced) = (&self.home.paths, &self.begun.file, self.begun.size);
        let measured = file.metadata().map_err(|error| StoreError::from_io("measure", &self.path, error));
        let measured_bytes = measured?.len();
        let size_bytes = announced.or(length).unwrap_or(measured_bytes);
        if size_bytes > measured_bytes || (announced.is_some() && size_bytes < measured_bytes) {
            return Err(StoreError::WrongSize { expected_bytes: size_bytes, actual_bytes: measured_bytes });
        }
        if announced.is_none() {
            // This gives back unused blocks, and bytes that a failed request wrote.
            let (file, path) = (file.clone(), self.path.clone());
            calls.aside(move || disk::truncate(&file, &path, size_bytes)).await?;
        }
        calls.sync(file, &self.path).await?;
        let (folder, path) = (paths.shard_of(digest), self.path.clone());
        self.home.make_shard(calls, &folder).await?;
        let (readable, published) = calls.aside(move || opened_with_id(&path)).await?;
        let (blobs, goal) = (&self.home.blobs, paths.blob(digest));
        let turn = blobs.turn_at(digest).lock().await;
        let was_there = {
            let goal = goal.clone();
            calls.aside(move || goal.exists()).await
        };
        calls.rename(&self.path, &goal).await?;
        drop(turn);
        if let Err(error) = calls.sync_dir(&folder).await {
            // A file that replaced another stays: the name was promised before, and after a crash it leads to one of
            // the two.
            if !was_there {
                let (blobs, digest) = (blobs.clone(), *digest);
                calls.aside(move || blobs.unpublish(&digest, published)).await;
            }
            return Err(error);
        }
        Ok(Blob::new(*digest, size_bytes, Arc::new(readable), self.home.counters.clone()))
    }

    async fn abandon(&self, calls: Calls, why: &StoreError) {
        if !matches!(why, StoreError::WrongSize { .. }) {
            count(&self.home.counters.write_errors);
        }
        if let Err(error) = calls.unlink(&self.path).await {
            tracing::warn!(%error, "a failed partial blob could not be removed; the next start does");
        }
    }

    fn lane(&self) -> Lane {
        Lane::of(self.begun.name.digest.as_ref(), self.begun.name.random)
    }
}

fn opened_with_id(path: &Path) -> Result<(File, FileId), StoreError> {
    let file = disk::open_existing(path)?;
    let id = file.metadata().map(|file| FileId::of(&file));
    Ok((file, id.map_err(|error| StoreError::from_io("measure", path, error))?))
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        // The file of an upload stays for its next request, also after a restart.
        if let Some(reservation) = self.reservation.get_mut().take_if(|_| self.begun.turn.is_none()) {
            let (path, file) = (self.path.clone(), self.begun.file.clone());
            self.home.disk.discard(self.lane(), path, file, reservation);
        }
    }
}

#[cfg(test)]
impl PartialBlob {
    /// Makes writes wait as on a disk that hangs, from the message to `hangs` until the message of `resumed`.
    pub(crate) async fn hang(
        self: Arc<Self>,
        hangs: tokio::sync::oneshot::Sender<()>,
        resumed: tokio::sync::oneshot::Receiver<()>,
    ) {
        let hung = self.clone();
        let hang = self.home.disk.run(self.lane(), move |_| async move {
            let _held = hung.reservation.write().await;
            hangs.send(()).unwrap();
            resumed.await.unwrap();
        });
        hang.await.unwrap();
    }
}
