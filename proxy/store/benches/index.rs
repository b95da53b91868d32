//! The cost of the index with 100,000 rows: look-ups from memory, look-ups from its tables, and a row written.
//! `cargo bench -p entrepot-store --bench index` runs it; `cargo test` runs each once, untimed, on a small index.

// The macros of the harness make undocumented functions.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::media::AcceptClass;
use entrepot_store::{Limits, Place, Store, TagEntry, TagKey};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

struct World {
    runtime: Runtime,
    store: Arc<Store>,
    place: Place,
    manifest: Digest,
    layer: Digest,
    _dir: TempDir,
}

impl World {
    /// An index full of links, and one manifest and one layer that are really there.
    fn new() -> Self {
        let timed = std::env::args().any(|argument| argument == "--bench");
        let dir = TempDir::new().expect("a directory");
        let limits = Limits {
            max_size_bytes: 1 << 40,
            min_free_bytes: 0,
            inactive: Duration::from_secs(3600),
            proofs: Duration::ZERO,
        };
        let store = Store::open(dir.path(), limits).expect("a store");
        let place = Place::new("ghcr.io".parse().expect("an origin"), "library/project".parse().expect("a name"));
        let runtime = Runtime::new().expect("a runtime");
        let (manifest, layer) = runtime.block_on(async {
            let count: u64 = if timed { 100_000 } else { 100 };
            let digests: Vec<_> =
                (0..count).map(|number| Digest::of(Algorithm::Sha256, &number.to_be_bytes())).collect();
            for chunk in digests.chunks(4096) {
                join_all(chunk.iter().map(|digest| store.names.link(&place, digest, None))).await;
            }
            let (layer, manifest) = (vec![7; 64 << 10], vec![b' '; 1536]);
            let [layer, manifest] = [layer, manifest].map(|bytes| (Digest::of(Algorithm::Sha256, &bytes), bytes));
            for (digest, bytes) in [&layer, &manifest] {
                store.partial_blobs.put(digest, bytes.clone().into()).await.expect("stored");
                store.names.link(&place, digest, None).await;
            }
            store.names.set_media_type(&manifest.0, MANIFEST_TYPE).await;
            (manifest.0, layer.0)
        });
        Self { runtime, store, place, manifest, layer, _dir: dir }
    }

    fn tag(&self, name: &str) -> TagKey {
        let accept_class = AcceptClass::ANY.bits();
        TagKey { place: self.place.clone(), tag: name.parse().expect("a tag"), accept_class }
    }
}

fn entry(digest: Digest) -> TagEntry {
    TagEntry { digest, media_type: MANIFEST_TYPE.to_owned(), size_bytes: 1, validated_at: SystemTime::now() }
}

fn lookups(criterion: &mut Criterion) {
    let world = World::new();
    let World { runtime, store, place, manifest, layer, .. } = &world;
    let (names, tag) = (&store.names, world.tag("1.0"));
    let found = runtime.block_on(async {
        names.set_tag(tag.clone(), entry(*manifest)).await;
        names.manifest(place, manifest).await.is_some() && names.tag(&tag).await.is_some()
    });
    assert!(found && runtime.block_on(names.link_of(place, layer)).is_some());
    let mut group = criterion.benchmark_group("memory");
    group.bench_function("manifest", |bencher| {
        bencher.iter(|| names.manifest(place, black_box(manifest)).now_or_never().flatten().expect("in memory"));
    });
    group.bench_function("link", |bencher| {
        bencher.iter(|| names.link_of(place, black_box(layer)).now_or_never().flatten().expect("in memory"));
    });
    group.bench_function("tag", |bencher| {
        bencher.iter(|| names.tag(black_box(&tag)).now_or_never().flatten().expect("in memory"));
    });
    group.finish();
    // Absent names are never remembered, so each of these look-ups goes to the tables, by way of the blocking pool.
    let (absent, absent_tag) = (Digest::of(Algorithm::Sha256, b"absent"), world.tag("absent"));
    let mut group = criterion.benchmark_group("tables");
    group.bench_function("link", |bencher| bencher.iter(|| runtime.block_on(names.link_of(place, black_box(&absent)))));
    group.bench_function("tag", |bencher| bencher.iter(|| runtime.block_on(names.tag(black_box(&absent_tag)))));
    group.bench_function("list", |bencher| {
        bencher.iter(|| runtime.block_on(store.blobs.list(None, black_box(100))).expect("a list"));
    });
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let world = World::new();
    let World { runtime, store, place, .. } = &world;
    let mut number = 0_u64;
    let mut next = || {
        number += 1;
        Digest::of(Algorithm::Sha512, &number.to_le_bytes())
    };
    let mut group = criterion.benchmark_group("visible");
    group.bench_function("link", |bencher| bencher.iter(|| runtime.block_on(store.names.link(place, &next(), None))));
    let tag = world.tag("changing");
    group.bench_function("tag", |bencher| {
        bencher.iter(|| runtime.block_on(store.names.set_tag(tag.clone(), entry(next()))));
    });
    // This writes the file with its two syncs and its row.
    let mut bytes = vec![0; 1536];
    group.bench_function("publication", |bencher| {
        bencher.iter(|| {
            bytes[..8].copy_from_slice(&next().bytes()[..8]);
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            runtime.block_on(store.partial_blobs.put(&digest, bytes.clone().into())).expect("stored");
        });
    });
    group.bench_function("expiry round", |bencher| {
        bencher.iter(|| runtime.block_on(store.expire_unused(SystemTime::now())));
    });
    group.finish();
}

criterion_group!(benches, lookups, changes);
criterion_main!(benches);
