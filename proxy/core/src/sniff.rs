//! Tells from the first bytes of a redirected connection whether it is TLS with a server name, HTTP with a host, or
//! something else.
//!
//! The caller passes all bytes so far, again after each read. A ClientHello is read up to its server name (RFC 8446
//! section 4.1.2, RFC 6066 section 3). The TLS library checks the rest.

/// The host that the redirect agent requests in order to learn whether the transparent door works. No machine can have
/// this name (RFC 6761 section 6.4).
pub const HEALTH_HOST: &str = "health.entrepot.invalid";
/// A connection whose first bytes are undecided up to this length is [`Sniffed::Other`].
pub const SNIFF_MAX_BYTES: usize = 16 * 1024;

/// The protocol that a connection begins with.
///
/// ```
/// use entrepot_core::sniff::{Sniffed, sniff};
///
/// assert_eq!(sniff(b"GET /v2/ HTTP/1.1\r\n"), Sniffed::NeedMore);
/// assert_eq!(sniff(b"GET /v2/ HTTP/1.1\r\nHost: ghcr.io\r\n\r\n"), Sniffed::Http(Some("ghcr.io".into())));
/// assert_eq!(sniff(b"SSH-2.0-OpenSSH_9.9\r\n"), Sniffed::Other);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sniffed {
    /// The bytes so far do not tell.
    NeedMore,
    /// TLS with this server name. None if the client sends none, or one that is not text.
    Tls(Option<String>),
    /// HTTP/1 with this Host. None if the request has no Host field or several.
    Http(Option<String>),
    /// Neither TLS nor HTTP/1.
    Other,
}

/// Classifies a connection by all its bytes so far.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    let verdict = match bytes.first() {
        None => Sniffed::NeedMore,
        Some(&HANDSHAKE) => client_hello(bytes),
        Some(_) => request_head(bytes),
    };
    if verdict == Sniffed::NeedMore && bytes.len() >= SNIFF_MAX_BYTES { Sniffed::Other } else { verdict }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446 section 5.1.
const RECORD_MAX_BYTES: usize = 1 << 14;

fn client_hello(bytes: &[u8]) -> Sniffed {
    // The handshake message may be split over several records.
    let mut message = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while rest.len() >= RECORD_HEADER_BYTES {
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        if rest[0] != HANDSHAKE || rest[1] != 3 || length == 0 || length > RECORD_MAX_BYTES {
            return Sniffed::Other;
        }
        let body = &rest[RECORD_HEADER_BYTES..];
        message.extend_from_slice(&body[..length.min(body.len())]);
        rest = body.get(length..).unwrap_or_default();
    }
    match message[..] {
        [kind, ..] if kind != CLIENT_HELLO => Sniffed::Other,
        [_, a, b, c, ref body @ ..] => {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            match body.get(..length) {
                Some(body) => server_name(body).map_or(Sniffed::Other, Sniffed::Tls),
                None if length > SNIFF_MAX_BYTES => Sniffed::Other,
                None => Sniffed::NeedMore,
            }
        }
        _ => Sniffed::NeedMore,
    }
}

/// The name in a complete ClientHello: Some(None) if it has none, None if it is malformed.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    // Version and random precede three vectors with lengths of one, two and one byte. Extensions follow.
    let mut body = Reader(body.get(2 + 32..)?);
    body.vector_u8()?;
    body.vector_u16()?;
    body.vector_u8()?;
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(body.vector_u16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector_u16()?;
        if kind == SERVER_NAME {
            let mut names = Reader(Reader(data).vector_u16()?);
            while !names.0.is_empty() {
                let name_kind = names.u8()?;
                let name = names.vector_u16()?;
                if name_kind == HOST_NAME {
                    let text = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
                    return Some(text.map(str::to_owned));
                }
            }
        }
    }
    Some(None)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// No registered method is longer (RFC 9110 section 16.1.1).
const METHOD_MAX_BYTES: usize = 20;
const VERSION: &[u8] = b" HTTP/1.";

fn request_head(bytes: &[u8]) -> Sniffed {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method) {
        None if method <= METHOD_MAX_BYTES => return Sniffed::NeedMore,
        Some(b' ') if (1..=METHOD_MAX_BYTES).contains(&method) => {}
        _ => return Sniffed::Other,
    }
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let is_whole_line = bytes.contains(&b'\n');
    if is_whole_line && !first.windows(VERSION.len()).any(|window| window == VERSION) {
        return Sniffed::Other;
    }
    let mut hosts = Vec::new();
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        // A line without an end may be incomplete.
        if lines.peek().is_none() {
            break;
        }
        if line.is_empty() {
            let host = if hosts.len() == 1 { hosts.pop() } else { None };
            return Sniffed::Http(host);
        }
        if let Some((name, value)) = split_field(line)
            && name.eq_ignore_ascii_case(b"host")
        {
            hosts.push(String::from_utf8_lossy(value.trim_ascii()).into_owned());
        }
    }
    Sniffed::NeedMore
}

fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], &line[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello as clients send them, with these extensions.
    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([32]);
        body.extend([8; 32]);
        body.extend([0, 4, 0x13, 0x01, 0x13, 0x02, 1, 0]);
        let all: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
            .collect();
        body.extend((all.len() as u16).to_be_bytes());
        body.extend(all);
        let mut message = vec![1, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }

    fn named(name: &[u8]) -> (u16, Vec<u8>) {
        let length = name.len() as u16;
        (0, [&(length + 3).to_be_bytes()[..], &[0], &length.to_be_bytes(), name].concat())
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn ghcr() -> Vec<u8> {
        hello(&[(0x0a0a, vec![]), (43, vec![2, 3, 4]), named(b"ghcr.io"), (51, vec![0; 1200])])
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut() {
        let found = Sniffed::Tls(Some("ghcr.io".to_owned()));
        for size in [1, 2, 3, 5, 100, 16_000] {
            let whole = records(&ghcr(), size);
            assert_eq!(sniff(&whole), found, "records of {size}");
            for length in 0..whole.len() {
                assert_eq!(sniff(&whole[..length]), Sniffed::NeedMore, "{length} bytes of records of {size}");
            }
            let followed = [&whole[..], b"\x17\x03\x03\x00\x01x"].concat();
            assert!(matches!(sniff(&followed), Sniffed::Other | Sniffed::Tls(_)));
        }
    }

    #[test]
    fn a_hello_without_a_name_is_tls_all_the_same() {
        assert_eq!(sniff(&records(&hello(&[]), 16_000)), Sniffed::Tls(None));
        assert_eq!(sniff(&records(&hello(&[(43, vec![2, 3, 4])]), 16_000)), Sniffed::Tls(None));
        assert_eq!(sniff(&records(&hello(&[named(b"")]), 16_000)), Sniffed::Tls(None));
        assert_eq!(sniff(&records(&hello(&[named(b"\xff\xfe")]), 16_000)), Sniffed::Tls(None));
    }

    #[test]
    fn what_is_broken_or_endless_is_something_else() {
        let mut broken = hello(&[named(b"ghcr.io")]);
        broken[4 + 34] = 0xff;
        assert_eq!(sniff(&records(&broken, 16_000)), Sniffed::Other);
        for bytes in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\x16\x02\x01\x00\x05", b"\x16\x03\x01\x00\x00", b"\0", b"GET"]
        {
            let expected = if bytes == b"GET" { Sniffed::NeedMore } else { Sniffed::Other };
            assert_eq!(sniff(bytes), expected, "{bytes:?}");
        }
        let endless = [&b"GET / HTTP/1.1\r\nA: "[..], &vec![b'x'; SNIFF_MAX_BYTES]].concat();
        assert_eq!(sniff(&endless), Sniffed::Other);
        let huge = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0, 0][..], &[0; 100]].concat();
        assert_eq!(sniff(&huge), Sniffed::Other);
    }

    #[test]
    fn the_host_of_a_request_is_found() {
        let http = |host: Option<&str>| Sniffed::Http(host.map(str::to_owned));
        for (text, expected) in [
            ("GET /v2/ HTTP/1.1\r\nHost: plain.test:5001\r\nA: b\r\n\r\n", http(Some("plain.test:5001"))),
            ("GET /v2/ HTTP/1.1\nhOST:plain.test\n\n", http(Some("plain.test"))),
            ("GET / HTTP/1.0\r\n\r\n", http(None)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", http(None)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Sniffed::NeedMore),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r", Sniffed::NeedMore),
            ("HELO there\r\n", Sniffed::Other),
            ("get / HTTP/1.1\r\n", Sniffed::Other),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Other),
        ] {
            assert_eq!(sniff(text.as_bytes()), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_at_all_gets_a_verdict(mut bytes in prop::collection::vec(any::<u8>(), 0..400), tls: bool) {
            if tls && bytes.len() > 5 {
                bytes[..5].copy_from_slice(&[22, 3, 1, 1, 0]);
            }
            let _ = sniff(&bytes);
        }

        #[test]
        fn a_damaged_hello_is_survived(at in 0usize..1200, value: u8) {
            let mut bytes = records(&ghcr(), 300);
            let place = at % bytes.len();
            bytes[place] = value;
            let _ = sniff(&bytes);
        }
    }
}
