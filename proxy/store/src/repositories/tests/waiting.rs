//! What waits for its manifest while a push runs, what a tag leads to, and how much a repository holds.

use std::fs::File;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// An hour's grace.
const SWEEP: Sweep = Sweep { grace: HOUR, untagged: Untagged::All, dry_run: false };

fn minutes_ago(minutes: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(minutes * 60)
}

impl World {
    fn link_path(&self, repository: &str, digest: &Digest) -> std::path::PathBuf {
        self.store.paths.pushed_blob(&name(repository), digest)
    }

    fn make_older(&self, path: &std::path::Path, minutes: u64) {
        File::open(path).expect("there").set_modified(minutes_ago(minutes)).expect("older");
    }
}

#[test]
fn a_push_that_runs_keeps_what_was_young_when_it_began() {
    // Ages in minutes: of the link, and of the pushes that run, in which repository.
    type Pushes = &'static [(&'static str, u64)];
    let cases: [(u64, Pushes, bool); 10] = [
        (30, &[], true),
        (61, &[], false),
        (61, &[("app", 0)], false),
        (61, &[("app", 2)], true),
        (180, &[("app", 180)], true),
        (180, &[("app", 119)], false),
        (180, &[("app", 125)], true),
        (180, &[("app", 1), ("app", 200), ("app", 2)], true),
        (180, &[("other", 200)], false),
        (3000, &[("app", 2970)], true),
    ];
    for (link_age, pushes, stays) in cases {
        let world = World::new(PLENTY);
        let layer = world.blob("app", b"layer");
        let untagged = world.manifest("app", &[], &[], None);
        for path in [world.link_path("app", &layer), world.store.paths.pushed_manifest(&name("app"), &untagged)] {
            world.make_older(&path, link_age);
        }
        let repositories = &world.store.repositories;
        let running: Vec<_> =
            pushes.iter().map(|(repository, age)| repositories.pushing(&name(repository), minutes_ago(*age))).collect();
        world.collect(SWEEP);
        let has = (world.has_file(&layer), world.has_file(&untagged));
        assert_eq!(has, (stays, stays), "{link_age} {pushes:?}");
        drop(running);
        world.collect(SWEEP);
        let is_young = link_age < 60;
        assert_eq!(world.has_file(&layer), is_young, "{link_age} {pushes:?}: nothing runs any more");
    }
}

#[test]
fn what_a_push_relied_on_waits_anew_when_its_last_layer_is_there() {
    for (link_age, push_age, stays) in [(180, 180, true), (200, 150, true), (300, 150, false), (10, 5, true)] {
        let world = World::new(PLENTY);
        let layer = world.blob("app", b"layer");
        world.make_older(&world.link_path("app", &layer), link_age);
        let repositories = &world.store.repositories;
        let push = repositories.pushing(&name("app"), minutes_ago(push_age));
        world.blob("app", b"the last layer");
        done(repositories.renew(&name("app"), push.begun_at(), HOUR)).expect("renewed");
        drop(push);
        world.collect(SWEEP);
        assert_eq!(world.has_file(&layer), stays, "{link_age} {push_age}");
    }
}

#[test]
fn a_tag_leads_to_all_that_it_needs_and_to_nothing_else() {
    let world = World::new(PLENTY);
    let layers: Vec<_> = [b"a".as_slice(), b"b", b"c", b"d"].iter().map(|bytes| world.blob("app", bytes)).collect();
    let amd64 = world.manifest("app", &[], &layers[..2], None);
    let arm64 = world.manifest("app", &["arm64"], &layers[1..3], None);
    let index = world.manifest("app", &["v1"], &[amd64, arm64], None);
    let nested = world.manifest("app", &["nested"], &[index], None);
    let signature = world.manifest("app", &[], &layers[3..], Some(index));
    for (tag, leads_to, not_to) in [
        ("v1", vec![index, amd64, arm64, layers[0], layers[1], layers[2]], vec![nested, signature, layers[3]]),
        ("nested", vec![nested, index, amd64, layers[0], layers[2]], vec![signature, layers[3]]),
        ("arm64", vec![arm64, layers[1], layers[2]], vec![amd64, index, layers[0]]),
        ("other", vec![], vec![amd64, arm64, index, nested, layers[0]]),
    ] {
        let wanted: Tag = tag.parse().expect("a tag");
        for (digests, expected) in [(leads_to, Some(wanted.clone())), (not_to, None)] {
            for digest in digests {
                let wanted = wanted.clone();
                let repository = world.store.repositories.at(&name("app"));
                let found = done(repository.tag_leading_to(&digest, move |tag| *tag == wanted)).expect("readable");
                assert_eq!(found, expected, "{tag} {digest}");
            }
        }
    }
    world.store.blobs.quarantine(&amd64);
    let repository = world.store.repositories.at(&name("app"));
    assert!(done(repository.tag_leading_to(&layers[0], |_| true)).is_err(), "nobody knows what it led to");
}

#[test]
fn a_sum_is_what_a_walk_would_find() {
    let world = World::new(PLENTY);
    let held = |world: &World| done(world.store.repositories.at(&name("app")).held_bytes()).expect("counted");
    let walk = |world: &World| {
        let facts = &world.store.repositories.facts;
        let folders = [Kept::Blobs, Kept::Manifests].map(|kept| facts.paths.kept(&name("app"), kept));
        let digests = folders.iter().flat_map(|folder| facts.digests_in(folder).expect("listed"));
        digests.filter_map(|digest| facts.blobs.size_blocking(&digest)).sum::<u64>()
    };
    assert_eq!(held(&world), 0);
    let mut manifest = None;
    type Change = fn(&World, &mut Option<Digest>);
    let changes: [(&str, Change); 15] = [
        ("a blob", |world, _| _ = world.blob("app", &[1; 100])),
        ("the same again", |world, _| _ = world.blob("app", &[1; 100])),
        ("another", |world, _| _ = world.blob("app", &[2; 1000])),
        ("in another repository", |world, _| _ = world.blob("other", &[3; 5000])),
        ("taken over", |world, _| _ = world.blob("app", &[3; 5000])),
        ("a manifest", |world, manifest| {
            let layer = Digest::of(Algorithm::Sha256, &[1; 100]);
            *manifest = Some(world.manifest("app", &["v1"], &[layer], None));
        }),
        ("the manifest again", |world, _| {
            let layer = Digest::of(Algorithm::Sha256, &[1; 100]);
            world.manifest("app", &["v1"], &[layer], None);
        }),
        ("collected", |world, _| _ = world.collect(AT_ONCE)),
        ("a blob rots", |world, _| {
            let layer = Digest::of(Algorithm::Sha256, &[1; 100]);
            world.store.blobs.quarantine(&layer);
        }),
        ("and is pushed again", |world, _| _ = world.blob("app", &[1; 100])),
        ("a blob is deleted", |world, _| {
            let extra = world.blob("app", &[4; 70]);
            assert!(done(world.store.repositories.at(&name("app")).remove_blob(&extra)).expect("removed"));
            assert!(!done(world.store.repositories.at(&name("app")).remove_blob(&extra)).expect("asked"));
        }),
        ("the manifest is deleted", |world, manifest| {
            let digest = manifest.expect("pushed");
            done(world.store.repositories.at(&name("app")).remove_manifest(&digest)).expect("removed");
        }),
        ("an untagged one is collected", |world, _| {
            world.manifest("app", &[], &[], None);
            world.collect(Sweep { untagged: Untagged::All, ..AT_ONCE });
        }),
        ("more", |world, _| _ = world.blob("app", &[5; 12])),
        ("all is removed", |world, _| {
            world.manifest("app", &["v9"], &[], None);
            assert!(done(world.store.repositories.at(&name("app")).remove()).expect("removed"));
            // The blobs wait for their grace period.
            world.collect(AT_ONCE);
        }),
    ];
    for (what, change) in changes {
        change(&world, &mut manifest);
        assert_eq!(held(&world), walk(&world), "{what}");
    }
    assert_eq!(held(&world), 0);
}

#[test]
fn a_repository_is_walked_once() {
    let world = World::new(PLENTY);
    let layer = world.blob("app", &[1; 100]);
    let held = || done(world.store.repositories.at(&name("app")).held_bytes()).expect("counted");
    assert_eq!(held(), 100);
    // Behind the store's back: a walk would see it.
    File::options().write(true).open(world.store.paths.blob(&layer)).expect("there").set_len(50).expect("shorter");
    assert_eq!(held(), 100);
    world.blob("app", &[2; 7]);
    assert_eq!(held(), 107);
}

#[test]
fn what_once_had_a_tag_goes_after_its_time_and_nothing_else() {
    const DAYS_30: Untagged = Untagged::After(Duration::from_secs(30 * 24 * 3600));
    let world = World::new(PLENTY);
    let blob = |text: &str| world.blob("app", text.as_bytes());
    let image = |tags: &[&str], layer: &str| world.manifest("app", tags, &[blob(layer)], None);
    // Each tag is moved or deleted below; `kept` names where no tag leads any more, but something else does.
    let moved = image(&["moved"], "moved");
    let deleted = image(&["deleted"], "deleted");
    let lately = image(&["lately"], "lately");
    let never = image(&[], "never");
    let two_tags = image(&["one", "two"], "two tags");
    let back = image(&["back"], "back");
    let child_of_kept = image(&["child"], "child of kept");
    let kept_index = world.manifest("app", &["index"], &[child_of_kept], None);
    let child_of_moved = image(&[], "child of moved");
    let shared_child = image(&[], "shared child");
    let moved_index = world.manifest("app", &["moved-index"], &[child_of_moved, shared_child], None);
    let other_index = world.manifest("app", &["other-index"], &[shared_child], None);
    let child_of_never = image(&["part"], "child of never");
    let never_index = world.manifest("app", &[], &[child_of_never], None);
    let signature = world.manifest("app", &["signature"], &[blob("signature")], Some(kept_index));
    let dead_signature = world.manifest("app", &[], &[blob("dead signature")], Some(moved));

    let repository = world.store.repositories.at(&name("app"));
    for tag in ["deleted", "lately", "one", "child", "part", "signature", "moved-index", "back"] {
        assert!(done(repository.remove_tag(&tag.parse().expect("a tag"))).expect("removed"), "{tag}");
    }
    image(&["moved"], "what came after it");
    world.put_again("app", &["back"], &back);
    let old = |digest: &Digest| world.make_older(&world.store.paths.untagged(&name("app"), digest), 31 * 24 * 60);
    for digest in [&moved, &deleted, &two_tags, &child_of_kept, &child_of_never, &signature, &moved_index, &back] {
        old(digest);
    }
    let world_before = world.store.usage().blobs;
    let sweep = Sweep { untagged: DAYS_30, ..AT_ONCE };
    let counted = world.collect(Sweep { dry_run: true, ..sweep });
    assert_eq!(world.store.usage().blobs, world_before, "a dry run takes nothing");
    let collected = world.collect(sweep);
    assert_eq!((counted.manifests, counted.links), (collected.manifests, collected.links));
    for (what, digest, stays) in [
        ("moved", moved, false),
        ("deleted", deleted, false),
        ("the index that lost its tag", moved_index, false),
        ("its child", child_of_moved, false),
        ("the referrer of a subject that went", dead_signature, false),
        ("untagged lately", lately, true),
        ("never tagged", never, true),
        ("another tag leads there", two_tags, true),
        ("tagged again", back, true),
        ("child of an index", child_of_kept, true),
        ("an index", kept_index, true),
        ("child of another index too", shared_child, true),
        ("the other index", other_index, true),
        ("child of an index that never had a tag", child_of_never, true),
        ("an index that never had a tag", never_index, true),
        ("the referrer of a living subject", signature, true),
    ] {
        assert_eq!(world.resolves("app", &digest.to_string()), stays, "{what}");
    }
    assert_eq!(collected.manifests, 5);
    for (layer, stays) in [("moved", false), ("child of moved", false), ("never", true), ("child of kept", true)] {
        let digest = Digest::of(Algorithm::Sha256, layer.as_bytes());
        assert_eq!(world.has_file(&digest), stays, "{layer}");
    }
    assert_eq!(world.collect(sweep).manifests, 0);
    assert_eq!(world.collect(Sweep { untagged: Untagged::Keep, ..AT_ONCE }).manifests, 0);
    // The rest goes when it is asked for.
    world.collect(Sweep { untagged: Untagged::All, ..AT_ONCE });
    assert!(!world.resolves("app", &never.to_string()) && !world.resolves("app", &lately.to_string()));
    assert!(world.resolves("app", "index") && world.resolves("app", &signature.to_string()));
}
