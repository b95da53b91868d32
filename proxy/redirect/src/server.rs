//! Serves `/status` as JSON and `/metrics`, on the agent's unix socket and, if configured, on TCP (`redirect.listen`).
//! It is read-only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::report::Report;
use entrepot_net::admin_socket::AdminSocket;

/// Returns the present report.
pub(super) type Reporter = Arc<dyn Fn() -> Report + Send + Sync>;

const CONNECTIONS_MAX: usize = 32;
const IDLE: Duration = Duration::from_secs(10);
/// The wait after `accept` failed, usually for lack of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve_unix(socket: AdminSocket, reporter: Reporter) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => take(stream, &reporter, &places).await,
            Err(_) => sleep(EXHAUSTED_PAUSE).await,
        }
    }
}

pub(super) async fn serve_tcp(listener: TcpListener, reporter: Reporter) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(stream, &reporter, &places).await,
            Err(_) => sleep(EXHAUSTED_PAUSE).await,
        }
    }
}

async fn take<IO>(stream: IO, reporter: &Reporter, places: &Arc<Semaphore>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = places.clone().acquire_owned().await else { return };
    let reporter = reporter.clone();
    tokio::spawn(async move {
        let service = service_fn(|request| {
            let answer = answer(&request, &reporter);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
        // An error means that the client left.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        drop(place);
    });
}

fn answer(request: &Request<Incoming>, reporter: &Reporter) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => match serde_json::to_vec(&reporter()) {
            Ok(json) => (StatusCode::OK, "application/json", json),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into_bytes()),
        },
        (&Method::GET, "/metrics") => {
            let text = reporter().to_metrics().into_bytes();
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        _ => (
            StatusCode::NOT_FOUND,
            "application/json",
            br#"{"error":"only GET /status and GET /metrics exist"}"#.to_vec(),
        ),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
