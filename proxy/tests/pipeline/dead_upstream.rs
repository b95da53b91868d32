//! An upstream that swallows packets, or takes requests and says nothing: what is stored is served after a short wait,
//! and at once after that.

use std::time::{Duration, Instant};

use http::Method;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::{Answer, Gate, Image, MANIFEST_TYPE, Proxy, Setup, Upstream, digest_of, in_time};

/// What no pull of stored content takes. The default deadlines are longer.
const LONG: Duration = Duration::from_secs(8);

/// Swallows all connections to the address of an upstream that was stopped, until it is dropped.
struct BlackHole {
    _full: TcpListener,
    _held: Vec<TcpStream>,
}

impl BlackHole {
    async fn instead_of(upstream: &Upstream) -> Self {
        upstream.stop().await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(upstream.address).expect("its address");
        let full = socket.listen(0).expect("listening");
        let mut held = Vec::new();
        // The kernel drops SYNs once the queue is full.
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(upstream.address)).await {
            held.push(stream.expect("connected"));
            assert!(held.len() < 8, "the queue never fills");
        }
        Self { _full: full, _held: held }
    }
}

/// The steps of a pull, and a push's look at a layer.
fn steps(image: &Image) -> Vec<(Method, String)> {
    vec![
        (Method::GET, "/v2/".to_owned()),
        (Method::HEAD, image.tag_path("1")),
        (Method::GET, image.tag_path("1")),
        (Method::GET, image.manifest_path()),
        (Method::GET, image.layer_path()),
        (Method::HEAD, image.layer_path()),
    ]
}

async fn run(proxy: &Proxy, upstream: &Upstream, image: &Image, upstream_is_well: bool) {
    for (method, path) in steps(image) {
        let ask = if method == Method::HEAD { proxy.head(upstream, &path) } else { proxy.get(upstream, &path) };
        let reply = ask.send().await;
        // Without upstream, a ping asks for a token of ours.
        let is_ping = path == "/v2/" && !upstream_is_well;
        assert_eq!(reply.status, if is_ping { 401 } else { 200 }, "{method} {path}: {}", reply.text());
        if path == image.layer_path() && method == Method::GET {
            reply.is_whole(&image.layer);
        }
        assert!(!upstream_is_well || reply.cache() != "STALE", "{method} {path}");
    }
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::of(&[upstream])
        .set("upstream", "check_connect_timeout = \"300ms\"")
        .set("upstream", "check_timeout = \"300ms\"")
        // Every right is asked for again.
        .set("rights", "public_for = \"1ms\"")
}

#[tokio::test]
async fn stored_content_does_not_wait_for_an_upstream_that_swallows_packets() {
    let upstream = Upstream::start().await;
    let image = Image::new("library/app", 1);
    for tag in ["1", "2", "3", "4"] {
        image.publish(&upstream, tag);
    }
    let proxy = setup(&upstream).start().await;
    run(&proxy, &upstream, &image, true).await;
    for tag in ["2", "3", "4"] {
        proxy.get(&upstream, &image.tag_path(tag)).send().await;
    }
    proxy.landed().await;
    let hole = BlackHole::instead_of(&upstream).await;
    let began = Instant::now();
    run(&proxy, &upstream, &image, false).await;
    for tag in ["1", "2", "3", "4"] {
        let reply = proxy.get(&upstream, &image.tag_path(tag)).send().await;
        assert_eq!((reply.status, reply.cache()), (200, "STALE"), "{tag}");
    }
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    drop(hole);
    upstream.resume().await;
    in_time("upstream is asked again", async {
        while proxy.get(&upstream, &image.tag_path("1")).send().await.cache() == "STALE" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    run(&proxy, &upstream, &image, true).await;
}

#[tokio::test]
async fn stored_content_does_not_wait_for_an_upstream_that_says_nothing() {
    let upstream = Upstream::start().await;
    let image = Image::new("library/app", 1);
    image.publish(&upstream, "1");
    let proxy = setup(&upstream).start().await;
    run(&proxy, &upstream, &image, true).await;
    proxy.landed().await;
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.guard(move |_| Some(Answer::status(500).head_gated(&held)));
    upstream.forget();
    let began = Instant::now();
    for _ in 0..10 {
        run(&proxy, &upstream, &image, false).await;
    }
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    assert!(upstream.seen().len() <= 4, "one check in a while: {:?}", upstream.take_lines());
    upstream.unguard();
    gate.open();
}

/// What is not stored has nothing to fall back on: it waits, and comes.
#[tokio::test]
async fn what_is_not_stored_gets_the_time_that_it_needs() {
    let upstream = Upstream::start().await;
    let (known, other) = (Image::new("library/app", 1), Image::new("library/other", 2));
    known.publish(&upstream, "1");
    other.publish(&upstream, "1");
    let proxy = setup(&upstream).start().await;
    run(&proxy, &upstream, &known, true).await;
    proxy.landed().await;
    let gate = Gate::closed();
    let held = gate.clone();
    // Slower than a check may be.
    let (manifest, slow) = (other.manifest.clone(), other.tag_path("1"));
    upstream.on(&slow, move |_| {
        let digest = digest_of(&manifest).to_string();
        Answer::content(manifest.clone())
            .header("content-type", MANIFEST_TYPE)
            .header("docker-content-digest", &digest)
            .head_gated(&held)
    });
    let pulling = tokio::spawn(proxy.get(&upstream, &other.tag_path("1")).send());
    gate.reached().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    gate.open();
    pulling.await.expect("no panic").is_whole(&other.manifest);
}
