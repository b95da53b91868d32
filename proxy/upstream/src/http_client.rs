//! Sends single requests to other hosts, over pooled connections, by HTTP/1.1 and h2. Each stage has a deadline that
//! counts from the last progress.
//!
//! There is one pool for each purpose, so a connection that was dialled under lax address rules is never reused under
//! strict ones. This module adds only a missing Host header.
//! `registry_client` follows redirects, authenticates and decides about second attempts.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::origin::{Origin, Scheme};
use futures_util::future::{Either, select};
use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioTimer;
use nix::sys::resource::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::address_policy::Purpose;
use super::connector::{Connector, Peer, Reach, origin};
use super::error::{ErrorKind, Stage, UpstreamError};
use super::own::Ourselves;
use super::timed_body::{RequestBody, StepTimeouts, TimedBody, WatchedBody};
use attempt::{Attempt, Failed, Head};
use entrepot_config::ready::{RegistryPolicy, Upstream};
use repeat::Repeat;

mod attempt;
mod repeat;

/// The pools of connections. A reload makes a new client; running requests keep the old one alive. The runtime on which
/// the client was made opens and drives all connections, whichever serving thread uses them.
pub struct HttpClient {
    reach: Arc<Reach>,
    pools: [Pool; Purpose::ALL.len()],
    /// The same without keeping anything: each request gets a connection of its own.
    fresh: [Pool; Purpose::ALL.len()],
    timeouts: StepTimeouts,
    check_timeouts: StepTimeouts,
}

pub(crate) type Pool = Client<Connector, WatchedBody>;

/// How long a request may take.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Patience {
    /// As long as the configuration allows: there is nothing else to answer with.
    #[default]
    Full,
    /// It checks something that is stored. If upstream does not answer soon, that is served instead.
    Check,
}

/// How a request is sent.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Manner {
    pub(crate) patience: Patience,
    /// Whether the request may be sent a second time while the first is not answered: upstream counts it as nothing.
    pub(crate) may_race: bool,
}

/// A response, and what is known about the host that sent it.
pub(crate) struct Response {
    pub(crate) http: http::Response<TimedBody>,
    /// Whether the host is on the Internet. None behind a parent proxy, which hides the address.
    pub(crate) peer_public: Option<bool>,
}

/// Shorter than what servers and load balancers keep an idle connection for: nginx 75 s, others 60 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// A reused connection that is silent for this long may be one that a firewall has dropped. A fresh one races it.
const REUSED_SILENCE: Duration = Duration::from_secs(3);
/// The most idle connections to one origin. Less while the process may have few open files.
const POOL_IDLE_MAX: usize = 16;
/// An origin's idle connections may have this part of the open files.
const POOL_IDLE_PART: u64 = 64;
/// Pings find a dead h2 connection, which would block all requests to its origin. hyper's default is no pings.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// Enough for one blob at 1 Gbit/s over a round trip of 16 ms.
const H2_STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Sixteen streams may fill their window, because their readers pause, before they slow down the others.
const H2_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

impl HttpClient {
    /// Makes the pools of a configuration, on the current runtime. It reads the system's root certificates from disk, so
    /// do not call it on the event loop.
    pub fn new(upstream: &Upstream, registries: &[RegistryPolicy], ourselves: &Ourselves) -> Self {
        let reach = Arc::new(Reach::new(upstream, registries, ourselves));
        let runtime = Handle::current();
        let pools_of = |idle_max| {
            Purpose::ALL.map(|purpose| {
                let connector = Connector { reach: Arc::clone(&reach), purpose, runtime: runtime.clone() };
                pool(connector, Background(runtime.clone()), idle_max)
            })
        };
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let (pools, fresh) = (pools_of(pool_idle_max(limit)), pools_of(0));
        let timeouts = StepTimeouts {
            // The connector has its own, shorter deadline and knows its stage. This one is a safety net.
            connect: 2 * upstream.connect_timeout,
            send: upstream.send_timeout,
            read: upstream.read_timeout,
        };
        let check_timeouts = StepTimeouts {
            connect: upstream.check_connect_timeout.min(upstream.connect_timeout),
            send: upstream.check_timeout.min(upstream.send_timeout),
            read: upstream.check_timeout.min(upstream.read_timeout),
        };
        Self { reach, pools, fresh, timeouts, check_timeouts }
    }

    /// The way to connections without a pool, for tunnels.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// How long the answer to a check may take.
    pub(crate) fn check_timeout(&self) -> Duration {
        self.check_timeouts.read
    }

    /// Sends `request` and waits for the head of the response. The request's URI must be absolute. A request that may be
    /// repeated goes once more, on a fresh connection, if the kept one breaks under it.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
        purpose: Purpose,
        manner: Manner,
    ) -> Result<Response, UpstreamError> {
        let (host, tls) = origin(request.uri())?;
        let origin = Origin { scheme: if tls { Scheme::Https } else { Scheme::Http }, host };
        let (states, is_check) = (self.reach.states(), manner.patience == Patience::Check);
        if is_check && !states.admits_check(&origin, Instant::now()) {
            return Err(UpstreamError::new(Stage::Connect, ErrorKind::Remembered, &origin.host));
        }
        let sent = self.send_repeatedly(request, purpose, manner, &origin.host.to_string()).await;
        match &sent {
            Ok(_) => states.answered(&origin),
            Err(error) if is_check && error.kind == ErrorKind::TimedOut => match error.stage {
                Stage::Dns | Stage::Connect | Stage::Tls => self.reach.unreached(&origin, purpose),
                Stage::Send | Stage::Head | Stage::Body => states.silent(&origin, Instant::now()),
            },
            Err(_) => {}
        }
        let answer = sent?;
        let peer_public = answer.extensions().get::<Peer>().and_then(|peer| peer.is_public());
        let host = origin.host.to_string();
        let http = answer.map(|body| TimedBody::new(body, host.into(), self.timeouts.read));
        Ok(Response { http, peer_public })
    }

    async fn send_repeatedly(
        &self,
        mut request: Request<RequestBody>,
        purpose: Purpose,
        manner: Manner,
        host: &str,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        let timeouts = match manner.patience {
            Patience::Full => self.timeouts,
            Patience::Check => self.check_timeouts,
        };
        let (kept, fresh) = (&self.pools[purpose as usize], &self.fresh[purpose as usize]);
        let Some(repeat) = Repeat::of(&request) else {
            let connection = capture_connection(&mut request);
            return Attempt { host, timeouts, silence: None }
                .run(kept, request, connection)
                .await
                .map(Head::into_answer)
                .map_err(Failed::into);
        };
        // A check opens its fresh connection in time to have it stand within its patience.
        let silence = REUSED_SILENCE.min(timeouts.connect / 2);
        let silent = Notify::new();
        let connection = capture_connection(&mut request);
        let told = manner.may_race.then_some((silence, &silent));
        let first = Attempt { host, timeouts, silence: told }.run(kept, request, connection.clone());
        let mut first = pin!(first);
        let outcome = tokio::select! {
            biased;
            outcome = &mut first => Some(outcome),
            () = silent.notified() => None,
        };
        let again = async |timeouts| {
            let mut request = repeat.request();
            let connection = capture_connection(&mut request);
            Attempt { host, timeouts, silence: None }
                .run(fresh, request, connection)
                .await
                .map(Head::into_answer)
                .map_err(UpstreamError::from)
        };
        match outcome {
            Some(outcome) if repeat::is_worth_it(&outcome) => again(timeouts).await,
            Some(outcome) => outcome.map(Head::into_answer).map_err(Failed::into),
            None => {
                let connect = match manner.patience {
                    Patience::Full => timeouts.connect,
                    Patience::Check => timeouts.connect - silence,
                };
                let second = pin!(again(StepTimeouts { connect, ..timeouts }));
                match select(first, second).await {
                    Either::Left((Ok(head), _)) => Ok(head.into_answer()),
                    Either::Left((Err(_), second)) => second.await,
                    Either::Right((Ok(answer), _)) => {
                        // No other request is to wait for it.
                        if let Some(connected) = connection.connection_metadata().as_ref() {
                            connected.poison();
                        }
                        Ok(answer)
                    }
                    // Neither the kept connection says anything, nor is there another.
                    Either::Right((Err(error), _)) if manner.patience == Patience::Check => Err(error),
                    Either::Right((Err(_), first)) => first.await.map(Head::into_answer).map_err(Failed::into),
                }
            }
        }
    }
}

/// Spawns the tasks of connections on one runtime.
#[derive(Clone)]
struct Background(Handle);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Background {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The idle connections to keep for one origin with this limit of open files.
fn pool_idle_max(limit: u64) -> usize {
    usize::try_from(limit / POOL_IDLE_PART).unwrap_or(POOL_IDLE_MAX).clamp(1, POOL_IDLE_MAX)
}

fn pool(connector: Connector, background: Background, idle_max: usize) -> Pool {
    Client::builder(background)
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .http2_keep_alive_interval(H2_PING_INTERVAL)
        .http2_keep_alive_timeout(H2_PING_INTERVAL)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .build(connector)
}

#[cfg(test)]
mod dying;
#[cfg(test)]
mod tests;
