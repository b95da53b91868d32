//! Streams that T8 refuses, and valid streams, which pass unchanged however they are cut.

use super::*;
use proptest::prelude::*;

/// Pushes the slices of a stream and joins what is handed on.
fn run<'a>(slices: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Rejection>) {
    let (mut framing, mut passed, mut rejection) = (RequestFraming::default(), Vec::new(), None);
    for slice in slices {
        let pushed = framing.push(slice);
        assert!(pushed.held.is_some() || pushed.range.start == 0);
        passed.extend(pushed.held.unwrap_or_default());
        passed.extend_from_slice(&slice[pushed.range]);
        rejection = rejection.or(pushed.rejection);
    }
    (passed, rejection)
}

const GOOD: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";

/// Heads that are refused: (status, head).
const BAD_HEADS: &[(u16, &str)] = &[
    // Lengths.
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 6\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5;\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{665}\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    // Transfer codings.
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n"),
    (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    // Field names and folding.
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 5\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\n Host: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n\u{e9}: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n\"X\": z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 5\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n"),
    // Line ends.
    (400, "GET / HTTP/1.1\nHost: a\n\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
    (400, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Request lines.
    (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    (400, "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\r\nHost: a\r\n\r\n"),
    (400, "GET\r\nHost: a\r\n\r\n"),
    (400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{1}x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
    (400, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, "GET / HTTP/1.1x\r\nHost: a\r\n\r\n"),
    (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/11\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    // Hosts.
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0"),
];

#[test]
fn bad_heads_are_refused_wherever_they_are_cut() {
    for (status, head) in BAD_HEADS {
        let stream = [GOOD, head.as_bytes(), GOOD].concat();
        let whole = run([&stream[..]]);
        let bytewise = run(stream.chunks(1));
        for (passed, rejection) in [whole, bytewise] {
            assert_eq!(passed, GOOD, "{head:?}: what came before passes, nothing after");
            let rejection = rejection.unwrap_or_else(|| panic!("{head:?} passed"));
            assert_eq!((rejection.status, rejection.in_body), (*status, false), "{head:?}: {}", rejection.reason);
        }
    }
}

#[test]
fn heads_are_bounded() {
    let padded = |fields: usize, value: usize| {
        let field = format!("X: {}\r\n", "v".repeat(value));
        format!("GET /v2/a HTTP/1.1\r\nHost: a\r\n{}\r\n", field.repeat(fields)).into_bytes()
    };
    for (stream, fits) in
        [(padded(99, 1), true), (padded(100, 1), false), (padded(1, 65_000), true), (padded(1, 66_000), false)]
    {
        for (passed, rejection) in [run([&stream[..]]), run(stream.chunks(1000))] {
            assert_eq!(rejection.map(|rejection| (rejection.status, rejection.oci)), (!fits).then_some((431, true)));
            assert_eq!(passed, if fits { &stream[..] } else { &[] });
        }
    }
    let endless = vec![b'a'; HEAD_MAX_BYTES + 1];
    assert_eq!(run(endless.chunks(4096)).1.map(|rejection| rejection.status), Some(431));
}

#[test]
fn registry_paths_are_told_apart() {
    for (line, oci) in [
        ("GET /v2 HTTP/1.1", true),
        ("GET /v2?x HTTP/1.1", true),
        ("GET /v2/a HTTP/1.1", true),
        ("GET http://a/v2/ HTTP/1.1", true),
        ("GET HTTP://a:5000/v2/x HTTP/1.3", true),
        ("GET /v2x HTTP/1.1", false),
        ("GET / HTTP/1.1", false),
        ("GET http://v2/ HTTP/1.1", false),
    ] {
        let (_, rejection) = run([format!("{line}\r\nX\r\n\r\n").as_bytes()]);
        assert_eq!(rejection.map(|rejection| rejection.oci), Some(oci), "{line}");
    }
}

#[test]
fn bad_chunks_are_refused_where_they_go_wrong() {
    let head = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extensions = format!("1;{}\r\n", "x".repeat(1024));
    let trailers = format!("0\r\nX: {}\r\n", "x".repeat(8192));
    for (fine, bad) in [
        ("", "\r\n"),
        ("", ";x\r\n"),
        ("", " 5\r\nhello\r\n"),
        ("", "x\r\n"),
        ("", "-1\r\n"),
        ("0", "x5\r\nhello\r\n"),
        ("5", " \r\nhello\r\n"),
        ("5", "\nhello\r\n"),
        ("5\r", "hello\r\n"),
        ("5;a", "\nhello\r\n"),
        ("5;a", "\0\r\n"),
        ("5\r\nhello", "x\r\n"),
        ("5\r\nhello", "\n0\r\n\r\n"),
        ("5\r\nhello\r", "0\r\n\r\n"),
        ("0000000000000000", "0\r\n\r\n"),
        (&extensions[..1025], &extensions[1025..]),
        ("0\r\n", "\n"),
        ("0\r\n", " X: y\r\n\r\n"),
        ("0\r\nX", " : y\r\n\r\n"),
        ("0\r\nX", "\r\n\r\n"),
        ("0\r\nX: y", "\n\r\n"),
        ("0\r\nX: y\r", "x"),
        ("0\r\n\r", "x"),
        (&trailers[..8195], &trailers[8195..]),
    ] {
        let stream = format!("{head}{fine}{bad}");
        for (passed, rejection) in [run([stream.as_bytes()]), run(stream.as_bytes().chunks(1))] {
            assert_eq!(String::from_utf8_lossy(&passed), format!("{head}{fine}"), "{bad:?}");
            let rejection = rejection.unwrap_or_else(|| panic!("{fine:?} {bad:?} passed"));
            assert_eq!((rejection.status, rejection.oci, rejection.in_body), (400, true, true), "{bad:?}");
        }
    }
}

#[test]
fn behind_connect_nothing_passes_by_itself() {
    let head = b"CONNECT ghcr.io:443 HTTP/1.1\r\nHost: ghcr.io:443\r\n\r\n";
    let mut framing = RequestFraming::default();
    let pushed = framing.push(&[&head[..], b"\x16\x03"].concat());
    assert_eq!((pushed.range, pushed.rejection), (0..head.len(), None));
    assert!(framing.is_tunnel());
    assert_eq!(framing.push(b"\x01"), Pushed::default());
    assert_eq!(framing.take_held(), b"\x16\x03\x01");
}

const VALID: &[&str] = &[
    "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
    "GET http://reg.example:5000/v2/?n=1 HTTP/1.1\r\nHost: [::1]:5000\r\nX:\ty \u{e9}\t\r\n\r\n",
    "POST /token HTTP/1.1\r\nhost: a\r\nCONTENT-LENGTH:  5 \r\n\r\nGET /",
    "HEAD /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00A;x=\"y z\"\r\n\r\n\r\n\r\nGET \r\n0;e\r\nT: 1\r\nU:\r\n\r\n",
];

#[test]
fn valid_streams_pass_unchanged_cut_anywhere() {
    let stream = VALID.concat().into_bytes();
    assert_eq!(run(stream.chunks(1)), (stream.clone(), None));
    for cut in 0..=stream.len() {
        assert_eq!(run([&stream[..cut], &stream[cut..]]), (stream.clone(), None), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn any_pipeline_in_any_pieces(
        requests in prop::collection::vec(0..VALID.len(), 1..8),
        sizes in prop::collection::vec(1usize..200, 1..20),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|index| VALID[*index].bytes()).collect();
        let (mut slices, mut rest) = (Vec::new(), &stream[..]);
        for size in sizes.iter().cycle() {
            let (slice, after) = rest.split_at((*size).min(rest.len()));
            slices.push(slice);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(run(slices), (stream.clone(), None));
    }

    #[test]
    fn noise_is_judged_the_same_whole_or_bytewise(noise in "(GET|POST| |/|\r\n|\n|\r|HTTP/1.1|Host: a\r\n|Content-Length: 3\r\n|Transfer-Encoding: chunked\r\n|\r\n\r\n|0|abc|:){0,30}") {
        prop_assert_eq!(run([noise.as_bytes()]), run(noise.as_bytes().chunks(1)));
    }
}
