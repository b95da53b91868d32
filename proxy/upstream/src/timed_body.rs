//! Bodies with deadlines: a response body that fails when upstream stalls, a request body that reports its progress.
//!
//! A deadline counts from the last progress, so a body of any size may take any time while bytes keep coming. The clock
//! stands still while our own reader pauses.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{ClientFault, ErrorKind, Stage, UpstreamError};

/// The error of a request's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a response. It fails as stalled if it is polled and no bytes arrive in time.
pub struct TimedBody {
    source: Source,
    host: Box<str>,
    read_timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

enum Source {
    /// On its way.
    Incoming(Incoming),
    /// The text of an answer that was read before. Empty once it is taken.
    Kept(Bytes),
}

impl TimedBody {
    pub(super) fn new(incoming: Incoming, host: Box<str>, read_timeout: Duration) -> Self {
        let deadline = Box::pin(sleep_until(Instant::now() + read_timeout));
        Self { source: Source::Incoming(incoming), host, read_timeout, deadline, waiting: false }
    }

    /// The body of an answer that was read before. It never waits.
    pub(super) fn kept(text: Bytes) -> Self {
        let deadline = Box::pin(sleep_until(Instant::now()));
        let (host, read_timeout) = (Box::default(), Duration::ZERO);
        Self { source: Source::Kept(text), host, read_timeout, deadline, waiting: false }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let incoming = match &mut this.source {
            Source::Incoming(incoming) => incoming,
            Source::Kept(text) => {
                let text = std::mem::take(text);
                return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
            }
        };
        if let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| UpstreamError::dig(&error, Stage::Body, &this.host))),
            );
        }
        // The clock runs only while the reader waits.
        if !this.waiting {
            this.waiting = true;
            this.deadline.as_mut().reset(Instant::now() + this.read_timeout);
        }
        ready!(this.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(UpstreamError::new(Stage::Body, ErrorKind::Stalled, &this.host))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Incoming(incoming) => incoming.is_end_stream(),
            Source::Kept(text) => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Incoming(incoming) => incoming.size_hint(),
            Source::Kept(text) => SizeHint::with_exact(text.len() as u64),
        }
    }
}

/// A request's body that records its progress in a [`Sending`].
pub(super) struct WatchedBody {
    body: RequestBody,
    sending: Arc<Sending>,
}

/// The progress of a request. It decides which deadline applies.
pub(super) struct Sending(Mutex<Step>);

#[derive(Clone)]
enum Step {
    /// There is no connection yet, since this time.
    Connecting(Instant),
    /// Upstream took a part of the request at this time.
    Taken(Instant),
    /// Our source has no more bytes at the moment. Upstream is not to blame.
    SourceWaits,
    /// Our source failed for this reason. hyper reports the reason only for HTTP/1.1, so it is kept here.
    SourceFailed(ClientFault),
    /// Upstream took the end of the request at this time.
    Sent(Instant),
}

/// The longest time without progress, for each kind of step.
#[derive(Clone, Copy)]
pub(super) struct StepTimeouts {
    pub(super) connect: Duration,
    pub(super) send: Duration,
    pub(super) read: Duration,
}

/// The fault behind an error of a request's source.
fn fault_of(error: &BoxError) -> ClientFault {
    let fault = error.downcast_ref::<ClientFault>().cloned();
    fault.unwrap_or_else(|| ClientFault::BrokeOff(error.to_string()))
}

impl WatchedBody {
    pub(super) fn new(body: RequestBody) -> (Self, Arc<Sending>) {
        let sending = Arc::new(Sending(Mutex::new(Step::Connecting(Instant::now()))));
        (Self { body, sending: Arc::clone(&sending) }, sending)
    }
}

impl Sending {
    /// Records that there is a connection, and that the request is being written to it.
    pub(super) fn begin(&self, without_body: bool) {
        let now = Instant::now();
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*step, Step::Connecting(_)) {
            *step = if without_body { Step::Sent(now) } else { Step::Taken(now) };
        }
    }

    /// When the current step is overdue, and the stage it is. None while upstream is not to blame.
    pub(super) fn due(&self, timeouts: StepTimeouts) -> Option<(Instant, Stage)> {
        match self.step() {
            Step::Connecting(since) => Some((since + timeouts.connect, Stage::Connect)),
            Step::Taken(at) => Some((at + timeouts.send, Stage::Send)),
            Step::SourceWaits | Step::SourceFailed(_) => None,
            Step::Sent(at) => Some((at + timeouts.read, Stage::Head)),
        }
    }

    /// Translates hyper's `error` for a request with this progress.
    pub(super) fn failure(&self, error: &(dyn std::error::Error + 'static), host: &str) -> UpstreamError {
        match self.step() {
            Step::Connecting(_) => UpstreamError::dig(error, Stage::Connect, host),
            Step::Taken(_) | Step::SourceWaits => UpstreamError::dig(error, Stage::Send, host),
            Step::SourceFailed(fault) => UpstreamError::new(Stage::Send, ErrorKind::RequestBody(fault), host),
            Step::Sent(_) => UpstreamError::dig(error, Stage::Head, host),
        }
    }

    fn step(&self) -> Step {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let step = match &polled {
            Poll::Pending => Step::SourceWaits,
            Poll::Ready(Some(Err(error))) => Step::SourceFailed(fault_of(error)),
            // A body of known length is not polled again after its last frame.
            Poll::Ready(Some(_)) if !self.body.is_end_stream() => Step::Taken(Instant::now()),
            Poll::Ready(_) => Step::Sent(Instant::now()),
        };
        self.sending.set(step);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
