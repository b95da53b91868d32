//! Limits, the order of eviction, and taking content away.

use entrepot_observe::labels::Bypass;

use super::*;
use crate::{Cleared, Extents, Verified};

const KIB: usize = 1024;

#[test]
fn junk_does_not_push_out_the_working_set() {
    let world = World::new(1000 * KIB as u64);
    let hot: Vec<Digest> = (0..50).map(|seed| put(&world.store, seed, 10 * KIB)).collect();
    let reread = || hot.iter().filter(|digest| done(world.store.blobs.get(digest)).unwrap().is_some()).count();
    assert_eq!(reread(), 50);
    let (mut hits, mut asked) = (0, 0);
    for round in 0..20 {
        // Each of the twenty rounds stores blobs that are used once, half the cache's size.
        for number in 0..50 {
            put(&world.store, 1000 + round * 50 + number, 10 * KIB);
        }
        hits += reread();
        asked += hot.len();
        assert!(world.store.usage().used_bytes <= 1000 * KIB as u64);
    }
    assert!(hits * 100 >= asked * 90, "{hits} hits of {asked}");
    assert!(world.store.usage().evictions >= 900);
}

#[test]
fn the_oldest_goes_first_and_what_is_read_stays() {
    let world = World::new(100);
    let digests: Vec<Digest> = (0..10).map(|seed| put(&world.store, seed, 10)).collect();
    let reading = done(world.store.blobs.get(&digests[0])).unwrap().unwrap();
    done(world.store.flush());
    put(&world.store, 100, 20);
    let left: Vec<bool> = digests.iter().map(|digest| done(world.store.blobs.contains(digest))).collect();
    assert_eq!(left[..4], [true, false, false, true]);
    assert_eq!(done(reading.read(0, 10)).unwrap(), content(0, 10).1);
    assert_eq!(world.store.usage().used_bytes, 100);

    let reading_all: Vec<_> =
        digests[3..].iter().map(|digest| done(world.store.blobs.get(digest)).unwrap().unwrap()).collect();
    assert!(is_no_space(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(90)))));
    drop(reading_all);
    assert!(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(90))).is_ok());
    assert!(done(reading.read(0, 10)).is_ok() && done(world.store.blobs.contains(&digests[0])));
}

#[test]
fn yesterdays_working_set_gives_way_to_newcomers() {
    let world = World::new(100);
    let used_twice = |seed| {
        let digest = put(&world.store, seed, 10);
        assert!(done(world.store.blobs.get(&digest)).unwrap().is_some());
        digest
    };
    let old: Vec<Digest> = (0..8).map(used_twice).collect();
    let junk = put(&world.store, 100, 10);
    // The eight blobs fill the protected share. The ninth sends the oldest back to compete with newcomers.
    let ninth = used_twice(8);
    let first = put(&world.store, 101, 10);
    let second = put(&world.store, 102, 10);
    let left = [junk, old[0], old[1], ninth, first, second].map(|digest| done(world.store.blobs.contains(&digest)));
    assert_eq!(left, [false, false, true, true, true, true]);
}

#[test]
fn what_cannot_fit_flushes_nothing() {
    let world = World::new(100);
    let digest = put(&world.store, 1, 60);
    let running = done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(30))).unwrap();
    for size in [101, 71, u64::MAX] {
        assert!(
            is_no_space(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([2; 32]), Some(size)))),
            "{size}"
        );
    }
    assert!(done(world.store.blobs.contains(&digest)) && world.store.usage().evictions == 0);
    assert!(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([2; 32]), Some(10))).is_ok());
    drop(running);
    soon("the room is given back", || world.store.usage().reserved_bytes == 0);
    assert!(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([2; 32]), Some(100))).is_ok());
    assert!(!done(world.store.blobs.contains(&digest)));
    world.store.set_limits(Limits { min_free_bytes: u64::MAX / 2, ..limits(PLENTY) });
    assert!(is_no_space(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1)))), "the floor");
}

#[test]
fn a_fill_of_unknown_size_keeps_to_the_limit() {
    let world = World::new(10_000_000);
    let fill = Arc::new(done(world.store.partial_blobs.begin_unnamed(None)).unwrap());
    done(fill.write(0, Bytes::from(vec![0; 9_000_000]))).unwrap();
    assert!(is_no_space(done(fill.write(9_000_000, Bytes::from(vec![0; 2_000_000])))));
    done(fill.write(9_000_000, Bytes::from(vec![0; 1_000_000]))).unwrap();
}

/// Content that the whole cache may not hold is told apart from content that finds no room at the moment, whether its
/// size is known from the start or only as it grows.
#[test]
fn content_larger_than_the_cache_is_no_full_disk() {
    let world = World::new(1_000_000);
    let running = done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(600_000))).unwrap();
    for (known, grown, expected) in [
        (Some(1_000_001), 0, Bypass::TooLarge),
        (Some(u64::MAX), 0, Bypass::TooLarge),
        (Some(1_000_000), 0, Bypass::DiskFull),
        (None, 1_000_001, Bypass::TooLarge),
        (None, 900_000, Bypass::DiskFull),
    ] {
        let begun = match known {
            Some(size) => done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([2; 32]), Some(size))),
            None => done(world.store.partial_blobs.begin_unnamed(None)),
        };
        let error = begun.map(Arc::new).and_then(|fill| done(fill.write(0, Bytes::from(vec![0; grown])))).unwrap_err();
        assert_eq!(error.bypass(), expected, "{known:?} {grown}: {error}");
    }
    drop(running);
}

#[test]
fn paused_fills_give_way_when_nothing_else_does() {
    let world = World::new(100);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(80))).unwrap());
    done(fill.pause(&Extents::new())).unwrap();
    drop(fill);
    put(&world.store, 1, 20);
    assert_eq!(world.store.usage().reserved_bytes, 80);
    put(&world.store, 2, 20);
    assert_eq!((world.store.usage().reserved_bytes, world.store.usage().evictions), (80, 1));
    put(&world.store, 3, 50);
    assert_eq!(world.store.usage().reserved_bytes, 0);
}

#[test]
fn many_fills_at_once_stay_within_the_limit() {
    let world = World::new(200 * KIB as u64);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &world.store;
            scope.spawn(move || {
                for number in 0..25 {
                    let (digest, bytes) = content(thread * 1000 + number, 10 * KIB);
                    match done(store.partial_blobs.put(&digest, Bytes::copy_from_slice(&bytes))) {
                        Ok(()) | Err(StoreError::NoSpace { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let usage = world.store.usage();
    assert!(usage.used_bytes <= 200 * KIB as u64 && usage.reserved_bytes == 0, "{usage:?}");
    assert_eq!(files_below(&world.dir.path().join("blobs")) as u64, usage.blobs);
    assert!(usage.blobs >= 10, "{usage:?}");
}

#[test]
fn lower_limits_are_enforced() {
    let world = World::new(PLENTY);
    for seed in 0..10 {
        put(&world.store, seed, 10);
    }
    world.store.set_limits(limits(35));
    assert_eq!(done(world.store.expire_unused(std::time::SystemTime::now())), 0);
    assert_eq!(world.store.usage().used_bytes, 30);
}

#[test]
fn bad_content_is_thrown_away() {
    let world = World::new(PLENTY);
    let paths = crate::paths::Paths::new(world.dir.path());
    let (good, rotten, short) = (put(&world.store, 1, 5000), put(&world.store, 2, 5000), put(&world.store, 3, 5000));
    std::fs::write(paths.blob(&rotten), content(4, 5000).1).unwrap();
    assert_eq!(done(world.store.blobs.verify(&good)).unwrap(), Verified::Good);
    assert_eq!(done(world.store.blobs.verify(&rotten)).unwrap(), Verified::Bad);
    assert_eq!(done(world.store.blobs.verify(&rotten)).unwrap(), Verified::Missing);
    assert!(!done(world.store.blobs.contains(&rotten)) && done(world.store.blobs.get(&rotten)).unwrap().is_none());
    let world = world.restarted();
    // The comparison of the index with the files may come before this or after it: the row keeps its size.
    std::fs::OpenOptions::new().write(true).open(paths.blob(&short)).unwrap().set_len(4999).unwrap();
    assert!(done(world.store.blobs.get(&short)).unwrap().is_none(), "a file that shrank is never served");
    assert_eq!(world.store.usage().quarantined, 1);
    assert_eq!(read(&world.store, &good).unwrap(), content(1, 5000).1);
    put(&world.store, 3, 5000);
    assert_eq!(read(&world.store, &short).unwrap(), content(3, 5000).1, "and is stored again");
}

#[test]
fn a_link_in_place_of_a_blob_is_not_followed() {
    let world = World::new(PLENTY);
    let paths = crate::paths::Paths::new(world.dir.path());
    let digest = put(&world.store, 1, 10);
    let world = world.restarted();
    std::fs::remove_file(paths.blob(&digest)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", paths.blob(&digest)).unwrap();
    assert!(done(world.store.blobs.get(&digest)).is_err());
}

#[test]
fn listing_and_clearing() {
    let world = World::new(PLENTY);
    let mut digests: Vec<Digest> = (0..5).map(|seed| put(&world.store, seed, 10)).collect();
    digests.sort();
    let first: Vec<Digest> = done(world.store.blobs.list(None, 3)).unwrap().iter().map(|entry| entry.digest).collect();
    let rest: Vec<Digest> =
        done(world.store.blobs.list(Some(first[2]), 3)).unwrap().iter().map(|entry| entry.digest).collect();
    assert_eq!([first, rest].concat(), digests);
    let reading = done(world.store.blobs.get(&digests[0])).unwrap().unwrap();
    assert!(world.store.blobs.discard(&digests[1]).unwrap());
    assert!(!world.store.blobs.discard(&digests[1]).unwrap());
    assert_eq!(done(world.store.clear()).unwrap(), Cleared { blobs: 4, bytes: 40 });
    assert!(digests.iter().all(|digest| !done(world.store.blobs.contains(digest))));
    assert!(done(reading.read(0, 10)).is_ok(), "open readers finish");
    assert_eq!(done(world.store.blobs.list(None, 10)).unwrap(), []);
    assert_eq!((world.store.usage().used_bytes, world.store.usage().blobs), (0, 0));
}
