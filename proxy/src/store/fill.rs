//! One fill: a partial file that is written at any offsets, read while it grows, and ends in one of three ways.
//!
//! ```text
//! begin ─► write_at … read_at … ─► publish   sync file, rename into blobs/, sync folder, then the index
//!                                ├► pause     sync file, sidecar; a later begin of the same digest and size goes on
//!                                └► drop      the file is gone, it never happened
//! ```
//!
//! Invariants: nothing is written after the end began (content under a digest is immutable); nothing is visible before
//! it is durable; whatever fails, the file is removed and the reservation given back. Who fills has hashed the bytes:
//! `publish` checks the length, not the digest again.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_kernel::read::{self, Reading};

use super::blobs::{Blob, mark_registry, read_exact_at};
use super::errors::StoreError;
use super::extents::Extents;
use super::index::{Job, ms_of};
use super::paths::FillName;
use super::paused::PausedFill;
use super::space::{Reservation, count};
use super::{Store, disk};

/// What a fill of unknown size reserves at once.
const GROW_BYTES: u64 = 4 << 20;

/// A running fill. All methods take `&self`: a leader writes while followers read. Dropping one that did not end removes
/// its file, so the last handle is dropped on a blocking thread, too.
pub struct Fill {
    store: Arc<Store>,
    name: FillName,
    path: PathBuf,
    file: Arc<File>,
    size: Option<u64>,
    extents: Extents,
    /// None once the end began.
    reservation: RwLock<Option<Reservation>>,
}

impl Store {
    /// Starts to fill a digest, or goes on where a paused fill of the same size ended ([`Fill::extents`]). Makes room
    /// first; `NoSpace` when there is none to be made.
    pub fn begin(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Result<Fill, StoreError> {
        match self.paused.take(&self.paths, digest, size).and_then(|paused| self.resume(paused)) {
            Some(fill) => Ok(fill),
            None => self.begin_new(Some(*digest), size),
        }
    }

    /// From where on a fill that goes on with a paused one has to fetch, to have everything from `from` on.
    pub fn first_missing(&self, digest: &Digest, from: u64) -> u64 {
        self.paused.first_missing(digest, from).unwrap_or(from)
    }

    /// Starts to fill content whose digest is known only at its end ([`Fill::publish_as`]).
    pub fn begin_unnamed(self: &Arc<Self>, size: Option<u64>) -> Result<Fill, StoreError> {
        self.begin_new(None, size)
    }

    fn resume(self: &Arc<Self>, paused: PausedFill) -> Option<Fill> {
        let path = self.paths.fill(paused.name);
        let file = disk::reopen(&path).inspect_err(|_| drop(disk::unlink(&path))).ok()?;
        Some(Fill {
            store: self.clone(),
            name: paused.name,
            path,
            file: Arc::new(file),
            size: Some(paused.size_bytes),
            extents: paused.extents,
            reservation: RwLock::new(Some(paused.reservation)),
        })
    }

    fn begin_new(self: &Arc<Self>, digest: Option<Digest>, size: Option<u64>) -> Result<Fill, StoreError> {
        let started = self.try_begin_new(digest, size);
        started.inspect_err(|_| count(&self.counters.write_errors))
    }

    fn try_begin_new(self: &Arc<Self>, digest: Option<Digest>, size: Option<u64>) -> Result<Fill, StoreError> {
        let size_bytes = size.unwrap_or(0);
        let mut reservation = self.reserve(size_bytes)?;
        let name = FillName { digest, random: random() };
        let path = self.paths.fill(name);
        let file = Arc::new(self.with_room(0, || disk::create(&path))?);
        let allocated = self.with_room(size_bytes, || disk::allocate(&file, &path, 0, size_bytes));
        if allocated.inspect_err(|_| drop(disk::unlink(&path)))? {
            reservation.set_allocated();
        }
        let (store, extents) = (self.clone(), Extents::new());
        Ok(Fill { store, name, path, file, size, extents, reservation: RwLock::new(Some(reservation)) })
    }

    /// Stores small content at once, durably; its digest is checked. Content that is there already stays.
    pub fn put(self: &Arc<Self>, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let actual = Digest::of(digest.algorithm(), bytes);
        if actual != *digest {
            return Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) });
        }
        let size_bytes = bytes.len() as u64;
        if std::fs::metadata(self.paths.blob(digest)).is_ok_and(|file| file.len() == size_bytes) {
            return Ok(());
        }
        let fill = self.begin_new(Some(*digest), Some(size_bytes))?;
        fill.write_at(0, bytes)?;
        fill.publish(None, &[]).map(drop)
    }
}

impl Fill {
    /// The size that was announced.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// What was on disk when the fill began: nothing, or what a paused fill had. What is written later is the
    /// caller's to track.
    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// Writes bytes at an offset. Two writes may run at once where they do not overlap.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if let Some(size) = self.size.filter(|size| end > *size) {
            return Err(StoreError::WrongSize { expected_bytes: size, actual_bytes: end });
        }
        if self.size.is_none() {
            self.grow(end).inspect_err(|_| count(&self.store.counters.write_errors))?;
        }
        // Held while writing, so that the end waits for writes that run.
        let running = self.reservation.read().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            return Err(StoreError::FillState);
        }
        let len = bytes.len() as u64;
        let written = self.store.with_room(len, || disk::write_at(&self.file, &self.path, offset, bytes));
        written.inspect_err(|_| count(&self.store.counters.write_errors))
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

    /// Publishes the content under the digest that the fill began with; the caller has checked it. On an error the
    /// fill is over, its file gone and nothing visible.
    pub fn publish(
        &self,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        self.end_as(&self.name.digest.ok_or(StoreError::FillState)?, media_type, links)
    }

    /// Publishes the content of a fill that began without a digest; the caller has hashed it.
    pub fn publish_as(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        if self.name.digest.is_some_and(|own| own != *digest) {
            return Err(StoreError::FillState);
        }
        self.end_as(digest, media_type, links)
    }

    /// Keeps what is there for a later `begin`; `extents` are the bytes that were written. A fill without a digest or
    /// size cannot be found again and is dropped.
    pub fn pause(&self, extents: &Extents) -> Result<(), StoreError> {
        let reservation = self.end()?;
        let (Some(digest), Some(size_bytes)) = (self.name.digest, self.size) else {
            return disk::unlink(&self.path).map(drop);
        };
        let paused = PausedFill {
            name: self.name,
            size_bytes,
            extents: extents.clone(),
            reservation,
            paused_at: SystemTime::now(),
        };
        let kept =
            disk::sync(&self.file, &self.path).and_then(|()| self.store.paused.keep(&self.store.paths, digest, paused));
        kept.inspect_err(|error| self.abandon(error))
    }

    fn end_as(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        let reservation = self.end()?;
        if let Some((registry, _)) = links.first() {
            mark_registry(&self.file, registry);
        }
        let blob = self.move_into_place(digest).inspect_err(|error| self.abandon(error))?;
        self.store.open_blobs.insert(blob.clone(), None);
        let (digest, size_bytes, at_ms) = (*digest, blob.size_bytes, ms_of(SystemTime::now()));
        let (media_type, links) = (media_type.map(str::to_owned), links.to_vec());
        let job = Job::new(move |tables| {
            tables.published(&digest, size_bytes, at_ms)?;
            if let Some(media_type) = media_type {
                tables.set_media_type(&digest, &media_type)?;
            }
            links.iter().try_for_each(|(registry, repository)| tables.link(registry, repository, &digest, at_ms))
        });
        self.store.index.change(job.holding(reservation));
        Ok(blob)
    }

    /// Waits for writes that run and allows no more.
    fn end(&self) -> Result<Reservation, StoreError> {
        let mut running = self.reservation.write().unwrap_or_else(PoisonError::into_inner);
        running.take().ok_or(StoreError::FillState)
    }

    fn move_into_place(&self, digest: &Digest) -> Result<Arc<Blob>, StoreError> {
        let paths = &self.store.paths;
        let measured = self.file.metadata().map_err(|error| StoreError::from_io("measure", &self.path, error));
        let size_bytes = measured?.len();
        match self.size {
            Some(size) if size != size_bytes => {
                return Err(StoreError::WrongSize { expected_bytes: size, actual_bytes: size_bytes });
            }
            Some(_) => {}
            None => disk::truncate(&self.file, &self.path, size_bytes)?,
        }
        disk::sync(&self.file, &self.path)?;
        let folder = paths.shard_of(digest);
        if disk::make_dir(&folder)? {
            disk::sync_dir(&paths.algorithm(digest.algorithm()))?;
        }
        let file = disk::open_existing(&self.path)?;
        let target = paths.blob(digest);
        disk::rename(&self.path, &target)?;
        disk::sync_dir(&folder).inspect_err(|_| drop(self.store.remove(digest)))?;
        Ok(Blob::new(*digest, size_bytes, file, self.store.counters.clone()))
    }

    fn grow(&self, end: u64) -> Result<(), StoreError> {
        let mut running = self.reservation.write().unwrap_or_else(PoisonError::into_inner);
        let Some(reservation) = running.as_mut() else { return Err(StoreError::FillState) };
        let have = reservation.bytes();
        if end <= have {
            return Ok(());
        }
        let more = GROW_BYTES.max(end - have);
        let mut grown = self.store.reserve(more).or_else(|_| self.store.reserve(end - have))?;
        if disk::allocate(&self.file, &self.path, have, grown.bytes())? {
            grown.set_allocated();
        }
        reservation.absorb(grown);
        Ok(())
    }

    fn abandon(&self, why: &StoreError) {
        if !matches!(why, StoreError::WrongSize { .. }) {
            count(&self.store.counters.write_errors);
        }
        if let Err(error) = disk::unlink(&self.path) {
            tracing::warn!(%error, "a failed fill could not be removed; the next start does");
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if self.end().is_ok()
            && let Err(error) = disk::unlink(&self.path)
        {
            tracing::warn!(%error, "a dropped fill could not be removed; the next start does");
        }
    }
}

/// Tells two fills of one digest apart. Not a secret; `create` refuses a name that is taken.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(SystemTime::now())
}
