//! A reply to a client and what the log will say about it. Every status that is ours comes from the one error table
//! (`entrepot_core::error`).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::error::{self, ErrorCode};
use entrepot_core::outcome::{CacheStatus, RequestType};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::body::ReplyBody;

/// An answer and its note for the log.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers, without those that every answer gets.
    pub headers: HeaderMap,
    /// Body.
    pub body: ReplyBody,
    /// For the log, the metrics and the cache headers.
    pub note: Note,
}

/// What an answer's line in the log says beside its status.
#[derive(Clone)]
pub struct Note {
    /// The cache's part.
    pub cache_status: CacheStatus,
    /// What was asked.
    pub request_type: RequestType,
    /// Content, where named by digest.
    pub digest: Option<Digest>,
    /// The host that upstream's part came from.
    pub upstream: Option<String>,
    /// Until upstream's head was there.
    pub upstream_time: Option<Duration>,
    /// Why it was refused or bypassed.
    pub reason: Option<&'static str>,
    /// Since when the content is stored here, where it is.
    pub stored_at: Option<SystemTime>,
    /// Not worth a line: a CONNECT that succeeded, whose requests are logged themselves, or a local page.
    pub unlogged: bool,
}

impl Default for Note {
    fn default() -> Self {
        Self {
            cache_status: CacheStatus::None,
            request_type: RequestType::Unknown,
            digest: None,
            upstream: None,
            upstream_time: None,
            reason: None,
            stored_at: None,
            unlogged: false,
        }
    }
}

impl Reply {
    /// A small body of ours.
    pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
        Self { status, headers, body: ReplyBody::Full(body), note: Note::default() }
    }

    /// An error of the table, with what the person at the client should know.
    pub fn error(code: ErrorCode, message: &str) -> Self {
        Self::error_with_status(code.status(), code, message)
    }

    /// An error of the table under another status.
    pub fn error_with_status(status: StatusCode, code: ErrorCode, message: &str) -> Self {
        let message = if message.is_empty() { code.message() } else { message };
        Self::full(status, "application/json", error::body(code, message, None))
    }

    /// The same answer without its body, as HEAD wants it; the headers stay.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body = ReplyBody::Full(Bytes::new());
        self
    }

    /// Notes what was asked and the cache's part in it.
    #[must_use]
    pub fn noted(mut self, request_type: RequestType, cache_status: CacheStatus) -> Self {
        self.note.request_type = request_type;
        self.note.cache_status = cache_status;
        self
    }

    /// Notes why.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.note.reason = Some(reason);
        self
    }

    /// Notes the content.
    #[must_use]
    pub fn of(mut self, digest: Digest) -> Self {
        self.note.digest = Some(digest);
        self
    }

    /// Sets a header whose value is known to be one.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_oci_json() {
        let reply = Reply::error(ErrorCode::Denied, "");
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        let ReplyBody::Full(body) = reply.body else { panic!("a full body") };
        assert!(String::from_utf8_lossy(&body).starts_with(r#"{"errors":[{"code":"DENIED""#));
    }
}
