//! Fills with a ring and without one: the same outcomes.

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::*;
use crate::{DiskSettings, Extents, UploadFile, UploadId, Verified};

/// A store that works with a ring, if this kernel gives one, and one without.
fn rungs(max_size_bytes: u64) -> [World; 2] {
    [true, false].map(|io_uring| {
        let dir = TempDir::new().unwrap();
        let disk = DiskSettings { io_uring, ..DiskSettings::default() };
        let store = Store::open_with(dir.path(), limits(max_size_bytes), disk).unwrap();
        store.start_disk_threads();
        World { store, dir }
    })
}

fn part(bytes: &[u8], range: std::ops::Range<usize>) -> Bytes {
    Bytes::copy_from_slice(&bytes[range])
}

#[tokio::test]
async fn a_fill_is_written_in_any_order_and_published() {
    for world in rungs(PLENTY) {
        let (digest, bytes) = content(1, 3_000_000);
        let fill = Arc::new(world.store.partial_blobs.begin(&hub(), &digest, Some(3_000_000)).await.unwrap());
        let pieces = (0..30).rev().map(|at| {
            let (fill, piece) = (&fill, part(&bytes, at * 100_000..(at + 1) * 100_000));
            async move { fill.write(at as u64 * 100_000, piece).await }
        });
        assert!(futures_util::future::join_all(pieces).await.into_iter().all(|written| written.is_ok()));
        let too_long = fill.write(2_999_999, part(&bytes, 0..2)).await;
        assert!(matches!(too_long, Err(StoreError::WrongSize { .. })));
        assert!(!world.store.blobs.contains(&digest).await);
        let blob = fill.publish(None, &[]).await.unwrap();
        assert_eq!(blob.read(0, usize::MAX).await.unwrap(), bytes);
        assert!(matches!(fill.write(0, part(&bytes, 0..1)).await, Err(StoreError::FillState)));
        assert!(matches!(fill.publish(None, &[]).await, Err(StoreError::FillState)));
        assert_eq!(world.store.blobs.verify(&digest).await.unwrap(), Verified::Good);
        assert_eq!((world.store.usage().reserved_bytes, world.store.usage().used_bytes), (0, 3_000_000));
    }
}

#[tokio::test]
async fn the_end_waits_for_writes_that_run() {
    for world in rungs(PLENTY) {
        let (digest, bytes) = content(1, 8_000_000);
        let fill = Arc::new(world.store.partial_blobs.begin(&hub(), &digest, Some(8_000_000)).await.unwrap());
        let writes: Vec<_> = (0..8)
            .map(|at| {
                let (fill, piece) = (fill.clone(), part(&bytes, at * 1_000_000..(at + 1) * 1_000_000));
                tokio::spawn(async move { fill.write(at as u64 * 1_000_000, piece).await })
            })
            .collect();
        tokio::task::yield_now().await;
        // The callers of the writes have left. Each write happens all the same, or not at all.
        writes.iter().for_each(tokio::task::JoinHandle::abort);
        let published = fill.publish(None, &[]).await;
        let file = world.dir.path().join("blobs");
        match published {
            Ok(_) => assert_eq!(reading(&world.store, &digest).await.unwrap().len(), 8_000_000),
            Err(StoreError::WrongSize { .. }) => assert_eq!(files_below(&file), 0),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_fill_that_is_dropped_never_happened() {
    for world in rungs(PLENTY) {
        let (digest, bytes) = content(1, 1000);
        let fill = Arc::new(world.store.partial_blobs.begin(&hub(), &digest, Some(1000)).await.unwrap());
        fill.write(0, part(&bytes, 0..1000)).await.unwrap();
        drop(fill);
        drop(world.store.partial_blobs.begin_unnamed(None).await.unwrap());
        soon("the files are gone", || files_below(&world.dir.path().join("fill")) == 0);
        soon("the room is given back", || world.store.usage().reserved_bytes == 0);
    }
}

#[tokio::test]
async fn a_paused_fill_goes_on() {
    for world in rungs(PLENTY) {
        let (digest, bytes) = content(1, 1000);
        let fill = Arc::new(world.store.partial_blobs.begin(&hub(), &digest, Some(1000)).await.unwrap());
        fill.write(200, part(&bytes, 200..700)).await.unwrap();
        let extents = Extents::from(vec![(200, 700)]);
        fill.pause(&extents).await.unwrap();
        let fill = Arc::new(world.store.partial_blobs.begin(&hub(), &digest, Some(1000)).await.unwrap());
        assert_eq!(*fill.extents(), extents);
        fill.write(0, part(&bytes, 0..200)).await.unwrap();
        fill.write(700, part(&bytes, 700..1000)).await.unwrap();
        fill.publish(None, &[]).await.unwrap();
        assert_eq!(reading(&world.store, &digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn size_and_name_may_come_at_the_end() {
    for world in rungs(PLENTY) {
        let (digest, bytes) = content(1, 9_000_000);
        let fill = Arc::new(world.store.partial_blobs.begin_unnamed(None).await.unwrap());
        let pieces = (0..9).map(|at| {
            let (fill, piece) = (&fill, part(&bytes, at * 1_000_000..(at + 1) * 1_000_000));
            async move { fill.write(at as u64 * 1_000_000, piece).await }
        });
        assert!(futures_util::future::join_all(pieces).await.into_iter().all(|written| written.is_ok()));
        fill.publish(Some(&digest), &[]).await.unwrap();
        assert_eq!(reading(&world.store, &digest).await.unwrap(), bytes);
        assert_eq!((world.store.usage().reserved_bytes, world.store.usage().used_bytes), (0, 9_000_000));
    }
}

#[tokio::test]
async fn small_content_is_put_and_room_is_made() {
    for world in rungs(10_000) {
        for seed in 0..20 {
            let (digest, bytes) = content(seed, 1000);
            let bytes = Bytes::from(bytes);
            let wrong = world.store.partial_blobs.put(&digest, bytes.slice(1..)).await;
            assert!(matches!(wrong, Err(StoreError::WrongDigest { .. })));
            world.store.partial_blobs.put(&digest, bytes.clone()).await.unwrap();
            world.store.partial_blobs.put(&digest, bytes.clone()).await.unwrap();
            assert_eq!(reading(&world.store, &digest).await.unwrap(), bytes);
        }
        assert!(world.store.usage().evictions >= 10);
        assert!(is_no_space(world.store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(10_001)).await));
    }
}

#[tokio::test]
async fn a_write_of_a_request_that_left_never_lands_behind_the_next_ones() {
    for world in rungs(PLENTY) {
        let (store, file) = (&world.store, UploadFile::of(UploadId::random().unwrap()));
        let (left, (digest, bytes)) = (content(1, 1000).1, content(2, 1000));
        let fill = Arc::new(store.uploads.open(&file).await.unwrap());
        // The disk hangs at this file: writes to it wait.
        let ((hangs, has_hung), (resume, resumed)) = (oneshot::channel(), oneshot::channel::<()>());
        let disk = tokio::spawn(fill.clone().hang(hangs, resumed));
        has_hung.await.unwrap();
        let write = async move { fill.write(0, Bytes::from(left)).await };
        assert!(write.now_or_never().is_none(), "the request leaves, its write is under way");
        assert!(file.turns.try_lock().is_err(), "the next request would not wait for it");
        let next = async {
            let fill = Arc::new(store.uploads.open(&file).await?);
            fill.write(0, part(&bytes, 0..1000)).await?;
            fill.publish_upload(&digest, 1000).await
        };
        let (published, ()) = tokio::join!(next, async { resume.send(()).unwrap() });
        published.unwrap();
        disk.await.unwrap();
        assert_eq!(store.blobs.verify(&digest).await.unwrap(), Verified::Good);
        soon("the room is given back", || store.usage().reserved_bytes + store.usage().uploading_bytes == 0);
    }
}
