//! Fills: what is visible when, and how they end.

use super::*;
use crate::{Extents, Verified};

#[test]
fn content_is_stored_once_it_is_right() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    assert!(matches!(place.store.put(&digest, &bytes[1..]), Err(StoreError::WrongDigest { .. })));
    assert!(!place.store.contains(&digest) && read(&place.store, &digest).is_none());
    place.store.put(&digest, &bytes).unwrap();
    place.store.put(&digest, &bytes).unwrap();
    assert_eq!(read(&place.store, &digest).unwrap(), bytes);
    let usage = place.store.usage();
    assert_eq!((usage.used_bytes, usage.blobs, usage.reserved_bytes), (1000, 1, 0));
}

#[test]
fn a_fill_is_visible_when_it_is_published_and_not_before() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 100_000);
    let fill = place.store.begin(&digest, Some(100_000)).unwrap();
    fill.write_at(50_000, &bytes[50_000..]).unwrap();
    fill.write_at(0, &bytes[..50_000]).unwrap();
    assert_eq!(fill.read_at(49_990, 20).unwrap(), bytes[49_990..50_010]);
    assert!(!place.store.contains(&digest) && place.store.blob(&digest).unwrap().is_none());
    assert_eq!(place.store.usage().reserved_bytes, 100_000);

    let blob = fill.publish(None, &[]).unwrap();
    assert_eq!(blob.read_at(0, usize::MAX).unwrap(), bytes);
    assert_eq!(read(&place.store, &digest).unwrap(), bytes);
    assert_eq!(fill.read_at(0, 10).unwrap(), bytes[..10], "followers keep reading");
    assert!(matches!(fill.write_at(0, b"x"), Err(StoreError::FillState)), "published content is immutable");
    assert!(matches!(fill.publish(None, &[]), Err(StoreError::FillState)));
    drop(fill);
    assert!(place.store.contains(&digest));
    assert_eq!(place.store.verify(&digest).unwrap(), Verified::Good);
    assert_eq!((place.store.usage().reserved_bytes, place.store.usage().used_bytes), (0, 100_000));
}

#[test]
fn what_is_not_published_never_happened() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let fill = place.store.begin(&digest, Some(1000)).unwrap();
    fill.write_at(0, &bytes[..999]).unwrap();
    assert!(matches!(
        fill.write_at(999, b"xy"),
        Err(StoreError::WrongSize { expected_bytes: 1000, actual_bytes: 1001 })
    ));
    assert!(matches!(fill.publish(None, &[]), Err(StoreError::WrongSize { expected_bytes: 1000, actual_bytes: 999 })));
    drop(place.store.begin(&digest, Some(1000)).unwrap());
    drop(place.store.begin_unnamed(None).unwrap());
    assert_eq!(files_below(&place.dir.path().join("fill")) + files_below(&place.dir.path().join("blobs")), 0);
    assert_eq!((place.store.usage().reserved_bytes, place.store.usage().used_bytes), (0, 0));
    assert!(matches!(place.store.begin_unnamed(Some(1)).unwrap().publish(None, &[]), Err(StoreError::FillState)));
    let other = Digest::Sha256([0; 32]);
    assert!(matches!(
        place.store.begin(&digest, Some(0)).unwrap().publish_as(&other, None, &[]),
        Err(StoreError::FillState)
    ));
}

#[test]
fn a_fill_may_learn_its_size_and_name_at_the_end() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 5_000_000);
    let fill = place.store.begin_unnamed(None).unwrap();
    for (number, chunk) in bytes.chunks(70_000).enumerate() {
        fill.write_at(number as u64 * 70_000, chunk).unwrap();
    }
    assert!(place.store.usage().reserved_bytes >= 5_000_000);
    fill.publish_as(&digest, None, &[]).unwrap();
    assert_eq!(read(&place.store, &digest).unwrap(), bytes);
    assert_eq!((place.store.usage().reserved_bytes, place.store.usage().used_bytes), (0, 5_000_000));
    use std::os::unix::fs::MetadataExt;
    let file = place.store.blob(&digest).unwrap().unwrap().file.metadata().unwrap();
    assert!(file.blocks() * 512 < 5_100_000, "blocks beyond the end were given back");
}

#[test]
fn empty_content_is_content() {
    let place = Place::new(PLENTY);
    let digest = put(&place.store, 1, 0);
    assert_eq!(read(&place.store, &digest).unwrap(), b"");
    assert_eq!(place.store.verify(&digest).unwrap(), Verified::Good);
}

#[test]
fn a_paused_fill_goes_on_even_after_a_restart() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    let mut extents = Extents::new();
    for (range, restart) in [(0..300, false), (600..700, true)] {
        let fill = place.store.begin(&digest, Some(1000)).unwrap();
        assert_eq!(*fill.extents(), extents, "restart: {restart}");
        fill.write_at(range.start, &bytes[range.start as usize..range.end as usize]).unwrap();
        extents.insert(range);
        fill.pause(&extents).unwrap();
        assert!(fill.write_at(0, b"x").is_err());
    }
    assert_eq!(place.store.usage().reserved_bytes, 1000, "its blocks are taken");
    let place = place.restarted();
    assert_eq!(place.store.usage().reserved_bytes, 1000);
    let fill = place.store.begin(&digest, Some(1000)).unwrap();
    assert_eq!(*fill.extents(), extents);
    assert_eq!(files_below(&place.dir.path().join("fill")), 1, "the sidecar goes before more is written");
    fill.write_at(300, &bytes[300..600]).unwrap();
    fill.write_at(700, &bytes[700..]).unwrap();
    fill.publish(None, &[]).unwrap();
    assert_eq!(read(&place.store, &digest).unwrap(), bytes);
    assert_eq!(place.store.verify(&digest).unwrap(), Verified::Good);
}

#[test]
fn a_paused_fill_of_another_size_is_dropped() {
    let place = Place::new(PLENTY);
    let (digest, bytes) = content(1, 1000);
    for size in [Some(999), None] {
        let fill = place.store.begin(&digest, Some(1000)).unwrap();
        assert_eq!(fill.extents().total(), 0);
        fill.write_at(0, &bytes[..100]).unwrap();
        fill.pause(&Extents::from(vec![(0, 100)])).unwrap();
        assert_eq!(place.store.begin(&digest, size).unwrap().extents().total(), 0);
        assert_eq!(files_below(&place.dir.path().join("fill")), 0);
        assert_eq!(place.store.usage().reserved_bytes, 0);
    }
}

#[test]
fn pausing_what_cannot_be_found_again_drops_it() {
    let place = Place::new(PLENTY);
    let fill = place.store.begin_unnamed(Some(10)).unwrap();
    fill.write_at(0, b"abc").unwrap();
    fill.pause(&Extents::from(vec![(0, 3)])).unwrap();
    assert_eq!(files_below(&place.dir.path().join("fill")), 0);
    assert_eq!(place.store.usage().reserved_bytes, 0);
}

#[test]
fn a_paused_fill_does_not_wait_for_ever() {
    let place = Place::new(PLENTY);
    let fill = place.store.begin(&Digest::Sha256([1; 32]), Some(1000)).unwrap();
    fill.write_at(0, b"abc").unwrap();
    fill.pause(&Extents::from(vec![(0, 3)])).unwrap();
    let now = std::time::SystemTime::now();
    place.store.expire_unused(now);
    assert_eq!(place.store.usage().reserved_bytes, 1000);
    place.store.expire_unused(now + Duration::from_secs(4000));
    assert_eq!(place.store.usage().reserved_bytes, 0);
    assert_eq!(files_below(&place.dir.path().join("fill")), 0);
}
