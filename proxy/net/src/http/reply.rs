//! A reply to a client. Every status of our own comes from the one error table (`entrepot_core::error`).

use bytes::Bytes;
use entrepot_core::error::{self, ErrorCode};
use entrepot_observe::labels::Refused;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::body::ReplyBody;

/// A reply to one request.
pub struct Reply {
    pub status: StatusCode,
    /// The headers, without those that every reply gets.
    pub headers: HeaderMap,
    pub body: ReplyBody,
    /// The reason why the request is refused or cannot be answered. None for every other reply.
    pub refused: Option<Refused>,
}

impl Reply {
    /// A small body of ours.
    pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
        Self { status, headers, body: ReplyBody::Full(body), refused: None }
    }

    /// An error of the table, with a message for the person at the client.
    pub fn error(code: ErrorCode, message: &str) -> Self {
        Self::error_with_status(code.status(), code, message)
    }

    /// An error of the table under another status.
    pub fn error_with_status(status: StatusCode, code: ErrorCode, message: &str) -> Self {
        let message = if message.is_empty() { code.message() } else { message };
        Self::full(status, "application/json", error::body(code, message, None))
    }

    /// The same reply without its body, for HEAD. The headers stay.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body = ReplyBody::Full(Bytes::new());
        self
    }

    /// Sets the reason why the request is refused.
    #[must_use]
    pub fn because(mut self, refused: Refused) -> Self {
        self.refused = Some(refused);
        self
    }

    /// Sets a header whose value is known to be valid.
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
