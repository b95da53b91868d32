//! What the index costs with 100,000 blobs: look-ups from memory and from its tables, and a row written.
//! `cargo bench -p entrepot --bench index`; `cargo test` runs each once, untimed, on a small index.

// The macros of the harness make undocumented functions.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::media::AcceptClass;
use entrepot_store::seed::{self, Seeded};
use entrepot_store::{Limits, Store, TagEntry, TagKey};
use tempfile::TempDir;

struct World {
    store: Arc<Store>,
    seeded: Seeded,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let timed = std::env::args().any(|argument| argument == "--bench");
        let dir = TempDir::new().expect("a directory");
        let seeded = seed::fill_index(dir.path(), if timed { 100_000 } else { 100 }).expect("a full index");
        let limits = Limits { max_size_bytes: 1 << 40, min_free_bytes: 0, inactive: Duration::from_secs(3600) };
        let store = Store::open(dir.path(), limits).expect("a store");
        store.wait_for_rebuild();
        Self { store, seeded, _dir: dir }
    }

    fn tag(&self, name: &str) -> TagKey {
        TagKey {
            registry: self.seeded.registry.clone(),
            repository: self.seeded.repository.clone(),
            tag: name.parse().expect("a tag"),
            accept_class: AcceptClass::ANY.bits(),
        }
    }
}

fn lookups(criterion: &mut Criterion) {
    let world = World::new();
    let (store, seeded) = (&world.store, &world.seeded);
    let (registry, repository) = (&seeded.registry, &seeded.repository);
    let tag = world.tag(seeded.tag.as_str());
    let found = store.manifest(registry, repository, &seeded.manifest).is_some() && store.tag(&tag).is_some();
    assert!(found && store.linked(registry, repository, &seeded.layer));
    let mut group = criterion.benchmark_group("memory");
    group.bench_function("manifest", |bencher| {
        bencher.iter(|| store.manifest_now(registry, repository, black_box(&seeded.manifest)).expect("hot"));
    });
    group.bench_function("link", |bencher| {
        bencher.iter(|| assert!(store.linked_now(registry, repository, black_box(&seeded.layer))));
    });
    group.bench_function("tag", |bencher| bencher.iter(|| store.tag_now(black_box(&tag)).expect("hot")));
    group.finish();
    // What is not there is never remembered, so these go to the tables each time.
    let (absent, absent_tag) = (Digest::of(Algorithm::Sha256, b"absent"), world.tag("absent"));
    let mut group = criterion.benchmark_group("tables");
    group.bench_function("link", |bencher| bencher.iter(|| store.linked(registry, repository, black_box(&absent))));
    group.bench_function("tag", |bencher| bencher.iter(|| store.tag(black_box(&absent_tag))));
    group.bench_function("list", |bencher| bencher.iter(|| store.list(None, black_box(100)).expect("a list")));
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let world = World::new();
    let (store, seeded) = (&world.store, &world.seeded);
    let mut number = 0_u64;
    let mut next = || {
        number += 1;
        Digest::of(Algorithm::Sha512, &number.to_le_bytes())
    };
    let mut group = criterion.benchmark_group("visible");
    group.bench_function("link", |bencher| {
        bencher.iter(|| store.link(&seeded.registry, &seeded.repository, &next()));
    });
    let tag = world.tag("changing");
    group.bench_function("tag", |bencher| {
        bencher.iter(|| {
            let (digest, media_type) = (next(), "application/vnd.oci.image.index.v1+json".to_owned());
            let entry = TagEntry { digest, media_type, size_bytes: 1, validated_at: SystemTime::now() };
            store.set_tag(tag.clone(), entry);
        });
    });
    // The file with its two syncs and its row.
    let mut bytes = vec![0; 1536];
    group.bench_function("publication", |bencher| {
        bencher.iter(|| {
            bytes[..8].copy_from_slice(&next().bytes()[..8]);
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            store.put(&digest, &bytes).expect("stored");
        });
    });
    group.bench_function("expiry round", |bencher| bencher.iter(|| store.expire_unused(SystemTime::now())));
    group.finish();
}

criterion_group!(benches, lookups, changes);
criterion_main!(benches);
