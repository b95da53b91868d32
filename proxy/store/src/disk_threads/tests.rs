//! The queues, their order and their bounds, on every rung; and the buffers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::buffers::{Buffers, PIECE_BYTES};
use super::*;

const SHORT: Duration = Duration::from_millis(200);
const LANE: Lane = Lane(0);
const OTHER_LANE: Lane = Lane(1);

/// One with a ring, if this kernel gives one, and one without.
fn rungs(timeout: Duration) -> [DiskThreads; 2] {
    [true, false].map(|io_uring| DiskThreads::new(DiskSettings { io_uring, timeout, ..DiskSettings::default() }))
}

fn is_stalled<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Stalled { .. }))
}

#[test]
fn without_io_uring_there_are_threads() {
    let [_, plain] = rungs(SHORT);
    assert_eq!(plain.start(), DiskLadder::Threads);
    let refused = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|text| text.trim() == "2");
    let [ring, _] = rungs(SHORT);
    if !refused {
        assert_eq!(ring.start(), DiskLadder::Uring, "does a seccomp filter refuse it?");
    }
}

#[tokio::test]
async fn a_lane_starts_its_jobs_in_order() {
    for threads in rungs(Duration::from_secs(20)) {
        let started: Arc<Mutex<Vec<u32>>> = Arc::default();
        let jobs = (0..20).map(|number| {
            let started = started.clone();
            threads.run(LANE, move |_| async move { started.lock().unwrap().push(number) })
        });
        futures_util::future::join_all(jobs).await;
        assert_eq!(*started.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_job_that_hangs_holds_up_nobody() {
    for threads in rungs(SHORT) {
        let gate = Arc::new(Semaphore::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let (waits, counts) = (gate.clone(), ended.clone());
        let slow_disk = move |_: Calls| async move {
            drop(waits.acquire().await);
            counts.fetch_add(1, Ordering::SeqCst);
        };
        let began = std::time::Instant::now();
        assert!(is_stalled(threads.run_in_time(LANE, slow_disk).await));
        assert!(began.elapsed() >= SHORT);
        for lane in [LANE, OTHER_LANE] {
            assert_eq!(threads.run(lane, |calls| calls.aside(|| 7)).await.unwrap(), 7, "the lane goes on");
            let began = std::time::Instant::now();
            for _ in 0..100 {
                assert!(is_stalled(threads.run_in_time(lane, |_| async { panic!("it is not run") }).await));
            }
            assert!(began.elapsed() < SHORT, "nobody else waits for the disk");
        }
        assert!(threads.hangs());
        gate.add_permits(1);
        while ended.load(Ordering::SeqCst) < 1 || threads.hangs() {
            tokio::task::yield_now().await;
        }
        assert_eq!(threads.run_in_time(LANE, |calls| calls.aside(|| 7)).await.unwrap(), 7, "the disk works again");
    }
}

#[tokio::test]
async fn a_lane_that_hangs_altogether_is_full_and_the_others_are_not() {
    for threads in rungs(SHORT) {
        let gate = Arc::new(Semaphore::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let hang = || {
            let (gate, ended) = (gate.clone(), ended.clone());
            threads.run_in_time(LANE, move |_| async move {
                drop(gate.acquire().await);
                ended.fetch_add(1, Ordering::SeqCst);
            })
        };
        let hung = futures_util::future::join_all((0..1000).map(|_| hang())).await;
        assert!(hung.into_iter().all(is_stalled));
        assert!(threads.run(OTHER_LANE, |_| async {}).await.is_ok());
        gate.add_permits(1);
        assert!(threads.run(LANE, |_| async {}).await.is_ok(), "it goes on where it stood");
        let ended = ended.load(Ordering::SeqCst);
        assert!((QUEUED_MAX..QUEUED_MAX + 100).contains(&ended), "{ended} of a thousand had been taken");
    }
}

#[tokio::test]
async fn a_job_that_panics_costs_itself() {
    for threads in rungs(SHORT) {
        let lost: Result<(), _> = threads.run(LANE, |_| async { panic!("as the test wants") }).await;
        assert!(matches!(lost, Err(StoreError::DiskThreadGone)));
        let lost: Result<(), _> = threads.run(LANE, |calls| calls.aside(|| panic!("as the test wants"))).await;
        assert!(matches!(lost, Err(StoreError::DiskThreadGone)));
        assert_eq!(threads.run(LANE, |_| async { 7 }).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn what_was_taken_is_done_after_the_threads_are_let_go() {
    for threads in rungs(SHORT) {
        let (done, is_done) = oneshot::channel();
        let gate = Arc::new(Semaphore::new(0));
        let waits = gate.clone();
        let job = threads.run_in_time(LANE, move |calls| async move {
            drop(waits.acquire().await);
            done.send(calls.aside(|| 7).await)
        });
        assert!(is_stalled(job.await));
        drop(threads);
        gate.add_permits(1);
        assert_eq!(is_done.await.unwrap(), 7);
    }
}

#[tokio::test]
async fn the_calls_do_what_they_say() {
    for threads in rungs(Duration::from_secs(20)) {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("one"), folder.path().join("two"));
        let at = folder.path().to_owned();
        let done = threads.run(LANE, move |calls| async move {
            let file = Arc::new(disk::create(&path).unwrap());
            assert!(calls.allocate(&file, &path, 0, 1 << 20).await.unwrap());
            assert_eq!(file.metadata().unwrap().len(), 0, "the length is kept");
            calls.write_at(&file, &path, 3, &Bytes::from_static(b"def")).await.unwrap();
            calls.write_at(&file, &path, 0, &Bytes::from_static(b"abc")).await.unwrap();
            calls.sync(&file, &path).await.unwrap();
            calls.rename(&path, &other).await.unwrap();
            calls.sync_dir(&at).await.unwrap();
            assert_eq!(std::fs::read(&other).unwrap(), b"abcdef");
            assert!(calls.rename(&path, &other).await.is_err());
            assert!(calls.unlink(&other).await.unwrap() && !calls.unlink(&other).await.unwrap());
            assert!(calls.sync_dir(&other).await.is_err());
            let read_only = Arc::new(File::open("/dev/null").unwrap());
            assert!(calls.write_at(&read_only, &other, 0, &Bytes::from_static(b"x")).await.is_err());
            assert!(calls.allocate(&file, &path, u64::MAX, 1).await.unwrap_err().is_no_space());
        });
        done.await.unwrap();
    }
}

#[test]
fn lanes_belong_to_digests() {
    let digest = Digest::Sha256([9; 32]);
    assert_eq!(Lane::of(Some(&digest), 1), Lane::of(Some(&digest), 2));
    assert_ne!(Lane::of(None, 1), Lane::of(None, 2));
}

#[tokio::test]
async fn buffers_are_bounded_and_come_back_with_the_last_share() {
    let buffers = Buffers::new(3 * PIECE_BYTES + 1, SHORT);
    let mut content = Bytes::from(vec![7; PIECE_BYTES + 5]);
    let mut first = buffers.take().await.unwrap();
    first.fill_from(&mut content);
    assert!(first.is_full() && content.len() == 5);
    let mut second = buffers.take().await.unwrap();
    second.fill_from(&mut content);
    assert!(!second.is_full() && content.is_empty());
    let third = buffers.take().await.unwrap();
    assert_eq!(buffers.in_use(), 3);
    assert!(is_stalled(buffers.take().await), "there are three");

    let (piece, small) = (first.freeze(), second.freeze());
    assert_eq!((piece.len(), &small[..]), (PIECE_BYTES, &[7; 5][..]));
    let share = piece.slice(1..2);
    drop(piece);
    assert!(is_stalled(buffers.take().await), "a share is still out");
    let (waited, ()) = tokio::join!(buffers.take(), async { drop(share) });
    let again = waited.unwrap();
    assert!(again.as_ref().is_empty(), "nothing of the piece before is in it");
    drop((again, small, third));
    assert_eq!(buffers.in_use(), 0);
}
