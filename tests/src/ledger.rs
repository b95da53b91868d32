//! The requests that a server of the tests got, with their headers, and the bytes of blobs that it sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};

/// The subject of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `/v2/`
    Ping,
    /// A manifest by tag.
    ManifestTag,
    /// A manifest by digest.
    ManifestDigest,
    /// A blob.
    Blob,
    /// A part of a push.
    Upload,
    /// A token.
    Token,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// The path and query.
    pub path: String,
    pub kind: Kind,
    /// The raw headers.
    pub headers: HeaderMap,
}

/// The requests that one server has got. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    blob_bytes: AtomicU64,
}

impl Ledger {
    /// Records a request.
    pub fn record(&self, method: &Method, path: &str, headers: &HeaderMap) -> Kind {
        let kind = classify(path);
        let seen = Seen { method: method.clone(), path: path.to_owned(), kind, headers: headers.clone() };
        self.shared.seen.lock().expect("no holder panics").push(seen);
        self.shared.changed.notify_all();
        kind
    }

    /// Counts bytes of a blob's body as they are sent.
    pub fn count_blob_bytes(&self, count: usize) {
        self.shared.blob_bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.shared.seen.lock().expect("no holder panics").clear();
        self.shared.blob_bytes.store(0, Ordering::Relaxed);
    }

    /// All requests so far.
    pub fn all(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no holder panics").clone()
    }

    /// The number of requests with this method and subject.
    pub fn count(&self, method: &Method, kind: Kind) -> usize {
        self.all().iter().filter(|seen| seen.method == *method && seen.kind == kind).count()
    }

    /// GETs of manifests, by tag or digest.
    pub fn manifest_gets(&self) -> usize {
        self.count(&Method::GET, Kind::ManifestTag) + self.count(&Method::GET, Kind::ManifestDigest)
    }

    /// The number of GETs of one path, whatever the query.
    pub fn gets_of(&self, path: &str) -> usize {
        let is_it = |seen: &&Seen| seen.method == Method::GET && seen.path.split('?').next() == Some(path);
        self.all().iter().filter(is_it).count()
    }

    /// The bytes of blob bodies that were sent.
    pub fn blob_bytes(&self) -> u64 {
        self.shared.blob_bytes.load(Ordering::Relaxed)
    }

    /// Waits for a request that `matches`.
    pub fn wait_for(&self, timeout: Duration, matches: impl Fn(&Seen) -> bool) -> Seen {
        let deadline = Instant::now() + timeout;
        let mut seen = self.shared.seen.lock().expect("no holder panics");
        loop {
            if let Some(found) = seen.iter().find(|one| matches(one)) {
                return found.clone();
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("the request came in time");
            seen = self.shared.changed.wait_timeout(seen, left).expect("no holder panics").0;
        }
    }
}

/// The repository of a path of the registry API. None if it has none.
pub fn repository_of(path: &str) -> Option<&str> {
    let rest = path.split('?').next()?.strip_prefix("/v2/")?;
    ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().find_map(|part| rest.rfind(part).map(|at| &rest[..at]))
}

fn classify(path: &str) -> Kind {
    let path = path.split('?').next().unwrap_or(path);
    match path {
        "/v2/" | "/v2" => Kind::Ping,
        "/token" | "/v2/auth" => Kind::Token,
        _ if path.contains("/blobs/uploads") => Kind::Upload,
        _ if path.contains("/blobs/") => Kind::Blob,
        _ => match path.rsplit_once("/manifests/") {
            Some((_, reference)) if reference.contains(':') => Kind::ManifestDigest,
            Some(_) => Kind::ManifestTag,
            None => Kind::Other,
        },
    }
}
