//! The store as a whole, in temporary directories: fills, restarts, eviction, and faults of the disk.

mod eviction;
mod faults;
mod fills;
mod memory;
mod names;
mod proofs;
mod restart;
mod scrub;
mod threaded;
mod truth;
mod upgrade;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::origin::Origin;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Limits, PartialBlob, Store, StoreError};

const PLENTY: u64 = 1 << 40;

fn limits(max_size_bytes: u64) -> Limits {
    Limits { max_size_bytes, min_free_bytes: 0, inactive: Duration::from_secs(3600), proofs: Duration::ZERO }
}

/// A store in a directory of its own.
struct World {
    store: Arc<Store>,
    dir: TempDir,
}

impl World {
    fn new(max_size_bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), limits(max_size_bytes)).unwrap();
        Self { store, dir }
    }

    /// Ends the store in good order and starts it again.
    fn restarted(self) -> Self {
        let Self { store, dir } = self;
        drop(store);
        let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
        Self { store, dir }
    }

    /// The files that kill -9 would leave at this moment, in another directory, not yet opened. The files keep their
    /// times.
    fn wreck(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join(".")).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        copy
    }
}

fn origin(text: &str) -> Origin {
    text.parse().unwrap()
}

/// The origin of content where it does not matter.
fn hub() -> Origin {
    origin("registry-1.docker.io")
}

/// Content that differs for each seed.
fn content(seed: u64, len: usize) -> (Digest, Vec<u8>) {
    let mut bytes: Vec<u8> = seed.to_le_bytes().iter().copied().cycle().take(len).collect();
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = byte.wrapping_add(at as u8));
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

/// Runs a future to its end. For tests that wait for each step.
pub(crate) fn done<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(future)
}

fn put(store: &Store, seed: u64, len: usize) -> Digest {
    let (digest, bytes) = content(seed, len);
    done(store.partial_blobs.put(&digest, bytes.into())).unwrap();
    digest
}

fn read(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    done(reading(store, digest))
}

async fn reading(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    let blob = store.blobs.get(digest).await.unwrap()?;
    Some(blob.read(0, usize::MAX).await.unwrap().to_vec())
}

/// Bytes of content on its way in.
fn read_back(partial: &PartialBlob, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    partial.read_into(offset, &mut bytes).unwrap();
    bytes
}

/// Waits for work that runs in the background and announces nothing.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn files_below(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

fn is_no_space<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NoSpace { .. } | StoreError::LargerThanCache { .. }))
}
