//! Every path of the data plane gives the same answers: plain or TLS, warm from the mapping or cold from the disk, with
//! a ring or without.

use std::fs::File;

use entrepot_core::digest::Digest;
use http::Method;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::harness::{Proxy, Session, Setup, Upstream, bytes};

const SIZE: usize = 5 << 20;

/// One path that bytes take.
#[derive(Clone, Copy, Debug)]
struct Rung {
    is_sealed: bool,
    is_warm: bool,
    with_ring: bool,
}

fn rungs() -> impl Iterator<Item = Rung> {
    (0..8).map(|bits| Rung { is_sealed: bits & 1 > 0, is_warm: bits & 2 > 0, with_ring: bits & 4 > 0 })
}

/// A proxy that has a blob.
struct Stage {
    rung: Rung,
    upstream: Upstream,
    proxy: Proxy,
    content: bytes::Bytes,
    digest: Digest,
}

impl Stage {
    async fn set(rung: Rung, size: usize) -> Self {
        let upstream = Upstream::start().await;
        let content = bytes(size as u64, size);
        let digest = upstream.blob("team/app", &content);
        let setup = Setup::of(&[&upstream]);
        let setup = if rung.with_ring { setup } else { setup.without_ring() };
        let proxy = setup.start().await;
        proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
        proxy.landed().await;
        let stage = Self { rung, upstream, proxy, content, digest };
        stage.cool();
        stage
    }

    /// Empties the page cache for a cold path.
    fn cool(&self) {
        if !self.rung.is_warm {
            let file = File::open(self.proxy.file_of(&self.digest)).expect("the blob");
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
        }
    }

    async fn session(&self) -> Session {
        match self.rung.is_sealed {
            true => self.proxy.sealed(&self.upstream).await,
            false => Session::to(self.proxy.door).await,
        }
    }

    fn ask(&self, method: Method) -> crate::harness::Ask {
        self.proxy.ask(method, &self.upstream, &path(&self.digest))
    }
}

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

#[tokio::test]
async fn wholes_heads_and_ranges_on_one_connection() {
    for rung in rungs() {
        for size in [1, 1000, 64 << 10, (64 << 10) + 1, SIZE] {
            let stage = Stage::set(rung, size).await;
            let mut session = stage.session().await;
            let whole = session.ask(stage.ask(Method::GET)).await;
            whole.is_whole(&stage.content);
            assert_eq!(whole.cache(), "HIT", "{rung:?} {size}");
            let head = session.ask(stage.ask(Method::HEAD)).await;
            assert_eq!((head.status, head.header("content-length")), (200, size.to_string().as_str()), "{rung:?}");
            assert!(head.body.is_empty());
            stage.cool();
            let last = size - 1;
            for (start, end) in [(0, 0), (last, last), (size / 3, size / 2), (0, last), (size / 2, last)] {
                let part = session.ask(stage.ask(Method::GET).range(&format!("{start}-{end}"))).await;
                assert_eq!(part.status, 206, "{rung:?} {start}-{end}");
                assert!(part.body == stage.content[start..=end], "{rung:?} {size}: {start}-{end}");
            }
            let past = session.ask(stage.ask(Method::GET).range(&format!("{size}-"))).await;
            past.is_error(416, "RANGE_INVALID");
            session.ask(stage.ask(Method::GET)).await.is_whole(&stage.content);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_early_stops_nobody() {
    for rung in rungs() {
        let stage = Stage::set(rung, SIZE).await;
        for _ in 0..5 {
            let mut leaving = stage.session().await.start(stage.ask(Method::GET)).await;
            leaving.read(1000).await;
            drop(leaving);
            stage.cool();
        }
        stage.session().await.ask(stage.ask(Method::GET)).await.is_whole(&stage.content);
    }
}

#[tokio::test]
async fn clients_that_read_a_byte_and_stop_hold_nobody_up() {
    for rung in rungs() {
        let stage = Stage::set(rung, SIZE).await;
        let mut slow = Vec::new();
        for _ in 0..10 {
            let mut reading = stage.session().await.start(stage.ask(Method::GET)).await;
            let first = reading.read(1).await;
            slow.push((first, reading));
        }
        // One thread serves all requests.
        let mut session = stage.session().await;
        for _ in 0..3 {
            stage.cool();
            session.ask(stage.ask(Method::GET)).await.is_whole(&stage.content);
        }
        for (first, reading) in slow {
            let rest = reading.rest().await.expect("whole").body;
            assert!([&first[..], &rest[..]].concat() == stage.content, "{rung:?}");
        }
    }
}

#[tokio::test]
async fn a_blob_that_was_cut_on_disk_is_completed_from_upstream_or_not_at_all() {
    for rung in rungs() {
        let stage = Stage::set(rung, SIZE).await;
        let mut reading = stage.session().await.start(stage.ask(Method::GET)).await;
        let first = reading.read(1).await;
        let file = File::options().write(true).open(stage.proxy.file_of(&stage.digest)).expect("the blob");
        file.set_len(3 << 20).expect("cut");
        if let Ok(rest) = reading.rest().await {
            assert!([&first[..], &rest.body[..]].concat() == stage.content, "{rung:?}: complete with other bytes");
        }
        // The next client gets the blob.
        stage.session().await.ask(stage.ask(Method::GET)).await.is_whole(&stage.content);
    }
}
