//! The admin API's replies: JSON on one line, text, a stream of lines, and one form for every error.

use std::convert::Infallible;
use std::ops::ControlFlow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::mpsc;

use super::OperationError;
use super::answers::ErrorBody;
use super::gate::GateError;
use super::parameters::ParameterError;

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";

/// The most lines that wait for a slow reader. When the queue is full, the operation waits as well.
const QUEUED_LINES: usize = 64;

/// The result of a handler.
pub(super) type ApiResult<T> = Result<T, ApiError>;

/// A JSON value and a newline.
pub(super) struct Json<T>(pub(super) T);

/// A status and a sentence about the error.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
}

/// The channel from a blocking operation to the client.
pub(super) struct LineSender(mpsc::Sender<Bytes>);

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn not_found(text: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Refused(reason) => Self::new(StatusCode::CONFLICT, reason),
            OperationError::Failed(reason) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason),
        }
    }
}

impl From<GateError> for ApiError {
    fn from(error: GateError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<ParameterError> for ApiError {
    fn from(error: ParameterError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.text })).into_response()
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, JSON)], json_line(&self.0)).into_response()
    }
}

impl LineSender {
    /// Replies with the lines that `run` sends. `run` is called on the blocking pool.
    pub(super) fn reply(run: impl FnOnce(&Self) + Send + 'static) -> Response {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUED_LINES);
        tokio::task::spawn_blocking(move || run(&Self(sender)));
        let lines = stream::poll_fn(move |context| receiver.poll_recv(context)).map(Ok::<_, Infallible>);
        ([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(lines)).into_response()
    }

    /// Sends one line. `Break` means that the client has left. Waits for a slow client: that holds this thread of the
    /// blocking pool, also in the midst of an operation that is driven on it, and no other.
    pub(super) fn tell<T: Serialize>(&self, line: &T) -> ControlFlow<()> {
        match tokio::task::block_in_place(|| self.0.blocking_send(json_line(line))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Sends the last line. It is no failure if the client has left.
    pub(super) fn finish<T: Serialize>(&self, line: &T) {
        let _ = self.tell(line);
    }
}

/// Our own types always serialise. If one did not, the line would be `null`.
fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    line.push(b'\n');
    line.into()
}
