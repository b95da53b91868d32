//! The answers of the fake upstream, and their faults.

use bytes::Bytes;

use super::Gate;

/// An answer. By default it is honest and honours Range.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    pub(super) length: Length,
    pub(super) ignores_range: bool,
    /// Breaks the connection instead of answering.
    pub(super) hangs_up: bool,
    pub(super) before_head: Option<Gate>,
    /// Stops before this byte of the content until the gate opens.
    pub(super) before_byte: Option<(u64, Gate)>,
    /// Breaks the connection after this many bytes of the answer's body.
    pub(super) reset_after: Option<u64>,
}

/// The way in which the end of the body is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exact,
    Chunked,
    /// The end of the connection.
    Close,
    /// A Content-Length that differs from the body's length.
    Says(u64),
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            length: Length::Exact,
            ignores_range: false,
            hangs_up: false,
            before_head: None,
            before_byte: None,
            reset_after: None,
        }
    }

    /// No answer: the connection is closed.
    pub(crate) fn hang_up() -> Self {
        Self { hangs_up: true, ..Self::status(200) }
    }

    /// 200 with a blob's bytes.
    pub(crate) fn content(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::status(200) }.header("content-type", "application/octet-stream")
    }

    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::status(status) }.header("content-type", "application/json")
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    /// Sets a header. It replaces one of that name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn chunked(self) -> Self {
        Self { length: Length::Chunked, ..self }
    }

    pub(crate) fn until_close(self) -> Self {
        Self { length: Length::Close, ..self }
    }

    pub(crate) fn saying_length(self, length: u64) -> Self {
        Self { length: Length::Says(length), ..self }
    }

    pub(crate) fn ignoring_range(self) -> Self {
        Self { ignores_range: true, ..self }
    }

    pub(crate) fn reset_after(self, bytes: u64) -> Self {
        Self { reset_after: Some(bytes), ..self }
    }

    pub(crate) fn gated_at(self, byte: u64, gate: &Gate) -> Self {
        Self { before_byte: Some((byte, gate.clone())), ..self }
    }

    pub(crate) fn head_gated(self, gate: &Gate) -> Self {
        Self { before_head: Some(gate.clone()), ..self }
    }
}
