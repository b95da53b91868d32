//! One attempt at a request: over a pooled connection or a fresh one, with a deadline for each stage, and with a look at
//! what kind of connection it was.

use std::pin::pin;
use std::time::Duration;

use http::{Extensions, Request, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::CaptureConnection;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Pool;
use crate::connector::Uses;
use crate::error::{ErrorKind, UpstreamError};
use crate::timed_body::{RequestBody, StepTimeouts, WatchedBody};

/// How one attempt is made.
pub(super) struct Attempt<'a> {
    /// The host as errors name it.
    pub(super) host: &'a str,
    pub(super) timeouts: StepTimeouts,
    /// Who is told if a reused connection does not answer for this long.
    pub(super) silence: Option<(Duration, &'a Notify)>,
}

/// The answer's head.
pub(super) struct Head {
    pub(super) http: http::Response<Incoming>,
    /// Whether the connection had carried a request before.
    pub(super) is_reused: bool,
}

/// The attempt failed.
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    /// Whether the connection had carried a request before.
    pub(super) is_reused: bool,
    /// Whether upstream said that it did nothing about the request (RFC 9113 section 8.7).
    pub(super) is_unprocessed: bool,
}

impl Head {
    pub(super) fn into_answer(self) -> http::Response<Incoming> {
        self.http
    }
}

impl From<Failed> for UpstreamError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Attempt<'_> {
    /// Sends the request. `connection` captures the connection that it goes over.
    pub(super) async fn run(
        self,
        pool: &Pool,
        request: Request<RequestBody>,
        connection: CaptureConnection,
    ) -> Result<Head, Failed> {
        let (parts, body) = request.into_parts();
        let without_body = body.is_end_stream();
        let (body, sending) = WatchedBody::new(body);
        let mut request = Request::from_parts(parts, body);
        // ALPN chooses the protocol. hyper would refuse a request that came in by h2 on an HTTP/1.1 connection.
        *request.version_mut() = Version::HTTP_11;
        let connected = async {
            let mut connection = connection.clone();
            connection.wait_for_connection_metadata().await;
            sending.begin(without_body);
        };
        let (mut answer, mut connected) = (pin!(pool.request(request)), pin!(connected));
        let (mut is_connected, mut is_reused, mut silent_at) = (false, false, None);
        let timeouts = self.timeouts;
        loop {
            let look_again = Instant::now() + timeouts.send.min(timeouts.read);
            let wake = sending.due(timeouts).map_or(look_again, |(due, _)| due);
            tokio::select! {
                biased;
                outcome = &mut answer => {
                    let is_reused = is_reused || (!is_connected && use_once(&connection));
                    return outcome.map(|http| Head { http, is_reused }).map_err(|error| {
                        let is_unprocessed = is_unprocessed(&error);
                        Failed { error: sending.failure(&error, self.host), is_reused, is_unprocessed }
                    });
                }
                () = &mut connected, if !is_connected => {
                    is_connected = true;
                    is_reused = use_once(&connection);
                    silent_at = self.silence.filter(|_| is_reused).map(|(silence, _)| Instant::now() + silence);
                }
                () = sleep_until(silent_at.unwrap_or(wake)), if silent_at.is_some() => {
                    silent_at = None;
                    if let Some((_, silent)) = self.silence {
                        silent.notify_one();
                    }
                }
                () = sleep_until(wake) => match sending.due(timeouts) {
                    Some((due, stage)) if due <= Instant::now() => {
                        let error = UpstreamError::new(stage, ErrorKind::TimedOut, self.host);
                        return Err(Failed { error, is_reused, is_unprocessed: false });
                    }
                    _ => {}
                },
            }
        }
    }
}

/// Counts a use of the connection. Returns whether it had been used before.
fn use_once(connection: &CaptureConnection) -> bool {
    let mut extras = Extensions::new();
    if let Some(connected) = connection.connection_metadata().as_ref() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Uses>().is_some_and(Uses::count)
}

/// Whether the server refused the stream, or went away without having processed it.
fn is_unprocessed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    let error = chain.find_map(|error| error.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
