//! One fetch for all clients: clients that join, clients that leave, and upstreams that break off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use entrepot_cache::fetch::inflight::Target;
use entrepot_cache::fetch::source::{BlobSource, SourcePath};
use entrepot_cache::fetch::table::{FETCHES_MAX, Wish};
use entrepot_core::name::RepositoryName;
use entrepot_observe::labels::{Bypass, FetchFailure};
use entrepot_store::Place;
use entrepot_upstream::credential::Credential;
use futures_util::future::join_all;
use http::Method;

use crate::harness::{Answer, Gate, Proxy, Seen, Setup, Upstream, bytes, digest_of, eventually, in_time};

const SIZE: usize = 2 << 20;

fn path(digest: &entrepot_core::digest::Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_cost_one_fetch() {
    let upstream = Upstream::start().await;
    let content = bytes(1, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 / 2, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let clients = (0..100).map(|_| tokio::spawn(proxy.get(&upstream, &path(&digest)).send()));
    let clients = join_all(clients.collect::<Vec<_>>());
    let opener = async {
        gate.reached().await;
        eventually("all have joined", || proxy.pull.metrics.followers_joined.get() == 99).await;
        gate.open();
    };
    let (replies, ()) = in_time("a hundred pulls", futures_util::future::join(clients, opener)).await;
    for reply in replies {
        reply.expect("no panic").is_whole(&content);
    }
    assert_eq!(upstream.take_lines(), [format!("GET {}", path(&digest))], "one fetch and not one question more");
    assert_eq!(upstream.body_bytes(), SIZE as u64);
    proxy.landed().await;
    assert!(proxy.has(&digest));
}

#[tokio::test]
async fn a_late_joiner_has_its_first_byte_at_once() {
    let upstream = Upstream::start().await;
    let content = bytes(2, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 / 2, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let mut leader = proxy.get(&upstream, &path(&digest)).start().await;
    let first = leader.read(1000).await;
    gate.reached().await;
    let began = Instant::now();
    let mut late = proxy.get(&upstream, &path(&digest)).start().await;
    let first_too = late.read(1).await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    assert_eq!(late.headers["x-cache"], "UPDATING");
    gate.open();
    for (begun, reading) in [(first, leader), (first_too, late)] {
        let rest = reading.rest().await.expect("whole");
        assert!([&begun[..], &rest.body].concat() == content);
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn what_is_there_is_given_before_the_rest_comes() {
    let upstream = Upstream::start().await;
    let content = bytes(3, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 - 1, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let mut reading = proxy.get(&upstream, &path(&digest)).start().await;
    let most = reading.read(SIZE - 64 * 1024).await;
    gate.open();
    let rest = reading.rest().await.expect("whole");
    assert!([&most[..], &rest.body].concat() == content);
}

#[tokio::test]
async fn a_leader_that_leaves_harms_nobody() {
    let upstream = Upstream::start().await;
    let content = bytes(4, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 / 2, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let mut leader = proxy.get(&upstream, &path(&digest)).start().await;
    leader.read(1).await;
    let mut follower = proxy.get(&upstream, &path(&digest)).start().await;
    let begun = follower.read(1).await;
    drop(leader);
    gate.reached().await;
    gate.open();
    let rest = follower.rest().await.expect("whole");
    assert!([&begun[..], &rest.body].concat() == content);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_fill_that_everybody_left_is_completed_all_the_same() {
    let upstream = Upstream::start().await;
    let content = bytes(5, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(SIZE as u64 / 2, &gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let mut leader = proxy.get(&upstream, &path(&digest)).start().await;
    leader.read(1).await;
    drop(leader);
    gate.reached().await;
    gate.open();
    proxy.landed().await;
    assert!(proxy.has(&digest));
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_before_the_first_answer_harms_nobody() {
    let upstream = Upstream::start().await;
    let content = bytes(6, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).head_gated(&gate));
    let proxy = Proxy::before(&[&upstream]).await;
    let leader = tokio::spawn(proxy.get(&upstream, &path(&digest)).try_send());
    gate.reached().await;
    let follower = tokio::spawn(proxy.get(&upstream, &path(&digest)).send());
    eventually("the follower waits for the same answer", || proxy.pull.inflight.count() == 1).await;
    leader.abort();
    let _ = leader.await;
    gate.open();
    follower.await.expect("no panic").is_whole(&content);
}

/// The first byte that a request asks for.
fn start_of(seen: &Seen) -> u64 {
    let range = seen.header("range").strip_prefix("bytes=").expect("a range");
    range.split('-').next().and_then(|first| first.parse().ok()).expect("a first byte")
}

/// Serves `content`, breaking each of the first `breaks` answers after `after` bytes.
fn breaking(upstream: &Upstream, content: &bytes::Bytes, breaks: usize, after: u64, ranges: bool) -> Arc<AtomicUsize> {
    let (digest, asked) = (digest_of(content), Arc::new(AtomicUsize::new(0)));
    let whole = Answer::content(content.clone());
    let whole = if ranges { whole } else { whole.ignoring_range() };
    let counter = asked.clone();
    upstream.on(&path(&digest), move |seen| {
        if seen.method == Method::HEAD || counter.fetch_add(1, Ordering::Relaxed) >= breaks {
            whole.clone()
        } else {
            whole.clone().reset_after(after)
        }
    });
    asked
}

#[tokio::test]
async fn five_resets_are_mended_by_range() {
    let upstream = Upstream::start().await;
    let content = bytes(7, SIZE);
    let digest = digest_of(&content);
    let asked = breaking(&upstream, &content, 5, 300_000, true);
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    assert_eq!(asked.load(Ordering::Relaxed), 6);
    let starts: Vec<u64> = upstream.seen()[1..].iter().map(start_of).collect();
    assert!(starts.is_sorted_by(|one, next| one < next), "each goes on behind the one before: {starts:?}");
    assert!(starts[0] > 0 && starts[4] <= 1_500_000, "and none skips a byte: {starts:?}");
    proxy.landed().await;
    assert!(proxy.has(&digest));
    assert_eq!(proxy.pull.metrics.fills_resumed.get(), 5, "counted");
}

#[tokio::test]
async fn breaks_are_mended_where_upstream_ignores_range() {
    let upstream = Upstream::start().await;
    let content = bytes(8, 600_000);
    let digest = digest_of(&content);
    breaking(&upstream, &content, 2, 250_000, false);
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    proxy.landed().await;
    assert!(proxy.has(&digest));
}

#[tokio::test]
async fn a_stall_is_a_break_like_any() {
    let upstream = Upstream::start().await;
    let content = bytes(9, SIZE);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    let asked = AtomicUsize::new(0);
    let whole = Answer::content(content.clone());
    upstream.on(&path(&digest), move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => whole.clone().gated_at(1 << 20, &gate),
        _ => whole.clone(),
    });
    let proxy = Setup::of(&[&upstream]).set("upstream", "read_timeout = \"300ms\"").start().await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    assert_eq!(start_of(&upstream.seen()[1]), 1 << 20);
}

#[tokio::test]
async fn a_break_without_a_length_is_mended_too() {
    let upstream = Upstream::start().await;
    let content = bytes(10, 600_000);
    let digest = digest_of(&content);
    let asked = AtomicUsize::new(0);
    let whole = Answer::content(content.clone());
    upstream.on(&path(&digest), move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => whole.clone().chunked().reset_after(250_000),
        _ => whole.clone(),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    proxy.landed().await;
    assert!(proxy.has(&digest));
}

#[tokio::test]
async fn an_upstream_that_never_stops_breaking_is_given_up() {
    let upstream = Upstream::start().await;
    let content = bytes(11, 600_000);
    let digest = digest_of(&content);
    let whole = Answer::content(content.clone());
    upstream.on(&path(&digest), move |seen| match seen.header("range") {
        "" => whole.clone().reset_after(250_000),
        _ => Answer::status(503),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).try_send().await.expect_err("not a whole body");
    proxy.publishes_nothing().await;
    assert_eq!(proxy.pull.metrics.fills_failed.total(), 1);
    upstream.blob("team/app", &content);
    upstream.forget();
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
    let seen = upstream.seen();
    assert!(seen.len() == 1 && start_of(&seen[0]) > 0, "what came the first time is not fetched again");
}

#[tokio::test]
async fn a_resume_that_is_refused_is_no_whole_body() {
    let upstream = Upstream::start().await;
    let content = bytes(12, 600_000);
    let digest = digest_of(&content);
    let whole = Answer::content(content.clone());
    let asked = AtomicUsize::new(0);
    upstream.on(&path(&digest), move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => whole.clone().reset_after(250_000),
        _ => Answer::status(403),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).try_send().await.expect_err("not a whole body");
    assert_eq!(proxy.pull.metrics.fills_failed.get(FetchFailure::Refused), 1);
    proxy.publishes_nothing().await;
}

#[tokio::test]
async fn beyond_so_many_fills_blobs_pass_and_a_fill_that_runs_is_joined() {
    let upstream = Upstream::start().await;
    // The kernel accepts its connections, and it never sends a byte.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let host = silent.local_addr().expect("an address").to_string();
    let proxy = Setup::of(&[&upstream]).set(&format!("registries.\"{host}\""), "scheme = \"http\"").start().await;
    let snapshot = proxy.state().snapshot();
    let repository: RepositoryName = "team/app".parse().expect("a name");
    let registry = snapshot.registry(&host.parse().expect("a host"));
    let place = Place::new(registry.origin.clone(), repository.clone());
    let source = BlobSource {
        upstream: snapshot.upstream.clone(),
        registry,
        path: SourcePath::Blobs(repository.clone()),
        credential: Credential::None,
        is_public: false,
    };
    let contents: Vec<_> = (0..=FETCHES_MAX as u64).map(|seed| bytes(1000 + seed, 1000)).collect();
    let board = async |content: &bytes::Bytes| {
        let wish = Wish { range: None, whole: true, complete_up_to_bytes: 0 };
        let target = Target::Blob { place: place.clone(), digest: digest_of(content) };
        proxy.pull.inflight.join_or_start(&target, &source, &wish).await.map(|(_, leads)| leads)
    };
    let (last, others) = contents.split_last().expect("some");
    for content in others {
        assert_eq!(board(content).await, Some(true));
    }
    assert_eq!(board(last).await, None);
    assert_eq!(board(&others[0]).await, Some(false), "one more client of a fill costs no fill");

    let digest = upstream.blob("team/app", last);
    let reply = proxy.get(&upstream, &path(&digest)).send().await;
    reply.is_whole(last);
    assert_eq!((reply.cache(), proxy.pull.metrics.bypass.get(Bypass::TooManyFills)), ("BYPASS", 1));
    assert_eq!((proxy.pull.inflight.count(), proxy.has(&digest)), (FETCHES_MAX, false));

    drop(silent);
    proxy.landed().await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(last);
    proxy.landed().await;
    assert!(proxy.has(&digest), "stored once there is room");
}
