//! What an upstream's answer to a request for a range is worth. Registries and content networks refuse ranges, ignore
//! them, or answer them with heads that tell too little, so an answer is judged before a byte of it is used.
//!
//! Neighbours: `range` reads the headers of RFC 9110 section 14; this module forgives what upstreams make of them. An
//! answer that tells too little, or contradicts itself, is unusable: then the whole content is asked for, and the bytes
//! that are there already are skipped. Only a whole answer whose digest is right is the end of it.

use crate::range::ContentRange;

/// The head of an answer, as far as it is about ranges.
#[derive(Clone, Copy, Default, Debug)]
pub struct AnswerHead<'a> {
    /// The status.
    pub status: u16,
    /// The value of Content-Range. None if there is none, or one that is no text.
    pub content_range: Option<&'a str>,
    /// The value of Content-Type. None if there is none.
    pub content_type: Option<&'a str>,
    /// The announced length of the body in bytes. None if there is none.
    pub content_length: Option<u64>,
}

/// The range that was asked for, and the size of the content if it is known from before.
#[derive(Clone, Copy, Debug)]
pub struct AskedRange {
    /// The position of the first byte, from 0.
    pub start: u64,
    /// The position behind the last byte. None means up to the end of the content.
    pub end: Option<u64>,
    /// The size of the whole content in bytes, from an earlier answer. None if there was none.
    pub size: Option<u64>,
}

/// What the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangedAnswer {
    /// The body begins at `start`, which is not behind the byte that was asked for, in content of `size` bytes.
    Part {
        /// The position of the body's first byte.
        start: u64,
        /// The position behind the body's last byte.
        end: u64,
        /// The size of the whole content in bytes.
        size: u64,
    },
    /// The body is the whole content: the range was ignored.
    Whole,
    /// The content has no such byte.
    Unsatisfiable,
    /// The server does not serve this range. It may serve the whole content.
    Unusable,
    /// The answer is about the request's credential or its rate, not about its range.
    OtherRefusal,
}

/// Judges an answer to a request for a range.
pub fn judge(head: &AnswerHead<'_>, asked: &AskedRange) -> RangedAnswer {
    match head.status {
        200 if is_part_called_whole(head, asked) => RangedAnswer::Unusable,
        200 => RangedAnswer::Whole,
        206 => part(head, asked).unwrap_or(RangedAnswer::Unusable),
        401 | 407 | 429 => RangedAnswer::OtherRefusal,
        416 if is_behind_the_end(head, asked) => RangedAnswer::Unsatisfiable,
        _ => RangedAnswer::Unusable,
    }
}

fn part(head: &AnswerHead<'_>, asked: &AskedRange) -> Option<RangedAnswer> {
    let is_multipart =
        |text: &str| text.trim_start().get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/"));
    if head.content_type.is_some_and(is_multipart) {
        return None;
    }
    let Some(told) = head.content_range.and_then(lenient) else {
        // Nothing says which part it is, but it has the length of the one that was asked for.
        let size = asked.size?;
        let (start, end) = (asked.start, asked.end.map_or(size, |end| end.min(size)));
        let is_as_long = head.content_length == Some(end.checked_sub(start)?);
        return is_as_long.then_some(RangedAnswer::Part { start, end, size });
    };
    let ContentRange::Part { start, end, size } = told else { return None };
    let size = size.or(asked.size)?;
    let is_asked_for = start <= asked.start && asked.start < end && end <= size;
    let is_consistent = head.content_length.is_none_or(|length| length == end - start);
    (is_asked_for && is_consistent).then_some(RangedAnswer::Part { start, end, size })
}

/// A Content-Range as servers write it: without the unit, with `=` or spaces where none belong, or without a size.
fn lenient(text: &str) -> Option<ContentRange> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>().to_ascii_lowercase();
    let rest = text.strip_prefix("bytes").map_or(text.as_str(), |rest| rest.trim_start_matches(['=', ':']));
    let (range, size) = rest.split_once('/').unwrap_or((rest, "*"));
    format!("bytes {range}/{}", if size.is_empty() { "*" } else { size }).parse().ok()
}

/// Whether a 200 seems to have only a part, or nothing: it is shorter than the content is known to be.
fn is_part_called_whole(head: &AnswerHead<'_>, asked: &AskedRange) -> bool {
    match (head.content_length, asked.size) {
        (Some(length), Some(size)) => length < size,
        (Some(length), None) => length <= asked.start || head.content_range.is_some(),
        (None, _) => head.content_range.is_some(),
    }
}

/// Whether a 416 is the truth: it tells a size, or one is known, and the range begins behind it. A size of 0 is what
/// servers tell that know none.
fn is_behind_the_end(head: &AnswerHead<'_>, asked: &AskedRange) -> bool {
    let told = match head.content_range.and_then(lenient) {
        Some(ContentRange::Unsatisfied { size }) => Some(size),
        _ => None,
    };
    asked.size.or(told.filter(|told| *told > 0)).is_some_and(|size| size <= asked.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RangedAnswer::{OtherRefusal, Part, Unsatisfiable, Unusable, Whole};

    /// Bytes 400.. of 1000 were asked for, and the size is known or not.
    fn judged(status: u16, range: &str, length: Option<u64>, known: bool) -> RangedAnswer {
        let content_range = (!range.is_empty()).then_some(range);
        let head = AnswerHead { status, content_range, content_type: None, content_length: length };
        judge(&head, &AskedRange { start: 400, end: None, size: known.then_some(1000) })
    }

    #[test]
    fn content_ranges_of_all_sorts() {
        let part = |start, end, size| Part { start, end, size };
        let good = part(400, 1000, 1000);
        for (range, length, unknown, known) in [
            ("bytes 400-999/1000", Some(600), good, good),
            ("bytes 400-999/1000", None, good, good),
            ("Bytes 400-999/1000", Some(600), good, good),
            ("400-999/1000", Some(600), good, good),
            ("bytes=400-999/1000", Some(600), good, good),
            ("bytes: 400-999/1000", Some(600), good, good),
            ("bytes  400 - 999 / 1000", Some(600), good, good),
            ("bytes 400-999/*", Some(600), Unusable, good),
            ("bytes 400-999", Some(600), Unusable, good),
            ("400-999", None, Unusable, good),
            ("bytes 400-999/", Some(600), Unusable, good),
            ("", Some(600), Unusable, good),
            ("nonsense", Some(600), Unusable, good),
            ("bytes */1000", Some(600), Unusable, Unusable),
            ("", Some(1000), Unusable, Unusable),
            ("", None, Unusable, Unusable),
            ("bytes 300-999/1000", Some(700), part(300, 1000, 1000), part(300, 1000, 1000)),
            ("bytes 0-999/1000", Some(1000), part(0, 1000, 1000), part(0, 1000, 1000)),
            ("bytes 500-999/1000", Some(500), Unusable, Unusable),
            ("bytes 0-399/1000", Some(400), Unusable, Unusable),
            ("bytes 999-400/1000", Some(600), Unusable, good),
            ("bytes 400-999/1000", Some(1000), Unusable, Unusable),
            ("bytes 400-1999/2000", Some(1600), part(400, 2000, 2000), part(400, 2000, 2000)),
            ("pages 400-999/1000", None, Unusable, Unusable),
        ] {
            assert_eq!(judged(206, range, length, false), unknown, "{range} {length:?}, size unknown");
            assert_eq!(judged(206, range, length, true), known, "{range} {length:?}, size known");
        }
    }

    #[test]
    fn refusals_of_all_sorts() {
        for status in [204, 203, 300, 304, 400, 403, 404, 405, 406, 408, 412, 416, 417, 500, 501, 502, 503, 504] {
            assert_eq!(judged(status, "", None, true), Unusable, "{status}");
        }
        for status in [401, 407, 429] {
            assert_eq!(judged(status, "", None, true), OtherRefusal, "{status}");
        }
        for (range, known, expected) in [
            ("bytes */400", false, Unsatisfiable),
            ("*/400", false, Unsatisfiable),
            ("bytes */401", false, Unusable),
            ("bytes */1000", true, Unusable),
            ("bytes */0", false, Unusable),
            // An earlier answer told more bytes.
            ("bytes */400", true, Unusable),
            ("bytes */0", true, Unusable),
            ("bytes */*", false, Unusable),
        ] {
            assert_eq!(judged(416, range, None, known), expected, "{range}");
        }
    }

    #[test]
    fn a_part_is_not_the_whole_because_its_status_says_so() {
        assert_eq!(judged(200, "", Some(1000), true), Whole);
        assert_eq!(judged(200, "", None, true), Whole);
        for length in [0, 1, 399, 400, 600, 999] {
            assert_eq!(judged(200, "", Some(length), true), Unusable, "{length}");
        }
        assert_eq!(judged(200, "", Some(400), false), Unusable, "it begins behind the end");
        assert_eq!(judged(200, "", Some(1000), false), Whole);
        assert_eq!(judged(200, "bytes 400-999/1000", Some(600), false), Unusable);
        assert_eq!(judged(200, "bytes 0-999/1000", Some(1000), true), Whole);
        assert_eq!(judged(200, "", Some(2000), true), Whole, "its length changed, which is for the caller to say");
        let multipart = AnswerHead {
            status: 206,
            content_type: Some("multipart/byteranges; boundary=x"),
            content_length: Some(600),
            ..AnswerHead::default()
        };
        assert_eq!(judge(&multipart, &AskedRange { start: 400, end: None, size: Some(1000) }), Unusable);
    }
}
