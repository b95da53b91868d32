//! Strict framing of the requests on one client connection (T8): where each head and each body begins and ends.
//!
//! Requests are smuggled where two programs read one stream differently. So this module rejects everything that RFC 9112
//! merely lets a server tolerate, before the HTTP library sees it, and never repairs anything. It takes the stream in
//! slices of any size. It counts the bytes of bodies without copying them, and holds back only an incomplete head.

mod chunked;
mod head;

use std::ops::Range;

use memchr::memchr;

use self::chunked::Chunked;
use self::head::Body;

/// The most bytes of one request head.
pub const HEAD_MAX_BYTES: usize = 64 << 10;
/// The most fields of one request head.
pub const HEAD_MAX_FIELDS: usize = 100;

/// The reason why no more is read from a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// 400, 431 or 505.
    pub status: u16,
    /// The fault, for the answer and the log.
    pub reason: &'static str,
    /// Whether the path is a registry's, so that the answer's body is an OCI error.
    pub oci: bool,
    /// Whether the fault is in a body. The request's head was handed on already.
    pub in_body: bool,
}

/// The result of a push. The caller hands on `held`, then the `range` of the slice. The bytes behind the range are held
/// back until a later push, or rejected.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// A head that earlier slices began and this one completed. `range` begins behind it.
    pub held: Option<Vec<u8>>,
    /// The part of the slice that may be handed on.
    pub range: Range<usize>,
    /// Set if nothing more may be read from this connection.
    pub rejection: Option<Rejection>,
}

/// The framing of one connection, from its first byte.
#[derive(Default)]
pub struct RequestFraming {
    state: State,
    held: Vec<u8>,
    lines: Lines,
    /// Whether the current request's path is a registry's.
    oci: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    Chunked(Chunked),
    Tunnel,
    Rejected,
}

impl RequestFraming {
    /// Checks the next bytes of the connection.
    pub fn push(&mut self, bytes: &[u8]) -> Pushed {
        let mut pushed = Pushed::default();
        loop {
            let rest = &bytes[pushed.range.end..];
            if rest.is_empty() {
                return pushed;
            }
            let step = match &mut self.state {
                State::Head => self.head(rest, &mut pushed),
                State::Length(_) | State::Chunked(_) => self.body(rest, &mut pushed),
                State::Tunnel => {
                    self.held.extend_from_slice(rest);
                    return pushed;
                }
                State::Rejected => return pushed,
            };
            match step {
                Ok(Step::On) => {}
                Ok(Step::Wait) => return pushed,
                Err(rejection) => {
                    self.state = State::Rejected;
                    self.held = Vec::new();
                    pushed.rejection = Some(rejection);
                    return pushed;
                }
            }
        }
    }

    /// Whether the last head was a CONNECT. The bytes behind it are not HTTP; they are held back until
    /// [`Self::take_held`].
    pub fn is_tunnel(&self) -> bool {
        matches!(self.state, State::Tunnel)
    }

    /// Whether any bytes are held back.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the bytes that are held back: those behind a CONNECT, or an incomplete head.
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn head(&mut self, rest: &[u8], pushed: &mut Pushed) -> Result<Step, Rejection> {
        let reject =
            |status, reason, head: &[u8]| Rejection { status, reason, oci: head::is_oci(head), in_body: false };
        if self.held.is_empty() && !head::is_token(rest[0]) {
            return Err(reject(400, "the request does not begin with a method", &[]));
        }
        let end = self.lines.find_empty(rest).map_err(|reason| {
            let head = [&self.held, rest].concat();
            reject(400, reason, &head)
        })?;
        let taken = &rest[..end.unwrap_or(rest.len())];
        if self.held.len() + taken.len() > HEAD_MAX_BYTES {
            let known = if self.held.is_empty() { taken } else { &self.held };
            return Err(reject(431, "the request head is larger than 64 KiB", known));
        }
        let is_split = !self.held.is_empty();
        if is_split || end.is_none() {
            self.held.extend_from_slice(taken);
        }
        if end.is_none() {
            return Ok(Step::Wait);
        }
        let head = if is_split { &self.held } else { taken };
        self.oci = head::is_oci(head);
        self.state = match head::validate(head).map_err(|(status, reason)| reject(status, reason, head))? {
            Body::Length(0) => State::Head,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Chunked(Chunked::default()),
            Body::Tunnel => State::Tunnel,
        };
        pushed.range.end += taken.len();
        if is_split {
            pushed.range.start = pushed.range.end;
            pushed.held = Some(self.take_held());
        }
        Ok(Step::On)
    }

    fn body(&mut self, rest: &[u8], pushed: &mut Pushed) -> Result<Step, Rejection> {
        let (used, done) = match &mut self.state {
            State::Length(left) => {
                let used = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                *left -= used as u64;
                (used, *left == 0)
            }
            State::Chunked(chunked) => {
                let (used, outcome) = chunked.advance(rest);
                pushed.range.end += used;
                let reject = |reason| Rejection { status: 400, reason, oci: self.oci, in_body: true };
                (0, outcome.map_err(reject)?)
            }
            State::Head | State::Tunnel | State::Rejected => (0, true),
        };
        pushed.range.end += used;
        if done {
            self.state = State::Head;
        }
        Ok(Step::On)
    }
}

enum Step {
    /// Bytes were consumed or the state changed.
    On,
    /// All bytes are held back until more arrive.
    Wait,
}

/// Searches for the empty line that ends a head, across slices. Refuses a line feed without a carriage return.
#[derive(Default)]
struct Lines {
    /// Bytes of the current line so far.
    length: usize,
    last: u8,
}

impl Lines {
    fn find_empty(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut start = 0;
        while let Some(offset) = memchr(b'\n', &bytes[start..]) {
            let feed = start + offset;
            let before = if feed == 0 { self.last } else { bytes[feed - 1] };
            if before != b'\r' {
                return Err("a line ends with a bare line feed");
            }
            let is_empty = self.length + offset == 1;
            start = feed + 1;
            *self = Self::default();
            if is_empty {
                return Ok(Some(start));
            }
        }
        self.length += bytes.len() - start;
        self.last = bytes.last().copied().unwrap_or(self.last);
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
