//! One fetch for all clients where the bytes cannot be kept: through a window in memory.

use bytes::Bytes;
use entrepot_observe::labels::Bypass;
use futures_util::future::join_all;
use http::Method;

use crate::harness::{Answer, Gate, Proxy, Reading, Seen, Setup, Upstream, bytes, digest_of, eventually};

const ARTEFACT: &str = "/team/app/-/archive.tgz";
const MIB: usize = 1 << 20;

/// A proxy whose store takes nothing.
async fn without_a_store(upstream: &Upstream) -> Proxy {
    let proxy = Setup::of(&[upstream]).set("cache", r"patterns = ['\.tgz$']").start().await;
    std::fs::remove_dir_all(proxy.data().join("fill")).expect("removed");
    proxy
}

fn blob_path(content: &Bytes) -> String {
    format!("/v2/team/app/blobs/{}", digest_of(content))
}

fn ranges(upstream: &Upstream) -> Vec<String> {
    let gets = upstream.seen().into_iter().filter(|seen| seen.method == Method::GET);
    gets.map(|seen: Seen| seen.header("range").to_owned()).collect()
}

#[tokio::test]
async fn eight_clients_cost_one_get_where_nothing_can_be_kept() {
    for (size, gated_at) in [(1, 0), (300_000, 100_000), (12 * MIB, MIB)] {
        let content = bytes(1, size);
        for path in [blob_path(&content), ARTEFACT.to_owned()] {
            for chunked in [false, true] {
                if chunked && path == ARTEFACT {
                    continue;
                }
                let (upstream, gate) = (Upstream::start().await, Gate::closed());
                let answer = Answer::content(content.clone()).gated_at(gated_at as u64, &gate);
                let answer = if chunked { answer.chunked() } else { answer };
                upstream.on(&path, move |_| answer.clone());
                let proxy = without_a_store(&upstream).await;
                let mut clients = Vec::new();
                for _ in 0..8 {
                    let client = proxy.get(&upstream, &path).start().await;
                    assert_eq!(
                        (client.status.as_u16(), &client.headers["x-cache"]),
                        (200, &"BYPASS".parse().expect("a value"))
                    );
                    clients.push(client);
                }
                gate.reached().await;
                gate.open();
                for reply in join_all(clients.into_iter().map(Reading::rest)).await {
                    reply.expect("whole").is_whole(&content);
                }
                assert_eq!(ranges(&upstream), [""], "{size} bytes of {path}, chunked: {chunked}");
                proxy.landed().await;
                proxy.publishes_nothing().await;
                assert_eq!(proxy.pull.metrics.bypass.get(Bypass::IoError), 8);
                proxy.get(&upstream, &path).send().await.is_whole(&content);
                assert_eq!(ranges(&upstream).len(), 2, "the next one is fetched anew");
            }
        }
    }
}

#[tokio::test]
async fn empty_content_that_cannot_be_kept_is_given_too() {
    let content = Bytes::new();
    for path in [blob_path(&content), ARTEFACT.to_owned()] {
        let upstream = Upstream::start().await;
        upstream.on(&path, |_| Answer::content(Bytes::new()));
        let proxy = without_a_store(&upstream).await;
        for reply in join_all((0..4).map(|_| proxy.get(&upstream, &path).send())).await {
            reply.is_whole(&content);
        }
        proxy.landed().await;
    }
}

#[tokio::test]
async fn a_slow_client_holds_the_others_up_for_seconds_at_most() {
    let content = bytes(2, 24 * MIB);
    for path in [blob_path(&content), ARTEFACT.to_owned()] {
        for etag in [false, true] {
            let upstream = Upstream::start().await;
            let answer = Answer::content(content.clone());
            let answer = if etag { answer.header("etag", "\"1\"") } else { answer };
            upstream.on(&path, move |_| answer.clone());
            let proxy = without_a_store(&upstream).await;
            let slow = proxy.get(&upstream, &path);
            let mut slow = slow.start_over(proxy.visit(&upstream, 64 << 10)).await;
            let begun = slow.read(1000).await;
            proxy.get(&upstream, &path).send().await.is_whole(&content);
            assert_eq!(ranges(&upstream), [""], "both by one fetch so far");
            let rest = slow.rest().await.expect("whole").body;
            assert!([&begun[..], &rest].concat() == content, "{path}, {etag}");
            let ranges = ranges(&upstream);
            assert!(ranges.len() == 2, "the slow one goes on alone: {ranges:?}");
            let resumes = etag || path != ARTEFACT;
            assert_eq!(ranges[1].starts_with("bytes=0-"), !resumes, "{path}: {ranges:?}");
        }
    }
}

#[tokio::test]
async fn wrong_bytes_complete_nobody() {
    let (content, wrong) = (bytes(3, 300_000), bytes(4, 300_000));
    let (upstream, gate) = (Upstream::start().await, Gate::closed());
    let answer = Answer::content(wrong).gated_at(100_000, &gate);
    upstream.on(&blob_path(&content), move |_| answer.clone());
    let proxy = without_a_store(&upstream).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(proxy.get(&upstream, &blob_path(&content)).start().await);
    }
    gate.open();
    for reply in join_all(clients.into_iter().map(Reading::rest)).await {
        reply.expect_err("not a whole body");
    }
    let right = Answer::content(content.clone());
    upstream.on(&blob_path(&content), move |_| right.clone());
    proxy.get(&upstream, &blob_path(&content)).send().await.is_whole(&content);
}

#[tokio::test]
async fn a_break_is_mended_for_all() {
    let content = bytes(5, 3 * MIB);
    for (path, etag, mended) in
        [(blob_path(&content), "", true), (ARTEFACT.to_owned(), "\"1\"", true), (ARTEFACT.to_owned(), "", false)]
    {
        let (upstream, gate) = (Upstream::start().await, Gate::closed());
        let answer = Answer::content(content.clone()).header("etag", etag);
        let broken = answer.clone().gated_at(100_000, &gate).reset_after(500_000);
        upstream.on(&path, move |seen| if seen.header("range").is_empty() { broken.clone() } else { answer.clone() });
        let proxy = without_a_store(&upstream).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(proxy.get(&upstream, &path).start().await);
        }
        gate.open();
        for reply in join_all(clients.into_iter().map(Reading::rest)).await {
            match mended {
                true => reply.expect("whole").is_whole(&content),
                false => drop(reply.expect_err("nothing tells whether it is the same")),
            }
        }
        assert_eq!(ranges(&upstream).len(), if mended { 2 } else { 1 }, "{path} {etag}");
    }
}

#[tokio::test]
async fn clients_come_and_leave() {
    let content = bytes(6, 12 * MIB);
    let path = blob_path(&content);
    let (upstream, gate) = (Upstream::start().await, Gate::closed());
    let answer = Answer::content(content.clone()).gated_at(MIB as u64, &gate);
    upstream.on(&path, move |_| answer.clone());
    let proxy = without_a_store(&upstream).await;
    let mut leader = proxy.get(&upstream, &path).start().await;
    leader.read(1).await;
    let stays = proxy.get(&upstream, &path).start().await;
    let part = proxy.get(&upstream, &path).range("500000-1500000").start().await;
    assert_eq!(part.status, 206);
    let rest = proxy.get(&upstream, &path).range("1000-").start().await;
    assert_eq!(ranges(&upstream), [""], "ranges near by come from the window");
    let far = proxy.get(&upstream, &path).range("10000000-10000099").send().await;
    assert!(far.status == 206 && far.body == content[10_000_000..10_000_100]);
    assert_eq!(ranges(&upstream), ["", "bytes=10000000-10000099"], "a part that is far away does not wait");
    drop(leader);
    gate.open();
    let (stays, part, rest) = tokio::join!(stays.rest(), part.rest(), rest.rest());
    stays.expect("whole").is_whole(&content);
    assert!(part.expect("the part").body == content[500_000..=1_500_000]);
    assert!(rest.expect("the rest").body == content[1000..]);
    assert_eq!(ranges(&upstream).len(), 2);
    proxy.landed().await;

    let gate = Gate::closed();
    let answer = Answer::content(content.clone()).gated_at(MIB as u64, &gate);
    upstream.on(&path, move |_| answer.clone());
    let mut only = proxy.get(&upstream, &path).start().await;
    only.read(1).await;
    gate.reached().await;
    drop(only);
    eventually("a fetch that nobody reads and nothing keeps has ended", || proxy.pull.inflight.count() == 0).await;
}

#[tokio::test]
async fn a_window_is_for_those_whom_upstream_serves() {
    let content = bytes(7, 300_000);
    for path in [blob_path(&content), ARTEFACT.to_owned()] {
        let (upstream, gate) = (Upstream::start().await, Gate::closed());
        let answer = Answer::content(content.clone()).gated_at(100_000, &gate);
        upstream.on(&path, move |seen| match seen.header("authorization") {
            "Bearer alice" | "Bearer bob" => answer.clone(),
            _ => Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""),
        });
        let proxy = without_a_store(&upstream).await;
        let alice = proxy.get(&upstream, &path).bearer("alice").start().await;
        gate.reached().await;
        for ask in [proxy.get(&upstream, &path), proxy.get(&upstream, &path).bearer("carol")] {
            let refused = ask.send().await;
            assert_eq!(refused.status, 401, "{path}: {}", refused.text());
        }
        let bob = proxy.get(&upstream, &path).bearer("bob").start().await;
        assert_eq!((bob.status.as_u16(), upstream.count(&Method::GET, &path)), (200, 1), "{path}");
        gate.open();
        for reply in join_all([alice.rest(), bob.rest()]).await {
            reply.expect("whole").is_whole(&content);
        }
    }
}
