//! An HTTP/1.1 client of the admin door, by its unix socket or a URL. Each request has its own connection. Answers are
//! JSON or lines of JSON.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::answers::ErrorBody;
use crate::cli::address::{Address, AdminStream};
use entrepot_core::exit;
use entrepot_core::secret::Secret;

/// A server that answers requests of the admin API.
pub(crate) struct AdminClient {
    door: Door,
}

/// The way to the server.
enum Door {
    /// The unix socket on this machine.
    Socket(PathBuf),
    /// A TCP address, and the token that changes need there.
    Url(Address, Option<Secret>),
}

/// The reason why there is no answer, or no successful one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminClientError {
    #[error("no entrepot server answers on {socket} ({source}); start one with `entrepot serve`, or see admin.socket")]
    NotRunning { socket: PathBuf, source: io::Error },
    #[error("you may not open {socket}; run this as root or as the user that runs the server")]
    Permission { socket: PathBuf },
    #[error("{url} cannot be reached: {source}; is it the admin door's address (admin.listen)?")]
    Unreachable { url: String, source: io::Error },
    #[error("the server broke off: {0}")]
    BrokenOff(String),
    #[error("{error}")]
    Refused { status: StatusCode, error: String },
    #[error("the server's answer is not understood ({0}); are it and this command of the same version?")]
    NotUnderstood(#[from] serde_json::Error),
}

/// Refusals of several things, at least one. The exit code is that of the first.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Vec<AdminClientError>);

impl Refusals {
    pub(crate) fn push(&mut self, refusal: AdminClientError) {
        self.0.push(refusal);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.0.first().map_or(0, AdminClientError::exit_code)
    }
}

impl fmt::Display for Refusals {
    /// A line for each, as if each were the only one.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, refusal) in self.0.iter().enumerate() {
            let separator = if at > 0 { "\nentrepot: " } else { "" };
            write!(formatter, "{separator}{refusal}")?;
        }
        Ok(())
    }
}

/// sysexits' EX_NOINPUT: the thing that the command names does not exist.
const NOT_FOUND: u8 = 66;
/// The longest answer that is read whole, and the longest line.
const ANSWER_MAX_BYTES: usize = 64 << 20;

impl AdminClientError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } | Self::Unreachable { .. } | Self::BrokenOff(_) => exit::UNAVAILABLE,
            Self::Permission { .. } => exit::PERMISSION,
            Self::NotUnderstood(_) => exit::BUG,
            Self::Refused { status, .. } => match *status {
                StatusCode::NOT_FOUND => NOT_FOUND,
                StatusCode::FORBIDDEN => exit::PERMISSION,
                StatusCode::BAD_REQUEST => exit::USAGE,
                StatusCode::CONFLICT => exit::UNAVAILABLE,
                _ => exit::IO,
            },
        }
    }

    /// The same error, with the thing that it is about in front.
    pub(crate) fn about(self, what: &str) -> Self {
        match self {
            Self::Refused { status, error } => Self::Refused { status, error: format!("{what}: {error}") },
            other => other,
        }
    }

    fn connecting(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { socket },
            _ => Self::NotRunning { socket, source },
        }
    }
}

impl From<hyper::Error> for AdminClientError {
    fn from(error: hyper::Error) -> Self {
        Self::BrokenOff(error.to_string())
    }
}

impl AdminClient {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { door: Door::Socket(socket.to_owned()) }
    }

    pub(crate) fn at(address: Address, token: Option<Secret>) -> Self {
        Self { door: Door::Url(address, token) }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, AdminClientError> {
        self.change(Method::GET, target).await
    }

    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
    ) -> Result<T, AdminClientError> {
        let body = whole(self.ask(method, target).await?).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// An answer that comes line by line.
    pub(crate) async fn lines(&self, method: Method, target: &str) -> Result<AnswerLines, AdminClientError> {
        let body = self.ask(method, target).await?.into_body();
        Ok(AnswerLines { body, pending: BytesMut::new() })
    }

    /// Sends a request. Any answer but a success is an error.
    async fn ask(&self, method: Method, target: &str) -> Result<Response<Incoming>, AdminClientError> {
        let mut request = Request::builder().method(method).uri(target);
        let stream: Box<dyn AdminStream> = match &self.door {
            Door::Socket(socket) => {
                let connected = UnixStream::connect(socket).await;
                request = request.header(HOST, "localhost");
                Box::new(connected.map_err(|source| AdminClientError::connecting(socket, source))?)
            }
            Door::Url(address, token) => {
                let unreachable = |source| AdminClientError::Unreachable { url: address.to_string(), source };
                request = request.header(HOST, address.host());
                if let Some(token) = token {
                    request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
                }
                address.connect().await.map_err(unreachable)?
            }
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The task ends with the answer. The answer reports the connection's errors.
        tokio::spawn(connection);
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|error| AdminClientError::BrokenOff(error.to_string()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let failure: ErrorBody = serde_json::from_slice(&whole(response).await?)?;
        Err(AdminClientError::Refused { status, error: failure.error })
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, AdminClientError> {
    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| AdminClientError::BrokenOff(error.to_string()))
}

/// An answer of JSON lines, read line by line.
pub(crate) struct AnswerLines {
    body: Incoming,
    pending: BytesMut,
}

impl AnswerLines {
    /// The next line. None at the end of the answer.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, AdminClientError> {
        loop {
            if let Some(end) = newline(&self.pending) {
                let line = self.pending.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.pending.len() > ANSWER_MAX_BYTES {
                return Err(AdminClientError::BrokenOff("a line of the answer has no end".into()));
            }
            match self.body.frame().await {
                Some(frame) => self.pending.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }
}

fn newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_whose_fault_it_is() {
        let socket = Path::new("/run/entrepot/admin.sock");
        let connecting = |kind: io::ErrorKind| AdminClientError::connecting(socket, kind.into());
        let refused = |status| AdminClientError::Refused { status, error: String::new() };
        for (error, code) in [
            (connecting(io::ErrorKind::NotFound), 69),
            (connecting(io::ErrorKind::ConnectionRefused), 69),
            (connecting(io::ErrorKind::PermissionDenied), 77),
            (AdminClientError::BrokenOff(String::new()), 69),
            (refused(StatusCode::NOT_FOUND), 66),
            (refused(StatusCode::FORBIDDEN), 77),
            (refused(StatusCode::BAD_REQUEST), 64),
            (refused(StatusCode::INTERNAL_SERVER_ERROR), 74),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
        let named = connecting(io::ErrorKind::NotFound).to_string();
        assert!(named.contains("/run/entrepot/admin.sock"), "{named}");
    }
}
