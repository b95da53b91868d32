//! The admin API's replies: JSON on one line, text, a stream of lines, and one form for every error.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::Instrument;

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

/// Replies with the lines that the task `run` sends. The task goes on if the client leaves.
pub(super) fn lines<Line, Running>(run: impl FnOnce(mpsc::Sender<Line>) -> Running) -> Response
where
    Line: Serialize + Send + 'static,
    Running: Future<Output = ()> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel::<Line>(QUEUED_LINES);
    tokio::spawn(run(sender).in_current_span());
    let lines = stream::poll_fn(move |context| receiver.poll_recv(context));
    let body = Body::from_stream(lines.map(|line| Ok::<_, Infallible>(json_line(&line))));
    ([(CONTENT_TYPE, JSON_LINES)], body).into_response()
}

/// Our own types always serialise. If one did not, the line would be `null`.
fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    line.push(b'\n');
    line.into()
}
