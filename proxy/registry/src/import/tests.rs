//! Imports of trees as Docker's registry writes them: complete, interrupted and damaged.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::digest::Algorithm;
use entrepot_core::name::Reference;
use tempfile::TempDir;

use super::Brought;
use super::tree::tests::Written;
use super::*;
use entrepot_store::Limits;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

struct Here {
    store: Arc<Store>,
    folder: TempDir,
}

impl Here {
    fn new() -> Self {
        // Beside the trees, so that files can be linked.
        let folder = TempDir::new().unwrap();
        let limits = Limits {
            max_size_bytes: 1 << 40,
            min_free_bytes: 0,
            inactive: Duration::from_secs(3600),
            proofs: Duration::ZERO,
        };
        Self { store: Store::open(folder.path(), limits).unwrap(), folder }
    }

    /// Imports a tree; returns the result and the report.
    async fn import(&self, tree: &Written) -> (Result<Imported, ImportError>, Vec<ImportLine>) {
        let (sender, mut receiver) = mpsc::channel(1);
        let told = async {
            let mut lines = Vec::new();
            while let Some(line) = receiver.recv().await {
                lines.push(line);
            }
            lines
        };
        tokio::join!(import(&self.store, tree.folder.path(), sender), told)
    }

    async fn tag(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.store.repositories.at(&repository.parse().unwrap()).tag(&tag.parse().unwrap()).await.unwrap()
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.store.repositories.at(&repository.parse().unwrap()).has(digest).await
    }
}

fn image(config: &Digest, layers: &[&Digest]) -> Vec<u8> {
    let layers: Vec<_> =
        layers.iter().map(|digest| serde_json::json!({"digest": digest.to_string(), "size": 1})).collect();
    let config = serde_json::json!({"digest": config.to_string(), "size": 1});
    serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes()
}

fn index(manifests: &[&Digest]) -> Vec<u8> {
    let manifests: Vec<_> =
        manifests.iter().map(|digest| serde_json::json!({"digest": digest.to_string(), "size": 1})).collect();
    serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes()
}

fn large(seed: u8) -> Vec<u8> {
    vec![seed; 200_000]
}

/// Two repositories that share a layer, one with an index.
fn tree() -> (Written, [Digest; 4]) {
    let tree = Written::new();
    let (config, layer) = (tree.layer("team/app", b"config"), tree.layer("team/app", &large(1)));
    let manifest = tree.manifest("team/app", &["v1"], &image(&config, &[&layer]));
    let index = tree.manifest("team/app", &["latest"], &index(&[&manifest]));
    tree.layer("other", b"config");
    tree.layer("other", &large(1));
    tree.manifest("other", &["v1"], &image(&config, &[&layer]));
    (tree, [config, layer, manifest, index])
}

fn skipped(lines: &[ImportLine]) -> Vec<String> {
    let told = lines.iter().filter_map(|line| match line {
        ImportLine::Skipped { what, why } => Some(format!("{what}: {why}")),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn a_tree_comes_over_whole() {
    let (tree, [config, layer, manifest, index]) = tree();
    let here = Here::new();
    let (imported, lines) = here.import(&tree).await;
    let imported = imported.unwrap();
    let expected = Imported { repositories: 2, manifests: 3, tags: 3, blobs: 4, bytes: imported.bytes, skipped: 0 };
    assert_eq!(imported, expected, "{lines:?}");
    assert!(matches!(lines[0], ImportLine::Planned { repositories: 2, blobs: 4, bytes } if bytes == imported.bytes));
    assert_eq!((here.tag("team/app", "v1").await, here.tag("team/app", "latest").await), (Some(manifest), Some(index)));
    assert_eq!(here.tag("other", "v1").await, Some(manifest));
    for repository in ["team/app", "other"] {
        assert!(here.has_blob(repository, &config).await && here.has_blob(repository, &layer).await);
        let name = repository.parse().unwrap();
        let stored = here.store.repositories.at(&name).manifest(&Reference::Digest(manifest)).await.unwrap().unwrap();
        assert_eq!((&*stored.media_type, &stored.bytes[..]), (OCI, &image(&config, &[&layer])[..]));
    }
    assert_eq!(here.store.blobs.get(&layer).await.unwrap().unwrap().read(0, 1 << 20).await.unwrap(), large(1));
    assert!(here.store.repositories.is_pinned(&layer).await, "it is never evicted");
}

#[tokio::test]
async fn large_blobs_take_no_second_room_and_small_ones_are_copies() {
    let (tree, [config, layer, ..]) = tree();
    let here = Here::new();
    let (_, lines) = here.import(&tree).await;
    let how = |digest: &Digest| {
        let text = digest.to_string();
        lines.iter().find_map(|line| match line {
            ImportLine::Blob { digest, how, .. } if *digest == text => Some(*how),
            _ => None,
        })
    };
    assert_eq!(how(&config), Some(Brought::Copied));
    let source = fs::metadata(Tree::open(tree.folder.path()).unwrap().data(&layer)).unwrap();
    let hex = layer.hex();
    let stored = fs::metadata(here.folder.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    match how(&layer) {
        Some(Brought::Linked) => assert_eq!((source.dev(), source.ino()), (stored.dev(), stored.ino())),
        Some(Brought::Cloned) => assert_ne!(source.ino(), stored.ino()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_second_import_brings_nothing_twice() {
    let (tree, _) = tree();
    let here = Here::new();
    let first = here.import(&tree).await.0.unwrap();
    let (second, lines) = here.import(&tree).await;
    assert_eq!(second.unwrap(), Imported { blobs: 0, bytes: 0, ..first });
    assert!(lines.iter().all(|line| !matches!(line, ImportLine::Blob { how, .. } if *how != Brought::Present)));
}

/// The import is interrupted after each line in turn, or one later, and continued. Each tag that exists leads to a
/// complete image.
#[tokio::test]
async fn an_import_that_is_broken_off_anywhere_goes_on() {
    let (tree, [config, layer, manifest, index]) = tree();
    let lines = Here::new().import(&tree).await.1.len();
    for stop in 0..lines {
        let here = Here::new();
        let (sender, mut receiver) = mpsc::channel(1);
        let leaves = async {
            for _ in 0..stop {
                receiver.recv().await.expect("a line");
            }
            drop(receiver);
        };
        let ((), broken) = tokio::join!(leaves, import(&here.store, tree.folder.path(), sender));
        // One line waits in the channel, so after the last but one the import may be complete.
        let interrupted = matches!(broken, Err(ImportError::Interrupted));
        assert!(interrupted || stop + 1 == lines && broken.is_ok(), "after {stop} lines");
        if here.tag("team/app", "v1").await.is_some() || here.tag("team/app", "latest").await.is_some() {
            for digest in [config, layer, manifest] {
                assert!(here.has_blob("team/app", &digest).await, "{stop}");
            }
        }
        here.import(&tree).await.0.unwrap();
        assert_eq!(
            (here.tag("team/app", "latest").await, here.tag("other", "v1").await),
            (Some(index), Some(manifest)),
            "{stop}"
        );
    }
}

#[tokio::test]
async fn what_is_damaged_is_left_out_and_the_rest_comes() {
    let tree = Written::new();
    let (config, layer, rotten) = (tree.layer("a", b"c"), tree.layer("a", b"good"), tree.layer("a", &large(2)));
    let lost = Digest::of(Algorithm::Sha256, b"lost");
    tree.file(&format!("repositories/a/_layers/sha256/{}/link", lost.hex()), lost.to_string().as_bytes());
    fs::write(Tree::open(tree.folder.path()).unwrap().data(&rotten), vec![3; 200_000]).unwrap();
    let good = tree.manifest("a", &["good"], &image(&config, &[&layer]));
    let bad = tree.manifest("a", &["rotten"], &image(&config, &[&rotten]));
    tree.manifest("a", &["lost"], &image(&config, &[&layer, &lost]));
    tree.manifest("a", &["text"], b"no manifest");
    let half = tree.manifest("a", &["half"], &index(&[&good, &bad]));
    let here = Here::new();
    let (imported, lines) = here.import(&tree).await;
    assert_eq!(imported.unwrap().manifests, 2);
    assert_eq!((here.tag("a", "good").await, here.tag("a", "half").await), (Some(good), Some(half)));
    for gone in ["rotten", "lost", "text"] {
        assert_eq!(here.tag("a", gone).await, None, "{gone}");
    }
    assert!(!here.store.blobs.contains(&rotten).await, "wrong bytes are nobody's content");
    let told = skipped(&lines).join("\n");
    for part in [
        format!("a@{rotten}: its bytes do not have this digest"),
        format!("a@{lost}: "),
        format!("a:lost: {lost} is missing"),
        "a:text: the manifest it points to was not imported".to_owned(),
    ] {
        assert!(told.contains(&part), "{part} is not in\n{told}");
    }
    let missing = bad.to_string();
    let incomplete = |line: &ImportLine| matches!(line, ImportLine::Incomplete { missing: of, .. } if *of == missing);
    assert!(lines.iter().any(incomplete), "{lines:?}");
}

#[tokio::test]
async fn a_tag_that_was_pushed_here_meanwhile_stays() {
    let (tree, [.., manifest, _]) = tree();
    let here = Here::new();
    here.import(&tree).await.0.unwrap();
    let newer = Written::new();
    let config = newer.layer("team/app", b"newer");
    newer.manifest("team/app", &["v1", "v2"], &image(&config, &[]));
    let (imported, lines) = here.import(&newer).await;
    assert_eq!((imported.unwrap().tags, here.tag("team/app", "v1").await), (1, Some(manifest)));
    assert_eq!(skipped(&lines), ["team/app:v1: the tag points to something else here and stays"]);
    assert!(here.tag("team/app", "v2").await.is_some());
}

#[tokio::test]
async fn nothing_is_no_tree() {
    let here = Here::new();
    let (sender, _receiver) = mpsc::channel(1);
    let error = import(&here.store, here.folder.path(), sender).await.err().unwrap();
    assert!(error.to_string().contains("holds no data of Docker's registry"), "{error}");
}

#[tokio::test]
async fn what_lies_below_library_is_named_and_left_out() {
    let (tree, [_, layer, ..]) = tree();
    tree.layer("library/app", b"config");
    tree.layer("library/app", &large(1));
    tree.manifest("library/app", &["v1"], &image(&Digest::of(Algorithm::Sha256, b"config"), &[&layer]));
    let here = Here::new();
    let (imported, lines) = here.import(&tree).await;
    let imported = imported.unwrap();
    assert_eq!((imported.repositories, imported.skipped), (2, 1), "{lines:?}");
    assert!(skipped(&lines)[0].starts_with("library/app: library/ is Docker Hub's"), "{lines:?}");
    assert_eq!(here.tag("library/app", "v1").await, None);
}
