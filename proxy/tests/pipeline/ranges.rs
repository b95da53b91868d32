//! Ranges, cold and warm: the bytes are the same, and no more is fetched than the blob.

use entrepot_core::digest::Digest;
use futures_util::future::join_all;
use http::Method;

use crate::harness::{Answer, Gate, Proxy, Seen, Session, Setup, Upstream, bytes, digest_of, eventually, in_time};

const SIZE: usize = 1 << 20;

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

/// The first byte that a request asks for.
fn start_of(seen: &Seen) -> u64 {
    let range = seen.header("range").strip_prefix("bytes=").unwrap_or("0-");
    range.split('-').next().and_then(|first| first.parse().ok()).expect("a first byte")
}

/// The most bytes that upstream may send: 5 % more than the blob.
fn cost_max(size: usize) -> u64 {
    size as u64 * 105 / 100
}

#[tokio::test]
async fn a_range_is_answered_alike_cold_and_warm() {
    let content = bytes(1, SIZE);
    let digest = digest_of(&content);
    let last = SIZE - 1;
    for (range, part) in [
        ("0-0".to_owned(), 0..1),
        ("1000-1999".to_owned(), 1000..2000),
        (format!("500000-{last}"), 500_000..SIZE),
        ("500000-".to_owned(), 500_000..SIZE),
        (format!("500000-{}", SIZE * 2), 500_000..SIZE),
        ("-100".to_owned(), SIZE - 100..SIZE),
        (format!("-{}", SIZE * 2), 0..SIZE),
        ("0-".to_owned(), 0..SIZE),
        (format!("0-{last}"), 0..SIZE),
        (format!("{last}-"), last..SIZE),
    ] {
        let upstream = Upstream::start().await;
        upstream.blob("team/app", &content);
        let proxy = Proxy::before(&[&upstream]).await;
        for cache in ["cold", "warm"] {
            let reply = proxy.get(&upstream, &path(&digest)).range(&range).send().await;
            assert_eq!(reply.status, 206, "{cache} {range}");
            let told = format!("bytes {}-{}/{SIZE}", part.start, part.end - 1);
            assert_eq!(reply.header("content-range"), told, "{cache} {range}");
            assert_eq!(reply.header("content-length"), part.len().to_string(), "{cache} {range}");
            assert!(reply.body == content[part.clone()], "{cache} {range}");
            proxy.landed().await;
        }
        assert!(proxy.has(&digest), "the rest was completed in the background: {range}");
        assert!(upstream.body_bytes() <= cost_max(SIZE), "{range} cost {}", upstream.body_bytes());
    }
}

#[tokio::test]
async fn a_cold_range_is_fetched_first() {
    let upstream = Upstream::start().await;
    let content = bytes(2, 8 << 20);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    // All other fetches stop at the gate.
    let (whole, held) = (Answer::content(content.clone()), gate.clone());
    upstream.on(&path(&digest), move |seen| match seen.header("range") {
        "bytes=7000000-7000999" => whole.clone(),
        _ => whole.clone().head_gated(&held),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    let reply = proxy.get(&upstream, &path(&digest)).range("7000000-7000999").send().await;
    assert!(reply.status == 206 && reply.body == content[7_000_000..7_001_000]);
    gate.open();
    proxy.landed().await;
    assert!(proxy.has(&digest));
    assert!(upstream.body_bytes() <= cost_max(8 << 20));
}

#[tokio::test]
async fn beyond_the_end_is_416_cold_and_warm() {
    let content = bytes(3, 1000);
    let digest = digest_of(&content);
    for range in ["1000-", "1000-2000", "5000-6000", "18446744073709551615-", "-0"] {
        let upstream = Upstream::start().await;
        upstream.blob("team/app", &content);
        let proxy = Proxy::before(&[&upstream]).await;
        for cache in ["cold", "warm"] {
            let reply = proxy.get(&upstream, &path(&digest)).range(range).send().await;
            assert_eq!(reply.status, 416, "{cache} {range}");
            assert_eq!(reply.header("content-range"), "bytes */1000", "{cache} {range}");
            proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
            proxy.landed().await;
        }
    }
}

#[tokio::test]
async fn several_ranges_and_nonsense_get_the_whole_cold_and_warm() {
    let content = bytes(4, 10_000);
    let digest = digest_of(&content);
    for range in ["bytes=0-1,5-6", "bytes=0-0,-1", "bytes=5-1", "pages=1-2", "bytes=a-b", "bytes="] {
        let upstream = Upstream::start().await;
        upstream.blob("team/app", &content);
        let proxy = Proxy::before(&[&upstream]).await;
        for _ in 0..2 {
            proxy.get(&upstream, &path(&digest)).header("range", range).send().await.is_whole(&content);
            proxy.landed().await;
        }
        assert_eq!(upstream.body_bytes(), 10_000, "{range}");
    }
}

#[tokio::test]
async fn a_range_where_upstream_takes_none() {
    let content = bytes(5, SIZE);
    let digest = digest_of(&content);
    for (chunked, start) in [(false, 500_000), (true, 500_000), (false, 0), (true, 0)] {
        let upstream = Upstream::start().await;
        let answer = Answer::content(content.clone()).ignoring_range();
        upstream.blob_as("team/app", &digest, if chunked { answer.chunked() } else { answer });
        let proxy = Proxy::before(&[&upstream]).await;
        let range = format!("{start}-{}", start + 99);
        let reply = proxy.get(&upstream, &path(&digest)).range(&range).send().await;
        match reply.status {
            206 => assert!(reply.body == content[start..start + 100]),
            // Without a length the meaning of the range is unknown.
            _ => reply.is_whole(&content),
        }
        proxy.landed().await;
        assert!(proxy.has(&digest));
        assert_eq!(upstream.body_bytes(), SIZE as u64, "chunked: {chunked}, from {start}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_first_bytes_cost_one_blob() {
    let upstream = Upstream::start().await;
    let content = bytes(6, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 / 2, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let ask = proxy.get(&upstream, &path(&digest)).range("0-0");
    let attackers = (0..20).map(|number| {
        let (ask, door, first, gate) = (ask.clone(), proxy.door, content[0], gate.clone());
        tokio::spawn(async move {
            let mut session = Session::to(door).await;
            for round in 0..500 {
                let reply = session.ask(ask.clone()).await;
                assert_eq!((reply.status, &reply.body[..]), (206, &[first][..]));
                // Half of the requests meet a running fetch, half the stored blob.
                if number == 0 && round == 250 {
                    gate.open();
                }
            }
        })
    });
    for attacker in join_all(attackers.collect::<Vec<_>>()).await {
        attacker.expect("answered");
    }
    proxy.landed().await;
    assert!(upstream.body_bytes() <= cost_max(SIZE), "{} bytes", upstream.body_bytes());
    let gets = upstream.count(&Method::GET, &path(&digest));
    assert!(gets <= 3, "{gets} fetches");
    let heads = upstream.count(&Method::HEAD, &path(&digest));
    assert!(heads <= 20, "{heads} questions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_parallel_ranges_cost_one_blob() {
    let upstream = Upstream::start().await;
    let size = 16 << 20;
    let content = bytes(7, size);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    // No part ends before all are requested, so a late request finds other bytes on their way.
    let (whole, held) = (Answer::content(content.clone()), gate.clone());
    upstream.on(&path(&digest), move |seen| whole.clone().gated_at(start_of(seen) + 1, &held));
    let proxy = Proxy::before(&[&upstream]).await;
    let quarter = size / 4;
    let parts = (0..4).map(|part| {
        let range = format!("{}-{}", part * quarter, (part + 1) * quarter - 1);
        tokio::spawn(proxy.get(&upstream, &path(&digest)).range(&range).send())
    });
    let parts = join_all(parts.collect::<Vec<_>>());
    let opener = async {
        eventually("all are fetched at once", || upstream.seen().len() == 4).await;
        gate.open();
    };
    let (parts, ()) = in_time("four parts", futures_util::future::join(parts, opener)).await;
    for (number, reply) in parts.into_iter().enumerate() {
        let reply = reply.expect("no panic");
        assert!(reply.status == 206 && reply.body == content[number * quarter..(number + 1) * quarter]);
    }
    proxy.landed().await;
    assert!(proxy.has(&digest));
    assert!(upstream.body_bytes() <= cost_max(size), "{} bytes", upstream.body_bytes());
}

#[tokio::test]
async fn a_range_of_a_blob_too_large_to_complete_keeps_what_it_got() {
    let upstream = Upstream::start().await;
    let content = bytes(8, SIZE);
    let digest = upstream.blob("team/app", &content);
    let proxy = Setup::of(&[&upstream]).set("cache", "complete_up_to = \"64k\"").start().await;
    let fetched = || proxy.pull.metrics.bytes_from_upstream.get();
    for range in [100_000..400_000, 200_000..300_000, 300_000..500_000] {
        let asked = format!("{}-{}", range.start, range.end - 1);
        let reply = proxy.get(&upstream, &path(&digest)).range(&asked).send().await;
        assert!(reply.status == 206 && reply.body == content[range]);
        proxy.landed().await;
    }
    assert!(!proxy.has(&digest));
    assert_eq!(fetched(), 400_000, "nothing twice, and nothing that nobody asked for");
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    proxy.landed().await;
    assert!(proxy.has(&digest));
    assert_eq!(fetched(), SIZE as u64, "no byte twice");
}

#[tokio::test]
async fn a_follower_far_ahead_does_not_wait() {
    let upstream = Upstream::start().await;
    let size = 16 << 20;
    let content = bytes(9, size);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    let (whole, held) = (Answer::content(content.clone()), gate.clone());
    upstream.on(&path(&digest), move |seen| match seen.header("range") {
        "" => whole.clone().gated_at(1 << 20, &held),
        _ => whole.clone(),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    let mut leader = proxy.get(&upstream, &path(&digest)).start().await;
    let begun = leader.read(1).await;
    gate.reached().await;
    let ahead = proxy.get(&upstream, &path(&digest)).range("12000000-12000999").send().await;
    assert!(ahead.status == 206 && ahead.body == content[12_000_000..12_001_000]);
    gate.open();
    let rest = leader.rest().await.expect("whole");
    assert!([&begun[..], &rest.body].concat() == content);
    eventually("published", || proxy.has(&digest)).await;
}
