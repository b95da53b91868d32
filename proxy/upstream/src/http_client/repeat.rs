//! Which requests go once more, and after what.
//!
//! A server may close a kept connection at the very moment in which a request is sent over it. The request then has no
//! answer, although nothing is wrong. RFC 9110 section 9.2.2 lets a client repeat it if its method is idempotent, and RFC
//! 9113 section 8.7 if the server says that it did not process it. Only requests without a body are repeated: a body can
//! be sent once.

use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty};

use super::attempt::{Failed, Head};
use crate::error::{ErrorKind, Stage};
use crate::timed_body::RequestBody;

/// A request that can be made again.
pub(super) struct Repeat {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Repeat {
    /// None if the request may be sent only once.
    pub(super) fn of(request: &Request<RequestBody>) -> Option<Self> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        (is_safe && request.body().is_end_stream()).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    pub(super) fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Whether the first attempt ended in a way that says nothing about the request.
pub(super) fn is_worth_it(outcome: &Result<Head, Failed>) -> bool {
    match outcome {
        // Some servers say so when they close an idle connection (RFC 9110 section 15.5.9).
        Ok(head) => head.is_reused && head.http.status() == StatusCode::REQUEST_TIMEOUT,
        Err(failed) => {
            let is_broken =
                matches!(failed.error.stage, Stage::Send | Stage::Head) && failed.error.kind == ErrorKind::Reset;
            failed.is_unprocessed || (failed.is_reused && is_broken)
        }
    }
}
