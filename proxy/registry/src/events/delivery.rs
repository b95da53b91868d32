//! Delivers the events of one receiver in order. Each is tried until the receiver takes it or refuses it for good, or
//! until it is too old.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::envelope;
use super::{Event, SharedSource, WayOut};
use entrepot_config::ready::rights::Notification;

pub(super) struct Delivery {
    pub(super) settings: Notification,
    pub(super) source: SharedSource,
    pub(super) way_out: WayOut,
    pub(super) pace: Pace,
}

/// The waits after failed tries: each is twice the one before, up to `most`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    pub(super) first: Duration,
    pub(super) most: Duration,
}

/// The outcome of one try.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Taken,
    /// The receiver will never take this event.
    Refused(StatusCode),
    /// A later try may succeed. The text is the reason of the failure.
    NotNow(String),
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Pace {
    /// The wait after this many failed tries.
    fn after(self, failed: u32) -> Duration {
        let factor = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }
}

impl Delivery {
    /// Runs until the queue is closed and every event in it is delivered or given up.
    pub(super) async fn run(self, mut waiting: mpsc::Receiver<Arc<Event>>) {
        while let Some(event) = waiting.recv().await {
            self.deliver(&event).await;
        }
    }

    async fn deliver(&self, event: &Event) {
        let id = envelope::id();
        let source = self.source.read().unwrap_or_else(PoisonError::into_inner).clone();
        let body = Bytes::from(envelope::body(event, &id, &source));
        let (receiver, give_up) = (&self.settings.name, Instant::now() + self.settings.retry_for);
        let mut failed = 0;
        loop {
            let reason = match self.post(body.clone()).await {
                Outcome::Taken if failed > 0 => {
                    return tracing::info!(receiver, "the receiver of events takes them again");
                }
                Outcome::Taken => return,
                Outcome::Refused(status) => {
                    return tracing::warn!(receiver, %status, id, "the receiver refused an event for good");
                }
                Outcome::NotNow(reason) => reason,
            };
            failed += 1;
            let wait = self.pace.after(failed);
            if Instant::now() + wait > give_up {
                return tracing::warn!(
                    receiver,
                    reason,
                    id,
                    "an event is given up: it was tried for too long (registry.notifications.retry_for)"
                );
            }
            if failed == 1 {
                tracing::warn!(receiver, reason, "the receiver of events does not take them; trying again");
            }
            sleep(wait).await;
        }
    }

    async fn post(&self, body: Bytes) -> Outcome {
        let mut request = Request::post(self.settings.url.expose());
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static(envelope::MEDIA_TYPE)).body(body);
        let Ok(request) = request else {
            return Outcome::NotNow("the request cannot be made of the configured URL and headers".to_owned());
        };
        let upstream = self.way_out.read().unwrap_or_else(PoisonError::into_inner).clone();
        match timeout(self.settings.timeout, upstream.notify(request)).await {
            Ok(Ok(status)) => judge(status),
            Ok(Err(error)) => Outcome::NotNow(error.to_string()),
            Err(_) => Outcome::NotNow("no answer in time".to_owned()),
        }
    }
}

/// An error about the event itself is final. An error about the login or the path may be repaired at the receiver.
fn judge(status: StatusCode) -> Outcome {
    match status {
        _ if status.is_success() => Outcome::Taken,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Refused(status),
        _ => Outcome::NotNow(format!("it answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let pace = Pace::default();
        let waits: Vec<u64> = (1..9).map(|failed| pace.after(failed).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pace.after(u32::MAX), pace.most);
    }

    #[test]
    fn answers_are_judged() {
        for (status, taken, for_good) in [
            (200, true, false),
            (202, true, false),
            (204, true, false),
            (301, false, false),
            (400, false, true),
            (401, false, false),
            (404, false, false),
            (413, false, true),
            (415, false, true),
            (422, false, true),
            (429, false, false),
            (500, false, false),
            (503, false, false),
        ] {
            let outcome = judge(StatusCode::from_u16(status).unwrap());
            assert_eq!(
                (outcome == Outcome::Taken, matches!(outcome, Outcome::Refused(_))),
                (taken, for_good),
                "{status}"
            );
        }
    }
}
