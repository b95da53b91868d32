//! Checks one complete request head against RFC 9112, and tells what body follows it.

use super::HEAD_MAX_FIELDS;

/// The bytes that follow a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    /// Behind a CONNECT; not HTTP.
    Tunnel,
}

/// Status and reason.
type Fault = (u16, &'static str);

/// Checks a head that includes its empty line.
pub(super) fn validate(head: &[u8]) -> Result<Body, Fault> {
    let mut lines = lines(head);
    let request = RequestLine::parse(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (index, line) in lines.enumerate() {
        if index == HEAD_MAX_FIELDS {
            return Err((431, "the request head has more than 100 fields"));
        }
        fields.add(line)?;
    }
    fields.body(&request)
}

/// Whether the path of a head, which may be incomplete, is a registry's.
pub(super) fn is_oci(head: &[u8]) -> bool {
    let target = head.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).nth(1).unwrap_or_default();
    let path = match absolute(target) {
        Some(rest) => rest.iter().position(|byte| *byte == b'/').map_or(&rest[..0], |at| &rest[at..]),
        None => target,
    };
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    path == b"/v2" || path.starts_with(b"/v2/")
}

/// A byte of a method or a field name (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// A table, because every byte of every head is looked up.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let (marks, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        table[byte] |= (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

/// A byte of a field value. The tab is the only control character that is allowed.
pub(super) fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// The lines without their ends. The framing made sure that a carriage return precedes each line feed.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = head.strip_suffix(b"\r\n").unwrap_or(head);
    text.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r\n").unwrap_or(line))
}

struct RequestLine {
    is_connect: bool,
    is_http_1_0: bool,
}

impl RequestLine {
    fn parse(line: &[u8]) -> Result<Self, Fault> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err((400, "the request line is not a method, a target and a version with single spaces between"));
        };
        if method.is_empty() || !method.iter().copied().all(is_token) {
            return Err((400, "the method is not a token"));
        }
        let is_http_1_0 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err((505, "only HTTP/1.0 and HTTP/1.1 are supported"));
            }
            _ => return Err((400, "the HTTP version is malformed")),
        };
        let is_connect = method == b"CONNECT";
        if !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
            return Err((400, "the target has a character that is not allowed"));
        }
        let is_shaped = match target {
            _ if is_connect => !target.is_empty() && !target.contains(&b'/'),
            [b'/', ..] => true,
            b"*" => method == b"OPTIONS",
            _ => absolute(target).is_some_and(|rest| !rest.is_empty() && rest[0] != b'/'),
        };
        is_shaped.then_some(Self { is_connect, is_http_1_0 }).ok_or((400, "the target does not fit the method"))
    }
}

fn absolute(target: &[u8]) -> Option<&[u8]> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let (head, rest) = target.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    })
}

#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err((400, "a header field is folded"));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or((400, "a header field has no colon"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err((400, "a header field's name is not a token"));
        }
        // A fold has no early exit, so the compiler compares many bytes at once.
        if value.iter().fold(false, |is_odd, byte| is_odd | !is_value(*byte)) {
            return Err((400, "a header field's value has a control character"));
        }
        let value = trim(value);
        if name.eq_ignore_ascii_case(b"host") {
            self.host(value)
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length(value)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.transfer_encoding(value)
        } else {
            Ok(())
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Fault> {
        self.hosts += 1;
        let is_host = |byte: &u8| byte.is_ascii_graphic() && !b"/\\@?#,\"<>".contains(byte);
        if self.hosts > 1 {
            return Err((400, "there is more than one Host"));
        }
        value.iter().all(is_host).then_some(()).ok_or((400, "the Host is malformed"))
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err((400, "there is more than one Content-Length"));
        }
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse::<i64>().ok());
        self.length = Some(number.map(i64::unsigned_abs).ok_or((400, "the Content-Length is not a number"))?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.is_chunked || value != b"chunked" {
            return Err((400, "the Transfer-Encoding is not chunked"));
        }
        self.is_chunked = true;
        Ok(())
    }

    fn body(&self, request: &RequestLine) -> Result<Body, Fault> {
        if self.hosts == 0 && !request.is_http_1_0 {
            return Err((400, "the Host is missing"));
        }
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err((400, "there are both Content-Length and Transfer-Encoding")),
            (true, None) if request.is_http_1_0 => Err((400, "HTTP/1.0 has no Transfer-Encoding")),
            (true, _) | (false, Some(1..)) if request.is_connect => Err((400, "a CONNECT has no body")),
            _ if request.is_connect => Ok(Body::Tunnel),
            (true, None) => Ok(Body::Chunked),
            (false, length) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }
}

fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}
