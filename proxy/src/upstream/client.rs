//! Requests to other hosts: pooled, HTTP/1.1 and h2, each stage with a deadline that counts from the last progress.
//!
//! There is one pool for each purpose, so a connection that was dialled under lax address rules is never found under
//! strict ones. Nothing is followed, retried or added here but the Host header; `operations` and `redirects` do that.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep_until};

use super::address::Purpose;
use super::body::{RequestBody, Sending, StepTimeouts, TimedBody, WatchedBody};
use super::connector::{Connector, Peer, Reach, origin};
use super::error::{ErrorKind, UpstreamError};
use super::own::Ourselves;
use crate::config::ready::{RegistryPolicy, Upstream};

/// The pools. A reload makes a new client; requests that run keep the old one alive. A connection lives on the
/// runtime that opened it, so each worker has a client of its own, or all share one runtime.
pub struct UpstreamClient {
    reach: Arc<Reach>,
    pools: [Client<Connector, WatchedBody>; Purpose::ALL.len()],
    timeouts: StepTimeouts,
}

/// An answer and where it came from.
pub struct Response {
    /// The answer as upstream gave it.
    pub http: http::Response<TimedBody>,
    /// Whether upstream is on the Internet; not known behind a parent proxy.
    pub peer_public: Option<bool>,
}

const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const POOL_IDLE_MAX: usize = 16;
/// A dead h2 connection would hold every request to its origin, so it is pinged. hyper has this off by default.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// For one blob at 1 Gbit/s over 16 ms.
const H2_STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Sixteen streams whose readers pause may fill theirs before the others on the connection feel it.
const H2_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

impl UpstreamClient {
    /// From the configuration. Reads the system's roots from disk: call it off the event loop.
    pub fn new(upstream: &Upstream, registries: &[RegistryPolicy], ourselves: &Ourselves) -> Self {
        let reach = Arc::new(Reach::new(upstream, registries, ourselves));
        let pools = Purpose::ALL.map(|purpose| pool(Connector { reach: Arc::clone(&reach), purpose }));
        let timeouts = StepTimeouts {
            connect: upstream.connect_timeout,
            send: upstream.send_timeout,
            read: upstream.read_timeout,
        };
        Self { reach, pools, timeouts }
    }

    /// For tunnels: connections without a pool.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Sends `request`, whose URI is absolute, and waits for the head of the answer.
    pub async fn send(&self, request: Request<RequestBody>, purpose: Purpose) -> Result<Response, UpstreamError> {
        let (target, _) = origin(request.uri())?;
        let host = target.to_string();
        let (parts, body) = request.into_parts();
        let without_body = body.is_end_stream();
        let (body, sending) = WatchedBody::new(body);
        let mut request = Request::from_parts(parts, body);
        // The connection's protocol is ALPN's choice; a request that came in by h2 must not insist on it.
        *request.version_mut() = Version::HTTP_11;
        let mut connection = capture_connection(&mut request);
        let connected = async {
            connection.wait_for_connection_metadata().await;
            sending.begin(without_body);
        };
        let answer = self.pools[purpose as usize].request(request);
        let answer = self.await_head(answer, connected, &sending, &host).await?;
        let peer_public = answer.extensions().get::<Peer>().and_then(|peer| peer.is_public());
        let http = answer.map(|body| TimedBody::new(body, host.into(), self.timeouts.read));
        Ok(Response { http, peer_public })
    }

    async fn await_head(
        &self,
        answer: ResponseFuture,
        connected: impl Future<Output = ()>,
        sending: &Sending,
        host: &str,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        let (mut answer, mut connected) = (pin!(answer), pin!(connected));
        let mut is_connected = false;
        loop {
            let look_again = Instant::now() + self.timeouts.send.min(self.timeouts.read);
            let wake = sending.due(self.timeouts).map_or(look_again, |(due, _)| due);
            tokio::select! {
                biased;
                outcome = &mut answer => {
                    return outcome.map_err(|error| UpstreamError::dig(&error, sending.stage(), host));
                }
                () = &mut connected, if !is_connected => is_connected = true,
                () = sleep_until(wake) => match sending.due(self.timeouts) {
                    Some((due, stage)) if due <= Instant::now() => {
                        return Err(UpstreamError::new(stage, ErrorKind::TimedOut, host));
                    }
                    _ => {}
                },
            }
        }
    }
}

fn pool(connector: Connector) -> Client<Connector, WatchedBody> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_IDLE_MAX)
        .http2_keep_alive_interval(H2_PING_INTERVAL)
        .http2_keep_alive_timeout(H2_PING_INTERVAL)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .build(connector)
}
