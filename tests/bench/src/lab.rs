//! The ground that every section stands on: the registry, a folder, the sizes and the number of rounds, and the servers on demand.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot_tests::authority::Authority;

use crate::BoxError;
use crate::client::Target;
use crate::content::{Blob, config, manifest, random_tile};
use crate::figures::Samples;
use crate::servers::{Server, UNBOUNDED, direct, start_entrepot, start_nginx};
use crate::sink::Sink;
use crate::upstream::{REPOSITORY, Upstream};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// How much is run.
#[derive(Clone)]
pub(crate) struct Options {
    /// Small sizes, for developing.
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
}

/// A run's surroundings.
pub(crate) struct Lab {
    pub(crate) options: Options,
    pub(crate) upstream: Upstream,
    pub(crate) authority: Authority,
    /// The registry itself, over TLS and plain.
    pub(crate) direct: (Target, Target),
    pub(crate) binary: PathBuf,
    scratch: PathBuf,
    tile: Bytes,
    next_seed: Cell<u64>,
}

/// An image's manifest and everything that it names.
pub(crate) struct Image {
    pub(crate) manifest: Blob,
    pub(crate) parts: Vec<Blob>,
}

impl Lab {
    /// Starts the registry.
    pub(crate) fn new(options: Options, binary: PathBuf, scratch: PathBuf) -> Result<Self, BoxError> {
        let authority = Authority::new("Benchmark CA");
        let upstream = Upstream::start(&authority)?;
        let direct = direct(&authority)?;
        let tile = random_tile()?;
        Ok(Self { options, upstream, authority, direct, binary, scratch, tile, next_seed: Cell::new(0) })
    }

    /// One of two sizes or numbers.
    pub(crate) fn either<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// A new blob that upstream has and no cache.
    pub(crate) fn blob(&self, size_bytes: u64) -> Blob {
        let seed = self.next_seed.get();
        self.next_seed.set(seed + 1);
        let blob = Blob::tiled(&self.tile, seed, size_bytes);
        self.upstream.publish(&blob);
        blob
    }

    /// A new image with a tag.
    pub(crate) fn image(&self, layers: usize, layer_bytes: u64, tag: &str) -> Image {
        let layers: Vec<_> = (0..layers).map(|_| self.blob(layer_bytes)).collect();
        let config = config(&layers);
        let manifest = manifest(&config, &layers);
        self.upstream.publish(&config);
        self.upstream.publish(&manifest);
        self.upstream.tag(tag, &manifest);
        Image { manifest, parts: std::iter::once(config).chain(layers).collect() }
    }

    /// An empty folder, what was in it before removed.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, BoxError> {
        let path = self.scratch.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// entrepot on what a folder holds.
    pub(crate) async fn entrepot(&self, folder: &Path) -> Result<Server, BoxError> {
        self.entrepot_with(folder, UNBOUNDED).await
    }

    /// entrepot with these bounds of its doors.
    pub(crate) async fn entrepot_with(&self, folder: &Path, bounds: &str) -> Result<Server, BoxError> {
        start_entrepot(&self.binary, folder, &self.authority, bounds).await
    }

    /// Both servers with empty caches, nginx first.
    pub(crate) async fn both(&self) -> Result<[Server; 2], BoxError> {
        let nginx = start_nginx(&self.folder("nginx")?, &self.authority).await?;
        Ok([nginx, self.entrepot(&self.folder("entrepot")?).await?])
    }
}

/// Pulls a body until it is a hit, every time checked by digest, and has the disk settle.
pub(crate) async fn warm(target: &Target, path: &str, blob: &Blob) -> Result<(), BoxError> {
    const PULLS: usize = 50;
    for _ in 0..PULLS {
        if target.pull_checked(path, blob).await?.expect_hit().is_ok() {
            nix::unistd::sync();
            return Ok(());
        }
        // The last byte comes before the file is published.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{path} never became a hit at {}", target.address).into())
}

/// Pulls the same body with so many clients at once; seconds from the requests to the last byte of all.
pub(crate) async fn pull_together(
    target: &Target,
    path: &str,
    size_bytes: u64,
    clients: usize,
) -> Result<f64, BoxError> {
    let mut sinks = Vec::new();
    for _ in 0..clients {
        sinks.push(Sink::open(target, None).await?);
    }
    let begin = Instant::now();
    let pulls = sinks.into_iter().map(|mut sink| {
        let (target, path) = (target.clone(), path.to_owned());
        tokio::task::spawn_local(async move { sink.fetch(&target, &path, size_bytes).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await??.head.expect_hit()?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Runs a client on another thread with a runtime of its own, so that it waits for the server and not for the sinks of
/// this one.
pub(crate) async fn on_a_thread<T, Running>(client: impl FnOnce() -> Running + Send + 'static) -> Result<T, BoxError>
where
    T: Send + 'static,
    Running: Future<Output = Result<T, BoxError>>,
{
    let running = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, client())
    });
    running.await?
}

/// Where a blob is.
pub(crate) fn blob_path(blob: &Blob) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}

/// Where a manifest is, by tag or digest.
pub(crate) fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

/// Two empty rows, one for each server.
pub(crate) fn rows() -> [Samples; 2] {
    Default::default()
}
