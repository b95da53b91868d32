//! One blob that is larger than the memory of many machines. It is pushed whole, streamed and in chunks, and pulled
//! again, while the server's memory stays small.
//!
//! It has 256 MiB, so that the test runs on every machine. `ENTREPOT_TEST_BLOB_GIB=10 tests/run --test product -p
//! entrepot-tests large_blob -- --nocapture` uses 10 GiB: it needs 20 GiB of disk while it runs, and prints rates and
//! memory.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{self, SHA256};
use bytes::{Bytes, BytesMut};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::serve::BoxError;
use entrepot_tests::world::{PROXY_ADDRESS, World};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::heavy;

const BLOCK: u64 = 1 << 20;
/// Also of the whole blob, in requests of this many blocks.
const CHUNK_BLOCKS: u64 = 64;
/// The most memory that the server may use at once, for itself and its buffers, whatever the blob's size.
const MEMORY_MAX_BYTES: u64 = 300 << 20;

/// Blocks of a blob: the same noise in each, and its number.
#[derive(Clone)]
struct Blocks {
    noise: Bytes,
    next: u64,
    end: u64,
    /// Whether the length is sent with the request.
    has_length: bool,
}

impl Blocks {
    fn of(count: u64) -> Self {
        let mut noise = BytesMut::zeroed(BLOCK as usize);
        entrepot_tests::images::fill(1000, &mut noise);
        Self { noise: noise.freeze(), next: 0, end: count, has_length: true }
    }

    fn part(&self, from: u64, to: u64) -> Self {
        Self { next: from, end: to, ..self.clone() }
    }

    fn bytes(&self) -> u64 {
        (self.end - self.next) * BLOCK
    }

    fn digest(&self) -> String {
        let mut hash = digest::Context::new(&SHA256);
        self.clone().for_each(|block| hash.update(&block));
        named(hash)
    }
}

fn named(hash: digest::Context) -> String {
    hash.finish().as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Iterator for Blocks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let number = (self.next < self.end).then_some(self.next)?;
        self.next += 1;
        let mut block = BytesMut::from(&self.noise[..]);
        block[..8].copy_from_slice(&number.to_le_bytes());
        Some(block.freeze())
    }
}

impl Body for Blocks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.next().map(|block| Ok(Frame::data(block))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_length { SizeHint::with_exact(self.bytes()) } else { SizeHint::default() }
    }
}

/// Sends one request on its own connection. The answer's body is still coming.
async fn send(
    method: Method,
    path: &str,
    more: &[(&str, String)],
    body: Blocks,
) -> Result<Response<Incoming>, BoxError> {
    let stream = TcpStream::connect(format!("{PROXY_ADDRESS}:5000")).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", PROXY_ADDRESS);
    for (name, value) in more {
        request = request.header(*name, value);
    }
    Ok(sender.send_request(request.body(body)?).await?)
}

/// The answer's Location, if it has this status.
async fn done(answer: Result<Response<Incoming>, BoxError>, status: u16) -> String {
    let answer = answer.expect("an answer");
    let place = answer.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or_default().to_owned();
    let found = answer.status();
    let text = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(found, status, "{}", String::from_utf8_lossy(&text));
    place
}

fn nothing(blob: &Blocks) -> Blocks {
    blob.part(0, 0)
}

/// The way in which a blob is pushed.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// In one PUT with a Content-Length.
    Whole,
    /// In one PATCH without a Content-Length.
    Streamed,
    /// In many PATCHes, each with its range.
    Chunks,
}

async fn push(way: Way, repository: String, blob: Blocks, digest: String) {
    let begun = send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), &[], nothing(&blob)).await;
    let mut place = done(begun, 202).await;
    match way {
        Way::Whole => {}
        Way::Streamed => {
            let body = Blocks { has_length: false, ..blob.clone() };
            place = done(send(Method::PATCH, &place, &[], body).await, 202).await;
        }
        Way::Chunks => {
            for from in (0..blob.end).step_by(CHUNK_BLOCKS as usize) {
                let part = blob.part(from, blob.end.min(from + CHUNK_BLOCKS));
                let range = format!("{}-{}", from * BLOCK, from * BLOCK + part.bytes() - 1);
                place = done(send(Method::PATCH, &place, &[("content-range", range)], part).await, 202).await;
            }
        }
    }
    let last = if let Way::Whole = way { blob.clone() } else { nothing(&blob) };
    done(send(Method::PUT, &format!("{place}?digest={digest}"), &[], last).await, 201).await;
}

async fn digest_of_pulled(repository: String, digest: String, blob: Blocks) -> (String, u64) {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let mut body = send(Method::GET, &path, &[], nothing(&blob)).await.expect("an answer").into_body();
    let (mut hash, mut bytes) = (digest::Context::new(&SHA256), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.expect("a whole body").into_data().unwrap_or_default();
        bytes += data.len() as u64;
        hash.update(&data);
    }
    (named(hash), bytes)
}

/// A line of the process's memory statistics, in bytes.
fn memory(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Runs `run`. Prints its speed and the most memory that the server had meanwhile.
fn measured<T>(what: &str, bytes: u64, pid: i32, run: impl FnOnce() -> T) -> T {
    // From here on, the peak is that of this run.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the tests are root");
    let began = Instant::now();
    let outcome = run();
    let (took, peak) = (began.elapsed(), memory(pid, "VmHWM"));
    let rate = bytes as f64 / took.max(Duration::from_millis(1)).as_secs_f64() / f64::from(1 << 20);
    let (anonymous, files) = (memory(pid, "RssAnon") >> 20, memory(pid, "RssFile") >> 20);
    println!(
        "{what}: {} MiB in {:.1} s, {rate:.0} MiB/s; the server had {} MiB at most, {anonymous} MiB of its own and {files} \
         MiB of files at the end",
        bytes >> 20,
        took.as_secs_f64(),
        peak >> 20
    );
    assert!(peak < MEMORY_MAX_BYTES, "{what}: the server had {peak} bytes in memory");
    outcome
}

#[test]
fn memory_does_not_grow_with_the_blob() {
    let _alone = heavy();
    let gib = std::env::var("ENTREPOT_TEST_BLOB_GIB").ok().map(|text| text.parse::<u64>().expect("whole GiB"));
    let blob = Blocks::of(gib.map_or(256, |gib| gib << 10));
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let (pid, digest) = (entrepot.process().pid(), blob.digest());
    for way in [Way::Whole, Way::Streamed, Way::Chunks] {
        let repository = format!("team/{way:?}").to_lowercase();
        measured(&format!("pushed {way:?}"), blob.bytes(), pid, || {
            world.client.wait(push(way, repository.clone(), blob.clone(), digest.clone()));
        });
        let pulled = measured("pulled", blob.bytes(), pid, || {
            world.client.wait(digest_of_pulled(repository.clone(), digest.clone(), blob.clone()))
        });
        assert_eq!(pulled, (digest.clone(), blob.bytes()), "{way:?}");
    }
}
