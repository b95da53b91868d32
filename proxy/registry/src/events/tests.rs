//! Events on their way to receivers that take, refuse, fail or hang.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::envelope::tests::{event, source};
use super::*;
use entrepot_config::{from_text, ready};
use entrepot_core::secret::Secret;
use entrepot_observe::metrics::Metrics;
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::UpstreamMemory;

/// A request to a receiver: path, headers, the tag of the event.
type Got = (String, HeaderMap, String);

/// A receiver that answers each request with the next status, and with 200 after the last. 0 means no answer at all.
async fn receiver(statuses: &[u16]) -> (SocketAddr, UnboundedReceiver<Got>) {
    let (listener, address) = listener().await;
    let statuses = Arc::new(Mutex::new(statuses.iter().copied().collect::<VecDeque<_>>()));
    let (got, gets) = unbounded_channel();
    tokio::spawn(accept(listener, statuses, got));
    (address, gets)
}

async fn accept(listener: TcpListener, statuses: Arc<Mutex<VecDeque<u16>>>, got: mpsc::UnboundedSender<Got>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (statuses, got) = (statuses.clone(), got.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (statuses, got) = (statuses.clone(), got.clone());
            async move {
                let status = statuses.lock().unwrap().pop_front().unwrap_or(200);
                let (head, body) = request.into_parts();
                let body: serde_json::Value =
                    serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                let tag = body["events"][0]["target"]["tag"].as_str().unwrap_or_default().to_owned();
                let _ = got.send((head.uri.to_string(), head.headers, tag));
                if status == 0 {
                    std::future::pending::<()>().await;
                }
                let mut answer = Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = status.try_into().unwrap();
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

fn hook(address: SocketAddr) -> Notification {
    Notification {
        url: Secret::new(format!("http://{address}/hook?key=canary-url")),
        name: format!("http://{address}"),
        headers: vec![(HeaderName::from_static("x-key"), HeaderValue::from_static("canary-header"))],
        timeout: Duration::from_secs(10),
        retry_for: Duration::from_secs(60),
        queue: 16,
    }
}

fn events(settings: ready::Upstream) -> Events {
    // Nothing can be written below a file, so these wait in memory only.
    events_below("/dev/null".into(), settings)
}

fn events_below(data_dir: PathBuf, settings: ready::Upstream) -> Events {
    let memory = UpstreamMemory::new(Arc::new(Metrics::new()), HeaderValue::from_static("1.1 entrepot-test"));
    let client = HttpClient::new(&settings, &[], &Ourselves::default());
    let upstream = Arc::new(RegistryClient::new(client, Arc::new(memory)));
    let pace = Pace { first: Duration::from_millis(1), most: Duration::from_millis(4) };
    Events::with_pace(source(), upstream, data_dir, pace)
}

async fn next_tag(gets: &mut UnboundedReceiver<Got>) -> String {
    gets.recv().await.expect("an event").2
}

#[tokio::test]
async fn events_arrive_in_order_with_the_headers_that_were_configured() {
    let (address, mut gets) = receiver(&[]).await;
    let events = events(upstream());
    events.set_receivers(&[hook(address)]);
    for tag in ["v1", "v2", "v3"] {
        events.tell(event(tag));
    }
    let (path, headers, tag) = gets.recv().await.expect("an event");
    assert_eq!(
        (path.as_str(), tag.as_str(), &headers["x-key"]),
        ("/hook?key=canary-url", "v1", &HeaderValue::from_static("canary-header"))
    );
    assert_eq!(headers["content-type"], "application/vnd.docker.distribution.events.v1+json");
    assert_eq!((next_tag(&mut gets).await, next_tag(&mut gets).await), ("v2".into(), "v3".into()));
    events.close().await;
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_and_one_that_refuses_is_not() {
    let (address, mut gets) = receiver(&[500, 404, 302, 200, 422, 200]).await;
    let events = events(upstream());
    events.set_receivers(&[hook(address)]);
    for tag in ["v1", "refused", "v3"] {
        events.tell(event(tag));
    }
    events.close().await;
    let mut order = Vec::new();
    while let Ok((_, _, tag)) = gets.try_recv() {
        order.push(tag);
    }
    assert_eq!(order, ["v1", "v1", "v1", "v1", "refused", "v3"]);
}

#[tokio::test]
async fn an_event_is_given_up_in_the_end() {
    let (dead, address) = listener().await;
    drop(dead);
    let events = events(upstream());
    events.set_receivers(&[Notification { retry_for: Duration::from_millis(20), ..hook(address) }]);
    events.tell(event("v1"));
    // This returns only because the event is given up.
    events.close().await;
}

#[tokio::test]
async fn no_push_waits_for_a_receiver_that_hangs() {
    let (address, mut gets) = receiver(&[0]).await;
    let events = events(upstream());
    events.set_receivers(&[Notification { queue: 2, ..hook(address) }]);
    events.tell(event("hangs"));
    assert_eq!(next_tag(&mut gets).await, "hangs");
    (0..5).for_each(|_| events.tell(event("waits")));
    let receivers = events.inner.receivers.read().unwrap();
    assert_eq!(receivers[0].dropped.0.load(Ordering::Relaxed), 3, "two wait, three are dropped");
}

#[tokio::test]
async fn a_receiver_that_stays_in_the_configuration_keeps_its_queue() {
    let ((first, mut first_gets), (second, mut second_gets)) = (receiver(&[503]).await, receiver(&[]).await);
    let events = events(upstream());
    events.tell(event("nobody"));
    events.set_receivers(&[hook(first)]);
    events.tell(event("v1"));
    events.set_receivers(&[hook(second), hook(first)]);
    events.tell(event("v2"));
    events.set_receivers(&[hook(second)]);
    events.tell(event("v3"));
    events.close().await;
    let all = |gets: &mut UnboundedReceiver<Got>| {
        let mut tags: Vec<String> = std::iter::from_fn(|| Some(gets.try_recv().ok()?.2)).collect();
        tags.dedup();
        tags
    };
    assert_eq!(
        (all(&mut first_gets), all(&mut second_gets)),
        (vec!["v1".to_owned(), "v2".to_owned()], vec!["v2".to_owned(), "v3".to_owned()])
    );
}

/// The process ends while its receiver is away. The next one sends what waited, once, in its order, and before what is new.
#[tokio::test]
async fn events_that_wait_survive_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = || -> usize {
        let receivers = std::fs::read_dir(folder.path().join("notifications")).into_iter().flatten().flatten();
        receivers.map(|receiver| std::fs::read_dir(receiver.path()).expect("its events").count()).sum()
    };
    let (away, address) = listener().await;
    drop(away);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let told = runtime.spawn({
        let data_dir = folder.path().to_owned();
        async move {
            let events = events_below(data_dir, upstream());
            events.set_receivers(&[hook(address)]);
            for tag in ["v1", "v2", "v3"] {
                events.tell(event(tag));
            }
            events
        }
    });
    let events = told.await.expect("no panic");
    while files() < 3 {
        tokio::task::yield_now().await;
    }
    // The kernel does it no more thoroughly.
    runtime.shutdown_background();
    drop(events);
    let (got, mut gets) = unbounded_channel();
    tokio::spawn(accept(TcpListener::bind(address).await.expect("the same port"), Arc::default(), got));
    let events = events_below(folder.path().to_owned(), upstream());
    events.set_receivers(&[hook(address)]);
    events.tell(event("v4"));
    events.close().await;
    let tags: Vec<String> = std::iter::from_fn(|| Some(gets.try_recv().ok()?.2)).collect();
    assert_eq!(tags, ["v1", "v2", "v3", "v4"]);
    assert_eq!(files(), 0, "nothing is sent again");
    // A receiver that is not configured any more gets nothing, and nothing is kept for it.
    std::fs::create_dir_all(folder.path().join("notifications/0123")).expect("a folder");
    let events = events_below(folder.path().to_owned(), upstream());
    events.set_receivers(&[hook(address)]);
    while folder.path().join("notifications/0123").exists() {
        tokio::task::yield_now().await;
    }
}

/// Loopback is not a receiver unless the administrator allows it (T5 in docs/threats.md).
#[tokio::test]
async fn loopback_hears_nothing_unless_allowed() {
    let (sentinel, address) = listener().await;
    let events = events(ready::Upstream { allow_addresses: Vec::new(), ..upstream() });
    events.set_receivers(&[Notification { retry_for: Duration::ZERO, ..hook(address) }]);
    events.tell(event("v1"));
    events.close().await;
    // The kernel is asked directly: tokio would wait for an event of its reactor first.
    let accepted = SockRef::from(&sentinel).accept();
    assert!(accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "the sentinel was touched");
}

/// A listener on a free port of 127.0.0.1.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// `[upstream]` with loopback allowed.
fn upstream() -> ready::Upstream {
    from_text("[upstream]\nallow_addresses = [\"127.0.0.0/8\"]\n").expect("configuration").live.upstream
}
