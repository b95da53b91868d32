//! The end of an answer: when its body is done, or given up, its line goes to the access log and to the counters.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::outcome::CacheStatus;
use http::Method;
use http_body::{Body, Frame, SizeHint};

use crate::http::body::{BodyError, ReplyBody};
use crate::http::dispatch::Site;
use crate::http::reply::Note;
use crate::observe::access_record::AccessRecord;
use crate::serving::load::InFlight;

/// A body that reports how it ended.
pub struct LoggedBody {
    body: ReplyBody,
    entry: Entry,
    in_flight: InFlight,
}

/// What will be logged.
pub struct Entry {
    /// Where to.
    pub site: Arc<Site>,
    /// When the request came.
    pub started: (SystemTime, Instant),
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: String,
    /// The status it was answered.
    pub status: u16,
    /// The registry it was for.
    pub host: String,
    /// Who asked.
    pub client: IpAddr,
    /// What the answer says about itself.
    pub note: Note,
    /// Body bytes that went out.
    pub bytes_sent: u64,
}

impl LoggedBody {
    /// `body`, of so many bytes where that is known, logged as `entry` when it ends.
    pub fn new(body: ReplyBody, size_bytes: Option<u64>, entry: Entry) -> Self {
        Self { body, entry, in_flight: InFlight::begin(size_bytes.unwrap_or(0)) }
    }
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.entry.bytes_sent += bytes;
                self.in_flight.sent(bytes);
            }
            Poll::Ready(Some(Err(error))) => {
                let path = self.entry.uri.split('?').next().unwrap_or_default();
                tracing::warn!(host = %self.entry.host, path, "the answer was cut off: {error}");
                self.entry.note.reason = Some("cut_off");
            }
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let note = &mut self.note;
        if note.unlogged {
            return;
        }
        let metrics = &self.site.pull.metrics;
        metrics.request(note.request_type, note.cache_status, self.status);
        metrics.bytes_to_clients.inc_by(self.bytes_sent);
        let upstream = note.upstream.take().unwrap_or_default();
        // As nginx has it: the registry that was or would have been asked, on a hit as well.
        let answered = !upstream.is_empty() || note.cache_status != CacheStatus::None;
        self.site.access_log.write(&AccessRecord {
            access_time: self.started.0,
            cache_status: note.cache_status,
            method: self.method.to_string(),
            uri: std::mem::take(&mut self.uri),
            request_type: note.request_type,
            status: self.status,
            bytes_sent: self.bytes_sent,
            upstream_response_time: note.upstream_time,
            host: self.host.clone(),
            proxy_host: if answered { std::mem::take(&mut self.host) } else { String::new() },
            upstream,
            client: self.client,
            digest: note.digest,
            duration: self.started.1.elapsed(),
            reason: note.reason,
        });
    }
}
