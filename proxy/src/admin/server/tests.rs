//! The door over real sockets: every operation, the gates and the bounds.

use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::super::AdminBackend;
use super::super::answers::{BlobState, ImportLine, Imported, Verification, VerifiedBlob, VerifyLine};
use super::super::fixture::{TestDoor, backend, digest};
use super::*;
use entrepot_observe::metrics::Metrics;

const TOKEN: &str = "canary-admin-token";

impl TestDoor {
    /// The status and the rest of the answer.
    async fn tcp(&self, line: &str, headers: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        ask(stream, line, &format!("Host: localhost\r\n{headers}")).await
    }

    async fn unix(&self, line: &str) -> (u16, String) {
        ask(UnixStream::connect(&self.socket).await.expect("connected"), line, "Host: localhost\r\n").await
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str, headers: &str) -> (u16, String) {
    let request = format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer)
}

#[tokio::test]
async fn reading_is_open_to_this_machine() {
    let door = TestDoor::open(None).await;
    for (path, status, part) in [
        ("/healthz", 200, "\r\n\r\nok\n"),
        ("/readyz", 503, "the index is being rebuilt"),
        ("/metrics", 200, "entrepot_connections_open{door=\"admin\"} 1"),
        ("/metrics", 200, "content-type: application/openmetrics-text; version=1.0.0"),
        ("/api/config", 200, r#"{"password":"***"}"#),
        (
            "/api/cache/stats",
            200,
            r#"{"hits":3,"misses":1,"stores":0,"evictions":0,"errors":0,"current_size":0,"hit_rate":0.75,"#,
        ),
        ("/api/cache/blobs?limit=5", 200, r#""next":null"#),
        ("/api/cache/blobs?limit=x", 400, "limit"),
        ("/nothing", 404, r#"{"error":"#),
    ] {
        let (found, answer) = door.tcp(&format!("GET {path}"), "").await;
        assert!(found == status && answer.contains(part), "{path}: {answer}");
    }
    let (status, answer) = door.tcp("PUT /metrics", "").await;
    assert!(status == 405 && answer.contains("allow: GET, HEAD"), "{answer}");
    let (status, answer) = door.tcp("HEAD /healthz", "").await;
    assert!(status == 200 && answer.ends_with("\r\n\r\n"), "{answer}");
    door.close().await;
}

/// A probe lets a degraded server serve on, and people read why.
#[tokio::test]
async fn each_trouble_of_a_server_that_is_ready_is_a_line() {
    for (troubles, body) in [
        (&[][..], "\r\n\r\nok\n"),
        (&["the disk hangs", "it is full"], "\r\n\r\nok\ndegraded: the disk hangs\ndegraded: it is full\n"),
    ] {
        let changes = Arc::default();
        let ready = move || std::future::ready(Ok(troubles.iter().map(ToString::to_string).collect())).boxed();
        let backend = AdminBackend { ready: Box::new(ready), ..backend(&changes) };
        let door = TestDoor::open_with(backend, changes, None).await;
        let (status, answer) = door.tcp("GET /readyz", "").await;
        assert!(status == 200 && answer.ends_with(body), "{answer}");
        door.close().await;
    }
}

/// Unknown paths and methods are answered as such without a token, because they reveal nothing.
#[tokio::test]
async fn what_is_not_in_the_table_is_told_before_the_gate() {
    let door = TestDoor::open(None).await;
    for path in ["/", "/healthz/", "/api", "/api/cache/", "/api/cache/blobs/", "/api/cache/blobs/a/b", "//metrics"] {
        for method in ["GET", "POST"] {
            let (status, answer) = door.tcp(&format!("{method} {path}"), "").await;
            let told = answer.ends_with("\r\n\r\n{\"error\":\"there is nothing at this path\"}\n");
            assert!(status == 404 && told && answer.contains("cache-control: no-store\r\n"), "{path}: {answer}");
        }
    }
    for (line, allowed) in [
        ("POST /metrics", "GET, HEAD"),
        ("GET /api/cache", "DELETE"),
        ("OPTIONS /api/cache/blobs/x", "DELETE"),
        ("PUT /api/registry/tags", "GET, HEAD, DELETE"),
    ] {
        let (status, answer) = door.tcp(line, "").await;
        let told = answer.ends_with(&format!("{{\"error\":\"this path takes {allowed}\"}}\n"));
        assert!(status == 405 && told && answer.contains(&format!("allow: {allowed}\r\n")), "{line}: {answer}");
    }
    let (status, answer) = door.tcp("HEAD /api/reload", "").await;
    assert!(status == 405 && answer.contains("allow: POST\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    door.close().await;
}

#[tokio::test]
async fn a_head_request_has_the_length_of_what_get_sends() {
    let door = TestDoor::open(None).await;
    let (_, answer) = door.tcp("GET /api/config", "").await;
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let (status, head) = door.tcp("HEAD /api/config", "").await;
    let length = format!("content-length: {}\r\n", body.len());
    assert!(status == 200 && head.contains(&length) && head.ends_with("\r\n\r\n"), "{head}");
    door.close().await;
}

#[tokio::test]
async fn a_bad_digest_in_the_path_is_named() {
    let door = TestDoor::open(None).await;
    let (status, answer) = door.unix("DELETE /api/cache/blobs/..").await;
    assert!(status == 400 && answer.contains("sha256"), "{answer}");
    let (status, _) = door.tcp("DELETE /api/cache/blobs/..", "").await;
    assert_eq!(status, 403, "the gate is asked first");
    assert!(door.changes.lock().expect("not poisoned").is_empty());
    door.close().await;
}

#[tokio::test]
async fn pages_of_blobs_follow_each_other() {
    let door = TestDoor::open(None).await;
    let (mut seen, mut target) = (Vec::new(), "/api/cache/blobs?limit=2".to_owned());
    loop {
        let (_, answer) = door.unix(&format!("GET {target}")).await;
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let page: super::super::answers::BlobPage = serde_json::from_str(body).expect("a page");
        seen.extend(page.blobs.into_iter().map(|blob| blob.size));
        let Some(next) = page.next else { break };
        target = format!("/api/cache/blobs?limit=2&after={next}");
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
    door.close().await;
}

#[tokio::test]
async fn changes_over_tcp_need_the_token() {
    let clear = "DELETE /api/cache";
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let door = TestDoor::open(Some(TOKEN)).await;
    let tokenless = TestDoor::open(None).await;
    let foreign = format!("{token}Origin: http://evil.example\r\n");
    for (door, headers, how) in [
        (&door, "", "Authorization: Bearer"),
        (&door, "Authorization: Bearer wrong\r\n", "unix socket"),
        (&door, &foreign, "origin"),
        (&tokenless, token.as_str(), "admin.token_file"),
    ] {
        let (status, answer) = door.tcp(clear, headers).await;
        assert!(status == 403 && answer.contains(how) && !answer.contains(TOKEN), "{answer}");
        assert!(door.changes.lock().expect("not poisoned").is_empty(), "nothing was changed");
    }
    let (status, answer) = door.tcp(clear, &token).await;
    assert!(status == 200 && answer.contains(r#"{"status":"ok","freed_blobs":3,"freed_bytes":6}"#), "{answer}");
    assert_eq!(*door.changes.lock().expect("not poisoned"), ["clear"]);
    door.close().await;
    tokenless.close().await;
}

#[tokio::test]
async fn changes_by_the_socket() {
    let door = TestDoor::open(None).await;
    let (present, absent) = (digest(1), digest(9));
    for (line, status, part) in [
        ("DELETE /api/cache".to_owned(), 200, r#"{"status":"ok","freed_blobs":3"#),
        (format!("DELETE /api/cache/blobs/{present}"), 200, r#"{"status":"ok","freed_blobs":1"#),
        (format!("DELETE /api/cache/blobs/{absent}"), 404, "does not have this blob"),
        ("DELETE /api/cache/tags?registry=ghcr.io&repository=a/b&tag=v1".into(), 200, r#"{"status":"ok"}"#),
        ("DELETE /api/cache/tags?registry=ghcr.io&repository=a/b&tag=v2".into(), 404, "does not know this tag"),
        ("POST /api/reload".into(), 409, "entrepot.toml:3: unknown key"),
    ] {
        let (found, answer) = door.unix(&line).await;
        assert!(found == status && answer.contains(part), "{line}: {answer}");
    }
    assert_eq!(
        *door.changes.lock().expect("not poisoned"),
        ["clear", "remove", "remove", "ghcr.io/a/b:v1", "ghcr.io/a/b:v2"]
    );
    door.close().await;
}

#[tokio::test]
async fn programs_of_this_machine_clear_the_cache_if_the_configuration_lets_them() {
    let changes: Arc<Mutex<Vec<String>>> = Arc::default();
    let rights = TcpRights { token: None, loopback_changes: true };
    let door = TestDoor::open_for(backend(&changes), changes, rights).await;
    for (line, headers, status, part) in [
        ("DELETE /api/cache", "", 200, r#"{"status":"ok","freed_blobs":3"#),
        ("DELETE /api/cache", "Origin: http://localhost\r\n", 403, "admin.loopback_changes"),
        ("DELETE /api/cache", "X-Forwarded-For: 192.0.2.8\r\n", 403, "admin.loopback_changes"),
        ("DELETE /api/cache/tags?registry=ghcr.io&repository=a/b&tag=v1", "", 403, "admin.token_file"),
        ("POST /api/reload", "", 403, "admin.token_file"),
    ] {
        let (found, answer) = door.tcp(line, headers).await;
        assert!(found == status && answer.contains(part), "{line} {headers}: {answer}");
    }
    assert_eq!(*door.changes.lock().expect("not poisoned"), ["clear"]);
    door.close().await;
}

/// An answer's `X-Request-Id`.
fn id_of(answer: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap_or_default();
    assert!(line.len() == 16 && line.bytes().all(|byte| byte.is_ascii_hexdigit()), "{answer}");
    line.to_owned()
}

#[tokio::test]
async fn every_reply_has_an_id_of_its_own() {
    let door = TestDoor::open(None).await;
    let mut ids = std::collections::HashSet::new();
    for line in [
        "GET /healthz",
        "GET /metrics",
        "GET /nothing",
        "PUT /metrics",
        "DELETE /api/cache",
        "POST /api/cache/verify",
        "GET /api/cache/blobs?limit=x",
    ] {
        ids.insert(id_of(&door.tcp(line, "").await.1));
        ids.insert(id_of(&door.unix(line).await.1));
    }
    let stream = TcpStream::connect(door.address).await.expect("connected");
    ids.insert(id_of(&ask(stream, "GET /healthz", "Host: rebound.example\r\n").await.1));
    assert_eq!(ids.len(), 15);
    door.close().await;
}

/// Operations run as tasks and on the blocking pool. Their events are those of the request nevertheless.
#[tokio::test]
async fn the_span_of_a_request_covers_its_operation() {
    let entered = Entered::default();
    let _subscribed = tracing::subscriber::set_default(tracing_subscriber::registry().with(entered.clone()));
    let changes = Arc::default();
    let mut backend = backend(&changes);
    let in_task = entered.clone();
    backend.effective_config = Box::new(move || {
        let (in_task, on_pool) = (in_task.clone(), in_task.clone());
        async move {
            assert!(in_task.is_inside(), "the operation's task");
            super::super::blocking(move || serde_json::json!({"inside": on_pool.is_inside()})).await
        }
        .boxed()
    });
    let in_lines = entered.clone();
    backend.verify = Box::new(move |_| {
        let in_lines = in_lines.clone();
        async move { Ok(Verification { checked: u64::from(in_lines.is_inside()), ..Verification::default() }) }.boxed()
    });
    let door = TestDoor::open_with(backend, changes, None).await;
    for (line, part) in [("GET /api/config", r#"{"inside":true}"#), ("POST /api/cache/verify", r#""checked":1"#)] {
        let (status, answer) = door.unix(line).await;
        assert!(status == 200 && answer.contains(part), "{line}: {answer}");
    }
    assert!(!entered.is_inside(), "the test itself is in no span");
    door.close().await;
}

/// A layer that knows which threads are in the span of a request.
#[derive(Clone, Default)]
struct Entered(Arc<Mutex<std::collections::HashMap<std::thread::ThreadId, usize>>>);

impl Entered {
    fn is_inside(&self) -> bool {
        self.0.lock().expect("not poisoned").get(&std::thread::current().id()).is_some_and(|depth| *depth > 0)
    }
}

impl<S: tracing::Subscriber> Layer<S> for Entered {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() && metadata.target() == "entrepot_request"
    }

    fn on_enter(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        *self.0.lock().expect("not poisoned").entry(std::thread::current().id()).or_default() += 1;
    }

    fn on_exit(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        *self.0.lock().expect("not poisoned").entry(std::thread::current().id()).or_default() -= 1;
    }
}

#[tokio::test]
async fn another_host_is_misdirected() {
    let door = TestDoor::open(Some(TOKEN)).await;
    for host in ["Host: rebound.example\r\n", ""] {
        let stream = TcpStream::connect(door.address).await.expect("connected");
        let (status, answer) = ask(stream, "GET /api/config", host).await;
        assert!(status == 421 && !answer.contains("password"), "{answer}");
    }
    door.close().await;
}

#[tokio::test]
async fn verification_streams_a_line_a_blob() {
    let door = TestDoor::open(None).await;
    let (status, answer) = door.unix("POST /api/cache/verify").await;
    assert_eq!(status, 200);
    for part in [r#""state":"ok"}"#, r#""state":"corrupt"}"#, r#"{"event":"finished","checked":2,"bad":1,"bytes":3}"#] {
        assert!(answer.contains(part), "{answer}");
    }
    door.close().await;
}

/// A client that leaves must not keep the store being read, and a second verification waits for its turn.
#[tokio::test]
async fn verification_ends_with_its_client_and_runs_once() {
    let (ended, wait_for_end) = oneshot::channel::<()>();
    let ended = Mutex::new(Some(ended));
    let changes = Arc::default();
    let mut backend = backend(&changes);
    backend.verify = Box::new(move |lines| {
        let ended = ended.lock().expect("not poisoned").take();
        async move {
            let verified = || VerifiedBlob { digest: "x".repeat(4096), size: 1, state: BlobState::Ok };
            while lines.send(VerifyLine::Blob(verified())).await.is_ok() {}
            drop(ended);
            Ok(Verification::default())
        }
        .boxed()
    });
    let door = TestDoor::open_with(backend, changes, None).await;
    let mut reader = UnixStream::connect(&door.socket).await.expect("connected");
    reader.write_all(b"POST /api/cache/verify HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut more_than_a_head = [0; 4096];
    reader.read_exact(&mut more_than_a_head).await.expect("lines come while it runs");
    let (status, answer) = door.unix("POST /api/cache/verify").await;
    assert!(status == 409 && answer.contains("already running"), "{answer}");
    drop(reader);
    let _ = tokio::time::timeout(Duration::from_secs(10), wait_for_end).await.expect("it ended");
    door.close().await;
}

#[tokio::test]
async fn a_panic_in_an_operation_is_an_answer() {
    let changes = Arc::default();
    let mut backend = backend(&changes);
    backend.stats = Box::new(|| panic!("a bug"));
    let door = TestDoor::open_with(backend, changes, None).await;
    assert_eq!(door.unix("GET /api/cache/stats").await.0, 500);
    assert_eq!(door.unix("GET /healthz").await.0, 200);
    door.close().await;
}

async fn small_door(limits: Limits) -> (std::net::SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let state = Arc::new(AdminState::new(Arc::new(Metrics::new()), backend(&Arc::default())));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let entrance = TcpEntrance { listener, rights: TcpRights::default() };
        serve(entrance, &state, async { _ = stopped.await }, &limits).await;
    });
    (address, stop, task)
}

#[tokio::test]
async fn slow_and_large_heads_end() {
    let (address, _stop, _task) = small_door(Limits { header_timeout: Duration::from_millis(50), ..LIMITS }).await;
    let mut slow = TcpStream::connect(address).await.expect("connected");
    slow.write_all(b"GET /healthz HT").await.expect("sent");
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a head that does not come ends the connection");

    let mut idle = TcpStream::connect(address).await.expect("connected");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let closed = tokio::time::timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.ends_with(b"ok\n"), "a connection is not kept idle for ever");

    let large = format!("Host: localhost\r\nX-Large: {}\r\n", "x".repeat(LIMITS.head_max_bytes));
    let (status, _) = ask(TcpStream::connect(address).await.expect("connected"), "GET /healthz", &large).await;
    assert_eq!(status, 431);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let (address, _stop, _task) = small_door(Limits { connections: 1, ..LIMITS }).await;
    let holder = TcpStream::connect(address).await.expect("connected");
    let waiting = tokio::spawn(async move {
        ask(TcpStream::connect(address).await.expect("connected"), "GET /healthz", "Host: localhost\r\n").await.0
    });
    let (mut held, mut sink) = holder.into_split();
    sink.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut first = [0; 12];
    held.read_exact(&mut first).await.expect("the first is served");
    assert!(!waiting.is_finished(), "the second is not accepted while the first is open");
    drop((held, sink));
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("served").expect("asked"), 200);
}

#[tokio::test]
async fn shutdown_waits_for_nobody_idle() {
    let (address, stop, task) = small_door(LIMITS).await;
    let mut idle = TcpStream::connect(address).await.expect("connected");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("served");
    drop(stop);
    let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
    assert!(ended.is_ok_and(|ended| ended.is_ok()), "an idle connection does not hold the shutdown");
}

#[tokio::test]
async fn an_import_is_told_line_by_line() {
    let door = TestDoor::open(None).await;
    let (status, answer) = door.unix("POST /api/registry/import?directory=%2Fold%2Ftree").await;
    let lines: Vec<&str> = answer.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!((status, lines.len()), (200, 2), "{answer}");
    assert!(lines[0].starts_with(r#"{"event":"planned","#) && lines[1].starts_with(r#"{"event":"finished","#));
    let (_, answer) = door.unix("POST /api/registry/import?directory=/elsewhere").await;
    assert!(answer.contains(r#"{"event":"failed","error":"no tree"}"#), "{answer}");
    let (status, _) = door.tcp("POST /api/registry/import?directory=/old/tree", "").await;
    assert_eq!(status, 403, "a change");
    door.close().await;
}

#[tokio::test]
async fn an_import_runs_once_at_a_time() {
    let (go_on, wait_for_it) = tokio::sync::watch::channel(false);
    let changes = Arc::default();
    let mut backend = backend(&changes);
    backend.registry.import = Box::new(move |_, lines| {
        let mut wait_for_it = wait_for_it.clone();
        async move {
            lines.send(ImportLine::Planned { repositories: 1, blobs: 2, bytes: 3 }).await.expect("a client");
            wait_for_it.wait_for(|may| *may).await.expect("the test goes on");
            Ok(Imported::default())
        }
        .boxed()
    });
    let door = TestDoor::open_with(backend, changes, None).await;
    let line = "POST /api/registry/import?directory=/old/tree";
    let mut first = UnixStream::connect(&door.socket).await.expect("connected");
    first
        .write_all(format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .expect("sent");
    first.read_exact(&mut [0; 15]).await.expect("it runs");
    let (status, answer) = door.unix(line).await;
    assert!(status == 409 && answer.contains("an import is already running"), "{answer}");
    go_on.send(true).expect("it runs");
    let mut rest = String::new();
    first.read_to_string(&mut rest).await.expect("ended");
    assert!(rest.contains(r#""event":"finished""#), "{rest}");
    assert_eq!(door.unix(line).await.0, 200, "and then the next one");
    door.close().await;
}
