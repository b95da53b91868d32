//! What was pushed, against the files it lies in: what survives, what is collected, what is never taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use tempfile::TempDir;

use super::{Collected, PushedManifest, Step, Sweep};
use crate::{Limits, Removal, Store, UploadFile, UploadId};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const PLENTY: u64 = 1 << 40;
const AT_ONCE: Sweep = Sweep { grace: Duration::ZERO, untagged: false, dry_run: false };

struct Place {
    store: Arc<Store>,
    dir: TempDir,
}

fn open(dir: &TempDir, max_size_bytes: u64) -> Arc<Store> {
    let limits = Limits { max_size_bytes, min_free_bytes: 0, inactive: Duration::from_secs(3600) };
    Store::open(dir.path(), limits).expect("a store")
}

impl Place {
    fn new(max_size_bytes: u64) -> Self {
        let dir = TempDir::new().expect("a directory");
        Self { store: open(&dir, max_size_bytes), dir }
    }

    fn content(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        self.store.put(&digest, bytes).expect("stored");
        digest
    }

    fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = self.content(bytes);
        assert!(self.store.link_pushed(&name(repository), &digest).expect("linked"));
        digest
    }

    fn manifest(&self, repository: &str, tags: &[&str], children: &[Digest], subject: Option<Digest>) -> Digest {
        let layers: Vec<_> = children.iter().map(|child| format!(r#"{{"digest":"{child}","size":1}}"#)).collect();
        let subject = subject.map(|subject| format!(r#","subject":{{"digest":"{subject}","size":1}}"#));
        let text = format!(
            r#"{{"mediaType":"{IMAGE}","tags":{tags:?},"layers":[{}]{}}}"#,
            layers.join(","),
            subject.unwrap_or_default()
        );
        self.put(repository, tags, text.as_bytes())
    }

    fn put(&self, repository: &str, tags: &[&str], bytes: &[u8]) -> Digest {
        let digest = self.content(bytes);
        let info = ManifestInfo::inspect(bytes).expect("a manifest");
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
        let manifest = PushedManifest::of(digest, IMAGE, &info, bytes);
        let objection = self.store.put_pushed_manifest(&name(repository), &manifest, &tags, || None::<()>);
        assert_eq!(objection.expect("put"), None);
        digest
    }

    fn collect(&self, sweep: Sweep) -> Collected {
        self.store.collect(sweep, &mut |_| {}).expect("collected").expect("no other collection runs")
    }

    fn resolves(&self, repository: &str, reference: &str) -> bool {
        let reference: Reference = reference.parse().expect("a reference");
        self.store.pushed_manifest(&name(repository), &reference).expect("readable").is_some()
    }

    fn has_file(&self, digest: &Digest) -> bool {
        self.store.paths.blob(digest).exists()
    }

    /// As after kill -9, without an index.
    fn without_index(self) -> Self {
        let Self { store, dir } = self;
        drop(store);
        std::fs::remove_file(dir.path().join("index.redb")).expect("the index");
        let store = open(&dir, PLENTY);
        store.wait_for_rebuild();
        Self { store, dir }
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

#[test]
fn what_was_pushed_survives_the_loss_of_the_index() {
    let place = Place::new(PLENTY);
    let layer = place.blob("team/app", b"layer");
    let digest = place.manifest("team/app", &["v1", "latest"], &[layer], None);
    let place = place.without_index();
    for reference in ["v1", "latest", &digest.to_string()] {
        assert!(place.resolves("team/app", reference), "{reference}");
    }
    assert!(place.store.has_pushed_blob(&name("team/app"), &layer));
    assert!(!place.store.has_pushed_blob(&name("team"), &layer), "another repository's");
    let usage = place.store.usage();
    assert_eq!((usage.used_bytes, usage.blobs), (0, 2), "pinned again: {usage:?}");
}

#[tokio::test]
async fn eviction_never_takes_what_was_pushed_nor_counts_it() {
    let place = Place::new(10_000);
    let bytes = bytes::Bytes::from(vec![1; 50_000]);
    let layer = Digest::of(Algorithm::Sha256, &bytes);
    let hold = place.store.hold(&layer).expect("held");
    place.store.put_pushed_in_time(&layer, bytes).await.expect("more than the cache may have");
    assert!(place.store.link_pushed(&name("app"), &layer).expect("linked"));
    drop(hold);
    let digest = place.manifest("app", &["v1"], &[layer], None);
    for seed in 0..20 {
        place.content(&[seed + 10; 4000]);
    }
    place.store.flush();
    let usage = place.store.usage();
    assert!(usage.used_bytes <= 10_000 && usage.evictions > 0, "{usage:?}");
    assert!(usage.pinned_bytes > 50_000, "{usage:?}");
    assert!(place.has_file(&layer) && place.has_file(&digest));
    assert_eq!(
        place.store.expire_unused(SystemTime::now() + Duration::from_secs(86_400)),
        2,
        "what is left of the cache"
    );
    assert!(place.has_file(&layer) && place.has_file(&digest));
    assert_eq!(place.store.remove_cached(&layer).expect("asked"), Removal::Pinned);
    place.store.clear().expect("cleared");
    assert!(place.has_file(&layer) && place.resolves("app", "v1"));
}

#[test]
fn a_collection_takes_what_no_manifest_names_after_its_grace() {
    let place = Place::new(PLENTY);
    let (used, unused) = (place.blob("app", b"used"), place.blob("app", b"unused"));
    let digest = place.manifest("app", &["v1"], &[used], None);
    let patient = place.collect(Sweep { grace: Duration::from_secs(60), ..AT_ONCE });
    assert_eq!((patient.links, patient.waiting, patient.blobs), (0, 1, 0));
    let counted = place.collect(Sweep { dry_run: true, ..AT_ONCE });
    assert!(place.has_file(&unused) && place.store.has_pushed_blob(&name("app"), &unused), "a dry run takes nothing");
    let collected = place.collect(AT_ONCE);
    assert_eq!((collected.links, collected.blobs, collected.bytes), (1, 1, 6));
    assert_eq!(counted, collected, "a dry run says what would go");
    assert!(!place.has_file(&unused) && place.has_file(&used) && place.has_file(&digest));
    assert_eq!(place.collect(AT_ONCE).blobs, 0);
}

#[test]
fn what_an_artifact_lists_is_needed() {
    let place = Place::new(PLENTY);
    for kind in ["vnd.oci.artifact.manifest.v1", "vnd.cncf.oras.artifact.manifest.v1"] {
        let blob = place.blob("app", kind.as_bytes());
        let manifest = format!(
            r#"{{"mediaType":"application/{kind}+json","artifactType":"a/b","blobs":[{{"digest":"{blob}","size":1}}]}}"#
        );
        place.put("app", &[], manifest.as_bytes());
        let collected = place.collect(AT_ONCE);
        assert_eq!((collected.links, collected.blobs), (0, 0), "{kind}");
        assert!(place.has_file(&blob) && place.store.has_pushed_blob(&name("app"), &blob), "{kind}");
    }
}

#[test]
fn content_of_two_repositories_leaves_with_the_second() {
    let place = Place::new(PLENTY);
    let layer = place.blob("one", b"shared");
    assert!(place.store.link_pushed(&name("two"), &layer).expect("linked"));
    for repository in ["one", "two"] {
        place.manifest(repository, &["v1"], &[layer], None);
    }
    assert!(place.store.remove_repository(&name("one")).expect("removed"));
    place.collect(AT_ONCE);
    assert!(place.resolves("two", "v1") && place.has_file(&layer));
    assert!(!place.store.has_repository(&name("one")));
    assert!(place.store.remove_repository(&name("two")).expect("removed"));
    let collected = place.collect(AT_ONCE);
    assert!(!place.has_file(&layer));
    assert_eq!(collected.blobs, 2, "the layer and the second manifest");
    assert!(!place.store.remove_repository(&name("two")).expect("asked"));
}

#[test]
fn what_the_cache_needs_stays_when_its_push_is_deleted() {
    let place = Place::new(PLENTY);
    let layer = place.blob("app", b"base layer");
    let hub = "registry-1.docker.io".parse().expect("a host");
    place.store.link(&hub, &name("library/base"), &layer);
    place.store.remove_repository(&name("app")).expect("removed");
    let collected = place.collect(AT_ONCE);
    assert_eq!((collected.blobs, collected.kept_by_cache), (0, 1));
    assert!(place.has_file(&layer) && !place.store.is_pinned(&layer));
    place.store.flush();
    assert_eq!(place.store.usage().used_bytes, 10, "the cache's again");
    assert_eq!(place.store.remove_cached(&layer).expect("asked"), Removal::Removed);
}

#[test]
fn removing_a_tag_takes_what_nothing_else_leads_to() {
    let place = Place::new(PLENTY);
    let (one, two) = (place.blob("app", b"one"), place.blob("app", b"two"));
    let child = place.manifest("app", &[], &[one], None);
    let shared = place.manifest("app", &[], &[two], None);
    let index = place.manifest("app", &["index"], &[child, shared], None);
    place.manifest("app", &["other"], &[shared], None);
    let signature = place.manifest("app", &[], &[two], Some(index));
    let gone = place.store.remove_tagged(&name("app"), &"index".parse().expect("a tag")).expect("removed");
    let gone: BTreeSet<Digest> = gone.expect("it was there").into_iter().collect();
    assert_eq!(gone, [index, child, signature].into());
    assert!(place.resolves("app", "other") && place.resolves("app", &shared.to_string()));
    place.collect(AT_ONCE);
    assert!(!place.has_file(&one) && place.has_file(&two));
    assert!(place.store.remove_tagged(&name("app"), &"index".parse().expect("a tag")).expect("asked").is_none());
}

#[test]
fn manifests_without_a_tag_go_only_where_that_is_asked() {
    let place = Place::new(PLENTY);
    let layer = place.blob("app", b"layer");
    let tagged = place.manifest("app", &["v1"], &[], None);
    let referrer = place.manifest("app", &[], &[layer], Some(tagged));
    let untagged = place.put("app", &[], br#"{"layers":[],"n":1}"#);
    assert_eq!(place.collect(AT_ONCE).manifests, 0);
    assert!(place.resolves("app", &untagged.to_string()));
    let dry = place.collect(Sweep { untagged: true, dry_run: true, ..AT_ONCE });
    let collected = place.collect(Sweep { untagged: true, ..AT_ONCE });
    assert_eq!((dry, collected.manifests, collected.blobs), (collected, 1, 1));
    assert!(!place.resolves("app", &untagged.to_string()));
    assert!(place.resolves("app", &referrer.to_string()) && place.has_file(&layer), "a referrer of something tagged");
}

#[test]
fn deleting_a_manifest_takes_its_tags_and_its_place_among_referrers() {
    let place = Place::new(PLENTY);
    let subject = Digest::of(Algorithm::Sha256, b"a subject that is not here");
    let one = place.manifest("app", &["a", "b"], &[], Some(subject));
    let two = place.manifest("app", &["c"], &[], Some(subject));
    let listed = || place.store.referrers(&name("app"), &subject).expect("listed").len();
    assert_eq!(listed(), 2);
    let tags = place.store.remove_pushed_manifest(&name("app"), &one).expect("removed").expect("it was there");
    assert_eq!(tags.len(), 2);
    assert_eq!(listed(), 1);
    assert!(!place.resolves("app", "a") && place.resolves("app", "c") && place.resolves("app", &two.to_string()));
    assert_eq!(place.store.remove_pushed_manifest(&name("app"), &one).expect("asked"), None);
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_its_repository_from_being_collected() {
    let place = Place::new(PLENTY);
    let layer = place.blob("app", b"layer");
    let digest = place.manifest("app", &["v1"], &[layer], None);
    place.store.quarantine(&digest);
    let collected = place.collect(AT_ONCE);
    assert_eq!((collected.skipped, collected.links), (1, 0));
    assert!(place.has_file(&layer), "what the manifest named is not known any more");
}

#[test]
fn what_is_held_or_pinned_anew_outlives_a_collection() {
    let place = Place::new(PLENTY);
    let (held, digest) = (b"held".as_slice(), Digest::of(Algorithm::Sha256, b"held"));
    let hold = place.store.hold(&digest).expect("held");
    place.content(held);
    place.collect(AT_ONCE);
    assert!(place.has_file(&digest), "an upload that is about to link it");
    drop(hold);
    let mut linked = false;
    let mut link_once = |_| {
        // A push links it after the collection has looked at its repository.
        if !std::mem::replace(&mut linked, true) {
            assert!(place.store.link_pushed(&name("late"), &digest).expect("linked"));
        }
    };
    place.manifest("app", &["v1"], &[], None);
    place.store.collect(AT_ONCE, &mut link_once).expect("collected");
    assert!(place.has_file(&digest) && place.store.has_pushed_blob(&name("late"), &digest));
}

/// Pushes of what was pinned before a collection began, made after it listed the repositories, of which theirs was none.
#[test]
fn what_is_linked_while_a_collection_runs_outlives_it_or_is_refused() {
    let place = Place::new(PLENTY);
    let (blob, lost) = (place.content(b"blob"), place.content(b"lost"));
    let bytes = br#"{"layers":[]}"#;
    let put = |bytes: &[u8]| {
        let info = ManifestInfo::inspect(bytes).expect("a manifest");
        PushedManifest::of(place.content(bytes), IMAGE, &info, bytes)
    };
    let (manifest, lost_manifest) = (put(bytes), put(br#"{"layers":[],"lost":1}"#));
    for digest in [blob, lost, manifest.digest, lost_manifest.digest] {
        assert!(place.store.pin(&digest).expect("pinned"));
    }
    place.manifest("app", &["v1"], &[], None);
    let mut steps = Vec::new();
    let mut push_once = |step| {
        steps.push(step);
        if steps.len() == 1 {
            assert!(place.store.link_pinned(&name("late/blobs"), &blob).expect("linked"));
            place.store.put_pinned(&name("late/manifests"), &manifest).expect("put");
        }
    };
    place.store.collect(AT_ONCE, &mut push_once).expect("collected");
    assert_eq!(steps[0], Step::Repositories(1, 1), "its list was made before the pushes");
    assert!(place.store.has_pushed_blob(&name("late/blobs"), &blob), "said to be here");
    assert!(place.resolves("late/manifests", &manifest.digest.to_string()), "said to be here");
    assert!(place.store.is_pinned(&blob) && place.store.is_pinned(&manifest.digest));
    // The collection was over before the link was made, and what nobody has is gone.
    assert!(!place.has_file(&lost));
    assert!(!place.store.link_pinned(&name("late/blobs"), &lost).expect("asked"), "it is to be sent again");
    assert!(place.store.put_pinned(&name("late/manifests"), &lost_manifest).is_err());
    assert_eq!(place.collect(AT_ONCE).skipped, 0, "nothing is left that cannot be read");
}

#[test]
fn pages_are_in_order_and_complete() {
    let place = Place::new(PLENTY);
    for (repository, tag) in [("b/x", "z"), ("b", "B"), ("a-c", "a"), ("a/c", "0.1"), ("a/c", "0.10"), ("a/c", "0.2")] {
        place.manifest(repository, &[tag], &[], None);
    }
    place.blob("only-a-blob", b"x");
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = place.store.repositories(after.as_deref(), 2).expect("listed");
        all.extend(page.iter().map(ToString::to_string));
        after = page.last().map(ToString::to_string);
        if !more {
            break;
        }
    }
    assert_eq!(all, ["a-c", "a/c", "b", "b/x"]);
    let tags = |after, limit| {
        let (tags, more) = place.store.pushed_tags(&name("a/c"), after, limit).expect("listed").expect("it is there");
        (tags.iter().map(ToString::to_string).collect::<Vec<_>>(), more)
    };
    assert_eq!(tags(None, 2), (vec!["0.1".into(), "0.10".into()], true));
    assert_eq!(tags(Some("0.10"), 2), (vec!["0.2".into()], false));
    assert_eq!(tags(Some("0.15"), 9), (vec!["0.2".into()], false), "after a tag that is none");
    assert_eq!(place.store.pushed_tags(&name("nobody"), None, 9).expect("asked"), None);
}

#[test]
fn a_referrers_entry_that_a_kill_left_is_in_nobodys_way() {
    let place = Place::new(PLENTY);
    let (kept, gone) = (place.manifest("app", &["kept"], &[], None), place.put("app", &["gone"], br#"{"layers":[]}"#));
    let untagged = place.put("app", &[], br#"{"layers":[],"n":1}"#);
    for subject in [kept, gone] {
        let referrer = Digest::of(Algorithm::Sha256, b"a manifest that never came");
        let entry = place.store.paths.referrer(&name("app"), &subject, &referrer);
        std::fs::create_dir_all(entry.parent().expect("a folder")).expect("made");
        std::fs::write(entry, "{}").expect("an entry");
    }
    let removed = place.store.remove_tagged(&name("app"), &"gone".parse().expect("a tag")).expect("removed");
    assert_eq!(removed, Some(vec![gone]));
    let collected = place.collect(Sweep { untagged: true, ..AT_ONCE });
    assert_eq!((collected.skipped, collected.manifests), (0, 1));
    assert!(place.resolves("app", "kept") && !place.resolves("app", &untagged.to_string()));
}

#[test]
fn drafts_that_a_kill_left_are_neither_listed_nor_kept() {
    let place = Place::new(PLENTY);
    place.manifest("app", &["v1"], &[], None);
    let tags = place.dir.path().join("pushed/app/tags");
    std::fs::write(tags.join(".00deadbeef"), "sha256:").expect("a draft");
    let listed = place.store.pushed_tags(&name("app"), None, 9).expect("listed").expect("it is there");
    assert_eq!(listed.0.len(), 1);
    place.collect(AT_ONCE);
    assert_eq!(std::fs::read_dir(tags).expect("a folder").count(), 1);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_is_published_once() {
    let place = Place::new(PLENTY);
    let id = UploadId::random().expect("randomness");
    place.store.note_upload(id, b"whose").expect("noted");
    let fill = Arc::new(place.store.open_upload(&UploadFile::of(id)).await.expect("an upload"));
    fill.write_in_time(0, bytes::Bytes::from_static(b"first ")).await.expect("written");
    drop(fill);
    let Place { store, dir } = place;
    drop(store);
    std::fs::write(dir.path().join("uploads/stray"), "x").expect("a stray");
    let store = open(&dir, PLENTY);
    let found = store.found_uploads().expect("looked");
    assert_eq!((found.len(), found[0].id, found[0].length, &*found[0].note), (1, id, 6, b"whose".as_slice()));
    assert!(!dir.path().join("uploads/stray").exists());
    let fill = Arc::new(store.open_upload(&UploadFile::of(id)).await.expect("the same upload"));
    fill.write_in_time(6, bytes::Bytes::from_static(b"second, and too much")).await.expect("written");
    let digest = Digest::of(Algorithm::Sha256, b"first second");
    fill.publish_upload(&digest, 12).await.expect("published");
    assert_eq!(store.blob(&digest).expect("readable").expect("there").size_bytes, 12);
    assert!(fill.publish_upload(&digest, 12).await.is_err(), "it is over");
    store.discard_upload(id);
    assert!(store.found_uploads().expect("looked").is_empty());
    assert_eq!(store.usage().uploading_bytes, 0);
}
