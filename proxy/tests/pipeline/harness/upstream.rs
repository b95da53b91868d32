//! A registry on loopback that answers as the test says and records its requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use http::{HeaderMap, Method};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{Answer, digest_of, wire};

type Handler = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;
type Watchman = Arc<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The fake registry. It stops when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
pub(super) struct Shared {
    routes: Mutex<HashMap<String, Handler>>,
    watchman: Mutex<Option<Watchman>>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of bodies that the kernel has taken.
    pub(super) body_bytes: AtomicU64,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let upstream = Self { address, shared: Arc::default(), serving: Mutex::default() };
        upstream.on("/v2/", |_| Answer::json(200, "{}").header("docker-distribution-api-version", "registry/2.0"));
        upstream.serve(listener);
        upstream
    }

    fn serve(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        let task = tokio::spawn(async move {
            // Connections end with the set, which ends with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(wire::serve(stream, shared.clone()));
            }
        });
        *lock(&self.serving) = Some(task);
    }

    /// Refuses connections from now on, and closes those that were open.
    pub(crate) async fn stop(&self) {
        let task = lock(&self.serving).take();
        if let Some(task) = task {
            task.abort();
            // The task was aborted on purpose.
            let _ = task.await;
        }
    }

    /// Listens again on the same port.
    pub(crate) async fn resume(&self) {
        self.serve(TcpListener::bind(self.address).await.expect("its own port"));
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers a path, whatever the query is. HEAD is answered like GET, without the body.
    pub(crate) fn on(&self, path: &str, handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        lock(&self.shared.routes).insert(path.to_owned(), Arc::new(handler));
    }

    /// A handler that runs before every route. If it returns an answer, that is the answer.
    pub(crate) fn guard(&self, watchman: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) {
        *lock(&self.shared.watchman) = Some(Arc::new(watchman));
    }

    pub(crate) fn unguard(&self) {
        *lock(&self.shared.watchman) = None;
    }

    /// Adds a blob.
    pub(crate) fn blob(&self, repository: &str, bytes: &Bytes) -> Digest {
        let digest = digest_of(bytes);
        self.blob_as(repository, &digest, Answer::content(bytes.clone()));
        digest
    }

    /// Adds a blob with this answer.
    pub(crate) fn blob_as(&self, repository: &str, digest: &Digest, answer: Answer) {
        let answer = answer.header("docker-content-digest", &digest.to_string());
        self.on(&format!("/v2/{repository}/blobs/{digest}"), move |_| answer.clone());
    }

    /// Adds a manifest, by digest and by tag.
    pub(crate) fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &Bytes) {
        let digest = digest_of(bytes);
        let answer = Answer::content(bytes.clone())
            .ignoring_range()
            .header("content-type", media_type)
            .header("docker-content-digest", &digest.to_string());
        for reference in [tag, &digest.to_string()] {
            let answer = answer.clone();
            self.on(&format!("/v2/{repository}/manifests/{reference}"), move |_| answer.clone());
        }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The number of requests for a path.
    pub(crate) fn count(&self, method: &Method, path: &str) -> usize {
        lock(&self.shared.seen).iter().filter(|seen| seen.method == *method && seen.path == path).count()
    }

    /// `METHOD path` of all requests since the last call of this or of [`Upstream::forget`].
    pub(crate) fn take_lines(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *lock(&self.shared.seen));
        seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        lock(&self.shared.seen).clear();
        self.shared.body_bytes.store(0, Ordering::Relaxed);
    }

    /// Bytes of bodies sent since the last [`Upstream::forget`].
    pub(crate) fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.serving).take() {
            task.abort();
        }
    }
}

impl Shared {
    /// Records the request and finds its answer.
    pub(super) fn answer(&self, seen: Seen) -> Answer {
        let watchman = lock(&self.watchman).clone();
        let route = lock(&self.routes).get(&seen.path).cloned();
        lock(&self.seen).push(seen.clone());
        let refused = watchman.and_then(|watchman| watchman(&seen));
        let unknown = || Answer::json(404, r#"{"errors":[{"code":"UNKNOWN","message":"the fake has no such thing"}]}"#);
        refused.or_else(|| route.map(|route| route(&seen))).unwrap_or_else(unknown)
    }
}

impl Seen {
    /// A header as text. Empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}
