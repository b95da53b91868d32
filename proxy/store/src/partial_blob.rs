//! One fill: a partial file that is written at any offsets, read while it grows, and ends in one of three ways.
//!
//! ```text
//! begin ─► write … read_at … ─► publish   sync file, rename into blobs/, sync folder, then the index
//!                            ├► pause     sync file, sidecar; a later begin of the same digest and size goes on
//!                            └► drop      the file is gone, it never happened
//! ```
//!
//! The steps are here, written once over [`Calls`]. `threaded` runs them on the disk threads with deadlines, for what
//! clients wait for; `blocking` runs them on the caller's thread.
//!
//! Invariants: nothing is written after the end began (content under a digest is immutable), and the end waits for
//! writes that run; nothing is visible before it is durable; whatever fails, the file is removed and the reservation
//! given back. Who fills has hashed the bytes: `publish` checks the length, not the digest again.

mod blocking;
mod threaded;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_kernel::read::{self, Reading};
use tokio::sync::RwLock;

use super::blobs::{Blob, mark_registry, read_exact_at};
use super::disk_threads::Lane;
use super::disk_threads::calls::Calls;
use super::errors::StoreError;
use super::extents::Extents;
use super::index::{Job, ms_of};
use super::paths::FillName;
use super::paused::PausedFill;
use super::space::{Purpose, Reservation, count};
use super::uploads::UploadTurn;
use super::{Store, disk};

/// What a fill of unknown size reserves at once.
const GROW_BYTES: u64 = 4 << 20;

/// A running fill. All methods take `&self`: a leader writes while followers read. Dropping one that did not end removes
/// its file.
pub struct PartialBlob {
    pub(super) store: Arc<Store>,
    pub(super) name: FillName,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) size: Option<u64>,
    pub(super) extents: Extents,
    pub(super) purpose: Purpose,
    /// Of an upload's: its file stays when this is dropped, and until then nobody else writes it. Every write that runs
    /// holds the fill, also one whose caller has left.
    pub(super) turn: Option<UploadTurn>,
    /// None once the end began. Held for reading while writing.
    pub(super) reservation: RwLock<Option<Reservation>>,
}

/// What content is published with.
pub(super) struct Published {
    pub(super) digest: Digest,
    /// The length of content that was not announced with one; else all that was written.
    pub(super) length: Option<u64>,
    pub(super) media_type: Option<String>,
    pub(super) links: Vec<(RegistryHost, RepositoryName)>,
}

impl Store {
    /// From where on a fill that goes on with a paused one has to fetch, to have everything from `from` on.
    pub fn first_missing(&self, digest: &Digest, from: u64) -> u64 {
        self.paused.first_missing(digest, from).unwrap_or(from)
    }

    async fn begin_with(
        self: &Arc<Self>,
        calls: Calls,
        digest: Option<Digest>,
        size: Option<u64>,
    ) -> Result<PartialBlob, StoreError> {
        if let Some(digest) = digest {
            let store = self.clone();
            if let Some(fill) = calls.aside(move || store.resume(&digest, size)).await {
                return Ok(fill);
            }
        }
        let started = self.begin_new(calls, digest, size, Purpose::Cache).await;
        started.inspect_err(|_| count(&self.counters.write_errors))
    }

    /// Goes on with the paused fill of a digest, where there is one of that size.
    fn resume(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Option<PartialBlob> {
        let paused = self.paused.take(&self.paths, digest, size)?;
        let path = self.paths.fill(paused.name);
        let file = disk::reopen(&path).inspect_err(|_| drop(disk::unlink(&path))).ok()?;
        Some(PartialBlob {
            store: self.clone(),
            name: paused.name,
            path,
            file: Arc::new(file),
            size: Some(paused.size_bytes),
            extents: paused.extents,
            purpose: Purpose::Cache,
            turn: None,
            reservation: RwLock::new(Some(paused.reservation)),
        })
    }

    pub(super) async fn begin_new(
        self: &Arc<Self>,
        calls: Calls,
        digest: Option<Digest>,
        size: Option<u64>,
        purpose: Purpose,
    ) -> Result<PartialBlob, StoreError> {
        let size_bytes = size.unwrap_or(0);
        let store = self.clone();
        let mut reservation = calls.aside(move || store.reserve(size_bytes, purpose)).await?;
        let name = FillName { digest, random: random() };
        let path = self.paths.fill(name);
        let create = async || {
            let path = path.clone();
            calls.aside(move || disk::create(&path)).await
        };
        let file = Arc::new(self.with_room(calls, 0, create).await?);
        let allocate = async || calls.allocate(&file, &path, 0, size_bytes).await;
        match self.with_room(calls, size_bytes, allocate).await {
            Ok(true) => reservation.set_allocated(),
            Ok(false) => {}
            Err(error) => {
                // It has no content yet; what cannot be removed now is at the next start.
                let _ = calls.unlink(&path).await;
                return Err(error);
            }
        }
        let (store, extents) = (self.clone(), Extents::new());
        let (turn, reservation) = (None, RwLock::new(Some(reservation)));
        Ok(PartialBlob { store, name, path, file, size, extents, purpose, turn, reservation })
    }

    /// Stores small content whose digest is right.
    async fn put_with(
        self: &Arc<Self>,
        calls: Calls,
        digest: Digest,
        bytes: Bytes,
        purpose: Purpose,
    ) -> Result<(), StoreError> {
        let size_bytes = bytes.len() as u64;
        let path = self.paths.blob(&digest);
        let is_there = move || std::fs::metadata(path).is_ok_and(|file| file.len() == size_bytes);
        if calls.aside(is_there).await {
            return Ok(());
        }
        let fill = self.begin_new(calls, Some(digest), Some(size_bytes), purpose).await;
        let fill = fill.inspect_err(|_| count(&self.counters.write_errors))?;
        fill.write_with(calls, 0, &bytes).await?;
        fill.publish_with(calls, Published { digest, length: None, media_type: None, links: Vec::new() })
            .await
            .map(drop)
    }
}

/// Content that is announced under a digest has it.
fn check_digest(digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    let actual = Digest::of(digest.algorithm(), bytes);
    if actual == *digest {
        return Ok(());
    }
    Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) })
}

impl PartialBlob {
    /// The size that was announced.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The store that it is in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What was on disk when the fill began: nothing, or what a paused fill had. What is written later is the
    /// caller's to track.
    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// Begins to read bytes that were written, without blocking this thread.
    pub fn start_reading(&self, offset: u64, length: usize) -> Reading {
        read::start(&self.file, offset, length)
    }

    /// Reads bytes that were written. Works on after the end too: who follows a fill keeps its file.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let read = read_exact_at(&self.file, offset, len, self.size.unwrap_or(u64::MAX));
        read.inspect_err(|_| count(&self.store.counters.read_errors))
    }

    /// The same into a buffer, which is filled.
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset).inspect_err(|_| count(&self.store.counters.read_errors))
    }

    /// The name to publish under: its own, or the one that the caller found at the end.
    fn name_as(&self, digest: Option<&Digest>) -> Result<Digest, StoreError> {
        match (self.name.digest, digest) {
            (Some(own), None) => Ok(own),
            (own, Some(digest)) if own.is_none_or(|own| own == *digest) => Ok(*digest),
            _ => Err(StoreError::FillState),
        }
    }

    async fn write_with(&self, calls: Calls, offset: u64, bytes: &Bytes) -> Result<(), StoreError> {
        let len = bytes.len() as u64;
        let end = offset.saturating_add(len);
        if let Some(size) = self.size.filter(|size| end > *size) {
            return Err(StoreError::WrongSize { expected_bytes: size, actual_bytes: end });
        }
        if self.size.is_none() {
            self.grow(calls, end).await.inspect_err(|_| count(&self.store.counters.write_errors))?;
        }
        // Held while writing, so that the end waits for writes that run.
        let running = self.reservation.read().await;
        if running.is_none() {
            return Err(StoreError::FillState);
        }
        let write = async || calls.write_at(&self.file, &self.path, offset, bytes).await;
        let written = self.store.with_room(calls, len, write).await;
        written.inspect_err(|_| count(&self.store.counters.write_errors))
    }

    async fn grow(&self, calls: Calls, end: u64) -> Result<(), StoreError> {
        let mut running = self.reservation.write().await;
        let Some(reservation) = running.as_mut() else { return Err(StoreError::FillState) };
        let have = reservation.bytes();
        if end <= have {
            return Ok(());
        }
        let (store, missing, purpose) = (self.store.clone(), end - have, self.purpose);
        let reserve =
            move || store.reserve(GROW_BYTES.max(missing), purpose).or_else(|_| store.reserve(missing, purpose));
        let mut grown = calls.aside(reserve).await?;
        if calls.allocate(&self.file, &self.path, have, grown.bytes()).await? {
            grown.set_allocated();
        }
        reservation.absorb(grown);
        Ok(())
    }

    async fn pause_with(&self, calls: Calls, extents: &Extents) -> Result<(), StoreError> {
        let reservation = self.end().await?;
        let (Some(digest), Some(size_bytes)) = (self.name.digest, self.size) else {
            return calls.unlink(&self.path).await.map(drop);
        };
        let (name, extents, paused_at) = (self.name, extents.clone(), SystemTime::now());
        let paused = PausedFill { name, size_bytes, extents, reservation, paused_at };
        let kept = match calls.sync(&self.file, &self.path).await {
            Ok(()) => {
                let store = self.store.clone();
                calls.aside(move || store.paused.keep(&store.paths, digest, paused)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            self.abandon(calls, error).await;
        }
        kept
    }

    pub(super) async fn publish_with(&self, calls: Calls, published: Published) -> Result<Arc<Blob>, StoreError> {
        let reservation = self.end().await?;
        let Published { digest, length, media_type, links } = published;
        if let Some((registry, _)) = links.first().cloned() {
            let file = self.file.clone();
            calls.aside(move || mark_registry(&file, &registry)).await;
        }
        let blob = match self.move_into_place(calls, &digest, length).await {
            Ok(blob) => blob,
            Err(error) => {
                self.abandon(calls, &error).await;
                return Err(error);
            }
        };
        let (store, size_bytes, at_ms) = (self.store.clone(), blob.size_bytes, ms_of(SystemTime::now()));
        store.open_blobs.insert(blob.clone(), None);
        let job = Job::new(move |tables| {
            tables.published(&digest, size_bytes, at_ms)?;
            if let Some(media_type) = media_type {
                tables.set_media_type(&digest, &media_type)?;
            }
            links.iter().try_for_each(|(registry, repository)| tables.link(registry, repository, &digest, at_ms))
        });
        calls.aside(move || store.index.change(job.holding(reservation))).await;
        Ok(blob)
    }

    /// Waits for writes that run and allows no more.
    async fn end(&self) -> Result<Reservation, StoreError> {
        self.reservation.write().await.take().ok_or(StoreError::FillState)
    }

    /// Each step is done before the next begins (DESIGN invariant 6).
    async fn move_into_place(
        &self,
        calls: Calls,
        digest: &Digest,
        length: Option<u64>,
    ) -> Result<Arc<Blob>, StoreError> {
        let paths = &self.store.paths;
        let measured = self.file.metadata().map_err(|error| StoreError::from_io("measure", &self.path, error));
        let measured_bytes = measured?.len();
        let size_bytes = self.size.or(length).unwrap_or(measured_bytes);
        if size_bytes > measured_bytes || (self.size.is_some() && size_bytes < measured_bytes) {
            return Err(StoreError::WrongSize { expected_bytes: size_bytes, actual_bytes: measured_bytes });
        }
        if self.size.is_none() {
            // Gives back what was set aside, and what a request that came to nothing wrote.
            let (file, path) = (self.file.clone(), self.path.clone());
            calls.aside(move || disk::truncate(&file, &path, size_bytes)).await?;
        }
        calls.sync(&self.file, &self.path).await?;
        let (folder, path) = (paths.shard_of(digest), self.path.clone());
        let made = {
            let folder = folder.clone();
            calls.aside(move || disk::make_dir(&folder)).await?
        };
        if made {
            calls.sync_dir(&paths.algorithm(digest.algorithm())).await?;
        }
        let file = calls.aside(move || disk::open_existing(&path)).await?;
        calls.rename(&self.path, &paths.blob(digest)).await?;
        if let Err(error) = calls.sync_dir(&folder).await {
            let (store, digest) = (self.store.clone(), *digest);
            // It may be there or not after a crash; now it is not.
            calls.aside(move || drop(store.remove(&digest))).await;
            return Err(error);
        }
        Ok(Blob::new(*digest, size_bytes, file, self.store.counters.clone()))
    }

    async fn abandon(&self, calls: Calls, why: &StoreError) {
        if !matches!(why, StoreError::WrongSize { .. }) {
            count(&self.store.counters.write_errors);
        }
        if let Err(error) = calls.unlink(&self.path).await {
            tracing::warn!(%error, "a failed fill could not be removed; the next start does");
        }
    }

    pub(super) fn lane(&self) -> Lane {
        Lane::of(self.name.digest.as_ref(), self.name.random)
    }
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        // An upload goes on with its next request, after a restart too.
        if let Some(reservation) = self.reservation.get_mut().take_if(|_| self.turn.is_none()) {
            self.store.disk.discard(self.lane(), self.path.clone(), self.file.clone(), reservation);
        }
    }
}

/// Tells two fills of one digest apart. Not a secret; `create` refuses a name that is taken.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(SystemTime::now())
}
