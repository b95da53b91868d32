//! Other immutable files of intercepted hosts, by the patterns of the configuration.

use entrepot_observe::labels::Bypass;
use http::Method;

use crate::harness::{Answer, Gate, Proxy, Setup, Upstream, bytes, eventually};

const PATH: &str = "/@team/app/-/app-1.0.0.tgz";

async fn with_pattern(upstream: &Upstream) -> Proxy {
    Setup::of(&[upstream]).set("cache", r"patterns = ['^/@[^/]+/[^/]+/-/.*\.tgz$']").start().await
}

#[tokio::test]
async fn what_a_pattern_names_is_cached() {
    let upstream = Upstream::start().await;
    let content = bytes(1, 1 << 20);
    let answer = Answer::content(content.clone()).header("content-type", "application/gzip-ish");
    upstream.on(PATH, move |_| answer.clone());
    let proxy = with_pattern(&upstream).await;
    let cold = proxy.get(&upstream, PATH).send().await;
    cold.is_whole(&content);
    assert_eq!((cold.cache(), cold.header("x-docker-registry-proxy-cache-type")), ("MISS", "blob-mutable"));
    eventually("stored", || proxy.pull.metrics.stored.get() == 1).await;
    upstream.forget();
    let warm = proxy.get(&upstream, PATH).send().await;
    warm.is_whole(&content);
    assert_eq!((warm.cache(), warm.header("content-type")), ("HIT", "application/gzip-ish"));
    let part = proxy.get(&upstream, PATH).range("10-19").send().await;
    assert!(part.status == 206 && part.body == content[10..20]);
    assert_eq!(part.header("content-range"), format!("bytes 10-19/{}", 1 << 20));
    let beyond = proxy.get(&upstream, PATH).range("9999999-").send().await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, format!("bytes */{}", 1 << 20).as_str()));
    let head = proxy.head(&upstream, PATH).send().await;
    assert_eq!((head.status, head.header("content-length")), (200, "1048576"));
    assert!(upstream.seen().is_empty());
    let query = format!("{PATH}?v=2");
    proxy.get(&upstream, &query).send().await.is_whole(&content);
    assert_eq!(upstream.seen().len(), 1, "another query is another file");
}

#[tokio::test]
async fn what_is_not_to_be_stored_is_not() {
    let upstream = Upstream::start().await;
    let content = bytes(2, 10_000);
    let proxy = with_pattern(&upstream).await;
    for (number, answer) in [
        Answer::content(content.clone()).header("cache-control", "max-age=60, No-Store"),
        Answer::content(content.clone()).header("cache-control", "private"),
        Answer::content(content.clone()).header("content-encoding", "gzip"),
        Answer::content(content.clone()).chunked(),
        Answer::content(content.clone()).until_close(),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/@team/app/-/app-{number}.tgz");
        upstream.on(&path, move |_| answer.clone());
        for _ in 0..2 {
            proxy.get(&upstream, &path).send().await.is_whole(&content);
        }
        assert_eq!(upstream.count(&Method::GET, &path), 2, "{number}");
    }
    assert!(proxy.pull.metrics.bypass.get(Bypass::NoStore) >= 4);
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn what_no_pattern_names_passes() {
    let upstream = Upstream::start().await;
    let content = bytes(3, 10_000);
    let answer = Answer::content(content.clone());
    upstream.on("/@team/app/-/app.zip", move |_| answer.clone());
    let proxy = with_pattern(&upstream).await;
    for _ in 0..2 {
        let reply = proxy.get(&upstream, "/@team/app/-/app.zip").send().await;
        reply.is_whole(&content);
        assert_eq!(reply.cache(), "");
    }
    assert_eq!(upstream.seen().len(), 2);
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn a_broken_artefact_is_neither_completed_nor_stored() {
    let upstream = Upstream::start().await;
    let content = bytes(4, 500_000);
    let broken = Answer::content(content.clone()).reset_after(100_000);
    upstream.on(PATH, move |_| broken.clone());
    let proxy = with_pattern(&upstream).await;
    proxy.get(&upstream, PATH).try_send().await.expect_err("not a whole body");
    proxy.holds_nothing().await;
    let whole = Answer::content(content.clone());
    upstream.on(PATH, move |_| whole.clone());
    proxy.get(&upstream, PATH).send().await.is_whole(&content);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_copy() {
    let upstream = Upstream::start().await;
    let content = bytes(5, 1 << 20);
    let gate = Gate::closed();
    let answer = Answer::content(content.clone()).gated_at(500_000, &gate);
    upstream.on(PATH, move |_| answer.clone());
    let proxy = with_pattern(&upstream).await;
    let mut reading = proxy.get(&upstream, PATH).start().await;
    reading.read(1).await;
    drop(reading);
    gate.reached().await;
    gate.open();
    eventually("stored", || proxy.pull.metrics.stored.get() == 1).await;
    upstream.forget();
    proxy.get(&upstream, PATH).send().await.is_whole(&content);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn an_artefact_is_given_to_those_who_may_have_it() {
    let upstream = Upstream::start().await;
    let content = bytes(6, 10_000);
    let answer = Answer::content(content.clone());
    upstream.on(PATH, move |_| answer.clone());
    upstream.guard(|seen| seen.header("authorization").is_empty().then(|| Answer::status(401)));
    let proxy = with_pattern(&upstream).await;
    proxy.get(&upstream, PATH).bearer("alices").send().await.is_whole(&content);
    eventually("stored", || proxy.pull.metrics.stored.get() == 1).await;
    assert_eq!(proxy.get(&upstream, PATH).send().await.status, 401);
    let warm = proxy.get(&upstream, PATH).bearer("bobs").send().await;
    warm.is_whole(&content);
    assert_eq!(warm.cache(), "REVALIDATED");
}

#[tokio::test]
async fn a_damaged_artefact_is_fetched_anew() {
    let upstream = Upstream::start().await;
    let content = bytes(7, 1 << 20);
    let answer = Answer::content(content.clone());
    upstream.on(PATH, move |_| answer.clone());
    let proxy = with_pattern(&upstream).await;
    proxy.get(&upstream, PATH).send().await.is_whole(&content);
    eventually("stored", || proxy.pull.metrics.stored.get() == 1).await;
    let file = proxy.file_of(&crate::harness::digest_of(&content));
    std::fs::OpenOptions::new().write(true).open(file).expect("the file").set_len(300_000).expect("cut");
    proxy.get(&upstream, PATH).send().await.is_whole(&content);
}
