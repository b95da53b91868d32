//! Pushed content against the files it lies in: it survives, it is collected, or it is never taken.

mod waiting;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use tempfile::TempDir;

use super::{Collected, NotPut, PushedBy, PushedManifest, ReferrersAsked, Step, Sweep, Untagged};
use crate::paths::Kept;
use crate::tests::done;
use crate::{Limits, Removal, Store, UploadFile, UploadId};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const PLENTY: u64 = 1 << 40;
const AT_ONCE: Sweep = Sweep { grace: Duration::ZERO, untagged: Untagged::Keep, dry_run: false };

struct World {
    store: Arc<Store>,
    dir: TempDir,
}

fn open(dir: &TempDir, max_size_bytes: u64) -> Arc<Store> {
    let limits =
        Limits { max_size_bytes, min_free_bytes: 0, inactive: Duration::from_secs(3600), proofs: Duration::ZERO };
    Store::open(dir.path(), limits).expect("a store")
}

impl World {
    fn new(max_size_bytes: u64) -> Self {
        let dir = TempDir::new().expect("a directory");
        Self { store: open(&dir, max_size_bytes), dir }
    }

    fn content(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        done(self.store.partial_blobs.put(&digest, Bytes::copy_from_slice(bytes))).expect("stored");
        digest
    }

    fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = self.content(bytes);
        assert!(done(self.store.repositories.at(&name(repository)).link(&digest)).expect("linked"));
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
        let manifest = PushedManifest::of(digest, IMAGE, &info, bytes, PushedBy::Anyone);
        let repository = self.store.repositories.at(&name(repository));
        let put = repository.put_manifest(manifest, tags, Vec::new(), |_, _| Ok::<_, ()>(()));
        assert_eq!(done(put).expect("put"), Ok(()));
        digest
    }

    /// Sets tags to a manifest that is here.
    fn put_again(&self, repository: &str, tags: &[&str], digest: &Digest) {
        let (_, bytes) = self.store.blobs.manifest_blocking(digest).expect("here");
        self.put(repository, tags, &bytes);
    }

    fn collect(&self, sweep: Sweep) -> Collected {
        self.store.repositories.collector.collect(sweep, |_| {}).expect("collected").expect("no other collection runs")
    }

    fn resolves(&self, repository: &str, reference: &str) -> bool {
        let reference: Reference = reference.parse().expect("a reference");
        done(self.store.repositories.at(&name(repository)).manifest(&reference)).expect("readable").is_some()
    }

    fn has_file(&self, digest: &Digest) -> bool {
        self.store.paths.blob(digest).exists()
    }

    /// The world as after kill -9, without an index.
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
    let world = World::new(PLENTY);
    let layer = world.blob("team/app", b"layer");
    let digest = world.manifest("team/app", &["v1", "latest"], &[layer], None);
    let world = world.without_index();
    for reference in ["v1", "latest", &digest.to_string()] {
        assert!(world.resolves("team/app", reference), "{reference}");
    }
    assert!(done(world.store.repositories.at(&name("team/app")).has_blob(&layer)));
    assert!(!done(world.store.repositories.at(&name("team")).has_blob(&layer)), "another repository's");
    let usage = world.store.usage();
    assert_eq!((usage.used_bytes, usage.blobs), (0, 2), "pinned again: {usage:?}");
}

#[test]
fn eviction_never_takes_what_was_pushed_nor_counts_it() {
    let world = World::new(10_000);
    let bytes = Bytes::from(vec![1; 50_000]);
    let layer = Digest::of(Algorithm::Sha256, &bytes);
    let hold = done(world.store.repositories.hold(&layer)).expect("held");
    done(world.store.repositories.put(&layer, bytes)).expect("more than the cache may have");
    assert!(done(world.store.repositories.at(&name("app")).link(&layer)).expect("linked"));
    drop(hold);
    let digest = world.manifest("app", &["v1"], &[layer], None);
    for seed in 0..20 {
        world.content(&[seed + 10; 4000]);
    }
    done(world.store.flush());
    let usage = world.store.usage();
    assert!(usage.used_bytes <= 10_000 && usage.evictions > 0, "{usage:?}");
    assert!(usage.pinned_bytes > 50_000, "{usage:?}");
    assert!(world.has_file(&layer) && world.has_file(&digest));
    assert_eq!(
        done(world.store.expire_unused(SystemTime::now() + Duration::from_secs(86_400))),
        2,
        "what is left of the cache"
    );
    assert!(world.has_file(&layer) && world.has_file(&digest));
    assert_eq!(done(world.store.blobs.remove(&layer)).expect("asked"), Removal::Pinned);
    done(world.store.clear()).expect("cleared");
    assert!(world.has_file(&layer) && world.resolves("app", "v1"));
}

#[test]
fn a_collection_takes_what_no_manifest_names_after_its_grace() {
    let world = World::new(PLENTY);
    let (used, unused) = (world.blob("app", b"used"), world.blob("app", b"unused"));
    let digest = world.manifest("app", &["v1"], &[used], None);
    let patient = world.collect(Sweep { grace: Duration::from_secs(60), ..AT_ONCE });
    assert_eq!((patient.links, patient.waiting, patient.blobs), (0, 1, 0));
    let counted = world.collect(Sweep { dry_run: true, ..AT_ONCE });
    assert!(
        world.has_file(&unused) && done(world.store.repositories.at(&name("app")).has_blob(&unused)),
        "a dry run takes nothing"
    );
    let collected = world.collect(AT_ONCE);
    assert_eq!((collected.links, collected.blobs, collected.bytes), (1, 1, 6));
    assert_eq!(counted, collected, "a dry run says what would go");
    assert!(!world.has_file(&unused) && world.has_file(&used) && world.has_file(&digest));
    assert_eq!(world.collect(AT_ONCE).blobs, 0);
}

#[test]
fn what_an_artifact_lists_is_needed() {
    let world = World::new(PLENTY);
    for kind in ["vnd.oci.artifact.manifest.v1", "vnd.cncf.oras.artifact.manifest.v1"] {
        let blob = world.blob("app", kind.as_bytes());
        let manifest = format!(
            r#"{{"mediaType":"application/{kind}+json","artifactType":"a/b","blobs":[{{"digest":"{blob}","size":1}}]}}"#
        );
        world.put("app", &[], manifest.as_bytes());
        let collected = world.collect(AT_ONCE);
        assert_eq!((collected.links, collected.blobs), (0, 0), "{kind}");
        assert!(world.has_file(&blob) && done(world.store.repositories.at(&name("app")).has_blob(&blob)), "{kind}");
    }
}

#[test]
fn content_of_two_repositories_leaves_with_the_second() {
    let world = World::new(PLENTY);
    let layer = world.blob("one", b"shared");
    assert!(done(world.store.repositories.at(&name("two")).link(&layer)).expect("linked"));
    for repository in ["one", "two"] {
        world.manifest(repository, &["v1"], &[layer], None);
    }
    assert!(done(world.store.repositories.at(&name("one")).remove()).expect("removed"));
    world.collect(AT_ONCE);
    assert!(world.resolves("two", "v1") && world.has_file(&layer));
    assert!(!done(world.store.repositories.at(&name("one")).exists()));
    assert!(done(world.store.repositories.at(&name("two")).remove()).expect("removed"));
    let collected = world.collect(AT_ONCE);
    assert!(!world.has_file(&layer));
    assert_eq!(collected.blobs, 2, "the layer and the second manifest");
    assert!(!done(world.store.repositories.at(&name("two")).remove()).expect("asked"));
}

/// A push may rely on layers that are here, whichever way their manifest was removed.
#[test]
fn a_tag_and_a_repository_free_the_same_layers_after_the_same_grace() {
    const AN_HOUR: Sweep = Sweep { grace: Duration::from_secs(3600), untagged: Untagged::Keep, dry_run: false };
    for whole in [false, true] {
        let world = World::new(PLENTY);
        let layer = world.blob("app", b"layer");
        world.manifest("app", &["v1"], &[layer], None);
        let app = world.store.repositories.at(&name("app"));
        assert_eq!(done(app.unneeded_since()).expect("asked"), None);
        let before = SystemTime::now() - Duration::from_secs(60);
        if whole {
            assert!(done(app.remove()).expect("removed"));
        } else {
            assert!(done(app.remove_tagged(&"v1".parse().expect("a tag"))).expect("removed").is_some());
        }
        let since = done(app.unneeded_since()).expect("asked").expect("the layer waits");
        assert!(since > before && since <= SystemTime::now(), "{since:?}");
        let young = world.collect(AN_HOUR);
        assert_eq!((young.waiting, young.links), (1, 0), "whole: {whole}");
        assert!(world.has_file(&layer) && done(app.has_blob(&layer)), "whole: {whole}");
        assert!(done(app.tags(None, 10)).expect("asked").is_none(), "nothing is left to list");
        assert!(!done(app.remove()).expect("asked"), "nothing is left to remove");
        let old = world.collect(AT_ONCE);
        assert_eq!((old.waiting, old.links, old.blobs), (0, 1, 1), "whole: {whole}");
        assert!(!world.has_file(&layer) && !done(app.exists()), "whole: {whole}");
        assert_eq!(done(app.unneeded_since()).expect("asked"), None);
    }
}

#[test]
fn what_the_cache_needs_stays_when_its_push_is_deleted() {
    let world = World::new(PLENTY);
    let layer = world.blob("app", b"base layer");
    let hub = crate::Place::new("registry-1.docker.io".parse().expect("a host"), name("library/base"));
    done(world.store.names.link(&hub, &layer, None));
    done(world.store.repositories.at(&name("app")).remove()).expect("removed");
    let collected = world.collect(AT_ONCE);
    assert_eq!((collected.blobs, collected.kept_by_cache), (0, 1));
    assert!(world.has_file(&layer) && !done(world.store.repositories.is_pinned(&layer)));
    done(world.store.flush());
    assert_eq!(world.store.usage().used_bytes, 10, "the cache's again");
    assert_eq!(done(world.store.blobs.remove(&layer)).expect("asked"), Removal::Removed(10));
}

#[test]
fn removing_a_tag_takes_what_nothing_else_leads_to() {
    let world = World::new(PLENTY);
    let (one, two) = (world.blob("app", b"one"), world.blob("app", b"two"));
    let child = world.manifest("app", &[], &[one], None);
    let shared = world.manifest("app", &[], &[two], None);
    let index = world.manifest("app", &["index"], &[child, shared], None);
    world.manifest("app", &["other"], &[shared], None);
    let signature = world.manifest("app", &[], &[two], Some(index));
    let gone = done(world.store.repositories.at(&name("app")).remove_tagged(&"index".parse().expect("a tag")))
        .expect("removed");
    let gone: BTreeSet<Digest> = gone.expect("it was there").into_iter().collect();
    assert_eq!(gone, [index, child, signature].into());
    assert!(world.resolves("app", "other") && world.resolves("app", &shared.to_string()));
    world.collect(AT_ONCE);
    assert!(!world.has_file(&one) && world.has_file(&two));
    assert!(
        done(world.store.repositories.at(&name("app")).remove_tagged(&"index".parse().expect("a tag")))
            .expect("asked")
            .is_none()
    );
}

#[test]
fn manifests_without_a_tag_go_only_where_that_is_asked() {
    let world = World::new(PLENTY);
    let layer = world.blob("app", b"layer");
    let tagged = world.manifest("app", &["v1"], &[], None);
    let referrer = world.manifest("app", &[], &[layer], Some(tagged));
    let untagged = world.put("app", &[], br#"{"layers":[],"n":1}"#);
    assert_eq!(world.collect(AT_ONCE).manifests, 0);
    assert!(world.resolves("app", &untagged.to_string()));
    let dry = world.collect(Sweep { untagged: Untagged::All, dry_run: true, ..AT_ONCE });
    let collected = world.collect(Sweep { untagged: Untagged::All, ..AT_ONCE });
    assert_eq!((dry, collected.manifests, collected.blobs), (collected, 1, 1));
    assert!(!world.resolves("app", &untagged.to_string()));
    assert!(world.resolves("app", &referrer.to_string()) && world.has_file(&layer), "a referrer of something tagged");
}

#[test]
fn deleting_a_manifest_takes_its_tags_and_its_place_among_referrers() {
    let world = World::new(PLENTY);
    let subject = Digest::of(Algorithm::Sha256, b"a subject that is not here");
    let one = world.manifest("app", &["a", "b"], &[], Some(subject));
    let two = world.manifest("app", &["c"], &[], Some(subject));
    let all = || ReferrersAsked { after: None, artifact_type: None };
    let page = || done(world.store.repositories.at(&name("app")).referrers(&subject, all())).expect("listed");
    let listed = || String::from_utf8(page().body).expect("text").matches("\"digest\"").count();
    assert_eq!(listed(), 2);
    let tags =
        done(world.store.repositories.at(&name("app")).remove_manifest(&one)).expect("removed").expect("it was there");
    assert_eq!(tags.len(), 2);
    assert_eq!(listed(), 1);
    assert!(!world.resolves("app", "a") && world.resolves("app", "c") && world.resolves("app", &two.to_string()));
    assert_eq!(done(world.store.repositories.at(&name("app")).remove_manifest(&one)).expect("asked"), None);
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_its_repository_from_being_collected() {
    let world = World::new(PLENTY);
    let layer = world.blob("app", b"layer");
    let digest = world.manifest("app", &["v1"], &[layer], None);
    world.store.blobs.quarantine(&digest);
    let collected = world.collect(AT_ONCE);
    assert_eq!((collected.skipped, collected.links), (1, 0));
    assert!(world.has_file(&layer), "what the manifest named is not known any more");
}

#[test]
fn a_collection_that_panicked_is_not_the_last_one() {
    let world = World::new(PLENTY);
    world.manifest("app", &["v1"], &[], None);
    let collector = &world.store.repositories.collector;
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| collector.collect(AT_ONCE, |_| panic!("a bug"))));
    assert!(panicked.is_err());
    assert_eq!(world.collect(AT_ONCE).repositories, 1);
    let mut beside = None;
    collector
        .collect(AT_ONCE, |_| beside = Some(collector.collect(AT_ONCE, |_| {}).expect("asked")))
        .expect("collected");
    assert_eq!(beside, Some(None), "one at a time");
}

#[test]
fn what_is_held_or_pinned_anew_outlives_a_collection() {
    let world = World::new(PLENTY);
    let (held, digest) = (b"held".as_slice(), Digest::of(Algorithm::Sha256, b"held"));
    let hold = done(world.store.repositories.hold(&digest)).expect("held");
    world.content(held);
    world.collect(AT_ONCE);
    assert!(world.has_file(&digest), "an upload that is about to link it");
    drop(hold);
    let mut linked = false;
    let mut link_once = |_| {
        // A push links it after the collection has looked at its repository.
        if !std::mem::replace(&mut linked, true) {
            assert!(done(world.store.repositories.at(&name("late")).link(&digest)).expect("linked"));
        }
    };
    world.manifest("app", &["v1"], &[], None);
    world.store.repositories.collector.collect(AT_ONCE, &mut link_once).expect("collected");
    assert!(world.has_file(&digest) && done(world.store.repositories.at(&name("late")).has_blob(&digest)));
}

/// Content was pinned before a collection began. It is pushed after the collection listed the repositories, to one that
/// was not in the list.
#[test]
fn what_is_linked_while_a_collection_runs_outlives_it_or_is_refused() {
    let world = World::new(PLENTY);
    let (blob, lost) = (world.content(b"blob"), world.content(b"lost"));
    let bytes = br#"{"layers":[]}"#;
    let put = |bytes: &[u8]| {
        let info = ManifestInfo::inspect(bytes).expect("a manifest");
        PushedManifest::of(world.content(bytes), IMAGE, &info, bytes, PushedBy::Anyone)
    };
    let (manifest, lost_manifest) = (put(bytes), put(br#"{"layers":[],"lost":1}"#));
    for digest in [blob, lost, manifest.digest, lost_manifest.digest] {
        assert!(world.store.repositories.facts.pins.pin(&digest).expect("pinned"));
    }
    world.manifest("app", &["v1"], &[], None);
    let mut steps = Vec::new();
    let mut push_once = |step| {
        steps.push(step);
        if steps.len() == 1 {
            assert!(world.store.repositories.facts.link_pinned(&name("late/blobs"), &blob).expect("linked"));
            world.store.repositories.facts.put_pinned(&name("late/manifests"), &manifest).expect("put");
        }
    };
    world.store.repositories.collector.collect(AT_ONCE, &mut push_once).expect("collected");
    assert_eq!(steps[0], Step::Repositories(1, 1), "its list was made before the pushes");
    assert!(done(world.store.repositories.at(&name("late/blobs")).has_blob(&blob)), "said to be here");
    assert!(world.resolves("late/manifests", &manifest.digest.to_string()), "said to be here");
    assert!(
        done(world.store.repositories.is_pinned(&blob)) && done(world.store.repositories.is_pinned(&manifest.digest))
    );
    // The collection was over before the link was made, and content that no repository has is gone.
    assert!(!world.has_file(&lost));
    assert!(
        !world.store.repositories.facts.link_pinned(&name("late/blobs"), &lost).expect("asked"),
        "it is to be sent again"
    );
    assert!(world.store.repositories.facts.put_pinned(&name("late/manifests"), &lost_manifest).is_err());
    assert_eq!(world.collect(AT_ONCE).skipped, 0, "nothing is left that cannot be read");
}

#[test]
fn pages_are_in_order_and_complete() {
    let world = World::new(PLENTY);
    for (repository, tag) in [("b/x", "z"), ("b", "B"), ("a-c", "a"), ("a/c", "0.1"), ("a/c", "0.10"), ("a/c", "0.2")] {
        world.manifest(repository, &[tag], &[], None);
    }
    world.blob("only-a-blob", b"x");
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = done(world.store.repositories.list(after.as_deref(), 2, |_| true)).expect("listed");
        all.extend(page.iter().map(ToString::to_string));
        after = page.last().map(ToString::to_string);
        if !more {
            break;
        }
    }
    assert_eq!(all, ["a-c", "a/c", "b", "b/x"]);
    let tags = |after, limit| {
        let (tags, more) =
            done(world.store.repositories.at(&name("a/c")).tags(after, limit)).expect("listed").expect("it is there");
        (tags.iter().map(ToString::to_string).collect::<Vec<_>>(), more)
    };
    assert_eq!(tags(None, 2), (vec!["0.1".into(), "0.10".into()], true));
    assert_eq!(tags(Some("0.10"), 2), (vec!["0.2".into()], false));
    assert_eq!(tags(Some("0.15"), 9), (vec!["0.2".into()], false), "after a tag that is none");
    assert_eq!(done(world.store.repositories.at(&name("nobody")).tags(None, 9)).expect("asked"), None);
}

#[test]
fn a_referrers_entry_that_a_kill_left_is_in_nobodys_way() {
    let world = World::new(PLENTY);
    let (kept, gone) = (world.manifest("app", &["kept"], &[], None), world.put("app", &["gone"], br#"{"layers":[]}"#));
    let untagged = world.put("app", &[], br#"{"layers":[],"n":1}"#);
    for subject in [kept, gone] {
        let referrer = Digest::of(Algorithm::Sha256, b"a manifest that never came");
        let entry = world.store.paths.referrer(&name("app"), &subject, &referrer);
        std::fs::create_dir_all(entry.parent().expect("a folder")).expect("made");
        std::fs::write(entry, "{}").expect("an entry");
    }
    let removed = done(world.store.repositories.at(&name("app")).remove_tagged(&"gone".parse().expect("a tag")))
        .expect("removed");
    assert_eq!(removed, Some(vec![gone]));
    let collected = world.collect(Sweep { untagged: Untagged::All, ..AT_ONCE });
    assert_eq!((collected.skipped, collected.manifests), (0, 1));
    assert!(world.resolves("app", "kept") && !world.resolves("app", &untagged.to_string()));
}

#[test]
fn drafts_that_a_kill_left_are_neither_listed_nor_kept() {
    let world = World::new(PLENTY);
    world.manifest("app", &["v1"], &[], None);
    let tags = world.dir.path().join("pushed/app/tags");
    std::fs::write(tags.join(".00deadbeef"), "sha256:").expect("a draft");
    let listed = done(world.store.repositories.at(&name("app")).tags(None, 9)).expect("listed").expect("it is there");
    assert_eq!(listed.0.len(), 1);
    world.collect(AT_ONCE);
    assert_eq!(std::fs::read_dir(tags).expect("a folder").count(), 1);
}

#[test]
fn an_upload_goes_on_after_a_restart_and_is_published_once() {
    let world = World::new(PLENTY);
    let id = UploadId::random().expect("randomness");
    done(world.store.uploads.note(id, b"whose".to_vec())).expect("noted");
    let fill = Arc::new(done(world.store.uploads.open(&UploadFile::of(id))).expect("an upload"));
    done(fill.write(0, Bytes::from_static(b"first "))).expect("written");
    drop(fill);
    let World { store, dir } = world;
    drop(store);
    std::fs::write(dir.path().join("uploads/stray"), "x").expect("a stray");
    let store = open(&dir, PLENTY);
    let found = store.uploads.take_over(Some).expect("looked");
    assert_eq!((found.len(), found[0].id, found[0].length, &*found[0].note), (1, id, 6, b"whose".as_slice()));
    assert!(!dir.path().join("uploads/stray").exists());
    let fill = Arc::new(done(store.uploads.open(&UploadFile::of(id))).expect("the same upload"));
    done(fill.write(6, Bytes::from_static(b"second, and too much"))).expect("written");
    let digest = Digest::of(Algorithm::Sha256, b"first second");
    done(fill.publish_upload(&digest, 12)).expect("published");
    assert_eq!(done(store.blobs.get(&digest)).expect("readable").expect("there").size_bytes, 12);
    assert!(done(fill.publish_upload(&digest, 12)).is_err(), "it is over");
    done(store.uploads.discard(id));
    assert!(store.uploads.take_over(Some).expect("looked").is_empty());
    assert_eq!(store.usage().uploading_bytes, 0);
}

#[test]
fn what_an_account_pushed_is_noted_and_what_is_older_counts_as_anyones() {
    let world = World::new(PLENTY);
    let (first, second) = (world.manifest("app", &["v1"], &[], None), world.manifest("app", &["v2"], &[], None));
    let (facts, app, tag) = (&world.store.repositories.facts, name("app"), "v1".parse::<Tag>().expect("a tag"));
    let push = |digest: Digest, media_type: &str, pushed_by| {
        let media_type = media_type.to_owned();
        let manifest = PushedManifest { digest, media_type, referrer: None, pushed_by };
        let put = facts.put_manifest(&app, None, &manifest, (std::slice::from_ref(&tag), &[]), |_, was| Err(was));
        put.expect("the disk is well").err()
    };
    let refused = |was| Some(NotPut::Refused(was));
    assert_eq!(push(second, IMAGE, PushedBy::Account), refused(PushedBy::Anyone), "from before");
    assert_eq!(push(first, IMAGE, PushedBy::Account), None);
    assert_eq!(push(first, "application/other", PushedBy::Anyone), None);
    assert_eq!(push(second, IMAGE, PushedBy::Account), refused(PushedBy::Account), "it stays an account's");
    let kept = facts.manifest(&app, &Reference::Tag(tag.clone())).expect("readable").expect("there");
    assert_eq!((kept.digest, &*kept.media_type), (first, IMAGE), "and is what the account said");
}

#[test]
fn a_push_of_an_accounts_untagged_manifest_makes_a_collection_wait() {
    let world = World::new(PLENTY);
    let digest = world.content(br#"{"layers":[]}"#);
    let (facts, app) = (&world.store.repositories.facts, name("app"));
    let push = |pushed_by| {
        let manifest = PushedManifest { digest, media_type: IMAGE.to_owned(), referrer: None, pushed_by };
        facts
            .put_manifest(&app, None, &manifest, (&[], &[]), |_, _| Ok::<_, ()>(()))
            .expect("the disk is well")
            .expect("put");
    };
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let sweep = Sweep { grace: Duration::from_secs(3600), untagged: Untagged::All, dry_run: false };
    for pushed_by in [PushedBy::Account, PushedBy::Anyone] {
        push(pushed_by);
        assert_eq!(world.collect(sweep).manifests, 0, "{pushed_by:?}");
        let file = std::fs::File::open(facts.paths.pushed_manifest(&app, &digest)).expect("its file");
        file.set_modified(long_ago).expect("a time");
    }
    assert_eq!(world.collect(sweep).manifests, 1);
}
