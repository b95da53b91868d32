//! The store after a crash, and after the index was damaged.

use std::fs::File;
use std::time::{Duration, SystemTime};

use entrepot_core::validator::Validator;

use super::*;
use crate::paths::Paths;
use crate::{ArtefactEntry, Extents, Link, Place, TagEntry, TagKey};

#[test]
fn a_crash_leaves_what_was_published_and_nothing_else() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 1000);
    let (half, bytes) = content(2, 1000);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &half, Some(1000))).unwrap());
    done(fill.write(0, Bytes::copy_from_slice(&bytes[..500]))).unwrap();
    let unnamed = Arc::new(done(world.store.partial_blobs.begin_unnamed(None)).unwrap());
    done(unnamed.write(0, Bytes::copy_from_slice(&bytes))).unwrap();
    let paused = Arc::new(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([3; 32]), Some(1000))).unwrap());
    done(paused.write(0, Bytes::copy_from_slice(&bytes[..10]))).unwrap();
    done(paused.pause(&Extents::from(vec![(0, 10)]))).unwrap();

    let wreck = world.wreck();
    assert_eq!(files_below(&wreck.path().join("fill")), 4);
    let store = Store::open(wreck.path(), limits(PLENTY)).unwrap();
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    assert!(!done(store.blobs.contains(&half)));
    assert_eq!(files_below(&wreck.path().join("fill")), 2, "the paused one and its sidecar");
    store.wait_for_rebuild();
    let usage = store.usage();
    assert_eq!((usage.used_bytes, usage.blobs, usage.reserved_bytes), (1000, 1, 1000));
    put(&store, 2, 1000);
    assert_eq!(done(store.blobs.list(None, 10)).unwrap().len(), 2);
}

#[test]
fn rows_that_a_crash_lost_are_found_again() {
    let world = World::new(PLENTY);
    let removed = put(&world.store, 1, 10);
    world.store.wait_for_rebuild();
    assert!(done(world.store.flush()));
    let lost = put(&world.store, 2, 20);
    world.store.blobs.discard(&removed).unwrap();
    let wreck = world.wreck();
    let store = Store::open(wreck.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    let listed: Vec<Digest> = done(store.blobs.list(None, 10)).unwrap().iter().map(|entry| entry.digest).collect();
    assert_eq!(listed, [lost]);
    assert_eq!((store.usage().used_bytes, store.usage().blobs), (20, 1));
}

/// kill -9 takes what is visible and not durable. The change of each kind is held within a second of the call that made
/// it, also while uses of content keep the writer busy.
#[test]
fn what_an_answer_told_is_held_within_a_second() {
    let world = World::new(PLENTY);
    let (names, now) = (&world.store.names, SystemTime::now());
    let used = put(&world.store, 1, 100);
    let manifest = put(&world.store, 2, 100);
    world.store.wait_for_rebuild();
    assert!(done(world.store.flush()));
    // A use begins a longer wait, which the changes after it must not share.
    world.store.blobs.touch(&used);
    let place = Place::new(hub(), "team/app".parse().unwrap());
    let key = TagKey { place: place.clone(), tag: "latest".parse().unwrap(), accept_class: 1 };
    let entry = TagEntry { digest: manifest, media_type: "a/b".into(), size_bytes: 100, validated_at: now };
    let link = Link { linked_at: now, public_at: Some(now) };
    let artefact =
        ArtefactEntry { digest: used, size_bytes: 100, content_type: "c/d".into(), headers: Vec::new(), link };
    done(names.keep_manifest(&place, &manifest, "a/b", None));
    done(names.link(&place, &used, None));
    done(names.prove_public(&place, &used, SystemTime::now()));
    done(names.set_tag(key.clone(), entry));
    done(names.set_artefact(&hub(), "/a.tgz", artefact));
    let told = Instant::now();
    done(async { tokio::time::sleep(Duration::from_millis(900)).await });
    let wreck = world.wreck();
    assert!(told.elapsed() < Duration::from_secs(2), "the machine is too slow for this test");
    let store = Store::open(wreck.path(), limits(PLENTY)).unwrap();
    let names = &store.names;
    let held = [
        ("a tag", done(names.tag(&key)).is_some_and(|entry| entry.digest == manifest)),
        ("a manifest", done(names.manifest(&place, &manifest)).is_some()),
        ("a link's proof", done(names.link_of(&place, &used)).is_some_and(|link| link.public_at.is_some())),
        ("an artefact", done(names.artefact(&hub(), "/a.tgz")).is_some()),
    ];
    for (what, is_held) in held {
        assert!(is_held, "{what}");
    }
}

#[test]
fn a_start_looks_only_at_folders_that_changed() {
    let world = World::new(PLENTY);
    let paths = Paths::new(world.dir.path());
    put(&world.store, 1, 10);
    world.store.wait_for_rebuild();
    let World { store, dir } = world;
    drop(store);
    let (old, new) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
    for (digest, age) in [(old, Duration::from_secs(7200)), (new, Duration::ZERO)] {
        std::fs::create_dir_all(paths.shard_of(&digest)).unwrap();
        std::fs::write(paths.blob(&digest), b"planted").unwrap();
        File::open(paths.shard_of(&digest)).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    let listed: Vec<Digest> = done(store.blobs.list(None, 10)).unwrap().iter().map(|entry| entry.digest).collect();
    assert!(listed.contains(&new) && !listed.contains(&old), "{listed:?}");
    assert!(done(store.blobs.get(&old)).unwrap().is_some(), "its file says that it is there");
    done(store.flush());
    assert_eq!(done(store.blobs.list(None, 10)).unwrap().len(), 3, "and its use brings its row back");
}

#[test]
fn a_file_that_shrank_while_the_store_was_closed_is_never_served() {
    let world = World::new(PLENTY);
    let paths = Paths::new(world.dir.path());
    let digest = put(&world.store, 1, 5000);
    world.store.wait_for_rebuild();
    let World { store, dir } = world;
    drop(store);
    File::options().write(true).open(paths.blob(&digest)).unwrap().set_len(4999).unwrap();
    File::open(paths.shard_of(&digest)).unwrap().set_modified(SystemTime::now()).unwrap();
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    assert_eq!(store.usage().used_bytes, 5000, "the comparison believes the row");
    assert!(done(store.blobs.get(&digest)).unwrap().is_none());
    assert_eq!((store.usage().quarantined, store.usage().used_bytes), (1, 0));
    put(&store, 1, 5000);
    assert_eq!(read(&store, &digest).unwrap(), content(1, 5000).1, "and is stored again");
}

#[test]
fn a_damaged_index_is_set_aside_and_rebuilt_while_serving() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("deleted", |index| std::fs::remove_file(index).unwrap()),
        ("emptied", |index| drop(File::create(index).unwrap())),
        ("text", |index| std::fs::write(index, "not an index").unwrap()),
        ("truncated", |index| {
            let file = File::options().write(true).open(index).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("noise", |index| {
            let len = std::fs::metadata(index).unwrap().len() as usize;
            std::fs::write(index, content(7, len).1).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let world = World::new(PLENTY);
        let digests: Vec<Digest> = (0..20).map(|seed| put(&world.store, seed, 100)).collect();
        let World { store, dir } = world;
        drop(store);
        damage(&dir.path().join("index.redb"));
        let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
        for (seed, digest) in digests.iter().enumerate() {
            assert_eq!(read(&store, digest).unwrap(), content(seed as u64, 100).1, "{name}");
        }
        put(&store, 100, 100);
        store.wait_for_rebuild();
        assert_eq!((store.usage().blobs, store.usage().used_bytes), (21, 2100), "{name}");
        assert_eq!(done(store.blobs.list(None, 100)).unwrap().len(), 21, "{name}");
        drop(store);
        let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
        assert_eq!(store.usage().blobs, 21, "{name}: the new index lasts");
    }
}

#[test]
fn damage_found_while_running_is_healed() {
    let world = World::new(PLENTY);
    let digests: Vec<Digest> = (0..200).map(|seed| put(&world.store, seed, 10)).collect();
    let World { store, dir } = world;
    drop(store);
    let index = dir.path().join("index.redb");
    let mut bytes = std::fs::read(&index).unwrap();
    // Opening looks at no row. Only reading these rows shows that they are damaged.
    for at in 0..bytes.len() - 33 {
        if bytes[at] == 0 && digests.iter().any(|digest| digest.bytes() == &bytes[at + 1..at + 33]) {
            bytes[at..at + 33].fill(0xff);
        }
    }
    std::fs::write(&index, bytes).unwrap();
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    let is_set_aside = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| Paths::is_broken_index(name.to_str().unwrap()))
    };
    assert!(!is_set_aside(), "it opened");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while done(store.blobs.list(None, 1000)).map_or(0, |listed| listed.len()) < 200 {
        assert!(std::time::Instant::now() < deadline, "{:?}", store.usage());
        assert!(digests.iter().all(|digest| done(store.blobs.get(digest)).unwrap().is_some()), "hits need no index");
        store.wait_for_rebuild();
    }
    assert!(is_set_aside());
    assert_eq!(store.usage().used_bytes, 2000);
}

#[test]
fn only_the_last_damaged_index_is_kept() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("index.redb.broken-1"), "old").unwrap();
    std::fs::write(dir.path().join("index.redb"), "damaged").unwrap();
    let _store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let broken: Vec<String> = names.filter(|name| name.starts_with("index.redb.broken-")).collect();
    assert!(broken.len() == 1 && broken[0] != "index.redb.broken-1", "{broken:?}");
}

#[test]
fn foreign_files_are_left_alone_and_not_counted() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    let folder = Paths::new(world.dir.path()).shard_of(&digest);
    std::fs::write(folder.join("notes.txt"), "x").unwrap();
    std::fs::write(folder.join(Digest::Sha256([0xee; 32]).hex()), "in the wrong folder").unwrap();
    let World { store, dir } = world;
    drop(store);
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    assert_eq!(store.usage().blobs, 1);
    assert!(folder.join("notes.txt").exists());
}

#[test]
fn damaged_sidecars_are_not_believed() {
    for sidecar in [
        "",
        "{",
        r#"{"size":1000,"extents":[[0,10]]"#,
        r#"{"size":1000,"extents":[[0,11]]}"#,
        r#"{"size":5,"extents":[[0,10]]}"#,
        r#"{"size":1000,"extents":[[0,10]],"x":1}"#,
    ] {
        let world = World::new(PLENTY);
        let digest = Digest::Sha256([1; 32]);
        let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
        done(fill.write(0, Bytes::copy_from_slice(&[7; 10]))).unwrap();
        done(fill.pause(&Extents::from(vec![(0, 10)]))).unwrap();
        drop(fill);
        let files = std::fs::read_dir(world.dir.path().join("fill")).unwrap().map(|entry| entry.unwrap().path());
        let path = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "extents")).unwrap();
        std::fs::write(path, sidecar).unwrap();
        let world = world.restarted();
        assert_eq!(files_below(&world.dir.path().join("fill")), 0, "{sidecar}");
        assert_eq!(world.store.usage().reserved_bytes, 0);
    }
}

#[test]
fn a_second_process_is_refused() {
    let world = World::new(PLENTY);
    assert!(matches!(Store::open(world.dir.path(), limits(PLENTY)), Err(StoreError::Locked { .. })));
}

#[test]
fn a_paused_artefact_is_gone_on_with_in_the_same_state_only() {
    let npm = origin("npm.example");
    let path: Arc<str> = "/a.tgz?token=x".into();
    let etag = Validator::ETag("\"1\"".into());
    let date = Validator::LastModified("Mon, 30 Nov 2026 10:00:00 GMT".into());
    for restarts in [false, true] {
        for (paused, resumed, size, is_resumed) in [
            (Some(&etag), Some(&etag), 100, true),
            (Some(&date), Some(&date), 100, true),
            (Some(&etag), Some(&date), 100, false),
            (Some(&etag), None, 100, false),
            (Some(&etag), Some(&etag), 101, false),
            (None, None, 100, false),
        ] {
            let world = World::new(PLENTY);
            let begin = |world: &World, size, state: Option<&Validator>| {
                Arc::new(
                    done(world.store.partial_blobs.begin_artefact(&npm, &path, Some(size), state.cloned())).unwrap(),
                )
            };
            let partial = begin(&world, 100, paused);
            done(partial.write(0, vec![7; 40].into())).unwrap();
            let mut extents = Extents::new();
            extents.insert(0..40);
            done(partial.pause(&extents)).unwrap();
            drop(partial);
            let world = if restarts { world.restarted() } else { world };
            let what = format!("{paused:?} {resumed:?} {size}, restarted: {restarts}");
            let missing = world.store.partial_blobs.artefact_missing(&npm, &path, 0);
            assert_eq!(missing, paused.map(|state| (40, Some(state.clone()))), "{what}");
            let other: Arc<str> = "/a.tgz".into();
            assert_eq!(world.store.partial_blobs.artefact_missing(&npm, &other, 0), None, "{what}");
            assert_eq!(world.store.partial_blobs.artefact_missing(&hub(), &path, 0), None, "{what}");
            let partial = begin(&world, size, resumed);
            assert_eq!(partial.extents().covered(0), if is_resumed { 40 } else { 0 }, "{what}");
            if is_resumed {
                assert_eq!(read_back(&partial, 0, 40), [7; 40], "{what}");
                done(partial.write(40, vec![8; 60].into())).unwrap();
                let digest = Digest::of(Algorithm::Sha256, &[[7; 40].as_slice(), &[8; 60]].concat());
                done(partial.publish(Some(&digest), &[])).unwrap();
                assert_eq!(read(&world.store, &digest).unwrap().len(), 100, "{what}");
            }
            assert_eq!(world.store.partial_blobs.artefact_missing(&npm, &path, 0), None, "{what}");
        }
    }
}
