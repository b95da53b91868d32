//! Content of no byte and of one byte behaves as any other, in every state: the same statuses, the same words about the
//! cache, the same requests to upstream.

use bytes::Bytes;
use entrepot_core::digest::Digest;
use futures_util::future::join_all;
use http::Method;

use crate::harness::{Answer, Ask, Gate, Proxy, Setup, Upstream, bytes, digest_of};

const ARTEFACT: &str = "/team/app/-/archive.tgz";
/// The size that the others are compared with. It is longer than what is held back at the end of content.
const OTHER: usize = 200_000;

fn path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// What happened in a world, in words that no size is in.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    /// Asks, compares the body with this content, and notes status and the cache's word.
    async fn ask(&mut self, what: &str, ask: Ask, content: &[u8]) {
        match ask.try_send().await {
            Ok(reply) => {
                let is_whole = reply.status != 200 || reply.body == content;
                assert!(is_whole, "{what}: {} bytes of {}", reply.body.len(), content.len());
                self.0.push(format!("{what}: {} {}", reply.status, reply.cache()));
            }
            Err(_) => self.0.push(format!("{what}: broke off")),
        }
    }

    fn note(&mut self, what: &str, value: impl std::fmt::Debug) {
        self.0.push(format!("{what}: {value:?}"));
    }
}

fn setup(upstreams: &[&Upstream]) -> Setup {
    Setup::of(upstreams).set("cache", r"patterns = ['\.tgz$']")
}

/// Each way in which upstream may send it.
fn ways(content: &Bytes) -> [(&'static str, Answer); 4] {
    let plain = Answer::content(content.clone());
    [
        ("plain", plain.clone()),
        ("chunked", plain.clone().chunked()),
        ("until the end", plain.clone().until_close()),
        ("without ranges", plain.ignoring_range()),
    ]
}

async fn cold_and_warm(content: &Bytes) -> Story {
    let mut story = Story::default();
    for (way, answer) in ways(content) {
        for redirected in [false, true] {
            let upstream = Upstream::start().await;
            let digest = digest_of(content);
            for path in [path("team/app", &digest), path("team/other", &digest), "/cdn".to_owned()] {
                let (answer, to) = (answer.clone(), upstream.url("/cdn"));
                let leads_on = redirected && path != "/cdn";
                upstream.on(&path, move |_| if leads_on { Answer::redirect(307, &to) } else { answer.clone() });
            }
            let setup = setup(&[&upstream]);
            let proxy = setup.start().await;
            let name = |what: &str| format!("{way}, redirected {redirected}, {what}");
            let own = path("team/app", &digest);
            let get = |proxy: &Proxy| proxy.get(&upstream, &own);
            story.ask(&name("cold HEAD"), proxy.head(&upstream, &own), b"").await;
            story.ask(&name("cold"), get(&proxy), content).await;
            proxy.landed().await;
            assert!(proxy.has(&digest), "{}", name("stored"));
            story.ask(&name("warm"), get(&proxy), content).await;
            story.ask(&name("warm HEAD"), proxy.head(&upstream, &own), b"").await;
            story.ask(&name("another login"), get(&proxy).bearer("alice"), content).await;
            let elsewhere = proxy.get(&upstream, &path("team/other", &digest)).bearer("alice");
            story.ask(&name("another repository"), elsewhere, content).await;
            let fresh = proxy.without_memory(&self::setup(&[&upstream])).await;
            story.ask(&name("after a restart"), get(&fresh), content).await;
            story.note(&name("GETs"), upstream.count(&Method::GET, &own));
            story.note(&name("verified"), proxy.pull.store.blobs.verify(&digest).await.expect("a store"));
            upstream.stop().await;
            story.ask(&name("offline"), get(&proxy), content).await;
            story.ask(&name("offline HEAD"), proxy.head(&upstream, &own), b"").await;
            story.ask(&name("offline, after a restart"), get(&fresh), content).await;
            let listed = proxy.pull.store.blobs.list(None, 10).await.expect("a store");
            story.note(&name("listed"), listed.iter().map(|entry| entry.digest == digest).collect::<Vec<_>>());
            let removed = proxy.pull.store.blobs.remove(&digest).await.expect("a store");
            story.note(&name("removed"), matches!(removed, entrepot_store::Removal::Removed(_)));
            story.ask(&name("offline and removed"), get(&proxy), content).await;
        }
    }
    story
}

async fn together(content: &Bytes) -> Story {
    let mut story = Story::default();
    for path in [path("team/app", &digest_of(content)), ARTEFACT.to_owned()] {
        let (upstream, gate) = (Upstream::start().await, Gate::closed());
        let answer = Answer::content(content.clone()).header("etag", "\"1\"").head_gated(&gate);
        upstream.on(&path, move |_| answer.clone());
        let proxy = setup(&[&upstream]).start().await;
        let clients = join_all((0..6).map(|_| proxy.get(&upstream, &path).send()));
        let opened = async {
            gate.reached().await;
            gate.open();
        };
        let (replies, ()) = tokio::join!(clients, opened);
        replies.iter().for_each(|reply| reply.is_whole(content));
        story.note("GETs of six clients", upstream.count(&Method::GET, &path));
        proxy.landed().await;
        story.ask("then", proxy.get(&upstream, &path), content).await;
        upstream.stop().await;
        story.ask("offline", proxy.get(&upstream, &path), content).await;
        story.ask("offline HEAD", proxy.head(&upstream, &path), b"").await;
    }
    story
}

async fn without_a_store(content: &Bytes) -> Story {
    let mut story = Story::default();
    for (way, answer) in ways(content) {
        for (what, line) in [("no folder", "enabled = true"), ("switched off", "enabled = false")] {
            let upstream = Upstream::start().await;
            let path = path("team/app", &digest_of(content));
            let answer = answer.clone();
            upstream.on(&path, move |_| answer.clone());
            let proxy = setup(&[&upstream]).set("cache", line).start().await;
            std::fs::remove_dir_all(proxy.data().join("fill")).expect("removed");
            for _ in 0..2 {
                story.ask(&format!("{way}, {what}"), proxy.get(&upstream, &path), content).await;
                proxy.landed().await;
            }
            story.note("GETs", upstream.count(&Method::GET, &path));
        }
    }
    story
}

async fn not_what_it_is_named(content: &Bytes) -> Story {
    let mut story = Story::default();
    let other = if content.is_empty() { bytes(9, 1) } else { bytes(9, content.len()) };
    assert!(other != content);
    for (way, answer) in ways(&other) {
        let upstream = Upstream::start().await;
        let path = path("team/app", &digest_of(content));
        upstream.on(&path, move |_| answer.clone());
        let proxy = setup(&[&upstream]).start().await;
        story.ask(way, proxy.get(&upstream, &path), b"never whole").await;
        proxy.landed().await;
        proxy.publishes_nothing().await;
        let right = Answer::content(content.clone());
        upstream.on(&path, move |_| right.clone());
        story.ask(way, proxy.get(&upstream, &path), content).await;
    }
    story
}

async fn damaged(content: &Bytes) -> Story {
    let mut story = Story::default();
    let upstream = Upstream::start().await;
    let digest = upstream.blob("team/app", content);
    let proxy = setup(&[&upstream]).start().await;
    let path = path("team/app", &digest);
    story.ask("cold", proxy.get(&upstream, &path), content).await;
    proxy.landed().await;
    std::fs::write(proxy.file_of(&digest), bytes(3, content.len() + 1)).expect("written");
    story.note("verified", proxy.pull.store.blobs.verify(&digest).await.expect("a store"));
    story.ask("again", proxy.get(&upstream, &path), content).await;
    proxy.landed().await;
    std::fs::remove_file(proxy.file_of(&digest)).expect("removed");
    let fresh = proxy.without_memory(&setup(&[&upstream])).await;
    story.note("verified", fresh.pull.store.blobs.verify(&digest).await.expect("a store"));
    story
}

async fn of_two_registries(content: &Bytes) -> Story {
    let mut story = Story::default();
    let (one, other) = (Upstream::start().await, Upstream::start().await);
    let digest = one.blob("team/app", content);
    other.blob("team/app", content);
    let proxy = setup(&[&one, &other]).start().await;
    let path = path("team/app", &digest);
    story.ask("one", proxy.get(&one, &path), content).await;
    proxy.landed().await;
    story.ask("the other", proxy.get(&other, &path), content).await;
    story.note("GETs", (one.count(&Method::GET, &path), other.count(&Method::GET, &path)));
    story
}

async fn pushed(content: &Bytes) -> Story {
    let mut story = Story::default();
    let proxy = setup(&[]).start().await;
    let digest = digest_of(content);
    for (number, how) in ["at once", "in one PUT", "by PATCH", "by PATCH in a chunk"].into_iter().enumerate() {
        let repository = format!("team/app{number}");
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let octets = |ask: Ask| ask.header("content-type", "application/octet-stream");
        if how == "at once" {
            let ask = octets(proxy.registry(Method::POST, &format!("{uploads}?digest={digest}")));
            story.ask(how, ask.body(content.clone()), b"").await;
        } else {
            let begun = proxy.registry(Method::POST, &uploads).send().await;
            let location = begun.header("location");
            let place = location[location.find("/v2/").expect("a place")..].to_owned();
            let mut rest = content.clone();
            if how != "in one PUT" {
                let mut ask = octets(proxy.registry(Method::PATCH, &place)).body(content.clone());
                if how == "by PATCH in a chunk" && !content.is_empty() {
                    ask = ask.header("content-range", &format!("0-{}", content.len() - 1));
                }
                story.ask(how, ask, b"").await;
                rest = Bytes::new();
            }
            let join = if place.contains('?') { '&' } else { '?' };
            let put = octets(proxy.registry(Method::PUT, &format!("{place}{join}digest={digest}")));
            story.ask(how, put.body(rest), b"").await;
        }
        let path = path(&repository, &digest);
        story.ask(how, proxy.registry(Method::HEAD, &path), b"").await;
        story.ask(how, proxy.registry(Method::GET, &path), content).await;
        story.note("verified", proxy.pull.store.blobs.verify(&digest).await.expect("a store"));
    }
    let mount = format!("/v2/team/new/blobs/uploads/?mount={digest}&from=team/app0");
    story.ask("mounted", proxy.registry(Method::POST, &mount), b"").await;
    let path = path("team/new", &digest);
    story.ask("mounted", proxy.registry(Method::GET, &path), content).await;
    story.ask("deleted", proxy.registry(Method::DELETE, &path), b"").await;
    story.ask("deleted", proxy.registry(Method::GET, &path), b"").await;
    story
}

macro_rules! as_any_other {
    ($($scene:ident => $test:ident),*) => { $(
        #[tokio::test]
        async fn $test() {
            let Story(other) = $scene(&bytes(1, OTHER)).await;
            for size in [0, 1, 2] {
                let Story(story) = $scene(&bytes(1, size)).await;
                for (own, others) in story.iter().zip(&other) {
                    assert_eq!(own, others, "{size} bytes");
                }
                assert_eq!(story.len(), other.len(), "{size} bytes");
            }
        }
    )* };
}

as_any_other! {
    cold_and_warm => little_content_is_cold_and_warm_as_any_other,
    together => little_content_is_fetched_together_as_any_other,
    without_a_store => little_content_passes_as_any_other,
    not_what_it_is_named => little_content_that_is_wrong_is_as_any_other,
    damaged => little_content_that_is_damaged_is_as_any_other,
    of_two_registries => little_content_of_two_registries_is_as_any_other,
    pushed => little_content_is_pushed_as_any_other
}

#[tokio::test]
async fn ranges_of_little_content_are_the_same_cold_and_warm() {
    for (size, range, status, part) in [
        (0, "0-", 416, 0..0),
        (0, "0-0", 416, 0..0),
        (0, "0-99", 416, 0..0),
        (0, "-1", 416, 0..0),
        (0, "1-", 416, 0..0),
        (0, "0-0,0-0", 200, 0..0),
        (1, "0-", 206, 0..1),
        (1, "0-0", 206, 0..1),
        (1, "0-99", 206, 0..1),
        (1, "-1", 206, 0..1),
        (1, "-5", 206, 0..1),
        (1, "1-", 416, 0..0),
        (1, "5-9", 416, 0..0),
    ] {
        let content = bytes(4, size);
        for path in [path("team/app", &digest_of(&content)), ARTEFACT.to_owned()] {
            for ignores in [false, true] {
                let upstream = Upstream::start().await;
                let answer = Answer::content(content.clone()).header("etag", "\"1\"");
                let answer = if ignores { answer.ignoring_range() } else { answer };
                upstream.on(&path, move |_| answer.clone());
                let proxy = setup(&[&upstream]).start().await;
                for state in ["cold", "warm", "offline"] {
                    let what = format!("{range} of {size}, {state}, upstream ignores ranges: {ignores}, {path}");
                    let reply = proxy.get(&upstream, &path).range(range).send().await;
                    assert_eq!(reply.status, status, "{what}");
                    match status {
                        416 => assert_eq!(reply.header("content-range"), format!("bytes */{size}"), "{what}"),
                        _ => assert!(reply.body == content[part.clone()], "{what}"),
                    }
                    proxy.landed().await;
                    match state {
                        "cold" => proxy.get(&upstream, &path).send().await.is_whole(&content),
                        _ => upstream.stop().await,
                    }
                }
            }
        }
    }
}
