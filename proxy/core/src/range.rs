//! Byte ranges (RFC 9110 section 14): what a client asks for, which bytes exist, and how the answer states them.
//!
//! A hit and a miss must answer alike, so [`decide`] serves both. Several ranges in one request get the whole content:
//! the specification allows it, and every registry client accepts it. Upstreams differ in their multipart answers.

use std::fmt;
use std::str::FromStr;

/// The most ranges in one header. More would be an attack on the server's time (CVE-2011-3192).
const RANGES_MAX: usize = 64;

/// One range of a Range header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteSpec {
    /// `first-`: from this byte to the end.
    From(u64),
    /// `first-last`: both bytes included.
    FromTo(u64, u64),
    /// `-length`: the last `length` bytes.
    Suffix(u64),
}

/// A Range header as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeHeader {
    /// The header is malformed, has another unit than bytes, or has too many ranges. It counts as absent.
    Ignored,
    /// The header has one range.
    Single(ByteSpec),
    /// The header has several ranges.
    Many(Vec<ByteSpec>),
}

/// Whether a header asks for content from its first byte on.
pub fn begins_at_the_start(header: &str) -> bool {
    match parse(header) {
        RangeHeader::Ignored => true,
        RangeHeader::Single(ByteSpec::From(0) | ByteSpec::FromTo(0, _)) => true,
        RangeHeader::Single(_) | RangeHeader::Many(_) => false,
    }
}

/// The answer for content of a known size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeAnswer {
    /// 200: the whole content.
    Whole,
    /// 206: a part.
    Part {
        /// The position of the first byte, from 0.
        start: u64,
        /// The position behind the last byte.
        end: u64,
    },
    /// 416: the content has no byte of the range.
    Unsatisfiable,
}

/// Decides the answer to a request for content of `size` bytes. `header` is None if the request has no Range header.
///
/// ```
/// use entrepot_core::range::{RangeAnswer, decide};
///
/// assert_eq!(decide(Some("bytes=0-99"), 1000), RangeAnswer::Part { start: 0, end: 100 });
/// assert_eq!(decide(Some("bytes=-100"), 1000), RangeAnswer::Part { start: 900, end: 1000 });
/// assert_eq!(decide(Some("bytes=1000-"), 1000), RangeAnswer::Unsatisfiable);
/// assert_eq!(decide(Some("bytes=0-1,5-6"), 1000), RangeAnswer::Whole);
/// assert_eq!(decide(None, 1000), RangeAnswer::Whole);
/// ```
pub fn decide(header: Option<&str>, size: u64) -> RangeAnswer {
    match header.map_or(RangeHeader::Ignored, parse) {
        RangeHeader::Ignored | RangeHeader::Many(_) => RangeAnswer::Whole,
        RangeHeader::Single(spec) => match resolve(spec, size) {
            Some((start, end)) => RangeAnswer::Part { start, end },
            None => RangeAnswer::Unsatisfiable,
        },
    }
}

/// Reads the value of a Range header.
pub fn parse(header: &str) -> RangeHeader {
    let specs = header
        .split_once('=')
        .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
        .map(|(_, list)| list.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()));
    let specs: Option<Vec<ByteSpec>> = specs.and_then(|specs| specs.take(RANGES_MAX + 1).map(parse_spec).collect());
    match specs.as_deref() {
        None | Some([]) => RangeHeader::Ignored,
        Some([single]) => RangeHeader::Single(*single),
        Some(many) if many.len() > RANGES_MAX => RangeHeader::Ignored,
        Some(many) => RangeHeader::Many(many.to_vec()),
    }
}

fn parse_spec(spec: &str) -> Option<ByteSpec> {
    match spec.split_once('-')? {
        ("", length) => number(length).map(ByteSpec::Suffix),
        (first, "") => number(first).map(ByteSpec::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteSpec::FromTo(first, last))
        }
    }
}

/// Reads digits only. A number beyond u64 becomes the largest one: both are past the end of any content.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The first byte of a range and the one behind its last, in content of `size` bytes. None if it has no such byte (416).
pub fn resolve(spec: ByteSpec, size: u64) -> Option<(u64, u64)> {
    let (start, end) = match spec {
        ByteSpec::From(first) => (first, size),
        ByteSpec::FromTo(first, last) => (first, last.saturating_add(1).min(size)),
        ByteSpec::Suffix(length) => (size.saturating_sub(length), size),
    };
    (start < end).then_some((start, end))
}

/// The Content-Range header of a 206 or a 416.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentRange {
    /// `bytes 0-99/1234`, or `bytes 0-99/*` if the size is unknown.
    Part {
        /// The position of the first byte, from 0.
        start: u64,
        /// The position behind the last byte.
        end: u64,
        /// The size of the whole content in bytes. None if the sender does not know it.
        size: Option<u64>,
    },
    /// `bytes */1234`
    Unsatisfied {
        /// The size of the whole content in bytes.
        size: u64,
    },
}

/// The Content-Range of a chunk of an upload: `first-last`, both included (OCI Distribution 1.1, "Pushing a blob in
/// chunks"). HTTP's form, with a unit and the size of the whole, is accepted as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRange {
    /// The position of the first byte, from 0.
    pub first: u64,
    last: u64,
}

impl ChunkRange {
    /// The number of bytes.
    pub fn length(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

impl FromStr for ChunkRange {
    type Err = ContentRangeError;

    fn from_str(text: &str) -> Result<Self, ContentRangeError> {
        let text = text.trim();
        let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
        let text = text.split_once('/').map_or(text, |(range, _)| range);
        match parse_spec(text) {
            Some(ByteSpec::FromTo(first, last)) => Ok(Self { first, last }),
            _ => Err(ContentRangeError),
        }
    }
}

/// The text is not a Content-Range of bytes, or its numbers contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Content-Range of bytes")]
pub struct ContentRangeError;

impl fmt::Display for ContentRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Part { start, end, size: Some(size) } => {
                write!(formatter, "bytes {start}-{}/{size}", end.saturating_sub(1))
            }
            Self::Part { start, end, size: None } => write!(formatter, "bytes {start}-{}/*", end.saturating_sub(1)),
            Self::Unsatisfied { size } => write!(formatter, "bytes */{size}"),
        }
    }
}

impl FromStr for ContentRange {
    type Err = ContentRangeError;

    fn from_str(text: &str) -> Result<Self, ContentRangeError> {
        parse_content_range(text.trim()).ok_or(ContentRangeError)
    }
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, size) = rest.split_once('/')?;
    // Unlike in a request, a number beyond u64 is an error.
    let exact = |text: &str| number(text).filter(|number| *number < u64::MAX);
    let size = if size == "*" { None } else { Some(exact(size)?) };
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    if range == "*" {
        return size.map(|size| ContentRange::Unsatisfied { size });
    }
    let (first, last) = range.split_once('-')?;
    let (start, end) = (exact(first)?, exact(last)? + 1);
    let fits = start < end && size.is_none_or(|size| end <= size);
    fits.then_some(ContentRange::Part { start, end, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let part = |start, end| RangeAnswer::Part { start, end };
        for (header, answer) in [
            ("bytes=0-99", part(0, 100)),
            ("bytes=0-999", part(0, 1000)),
            ("bytes=0-", part(0, 1000)),
            ("bytes=999-", part(999, 1000)),
            ("bytes=900-5000", part(900, 1000)),
            ("bytes=-1", part(999, 1000)),
            ("bytes=-5000", part(0, 1000)),
            ("Bytes=5-5", part(5, 6)),
            ("bytes= 5-5 ,", part(5, 6)),
            ("bytes=0-99999999999999999999999", part(0, 1000)),
            ("bytes=-99999999999999999999999", part(0, 1000)),
            ("bytes=0-18446744073709551615", part(0, 1000)),
            ("bytes=1000-", RangeAnswer::Unsatisfiable),
            ("bytes=1000-1001", RangeAnswer::Unsatisfiable),
            ("bytes=99999999999999999999999-", RangeAnswer::Unsatisfiable),
            ("bytes=-0", RangeAnswer::Unsatisfiable),
            ("bytes=0-0,-1", RangeAnswer::Whole),
            ("bytes=0-0,5-6", RangeAnswer::Whole),
            ("bytes=5-4", RangeAnswer::Whole),
            ("bytes=", RangeAnswer::Whole),
            ("bytes=-", RangeAnswer::Whole),
            ("bytes=a-b", RangeAnswer::Whole),
            ("bytes=+1-2", RangeAnswer::Whole),
            ("bytes=1 - 2", RangeAnswer::Whole),
            ("bytes=0x1-2", RangeAnswer::Whole),
            ("bytes=1-2-3", RangeAnswer::Whole),
            ("bytes=0-1,x", RangeAnswer::Whole),
            ("bytes", RangeAnswer::Whole),
            ("chunks=0-1", RangeAnswer::Whole),
            ("", RangeAnswer::Whole),
        ] {
            assert_eq!(decide(Some(header), 1000), answer, "{header}");
        }
        assert_eq!(decide(None, 1000), RangeAnswer::Whole);
        assert_eq!(decide(Some("bytes=0-"), 0), RangeAnswer::Unsatisfiable);
        assert_eq!(decide(Some("bytes=-1"), 0), RangeAnswer::Unsatisfiable);
    }

    #[test]
    fn chunks_say_where_they_belong() {
        for (text, expected) in [
            ("0-0", Some((0, 1))),
            ("5-9", Some((5, 5))),
            ("bytes 5-9/10", Some((5, 5))),
            ("bytes=5-9", Some((5, 5))),
            ("0-18446744073709551615", Some((0, u64::MAX))),
            ("9-5", None),
            ("5-", None),
            ("-5", None),
            ("", None),
            ("a-b", None),
            ("1-2-3", None),
        ] {
            let parsed = text.parse::<ChunkRange>().ok();
            assert_eq!(parsed.map(|range| (range.first, range.length())), expected, "{text}");
        }
    }

    #[test]
    fn the_number_of_ranges_is_bounded() {
        let header = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert!(matches!(parse(&header(64)), RangeHeader::Many(specs) if specs.len() == 64));
        assert_eq!(parse(&header(65)), RangeHeader::Ignored);
        assert_eq!(parse(&header(100_000)), RangeHeader::Ignored);
    }

    #[test]
    fn content_ranges() {
        for (text, range) in [
            ("bytes 0-99/1234", ContentRange::Part { start: 0, end: 100, size: Some(1234) }),
            ("bytes 5-5/*", ContentRange::Part { start: 5, end: 6, size: None }),
            ("bytes */1234", ContentRange::Unsatisfied { size: 1234 }),
        ] {
            assert_eq!(text.parse(), Ok(range));
            assert_eq!(range.to_string(), text);
        }
        for bad in [
            "",
            "bytes",
            "bytes 0-99",
            "bytes */*",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes -5/10",
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes 0-+5/10",
            "items 0-9/10",
            "bytes=0-9/10",
        ] {
            assert_eq!(bad.parse::<ContentRange>(), Err(ContentRangeError), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_inside_the_content(first in 0u64..40, last in 0u64..40, size in 0u64..30) {
            for header in [format!("bytes={first}-{last}"), format!("bytes={first}-"), format!("bytes=-{last}")] {
                if let RangeAnswer::Part { start, end } = decide(Some(&header), size) {
                    proptest::prop_assert!(start < end && end <= size);
                    let shown = ContentRange::Part { start, end, size: Some(size) };
                    proptest::prop_assert_eq!(shown.to_string().parse(), Ok(shown));
                }
            }
        }
    }
}
