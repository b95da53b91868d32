//! Artefacts on their way: fetched once whatever clients ask, put together only of one state, public as of upstream's
//! answer. What is stored is in `artefacts`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;

use crate::harness::{Answer, Gate, Image, Proxy, Seen, Setup, Upstream, bytes};

const PATH: &str = "/team/app/-/archive-1.0.0.tgz?v=1";
const SERVED: &str = "/team/app/-/archive-1.0.0.tgz";
const MONDAY: &str = "Mon, 30 Nov 2026 10:00:00 GMT";
const TUESDAY: &str = "Tue, 01 Dec 2026 10:00:00 GMT";

fn setup(upstream: &Upstream) -> Setup {
    Setup::of(&[upstream]).set("cache", r"patterns = ['\.tgz$']")
}

/// The fields of an answer.
type Fields = &'static [(&'static str, &'static str)];

fn with(answer: Answer, fields: Fields) -> Answer {
    fields.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
}

fn ranges_of(seen: &[Seen]) -> Vec<(String, String)> {
    seen.iter().map(|seen| (seen.header("range").to_owned(), seen.header("if-range").to_owned())).collect()
}

#[tokio::test]
async fn eight_clients_of_one_cold_artefact_cost_one_get() {
    let cases: [(&str, Fields, usize); 5] = [
        ("a tag", &[("etag", "\"1\"")], 300_000),
        ("a date", &[("last-modified", MONDAY), ("date", TUESDAY)], 300_000),
        ("no validator", &[], 300_000),
        ("one byte", &[], 1),
        ("nothing", &[("etag", "\"0\"")], 0),
    ];
    for (name, fields, size) in cases {
        for redirected in [false, true] {
            let upstream = Upstream::start().await;
            let (content, gate) = (bytes(1, size), Gate::closed());
            let answer = with(Answer::content(content.clone()), fields).head_gated(&gate);
            if redirected {
                let to = upstream.url("/cdn/archive");
                upstream.on(SERVED, move |_| Answer::redirect(302, &to));
                upstream.on("/cdn/archive", move |_| answer.clone());
            } else {
                upstream.on(SERVED, move |_| answer.clone());
            }
            let proxy = setup(&upstream).start().await;
            let clients = join_all((0..8).map(|_| proxy.get(&upstream, PATH).send()));
            let opened = async {
                gate.reached().await;
                gate.open();
            };
            let (replies, ()) = tokio::join!(clients, opened);
            replies.iter().for_each(|reply| reply.is_whole(&content));
            assert_eq!(upstream.count(&Method::GET, SERVED), 1, "{name}, redirected: {redirected}");
            let led = replies.iter().filter(|reply| reply.cache() == "MISS").count();
            assert!(led >= 1, "{name}: one of them led");
            let warm = proxy.get(&upstream, PATH).send().await;
            warm.is_whole(&content);
            assert_eq!((warm.cache(), upstream.count(&Method::GET, SERVED)), ("HIT", 1), "{name}");
            for (field, value) in fields.iter().filter(|(field, _)| *field != "date") {
                assert_eq!((warm.header(field), replies[7].header(field)), (*value, *value), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_given_to_its_end_is_there_for_the_next_request() {
    let upstream = Upstream::start().await;
    let proxy = setup(&upstream).start().await;
    for number in 0..30 {
        let content = bytes(100 + number, 20_000 * number as usize);
        let path = format!("/team/app/-/archive-{number}.tgz");
        let answer = Answer::content(content.clone());
        upstream.on(&path, move |_| answer.clone());
        proxy.get(&upstream, &path).send().await.is_whole(&content);
        let origin = proxy.state().snapshot().registry(&upstream.host().parse().expect("a host")).origin;
        let published = proxy.pull.store.names.artefact(&origin, &path);
        assert!(published.await.is_some(), "{number}: published before its last byte left");
        let next = proxy.get(&upstream, &path).send().await;
        next.is_whole(&content);
        assert_eq!((next.cache(), upstream.count(&Method::GET, &path)), ("HIT", 1), "{number}");
    }
}

#[tokio::test]
async fn a_break_is_mended_only_with_the_same_state() {
    let tag: Fields = &[("etag", "\"1\"")];
    let date: Fields = &[("last-modified", MONDAY), ("date", TUESDAY)];
    let part = |answer: Answer, _: &str| answer;
    let whole = |answer: Answer, _: &str| answer.ignoring_range();
    let obeys = |answer: Answer, condition: &str| if condition == "\"1\"" { answer } else { answer.ignoring_range() };
    type How = fn(Answer, &str) -> Answer;
    let cases: [(&str, Fields, Fields, How, bool); 15] = [
        ("a tag", tag, tag, part, true),
        ("a tag, If-Range heeded", tag, tag, obeys, true),
        ("a date", date, date, part, true),
        ("a date that the part does not repeat", date, &[], part, true),
        ("ranges are ignored, the tag stays", tag, tag, whole, true),
        ("ranges are ignored, the date stays", date, date, whole, true),
        ("no validator", &[], &[], part, false),
        ("a weak tag", &[("etag", "W/\"1\"")], &[("etag", "W/\"1\"")], part, false),
        ("a date of the answer's own second", &[("last-modified", MONDAY), ("date", MONDAY)], date, part, false),
        ("another tag", tag, &[("etag", "\"2\"")], part, false),
        ("another tag, whole", tag, &[("etag", "\"2\"")], whole, false),
        ("another date", date, &[("last-modified", TUESDAY)], part, false),
        ("no tag any more", tag, &[], part, false),
        ("no date any more, whole", date, &[], whole, false),
        ("a tag in place of the date", date, tag, part, false),
    ];
    for (name, first, then, how, mended) in cases {
        let upstream = Upstream::start().await;
        let (content, other) = (bytes(2, 500_000), bytes(3, 500_000));
        let answers = Arc::new(AtomicUsize::new(0));
        let (begins, goes_on) = (content.clone(), if mended { content.clone() } else { other });
        upstream.on(SERVED, move |seen| match answers.fetch_add(1, Ordering::Relaxed) {
            0 => with(Answer::content(begins.clone()), first).reset_after(200_000),
            _ => how(with(Answer::content(goes_on.clone()), then), seen.header("if-range")),
        });
        let proxy = setup(&upstream).start().await;
        let reply = proxy.get(&upstream, PATH).try_send().await;
        match mended {
            true => reply.expect(name).is_whole(&content),
            false => assert!(reply.is_err(), "{name}: no whole body"),
        }
        proxy.landed().await;
        assert_eq!(proxy.pull.metrics.stored.get(), u64::from(mended), "{name}");
        if mended {
            let condition = first[0].1;
            assert_eq!(ranges_of(&upstream.seen())[1].1, condition, "{name}");
        }
    }
}

#[tokio::test]
async fn what_came_before_a_failure_is_gone_on_with_if_it_is_still_the_same() {
    for changed in [false, true] {
        let upstream = Upstream::start().await;
        let (content, other) = (bytes(4, 500_000), bytes(5, 400_000));
        let broken = Answer::content(content.clone()).header("etag", "\"1\"");
        upstream.on(SERVED, move |seen| match seen.header("range") {
            "" => broken.clone().reset_after(200_000),
            _ => Answer::status(403),
        });
        let proxy = setup(&upstream).start().await;
        proxy.get(&upstream, PATH).try_send().await.expect_err("not a whole body");
        proxy.landed().await;
        proxy.publishes_nothing().await;
        let (now, tag) = if changed { (other, "\"2\"") } else { (content, "\"1\"") };
        let answer = Answer::content(now.clone()).header("etag", tag);
        upstream.on(SERVED, move |seen| match seen.header("if-range") {
            condition if condition == tag || condition.is_empty() => answer.clone(),
            _ => answer.clone().ignoring_range(),
        });
        upstream.forget();
        proxy.get(&upstream, PATH).send().await.is_whole(&now);
        proxy.landed().await;
        let seen = ranges_of(&upstream.seen());
        assert!(seen.len() == 1 && seen[0].0.starts_with("bytes=") && seen[0].1 == "\"1\"", "{changed}: {seen:?}");
        let warm = proxy.get(&upstream, PATH).send().await;
        warm.is_whole(&now);
        assert_eq!((warm.cache(), upstream.seen().len()), ("HIT", 1));
    }
}

#[tokio::test]
async fn ranges_of_a_cold_artefact_share_its_fetch() {
    let upstream = Upstream::start().await;
    let content = bytes(6, 12 << 20);
    let size = content.len();
    let answer = Answer::content(content.clone()).header("etag", "\"1\"");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let ranges = asked.clone();
    upstream.on(SERVED, move |seen| {
        if seen.method == Method::GET {
            ranges.lock().expect("no panic").push(seen.header("range").to_owned());
        }
        answer.clone()
    });
    let proxy = setup(&upstream).start().await;
    let parts = [(0, 100), (5, 70_000), (6 << 20, (6 << 20) + 10), (11 << 20, size), (size - 1, size), (0, size)];
    let asks = parts.iter().cycle().take(12).map(|(start, end)| {
        let ask = proxy.get(&upstream, PATH).range(&format!("{start}-{}", end - 1));
        async move { (start, end, ask.send().await) }
    });
    for (start, end, reply) in join_all(asks).await {
        assert!(reply.status == 206 && reply.body == content[*start..*end], "{start}-{end}: {}", reply.status);
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
        assert_eq!(reply.header("etag"), "\"1\"");
    }
    proxy.landed().await;
    assert!(upstream.body_bytes() < size as u64 * 3 / 2, "{} bytes for {:?}", upstream.body_bytes(), asked.lock());
    assert_eq!(proxy.pull.metrics.stored.get(), 1);
    upstream.forget();
    let stored = async |ask: crate::harness::Ask, status: u16, body: &[u8]| {
        let reply = ask.send().await;
        assert!(reply.status == status && reply.body == body, "{}: {} bytes", reply.status, reply.body.len());
    };
    let ask = || proxy.get(&upstream, PATH);
    stored(ask().range("-100"), 206, &content[size - 100..]).await;
    stored(ask().range("10-19").header("if-range", "\"1\""), 206, &content[10..20]).await;
    stored(ask().range("10-19").header("if-range", "\"2\""), 200, &content).await;
    stored(ask().range("10-19").header("if-range", MONDAY), 200, &content).await;
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_range_that_is_cold_is_as_one_that_is_warm() {
    let content = bytes(7, 90_000);
    for warm in [false, true] {
        for (range, condition, status, part) in [
            ("0-9", "", 206, 0..10),
            ("80000-", "", 206, 80_000..90_000),
            ("-10", "", 206, 89_990..90_000),
            ("0-", "", 206, 0..90_000),
            ("90000-", "", 416, 0..0),
            ("5-9", "\"1\"", 206, 5..10),
            ("5-9", "\"2\"", 200, 0..90_000),
            ("0-1,5-6", "", 200, 0..90_000),
        ] {
            let upstream = Upstream::start().await;
            let answer = Answer::content(content.clone()).header("etag", "\"1\"");
            upstream.on(SERVED, move |_| answer.clone());
            let proxy = setup(&upstream).start().await;
            if warm {
                proxy.get(&upstream, PATH).send().await.is_whole(&content);
            }
            let mut ask = proxy.get(&upstream, PATH).range(range);
            if !condition.is_empty() {
                ask = ask.header("if-range", condition);
            }
            let reply = ask.send().await;
            assert_eq!(reply.status, status, "{range} {condition}, warm: {warm}");
            assert!(status == 416 || reply.body == content[part], "{range} {condition}, warm: {warm}");
        }
    }
}

#[tokio::test]
async fn a_part_without_a_validator_is_passed_on_and_completes_nothing() {
    let upstream = Upstream::start().await;
    let content = bytes(8, 300_000);
    let answer = Answer::content(content.clone());
    upstream.on(SERVED, move |_| answer.clone());
    let proxy = setup(&upstream).start().await;
    for start in [100_000, 0, 200_000] {
        let reply = proxy.get(&upstream, PATH).range(&format!("{start}-{}", start + 999)).send().await;
        assert!(reply.status == 206 && reply.body == content[start..start + 1000]);
        assert_eq!(reply.cache(), "BYPASS");
    }
    proxy.landed().await;
    proxy.holds_nothing().await;
    assert_eq!(upstream.seen().len(), 3, "each costs one request");
}

/// Upstream gives the artefact to alice, and to bob by a HEAD with these fields. Another client is refused.
async fn guarded(content: &Bytes, gate: &Gate, bobs: (u16, usize, &'static str)) -> Upstream {
    let upstream = Upstream::start().await;
    let alices = Answer::content(content.clone()).header("etag", "\"1\"").gated_at(100_000, gate);
    let bobs = match bobs {
        (200, size, tag) => Answer::content(bytes(9, size)).header("etag", tag),
        (status, ..) => Answer::json(status, "{}"),
    };
    upstream.on(SERVED, move |seen| match seen.header("authorization") {
        "Bearer alice" => alices.clone(),
        "Bearer bob" => bobs.clone(),
        _ => Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""),
    });
    upstream
}

#[tokio::test]
async fn a_client_joins_a_fetch_only_if_upstream_shows_it_the_same() {
    let content = bytes(9, 300_000);
    for (name, bobs, is_joined) in [
        ("the same", (200, 300_000, "\"1\""), true),
        ("another length", (200, 290_000, "\"1\""), false),
        ("another tag", (200, 300_000, "\"2\""), false),
        ("refused", (403, 0, ""), false),
        ("hidden", (404, 0, ""), false),
        ("gone wrong", (500, 0, ""), false),
    ] {
        let gate = Gate::closed();
        let upstream = guarded(&content, &gate, bobs).await;
        let proxy = setup(&upstream).start().await;
        let mut alice = proxy.get(&upstream, PATH).bearer("alice").start().await;
        let begun = alice.read(1).await;
        gate.reached().await;
        let stranger = proxy.get(&upstream, PATH).send().await;
        assert_eq!(stranger.status, 401, "{name}: {}", stranger.text());
        let bob = proxy.get(&upstream, PATH).bearer("bob").start().await;
        assert_eq!(bob.status.as_u16(), bobs.0, "{name}");
        let heads = upstream.count(&Method::HEAD, SERVED);
        assert_eq!(heads, 2, "{name}: the stranger and bob are asked about");
        gate.open();
        let bobs_own = upstream
            .seen()
            .iter()
            .any(|seen| seen.method == Method::GET && seen.header("authorization") == "Bearer bob");
        assert_eq!(bobs_own, !is_joined && bobs.0 == 200, "{name}");
        let body = bob.rest().await.expect("whole").body;
        if bobs.0 == 200 {
            assert!(body == bytes(9, bobs.1), "{name}");
        }
        let rest = alice.rest().await.expect("whole").body;
        assert!([&begun[..], &rest].concat() == content, "{name}");
        proxy.landed().await;
        assert_eq!(proxy.get(&upstream, PATH).send().await.status, 401, "{name}: it did not become public");
        upstream.stop().await;
        assert_eq!(proxy.get(&upstream, PATH).send().await.status, 502, "{name}: nor while upstream is down");
    }
}

#[tokio::test]
async fn a_refusal_during_the_transfer_counts() {
    // Of an artefact and of a blob: they became private while the last public transfer ran.
    for refusal in [401, 403] {
        let upstream = Upstream::start().await;
        let image = Image::new("team/app", 1);
        image.publish(&upstream, "1");
        let (archive, gate) = (bytes(10, 300_000), Gate::closed());
        let answer = Answer::content(archive.clone()).header("etag", "\"1\"").gated_at(100_000, &gate);
        upstream.on(SERVED, move |_| answer.clone());
        let blobs_gate = Gate::closed();
        let layer = Answer::content(image.layer.clone()).gated_at(30_000, &blobs_gate);
        upstream.blob_as("team/app", &image.layer_digest, layer);
        let proxy = setup(&upstream).start().await;
        let archives = proxy.get(&upstream, PATH).start().await;
        let layers = proxy.get(&upstream, &image.layer_path()).start().await;
        gate.reached().await;
        blobs_gate.reached().await;

        upstream.guard(move |_| Some(Answer::json(refusal, "{}").header("www-authenticate", "Basic realm=\"fake\"")));
        assert_eq!(proxy.head(&upstream, PATH).send().await.status, refusal);
        assert_eq!(proxy.head(&upstream, &image.layer_path()).send().await.status, refusal);
        gate.open();
        blobs_gate.open();
        archives.rest().await.expect("what had begun goes on").is_whole(&archive);
        layers.rest().await.expect("what had begun goes on").is_whole(&image.layer);
        proxy.landed().await;
        for path in [PATH.to_owned(), image.layer_path()] {
            assert_eq!(proxy.get(&upstream, &path).send().await.status, refusal, "{path}");
        }
        upstream.stop().await;
        for path in [PATH.to_owned(), image.layer_path()] {
            assert_eq!(proxy.get(&upstream, &path).send().await.status, 502, "{path}, offline");
        }
    }
}

#[tokio::test]
async fn an_artefact_that_cannot_be_kept_is_given_all_the_same() {
    let upstream = Upstream::start().await;
    let content = bytes(11, 300_000);
    let answer = Answer::content(content.clone());
    upstream.on(SERVED, move |_| answer.clone());
    let proxy: Proxy = setup(&upstream).start().await;
    std::fs::remove_dir_all(proxy.data().join("fill")).expect("removed");
    let reply = proxy.get(&upstream, PATH).send().await;
    reply.is_whole(&content);
    assert_eq!((reply.cache(), upstream.seen().len()), ("BYPASS", 1));
    std::fs::create_dir(proxy.data().join("fill")).expect("made");
    proxy.get(&upstream, PATH).send().await.is_whole(&content);
    assert_eq!(proxy.get(&upstream, PATH).send().await.cache(), "HIT");
}
