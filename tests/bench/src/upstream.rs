//! The registry behind both servers: serves what was published, over TLS and plain, counts what it sends, and can be
//! limited to a rate. It runs on threads of its own and costs little: bodies are slices of memory (`content`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot_tests::authority::Authority;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

use crate::BoxError;
use crate::content::{Blob, MANIFEST};

/// The registry's name; the run's hosts file has it.
pub(crate) const NAME: &str = "registry.bench.test";
/// Its ports.
pub(crate) const TLS_PORT: u16 = 5443;
pub(crate) const PLAIN_PORT: u16 = 5080;
/// The repository that everything is in.
pub(crate) const REPOSITORY: &str = "bench/image";
/// Small enough that a limited body arrives evenly.
const LIMITED_FRAME_BYTES: u64 = 64 << 10;
/// A late timer is made up for, this much at most.
const BURST: Duration = Duration::from_millis(20);

/// The running registry.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    blobs: Mutex<HashMap<String, Blob>>,
    tags: Mutex<HashMap<String, String>>,
    sent_bytes: Mutex<HashMap<String, Arc<AtomicU64>>>,
    pace: Pace,
}

/// One rate for all connections together.
#[derive(Default)]
struct Pace {
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    next: Mutex<Option<Instant>>,
}

impl Upstream {
    /// Starts it on loopback; returns when it listens.
    pub(crate) fn start(authority: &Authority) -> Result<Self, BoxError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = Arc::<Shared>::default();
        let tls = TlsAcceptor::from(authority.server(&[NAME], &["http/1.1"]));
        for (port, tls) in [(TLS_PORT, Some(tls)), (PLAIN_PORT, None)] {
            let listener = runtime
                .block_on(TcpListener::bind(("127.0.0.1", port)))
                .map_err(|error| format!("the registry of the benchmark cannot listen on port {port}: {error}"))?;
            runtime.spawn(accept(listener, tls, shared.clone()));
        }
        Ok(Self { shared, _runtime: runtime })
    }

    /// Has a blob or manifest from now on.
    pub(crate) fn publish(&self, blob: &Blob) {
        lock(&self.shared.blobs).insert(blob.digest.clone(), blob.clone());
    }

    /// Has a tag from now on.
    pub(crate) fn tag(&self, tag: &str, manifest: &Blob) {
        lock(&self.shared.tags).insert(tag.to_owned(), manifest.digest.clone());
    }

    /// All bodies together get at most this; `None` for no limit.
    pub(crate) fn limit(&self, bytes_per_second: Option<u64>) {
        self.shared.pace.bytes_per_second.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
        *lock(&self.shared.pace.next) = None;
    }

    /// Bytes of a blob's body that were sent so far, repetitions included.
    pub(crate) fn sent_bytes(&self, blob: &Blob) -> u64 {
        self.shared.counter(&blob.digest).load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let _ = tcp.set_nodelay(true);
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(tcp, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let answer = shared.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    // A client that leaves early is the client's business; the sections check what arrives.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Sending> {
        let path = request.uri().path();
        if path == "/v2/" {
            return respond(StatusCode::OK, "application/json", Sending::of(Blob::ready("{}".into())));
        }
        let Some((kind, blob)) = self.find(path) else {
            return respond(StatusCode::NOT_FOUND, "text/plain", Sending::of(Blob::ready("not published".into())));
        };
        let (size, digest) = (blob.size_bytes, blob.digest.clone());
        let range = request.headers().get(RANGE).and_then(|value| range_of(value.to_str().ok()?, size));
        let (begin, end) = range.unwrap_or((0, size));
        let is_head = request.method() == Method::HEAD;
        let at = if is_head { end } else { begin };
        let sending = Sending { at, end, counted: Some((self.clone(), self.counter(&digest))), ..Sending::of(blob) };
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut answer = respond(status, kind, sending);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, (end - begin).into());
        headers.insert(ACCEPT_RANGES, http::HeaderValue::from_static("bytes"));
        if let Ok(value) = digest.parse() {
            headers.insert("docker-content-digest", value);
        }
        if let (Some((begin, end)), true) = (range, status == StatusCode::PARTIAL_CONTENT)
            && let Ok(value) = format!("bytes {begin}-{}/{size}", end - 1).parse()
        {
            headers.insert(CONTENT_RANGE, value);
        }
        answer
    }

    fn find(&self, path: &str) -> Option<(&'static str, Blob)> {
        let rest = path.strip_prefix("/v2/")?.strip_prefix(REPOSITORY)?;
        let (kind, name) = match rest.strip_prefix("/blobs/") {
            Some(digest) => ("application/octet-stream", digest.to_owned()),
            None => {
                let reference = rest.strip_prefix("/manifests/")?;
                (MANIFEST, lock(&self.tags).get(reference).cloned().unwrap_or_else(|| reference.to_owned()))
            }
        };
        Some((kind, lock(&self.blobs).get(&name)?.clone()))
    }

    fn counter(&self, digest: &str) -> Arc<AtomicU64> {
        lock(&self.sent_bytes).entry(digest.to_owned()).or_default().clone()
    }
}

impl Pace {
    /// When so many bytes may be sent; `None` for at once.
    fn reserve(&self, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let now = Instant::now();
        let mut next = lock(&self.next);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = next.unwrap_or(now).max(earliest);
        let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *next = Some(end);
        (end > now).then_some(end)
    }

    fn is_limited(&self) -> bool {
        self.bytes_per_second.load(Ordering::Relaxed) > 0
    }
}

/// A body on its way.
struct Sending {
    blob: Blob,
    at: u64,
    end: u64,
    /// The next piece and the time that it has to wait for.
    waiting: Option<(Bytes, Pin<Box<Sleep>>)>,
    counted: Option<(Arc<Shared>, Arc<AtomicU64>)>,
}

impl Sending {
    fn of(blob: Blob) -> Self {
        Self { at: 0, end: blob.size_bytes, blob, waiting: None, counted: None }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.at == self.end {
            return None;
        }
        let limited = self.counted.as_ref().is_some_and(|(shared, _)| shared.pace.is_limited());
        let most = if limited { self.end.min(self.at + LIMITED_FRAME_BYTES) } else { self.end };
        let piece = self.blob.piece(self.at, most);
        self.at += piece.len() as u64;
        Some(piece)
    }

    fn count(&self, piece: &Bytes) {
        if let Some((_, sent)) = &self.counted {
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.waiting.is_none() {
            let Some(piece) = self.next() else { return Poll::Ready(None) };
            let until = self.counted.as_ref().and_then(|(shared, _)| shared.pace.reserve(piece.len() as u64));
            let Some(until) = until else {
                self.count(&piece);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            };
            self.waiting = Some((piece, Box::pin(sleep_until(until.into()))));
        }
        if let Some((_, sleep)) = &mut self.waiting {
            ready!(sleep.as_mut().poll(cx));
        }
        let piece = self.waiting.take().map(|(piece, _)| piece);
        Poll::Ready(piece.map(|piece| {
            self.count(&piece);
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end && self.waiting.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.waiting.as_ref().map_or(0, |(piece, _)| piece.len() as u64);
        SizeHint::with_exact(self.end - self.at + waiting)
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Sending) -> Response<Sending> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

/// `bytes=a-b` or `bytes=a-`, as begin and end.
fn range_of(value: &str, size: u64) -> Option<(u64, u64)> {
    let (begin, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let begin = begin.parse().ok()?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
    (begin < end).then_some((begin, end))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
