//! Upstreams that refuse ranges, or answer them oddly: a transfer that broke once goes on all the same, in the same
//! process and in the next.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use entrepot_core::digest::Digest;

use crate::harness::{Answer, Gate, Proxy, Seen, Setup, Upstream, bytes, digest_of, in_time};

const SIZE: usize = 600_000;
const BROKEN_AT: u64 = 250_000;

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

/// The first byte that a request asks for. None for the whole.
fn start_of(seen: &Seen) -> Option<usize> {
    seen.header("range").strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

/// The answer to a request for the bytes from `start` on.
type Odd = fn(&Bytes, usize) -> Answer;

fn part(content: &Bytes, start: usize, range: &str) -> Answer {
    let last = SIZE - 1;
    let range = range.replace('a', &start.to_string()).replace('z', &last.to_string());
    Answer::json(206, content.slice(start..)).header("content-range", &range)
}

fn odd_answers() -> Vec<(&'static str, Odd)> {
    vec![
        ("400", |_, _| Answer::status(400)),
        ("403", |_, _| Answer::json(403, "{}")),
        ("404", |_, _| Answer::status(404)),
        ("405", |_, _| Answer::status(405)),
        ("412", |_, _| Answer::status(412)),
        ("416 without a size", |_, _| Answer::status(416).header("content-range", "none")),
        ("416 with the size", |_, _| Answer::status(416)),
        ("416 with a wrong size", |_, _| Answer::status(416).header("content-range", "bytes */0")),
        ("500", |_, _| Answer::status(500)),
        ("501", |_, _| Answer::status(501)),
        ("503", |_, _| Answer::status(503)),
        ("204", |_, _| Answer::status(204)),
        ("a part that is called 200", |content, start| Answer::content(content.slice(start..)).ignoring_range()),
        ("the whole as 206", |content, _| {
            Answer::json(206, content.clone()).header("content-range", "bytes 0-599999/600000")
        }),
        ("an earlier part", |content, start| part(content, start - 1000, "bytes a-z/600000")),
        ("a later part", |content, start| part(content, start + 1000, "bytes a-z/600000")),
        ("the beginning", |content, _| {
            Answer::json(206, content.slice(..1000)).header("content-range", "bytes 0-999/600000")
        }),
        ("without a size", |content, start| part(content, start, "bytes a-z/*")),
        ("without a unit", |content, start| part(content, start, "a-z/600000")),
        ("without unit and size", |content, start| part(content, start, "a-z/*")),
        ("with an equals sign", |content, start| part(content, start, "bytes=a-z/600000")),
        ("without a slash", |content, start| part(content, start, "bytes a-z")),
        ("missing", |content, start| part(content, start, "")),
        ("nonsense", |content, start| part(content, start, "some of it")),
        ("several parts", |content, start| {
            part(content, start, "").header("content-type", "multipart/byteranges; boundary=x")
        }),
        ("an empty 200", |_, _| Answer::status(200)),
        ("a part that never begins", |content, start| part(content, start, "bytes a-z/600000").reset_after(0)),
        ("a closed connection", |_, _| Answer::hang_up()),
    ]
}

/// Serves `content`. The first answer is `first`, and every request for a part is answered oddly.
fn serve(upstream: &Upstream, content: &Bytes, odd: Odd, first: impl Fn(Answer) -> Answer + Send + Sync + 'static) {
    let (whole, content) = (Answer::content(content.clone()).ignoring_range(), content.clone());
    let began = AtomicBool::new(false);
    upstream.on(&path(&digest_of(&content)), move |seen| match start_of(seen) {
        Some(start) if start > 0 => odd(&content, start),
        _ if began.swap(true, Ordering::Relaxed) => whole.clone(),
        _ => first(whole.clone()),
    });
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_ranges_are_refused() {
    for (name, odd) in odd_answers() {
        let upstream = Upstream::start().await;
        let content = bytes(1, SIZE);
        let digest = digest_of(&content);
        serve(&upstream, &content, odd, |whole| whole.reset_after(BROKEN_AT));
        let proxy = Proxy::before(&[&upstream]).await;
        let reply = proxy.get(&upstream, &path(&digest)).try_send().await;
        let reply = reply.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(reply.status == 200 && reply.body == content, "{name}: {}", reply.status);
        proxy.landed().await;
        assert!(proxy.has(&digest), "{name}");
    }
}

/// The bytes of a transfer that was given up lie there, through a restart too.
#[tokio::test]
async fn a_paused_fetch_goes_on_where_ranges_are_refused() {
    for (name, odd) in odd_answers() {
        let upstream = Upstream::start().await;
        let content = bytes(2, SIZE);
        let (digest, gate) = (digest_of(&content), Gate::closed());
        let held = gate.clone();
        serve(&upstream, &content, odd, move |whole| whole.gated_at(BROKEN_AT, &held));
        let setup = Setup::of(&[&upstream]);
        let proxy = Proxy::before(&[&upstream]).await;
        let mut reading = proxy.get(&upstream, &path(&digest)).start().await;
        reading.read(1000).await;
        gate.reached().await;
        in_time("pausing", proxy.pull.inflight.drain()).await;
        reading.rest().await.expect_err("broken off");
        let origin = format!("http://{}", upstream.host()).parse().expect("an origin");
        let paused = proxy.pull.store.partial_blobs.paused(&origin, &digest, 0).expect("kept");
        assert!(paused.first_missing > 0, "{name}");
        let next = proxy.without_memory(&setup).await;
        for range in ["", "300000-300999"] {
            let get = next.get(&upstream, &path(&digest));
            let get = if range.is_empty() { get } else { get.range(range) };
            let reply = get.try_send().await.unwrap_or_else(|error| panic!("{name} {range}: {error:?}"));
            let expected = if range.is_empty() { content.clone() } else { content.slice(300_000..301_000) };
            assert!(reply.body == expected, "{name} {range}: {}", reply.status);
        }
        next.landed().await;
        assert!(proxy.has(&digest), "{name}");
    }
}

#[tokio::test]
async fn a_cold_range_is_served_where_ranges_are_refused() {
    for (name, odd) in odd_answers() {
        let upstream = Upstream::start().await;
        let content = bytes(3, SIZE);
        let digest = digest_of(&content);
        let (whole, served) = (Answer::content(content.clone()).ignoring_range(), content.clone());
        upstream.on(&path(&digest), move |seen| match start_of(seen) {
            Some(start) if start > 0 => odd(&served, start),
            _ => whole.clone(),
        });
        for cache in [true, false] {
            if name == "a closed connection" {
                // Nothing tells that the client's own range is the cause.
                continue;
            }
            let setup = Setup::of(&[&upstream]).set("cache", &format!("enabled = {cache}"));
            let proxy = setup.start().await;
            let reply = proxy.get(&upstream, &path(&digest)).range("300000-300999").try_send().await;
            let reply = reply.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert!(reply.status == 206 && reply.body == content[300_000..301_000], "{name}: {}", reply.status);
        }
    }
}
