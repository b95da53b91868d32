//! The bytes that a reader is given while the disk gives up, with an upstream on loopback.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use entrepot_core::digest::{Algorithm, Digest, Hasher};
use entrepot_core::name::RepositoryName;
use entrepot_core::validator::Validator;
use entrepot_kernel::{buffers, read};
use http::header::{CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::fetch::FetchError;
use crate::fetch::inflight::{FetchEnd, InflightFetch, Target};
use crate::fetch::reader::FetchReader;
use crate::fetch::source::{BlobSource, SourcePath};
use entrepot_config::from_text;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{Limits, Place, Store};
use entrepot_upstream::credential::Credential;
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::{RegistryClient, UpstreamMemory};
use entrepot_upstream::upstream_registry::UpstreamRegistry;

const SIZE: usize = 1 << 20;
/// How far the file, its readers and the hash have come.
const WRITTEN: u64 = 700_000;
const HASHED: u64 = 200_000;
/// The state that upstream's artefact is in.
const NOW: &str = "\"1\"";

/// A fetch whose file and hash the test moves, and an upstream that has its blob.
struct World {
    fetch: Arc<InflightFetch>,
    source: BlobSource,
    content: Bytes,
    /// The ranges that upstream was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl World {
    /// The file has the bytes `stored` of the content. If `wrong`, one bit of them behind the hash differs from
    /// upstream's.
    async fn new(stored: Range<u64>, wrong: bool) -> Self {
        Self::of(stored, wrong, |source, digest| Target::Blob { place: place(source), digest }).await
    }

    /// The same of an artefact that was in this state.
    async fn artefact(stored: Range<u64>, wrong: bool, state: Option<Validator>) -> Self {
        let target = |source: &BlobSource, _| Target::Artefact {
            origin: source.registry.origin.clone(),
            path: "/archive.tgz".into(),
        };
        let world = Self::of(stored, wrong, target).await;
        world.fetch.update(|fetch| fetch.validator = state);
        world
    }

    async fn of(stored: Range<u64>, wrong: bool, target: impl FnOnce(&BlobSource, Digest) -> Target) -> Self {
        let content: Bytes = (0..SIZE).map(|at| (at ^ (at >> 8) ^ (at >> 15)) as u8).collect();
        let digest = Digest::of(Algorithm::Sha256, &content);
        let (source, asked) = upstream(content.clone()).await;
        let folder = TempDir::new().expect("a folder");
        let limits = Limits {
            max_size_bytes: 1 << 30,
            min_free_bytes: 0,
            inactive: std::time::Duration::from_secs(3600),
            proofs: std::time::Duration::ZERO,
        };
        let store = Store::open(folder.path(), limits).expect("a store");
        let fetch = InflightFetch::new(target(&source, digest), source.clone());
        let partial = Arc::new(
            store.partial_blobs.begin(fetch.target.origin(), &digest, Some(SIZE as u64)).await.expect("a partial blob"),
        );
        let mut bytes = content.to_vec();
        bytes[HASHED as usize + 1000] ^= u8::from(wrong);
        let piece = Bytes::from(bytes).slice(stored.start as usize..stored.end as usize);
        partial.write(stored.start, piece).await.expect("written");
        fetch.update(|state| {
            state.size = Some(SIZE as u64);
            state.extents.insert(stored);
            state.file = Some(partial);
        });
        Self { fetch, source, content, asked, folder }
    }

    fn reader(&self, start: u64, end: Option<u64>) -> FetchReader {
        FetchReader::new(self.fetch.join(None, end.is_none()).expect("a subscription"), self.source.clone(), start, end)
    }

    /// The disk takes no more when the hash is at `prefix`.
    fn hand_over(&self, prefix: u64) {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&self.content[..prefix as usize]);
        self.fetch.update(|state| state.end = Some(FetchEnd::HandedOver { prefix, hasher }));
    }

    /// The ranges that upstream was asked for.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// Serves `content` and parts of it.
async fn upstream(content: Bytes) -> (BlobSource, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let answer = move |request: Request<Incoming>| {
        let range = request.headers().get(RANGE).map_or("", |range| range.to_str().expect("text")).to_owned();
        let start = range.strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
        seen.lock().expect("no panic").push(range);
        let mut response = Response::new(Full::new(content.slice(start.unwrap_or(0)..)));
        response.headers_mut().insert(ETAG, HeaderValue::from_static(NOW));
        if let Some(start) = start {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let part = format!("bytes {start}-{}/{SIZE}", SIZE - 1);
            response.headers_mut().insert(CONTENT_RANGE, part.parse().expect("a header"));
        }
        std::future::ready(Ok::<_, Infallible>(response))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(answer.clone());
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let config = from_text("[upstream]\nallow_addresses = [\"127.0.0.0/8\"]\n").expect("configuration").live;
    let client = HttpClient::new(&config.upstream, &[], &Ourselves::default());
    let via = HeaderValue::from_static("1.1 entrepot-in-a-test");
    let metrics = Arc::new(Metrics::new());
    let memory = UpstreamMemory::new(metrics, via);
    let source = BlobSource {
        upstream: Arc::new(RegistryClient::new(client, Arc::new(memory))),
        registry: UpstreamRegistry::unlisted(&address.to_string().parse().expect("an address is a host")),
        path: SourcePath::Blobs(repository()),
        credential: Credential::None,
        is_public: false,
    };
    (source, asked)
}

fn repository() -> RepositoryName {
    "team/app".parse().expect("a name")
}

fn place(source: &BlobSource) -> Place {
    Place::new(source.registry.origin.clone(), repository())
}

/// Reads until the reader is at `position`.
async fn read_to(reader: &mut FetchReader, start: u64, position: u64) -> Vec<u8> {
    let mut given = Vec::new();
    while start + (given.len() as u64) < position {
        given.extend_from_slice(&reader.next().await.expect("no failure").expect("more"));
    }
    given
}

/// Reads to the end, or to the error.
async fn rest(reader: &mut FetchReader) -> Result<Vec<u8>, FetchError> {
    let mut given = Vec::new();
    while let Some(bytes) = reader.next().await? {
        given.extend_from_slice(&bytes);
    }
    Ok(given)
}

#[tokio::test]
async fn a_client_ahead_of_the_hash_goes_on_where_it_is() {
    let world = World::new(0..WRITTEN, false).await;
    let mut readers = [world.reader(0, None), world.reader(0, None)];
    let mut given = [read_to(&mut readers[0], 0, WRITTEN).await, Vec::new()];
    world.hand_over(HASHED);
    for (reader, given) in readers.iter_mut().zip(&mut given) {
        given.extend(rest(reader).await.expect("whole"));
        assert!(*given == world.content);
    }
    assert_eq!(world.asked(), [format!("bytes={WRITTEN}-"), format!("bytes={HASHED}-")], "nothing is sent twice");
}

#[tokio::test]
async fn bytes_that_the_hash_had_not_seen_complete_no_blob_when_they_are_wrong() {
    let world = World::new(0..WRITTEN, true).await;
    let mut reader = world.reader(0, None);
    let given = read_to(&mut reader, 0, WRITTEN).await;
    assert!(given != world.content[..WRITTEN as usize], "they are with the client");
    world.hand_over(HASHED);
    assert!(matches!(rest(&mut reader).await, Err(FetchError::WrongDigest { .. })));
}

#[tokio::test]
async fn a_rest_is_gone_on_with_only_where_its_bytes_can_be_hashed() {
    let world = World::new(300_000..WRITTEN, false).await;
    let (mut begun, mut fresh) = (world.reader(300_000, None), world.reader(300_000, None));
    let mut part = world.reader(300_000, Some(900_000));
    read_to(&mut begun, 300_000, WRITTEN).await;
    world.hand_over(0);
    assert!(matches!(rest(&mut begun).await, Err(FetchError::Read { .. })), "nobody knows that they are right");
    assert!(rest(&mut fresh).await.expect("the rest") == world.content[300_000..]);
    assert!(rest(&mut part).await.expect("the part") == world.content[300_000..900_000]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_excuses_no_wrong_byte() {
    for (wrong, verified) in [(false, false), (true, false), (false, true)] {
        let world = World::new(0..WRITTEN, wrong).await;
        let mut reader = world.reader(0, None);
        let mut given = read_to(&mut reader, 0, 500_000).await;
        let files = std::fs::read_dir(world.folder.path().join("fill")).expect("a folder");
        for file in files.flatten() {
            let file = std::fs::OpenOptions::new().write(true).open(file.path()).expect("the file");
            file.set_len(given.len() as u64).expect("cut");
        }
        world.fetch.update(|state| state.verified = verified);
        match rest(&mut reader).await {
            Ok(bytes) => {
                given.extend(bytes);
                assert!(given == world.content, "it was completed: wrong {wrong}, verified {verified}");
            }
            Err(error) => assert!(wrong && matches!(error, FetchError::WrongDigest { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn an_artefact_goes_on_without_the_disk_only_if_it_is_still_the_same() {
    let whole = format!("bytes=0-{}", SIZE - 1);
    let rest = format!("bytes={WRITTEN}-{}", SIZE - 1);
    let state = |text: &str| Some(Validator::ETag(text.into()));
    for (name, state, wrong, asked, is_completed) in [
        ("by its validator", state(NOW), false, &rest, true),
        ("another validator", state("\"0\""), false, &rest, false),
        ("without one, the same bytes", None, false, &whole, true),
        ("without one, other bytes", None, true, &whole, false),
    ] {
        let world = World::artefact(0..WRITTEN, wrong, state).await;
        let mut reader = world.reader(0, None);
        let mut given = read_to(&mut reader, 0, WRITTEN).await;
        world.hand_over(HASHED);
        match self::rest(&mut reader).await {
            Ok(bytes) => {
                given.extend(bytes);
                assert!(is_completed && given == world.content, "{name}");
            }
            Err(error) => assert!(!is_completed && matches!(error, FetchError::Changed { .. }), "{name}: {error}"),
        }
        assert_eq!(world.asked(), std::slice::from_ref(asked), "{name}");
    }
}

#[tokio::test]
async fn a_part_of_an_artefact_goes_on_without_the_disk_too() {
    for wrong in [false, true] {
        let world = World::artefact(0..WRITTEN, wrong, None).await;
        let (mut begun, mut fresh) = (world.reader(100_000, Some(900_000)), world.reader(800_000, Some(900_000)));
        let mut given = read_to(&mut begun, 100_000, WRITTEN).await;
        world.hand_over(HASHED);
        assert!(rest(&mut fresh).await.expect("the part") == world.content[800_000..900_000]);
        match rest(&mut begun).await {
            Ok(bytes) => {
                given.extend(bytes);
                assert!(!wrong && given == world.content[100_000..900_000]);
            }
            Err(error) => assert!(wrong && matches!(error, FetchError::Changed { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn readers_hold_little_each_when_they_hold_much_together() {
    let world = World::new(0..WRITTEN, false).await;
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let plenty = world.reader(0, None).next().await.expect("no failure").expect("a piece");
    // Other readers hold the whole budget, and more.
    let held: Vec<_> = (0..128).map(|_| read::start(&file, 0, buffers::WINDOW_BYTES)).collect();
    let little = world.reader(0, None).next().await.expect("no failure").expect("a piece");
    assert!(little.len() <= buffers::SMALL_WINDOW_BYTES && little == plenty[..little.len()], "{}", little.len());
    drop(held);
}
