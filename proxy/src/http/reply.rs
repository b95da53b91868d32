//! An answer to a client and what the log will say about it. Every status that is ours comes from the one error table
//! (`entrepot_core::error`); every answer of upstream's is rebuilt from the headers that clients need.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::error::{self, ErrorCode};
use entrepot_core::outcome::{CacheStatus, RequestType};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::fill::FillError;
use crate::fill::source::Refusal;
use crate::http::body::ReplyBody;
use crate::observe::labels::Label;
use crate::upstream::error::UpstreamError;
use crate::upstream::exchange::Answer;
use crate::upstream::operation::is_of_the_hop;

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

/// Response headers of upstream that clients need; hop-by-hop ones, cookies and a CDN's own are not among them.
const RELAYED: [&str; 22] = [
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "accept-ranges",
    "cache-control",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "last-modified",
    "link",
    "location",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "oci-tag",
    "range",
    "retry-after",
    "warning",
    "www-authenticate",
];

/// Upstream's headers that are for the client.
pub fn relayed_headers(headers: &HeaderMap) -> HeaderMap {
    let keep = |name: &HeaderName| RELAYED.contains(&name.as_str()) || name.as_str().contains("ratelimit");
    let mut relayed = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| keep(name)) {
        relayed.append(name.clone(), value.clone());
    }
    relayed
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

    /// Upstream could not be asked: whose fault, and what to do, in the client's own error format.
    pub fn unreachable(error: &UpstreamError) -> Self {
        let code = if error.is_ours() {
            ErrorCode::Denied
        } else if error.is_timeout() {
            ErrorCode::GatewayTimeout
        } else {
            ErrorCode::BadGateway
        };
        Self::error(code, &format!("entrepot: {error}")).because("upstream_unreachable")
    }

    /// Upstream's bytes were wrong.
    pub fn broken(error: &FillError) -> Self {
        Self::error(ErrorCode::BadGateway, &format!("entrepot: {error}")).because(error.reason().word())
    }

    /// Upstream's own error answer.
    pub fn refused(refusal: Refusal) -> Self {
        let mut headers = relayed_headers(&refusal.headers);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(refusal.body.len() as u64));
        Self { status: refusal.status, headers, body: ReplyBody::Full(refusal.body), note: Note::default() }
    }

    /// Upstream's answer as it comes.
    pub fn relayed(answer: Answer) -> Self {
        let headers = relayed_headers(&answer.headers);
        let note =
            Note { upstream: Some(answer.host.to_string()), upstream_time: Some(answer.elapsed), ..Note::default() };
        Self { status: answer.status, headers, body: ReplyBody::Upstream(answer.body), note }
    }

    /// An answer that has nothing to do with a registry: all of it but the hop's own headers.
    pub fn passed(answer: Answer) -> Self {
        let all = answer.headers.clone();
        let mut reply = Self::relayed(answer);
        let named = all.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<_> =
            named.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
        for name in all.keys() {
            let of_the_hop = is_of_the_hop(name) || named.iter().any(|hop| hop == name.as_str());
            if !of_the_hop && !reply.headers.contains_key(name) {
                reply.headers.extend(all.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            }
        }
        reply
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
    fn only_what_clients_need_is_relayed() {
        let mut upstream = HeaderMap::new();
        for name in ["set-cookie", "connection", "transfer-encoding", "server", "x-amz-id-2", "etag", "ratelimit-limit"]
        {
            upstream.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let mut names: Vec<_> = relayed_headers(&upstream).keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["etag", "ratelimit-limit"]);
    }

    #[test]
    fn errors_are_oci_json() {
        let reply = Reply::error(ErrorCode::Denied, "");
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        let ReplyBody::Full(body) = reply.body else { panic!("a full body") };
        assert!(String::from_utf8_lossy(&body).starts_with(r#"{"errors":[{"code":"DENIED""#));
    }
}
