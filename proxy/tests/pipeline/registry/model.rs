//! Many clients at once against a model. Pushes, deletions and collections come in any order. Afterwards every tag is
//! complete and has the content that was acknowledged last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use entrepot_store::{Sweep, Untagged};
use http::Method;

use super::{get, push, put_manifest, registry};
use crate::harness::{Image, Proxy, digest_of};

const REPOSITORIES: [&str; 3] = ["one", "two", "deep/three"];
const CLIENTS: u64 = 6;
const ROUNDS: u64 = 12;

/// A random generator. Each client has its own, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One client with its own tags. All clients share layers.
async fn client(proxy: Arc<Proxy>, number: u64) -> BTreeMap<(String, String), Option<Image>> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut acknowledged = BTreeMap::new();
    for _ in 0..ROUNDS {
        let repository = REPOSITORIES[dice.throw(3) as usize];
        let tag = format!("c{number}-{}", dice.throw(3));
        let image = Image::new(repository, dice.throw(5));
        let place = (repository.to_owned(), tag.clone());
        match dice.throw(4) {
            0 => {
                let status = proxy.registry(Method::DELETE, &image.tag_path(&tag)).send().await.status;
                assert!(matches!(status, 202 | 404), "{status}");
                acknowledged.insert(place, None);
            }
            _ => {
                push(&proxy, &image, &tag).await;
                acknowledged.insert(place, Some(image));
            }
        }
    }
    acknowledged
}

async fn assert_whole(proxy: &Proxy, image: &Image, tag: &str) {
    get(proxy, &image.tag_path(tag)).await.is_whole(&image.manifest);
    get(proxy, &image.layer_path()).await.is_whole(&image.layer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_deletions_and_collections_at_once_keep_what_was_acknowledged() {
    let proxy = Arc::new(registry().await);
    let collecting = {
        let store = proxy.pull.store.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let mut runs = 0;
            // The grace period is as long as the test: running pushes are protected, all other content may be
            // collected.
            let sweep = Sweep { grace: Duration::from_secs(600), untagged: Untagged::Keep, dry_run: false };
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                store.repositories.collect(sweep, |_| {}).await.expect("collected");
                runs += 1;
            }
            runs
        });
        (stop, task)
    };
    let clients: Vec<_> = (1..=CLIENTS).map(|number| tokio::spawn(client(proxy.clone(), number))).collect();
    let mut model = BTreeMap::new();
    for running in clients {
        model.extend(running.await.expect("no client failed"));
    }
    drop(collecting.0);
    assert!(collecting.1.await.expect("no panic") > 0);
    // No content is in its grace period any more: content without a manifest must go, all other content must stay.
    let sweep = Sweep { grace: Duration::ZERO, untagged: Untagged::All, dry_run: false };
    proxy.pull.store.repositories.collect(sweep, |_| {}).await.expect("collected");
    for ((repository, tag), image) in &model {
        match image {
            Some(image) => assert_whole(&proxy, image, tag).await,
            None => {
                let status = get(&proxy, &format!("/v2/{repository}/manifests/{tag}")).await.status;
                assert_eq!(status, 404, "{repository}:{tag}");
            }
        }
    }
    let mut expected: Vec<_> =
        model.values().flatten().flat_map(|image| [image.manifest_digest, image.layer_digest]).collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(proxy.files("blobs").len(), expected.len(), "and nothing else is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_image_pushed_by_many_at_once_is_stored_once() {
    let proxy = Arc::new(registry().await);
    let image = Image::new("app", 1);
    let pushes = (0..8).map(|number| {
        let (proxy, image) = (proxy.clone(), image.clone());
        tokio::spawn(async move { push(&proxy, &image, &format!("v{}", number % 2)).await })
    });
    for running in pushes.collect::<Vec<_>>() {
        running.await.expect("no push failed");
    }
    assert_whole(&proxy, &image, "v0").await;
    assert_whole(&proxy, &image, "v1").await;
    assert_eq!(proxy.files("blobs").len(), 2);
    assert!(proxy.files("uploads").is_empty());
}

#[tokio::test]
async fn a_pull_that_runs_ends_well_whatever_is_deleted_and_collected() {
    let proxy = registry().await;
    let content = crate::harness::bytes(9, 8 << 20);
    let digest = super::push_blob(&proxy, "app", &content).await;
    let manifest = super::manifest_of(crate::harness::MANIFEST_TYPE, &digest, content.len());
    assert_eq!(put_manifest(&proxy, "app", "v1", manifest.clone()).await.status, 201);
    let path = format!("/v2/app/blobs/{digest}");
    let mut reading = proxy.registry(Method::GET, &path).start().await;
    let first = reading.read(1000).await;
    let named = digest_of(manifest.as_bytes());
    for path in [format!("/v2/app/manifests/{named}"), path.clone()] {
        assert_eq!(proxy.registry(Method::DELETE, &path).send().await.status, 202);
    }
    let sweep = Sweep { grace: Duration::ZERO, untagged: Untagged::All, dry_run: false };
    let collected = proxy.pull.store.repositories.collect(sweep, |_| {}).await.expect("collected").expect("it ran");
    assert_eq!(collected.blobs, 2);
    assert!(!proxy.has(&digest));
    let rest = reading.rest().await.expect("the pull ends well");
    assert!([&first[..], &rest.body[..]].concat() == content, "other bytes");
    assert_eq!(get(&proxy, &path).await.status, 404);
}
