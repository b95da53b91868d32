//! Delivers the events of one receiver in order. Each is tried until the receiver takes it or refuses it for good, or
//! until it is too old. Until then it is kept (`spool`).
//!
//! ```text
//! tell ─► told (in memory, for a moment) ─► keep: a file ─► waiting ─► deliver: tries, then the file goes
//! ```

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::envelope;
use super::spool::{Kept, Spool};
use super::{Dropped, Event, SharedSource, WayOut};
use entrepot_config::ready::rights::Notification;

pub(super) struct Delivery {
    pub(super) settings: Notification,
    pub(super) source: SharedSource,
    pub(super) way_out: WayOut,
    pub(super) pace: Pace,
    pub(super) spool: Spool,
    /// Whether events of an earlier process are sent first.
    pub(super) is_first: bool,
    pub(super) dropped: Arc<Dropped>,
}

/// An event that waits, with its place among those.
type Waiting = (Kept, Option<OwnedSemaphorePermit>);

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
    pub(super) async fn run(self, told: mpsc::Receiver<Arc<Event>>) {
        let (waiting, mut next) = mpsc::unbounded_channel();
        let deliver = async {
            while let Some((kept, place)) = next.recv().await {
                drop::<Option<OwnedSemaphorePermit>>(place);
                self.deliver(&kept).await;
                // A file that cannot be removed is an event that comes twice.
                let _ = spawn_blocking(move || kept.drop_file()).await;
            }
        };
        tokio::join!(self.keep(told, waiting), deliver);
    }

    /// Keeps events as they are told. As many wait as the queue has places; those of an earlier process have none.
    async fn keep(&self, mut told: mpsc::Receiver<Arc<Event>>, waiting: mpsc::UnboundedSender<Waiting>) {
        let places = Arc::new(Semaphore::new(self.settings.queue));
        if self.is_first {
            let spool = self.spool.clone();
            for kept in spawn_blocking(move || spool.left()).await.unwrap_or_default() {
                // The other half ends after this one.
                let _ = waiting.send((kept, None));
            }
        }
        while let Some(event) = told.recv().await {
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.dropped.note(&self.settings);
                continue;
            };
            let id = envelope::id();
            let source = self.source.read().unwrap_or_else(PoisonError::into_inner).clone();
            let body = Bytes::from(envelope::body(&event, &id, &source));
            let (spool, named, copy) = (self.spool.clone(), id.clone(), body.clone());
            let kept = spawn_blocking(move || spool.keep(named, copy)).await;
            let kept = kept.unwrap_or(Kept { id, body, file: None });
            let _ = waiting.send((kept, Some(place)));
        }
    }

    async fn deliver(&self, kept: &Kept) {
        let (id, body) = (&kept.id, &kept.body);
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
