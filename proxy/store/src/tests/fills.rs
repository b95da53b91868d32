//! Fills: when their content is visible, and how they end.

use super::*;
use crate::{Extents, Place, Verified};

#[test]
fn content_is_stored_once_it_is_right() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    assert!(matches!(
        done(world.store.partial_blobs.put(&digest, Bytes::copy_from_slice(&bytes[1..]))),
        Err(StoreError::WrongDigest { .. })
    ));
    assert!(!done(world.store.blobs.contains(&digest)) && read(&world.store, &digest).is_none());
    done(world.store.partial_blobs.put(&digest, Bytes::copy_from_slice(&bytes))).unwrap();
    done(world.store.partial_blobs.put(&digest, Bytes::copy_from_slice(&bytes))).unwrap();
    assert_eq!(read(&world.store, &digest).unwrap(), bytes);
    let usage = world.store.usage();
    assert_eq!((usage.used_bytes, usage.blobs, usage.reserved_bytes), (1000, 1, 0));
}

#[test]
fn a_fill_is_visible_when_it_is_published_and_not_before() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 100_000);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(100_000))).unwrap());
    done(fill.write(50_000, Bytes::copy_from_slice(&bytes[50_000..]))).unwrap();
    done(fill.write(0, Bytes::copy_from_slice(&bytes[..50_000]))).unwrap();
    assert_eq!(read_back(&fill, 49_990, 20), bytes[49_990..50_010]);
    assert!(!done(world.store.blobs.contains(&digest)) && done(world.store.blobs.get(&digest)).unwrap().is_none());
    assert_eq!(world.store.usage().reserved_bytes, 100_000);

    let blob = done(fill.publish(None, &[])).unwrap();
    assert_eq!(done(blob.read(0, usize::MAX)).unwrap(), bytes);
    assert_eq!(read(&world.store, &digest).unwrap(), bytes);
    assert_eq!(read_back(&fill, 0, 10), bytes[..10], "followers keep reading");
    assert!(
        matches!(done(fill.write(0, Bytes::copy_from_slice(b"x"))), Err(StoreError::FillState)),
        "published content is immutable"
    );
    assert!(matches!(done(fill.publish(None, &[])), Err(StoreError::FillState)));
    drop(fill);
    assert!(done(world.store.blobs.contains(&digest)));
    assert_eq!(done(world.store.blobs.verify(&digest)).unwrap(), Verified::Good);
    assert_eq!((world.store.usage().reserved_bytes, world.store.usage().used_bytes), (0, 100_000));
}

#[test]
fn what_is_not_published_never_happened() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
    done(fill.write(0, Bytes::copy_from_slice(&bytes[..999]))).unwrap();
    assert!(matches!(
        done(fill.write(999, Bytes::copy_from_slice(b"xy"))),
        Err(StoreError::WrongSize { expected_bytes: 1000, actual_bytes: 1001 })
    ));
    assert!(matches!(
        done(fill.publish(None, &[])),
        Err(StoreError::WrongSize { expected_bytes: 1000, actual_bytes: 999 })
    ));
    drop(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
    drop(done(world.store.partial_blobs.begin_unnamed(None)).unwrap());
    soon("the files are gone", || files_below(&world.dir.path().join("fill")) == 0);
    soon("the room is given back", || world.store.usage().reserved_bytes == 0);
    assert_eq!((files_below(&world.dir.path().join("blobs")), world.store.usage().used_bytes), (0, 0));
    assert!(matches!(
        done(Arc::new(done(world.store.partial_blobs.begin_unnamed(Some(1))).unwrap()).publish(None, &[])),
        Err(StoreError::FillState)
    ));
    let other = Digest::Sha256([0; 32]);
    assert!(matches!(
        done(
            Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(0))).unwrap())
                .publish(Some(&other), &[])
        ),
        Err(StoreError::FillState)
    ));
}

#[test]
fn a_fill_may_learn_its_size_and_name_at_the_end() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 5_000_000);
    let fill = Arc::new(done(world.store.partial_blobs.begin_unnamed(None)).unwrap());
    for (number, chunk) in bytes.chunks(70_000).enumerate() {
        done(fill.write(number as u64 * 70_000, Bytes::copy_from_slice(chunk))).unwrap();
    }
    assert!(world.store.usage().reserved_bytes >= 5_000_000);
    done(fill.publish(Some(&digest), &[])).unwrap();
    assert_eq!(read(&world.store, &digest).unwrap(), bytes);
    assert_eq!((world.store.usage().reserved_bytes, world.store.usage().used_bytes), (0, 5_000_000));
    use std::os::unix::fs::MetadataExt;
    let file = done(world.store.blobs.get(&digest)).unwrap().unwrap().file.metadata().unwrap();
    assert!(file.blocks() * 512 < 5_100_000, "blocks beyond the end were given back");
}

#[test]
fn empty_content_is_content() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 0);
    assert_eq!(read(&world.store, &digest).unwrap(), b"");
    assert_eq!(done(world.store.blobs.verify(&digest)).unwrap(), Verified::Good);
}

#[test]
fn a_paused_fill_goes_on_even_after_a_restart() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let mut extents = Extents::new();
    for (range, restart) in [(0..300, false), (600..700, true)] {
        let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
        assert_eq!(*fill.extents(), extents, "restart: {restart}");
        done(fill.write(range.start, Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize])))
            .unwrap();
        extents.insert(range);
        done(fill.pause(&extents)).unwrap();
        assert!(done(fill.write(0, Bytes::copy_from_slice(b"x"))).is_err());
    }
    assert_eq!(world.store.usage().reserved_bytes, 1000, "its blocks are taken");
    let world = world.restarted();
    assert_eq!(world.store.usage().reserved_bytes, 1000);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
    assert_eq!(*fill.extents(), extents);
    assert_eq!(files_below(&world.dir.path().join("fill")), 1, "the sidecar goes before more is written");
    done(fill.write(300, Bytes::copy_from_slice(&bytes[300..600]))).unwrap();
    done(fill.write(700, Bytes::copy_from_slice(&bytes[700..]))).unwrap();
    done(fill.publish(None, &[])).unwrap();
    assert_eq!(read(&world.store, &digest).unwrap(), bytes);
    assert_eq!(done(world.store.blobs.verify(&digest)).unwrap(), Verified::Good);
}

#[test]
fn a_paused_fill_of_another_size_is_dropped() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    for size in [Some(999), None] {
        let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(1000))).unwrap());
        assert_eq!(fill.extents().total(), 0);
        done(fill.write(0, Bytes::copy_from_slice(&bytes[..100]))).unwrap();
        done(fill.pause(&Extents::from(vec![(0, 100)]))).unwrap();
        assert_eq!(done(world.store.partial_blobs.begin(&hub(), &digest, size)).unwrap().extents().total(), 0);
        soon("the files are gone", || files_below(&world.dir.path().join("fill")) == 0);
        soon("the room is given back", || world.store.usage().reserved_bytes == 0);
    }
}

#[test]
fn pausing_what_cannot_be_found_again_drops_it() {
    let world = World::new(PLENTY);
    let fill = Arc::new(done(world.store.partial_blobs.begin_unnamed(Some(10))).unwrap());
    done(fill.write(0, Bytes::copy_from_slice(b"abc"))).unwrap();
    done(fill.pause(&Extents::from(vec![(0, 3)]))).unwrap();
    assert_eq!(files_below(&world.dir.path().join("fill")), 0);
    assert_eq!(world.store.usage().reserved_bytes, 0);
}

#[test]
fn a_paused_fill_does_not_wait_for_ever() {
    let world = World::new(PLENTY);
    let fill = Arc::new(done(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(1000))).unwrap());
    done(fill.write(0, Bytes::copy_from_slice(b"abc"))).unwrap();
    done(fill.pause(&Extents::from(vec![(0, 3)]))).unwrap();
    let now = std::time::SystemTime::now();
    done(world.store.expire_unused(now));
    assert_eq!(world.store.usage().reserved_bytes, 1000);
    done(world.store.expire_unused(now + Duration::from_secs(4000)));
    assert_eq!(world.store.usage().reserved_bytes, 0);
    assert_eq!(files_below(&world.dir.path().join("fill")), 0);
}

#[test]
fn paused_bytes_belong_to_one_origin() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let origins = [origin("reg.example:5000"), origin("http://reg.example:5000"), origin("reg.example")];
    let fill = Arc::new(done(world.store.partial_blobs.begin(&origins[0], &digest, Some(1000))).unwrap());
    done(fill.write(0, Bytes::copy_from_slice(&bytes[..300]))).unwrap();
    done(fill.pause(&Extents::from(vec![(0, 300)]))).unwrap();
    drop(fill);
    let world = world.restarted();
    let missing = |origin| {
        world.store.partial_blobs.paused(origin, &digest, 0).map(|paused| (paused.first_missing, paused.size_bytes))
    };
    assert_eq!(origins.each_ref().map(missing), [Some((300, 1000)), None, None]);
    for origin in &origins[1..] {
        let other = Arc::new(done(world.store.partial_blobs.begin(origin, &digest, Some(1000))).unwrap());
        assert_eq!(other.extents().total(), 0, "{origin}");
        done(other.write(0, Bytes::copy_from_slice(&[7; 100]))).unwrap();
        done(other.pause(&Extents::from(vec![(0, 100)]))).unwrap();
    }
    let pushed = done(world.store.repositories.begin(&digest, 1000)).unwrap();
    assert_eq!(pushed.extents().total(), 0, "what is pushed resumes nothing");
    let resumed = done(world.store.partial_blobs.begin(&origins[0], &digest, Some(1000))).unwrap();
    assert_eq!((resumed.extents().total(), read_back(&resumed, 0, 300)), (300, bytes[..300].to_vec()));
    assert_eq!(missing(&origins[1]), Some((100, 1000)), "each keeps its own");
}

#[test]
fn what_is_paused_can_be_dropped_by_its_digest() {
    let world = World::new(PLENTY);
    let contents = [content(1, 1000), content(2, 1000)];
    let origins = [origin("reg.example:5000"), origin("reg.example")];
    for (digest, bytes) in &contents {
        for origin in &origins {
            let fill = Arc::new(done(world.store.partial_blobs.begin(origin, digest, Some(1000))).unwrap());
            done(fill.write(0, Bytes::copy_from_slice(&bytes[..300]))).unwrap();
            done(fill.pause(&Extents::from(vec![(0, 300)]))).unwrap();
        }
    }
    let [(dropped, _), (kept, _)] = &contents;
    let partial_blobs = &world.store.partial_blobs;
    assert_eq!(done(partial_blobs.drop_paused(dropped)), Some(600), "of both origins");
    assert_eq!(done(partial_blobs.drop_paused(dropped)), None);
    assert_eq!(partial_blobs.paused(&origins[0], dropped, 0), None);
    assert!(partial_blobs.paused(&origins[0], kept, 0).is_some());
    let world = world.restarted();
    assert_eq!(world.store.partial_blobs.paused(&origins[0], dropped, 0), None, "its files are gone as well");
    assert!(world.store.partial_blobs.paused(&origins[1], kept, 0).is_some());
}

#[test]
fn two_origins_fill_and_publish_the_same_blob() {
    let world = World::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let origins = [origin("a.example"), origin("b.example")];
    let fills = origins
        .each_ref()
        .map(|origin| Arc::new(done(world.store.partial_blobs.begin(origin, &digest, Some(1000))).unwrap()));
    for range in [0..500, 500..1000] {
        for fill in &fills {
            done(fill.write(range.start as u64, Bytes::copy_from_slice(&bytes[range.clone()]))).unwrap();
        }
    }
    let place = |origin: &Origin| Place::new(origin.clone(), "a/b".parse().unwrap());
    let first = done(fills[0].publish(None, &[(place(&origins[0]), None)])).unwrap();
    let reading = done(world.store.blobs.get(&digest)).unwrap().unwrap();
    done(fills[1].publish(None, &[(place(&origins[1]), None)])).unwrap();
    for blob in [first, reading] {
        assert_eq!(done(blob.read(0, 1000)).unwrap(), bytes, "readers of the first file go on");
    }
    assert_eq!(read(&world.store, &digest).unwrap(), bytes);
    assert_eq!(done(world.store.names.places(&digest)), origins.each_ref().map(place));
    let usage = world.store.usage();
    assert_eq!((usage.blobs, usage.used_bytes, usage.reserved_bytes), (1, 1000, 0));
    assert_eq!(files_below(&world.dir.path().join("fill")), 0);
}
