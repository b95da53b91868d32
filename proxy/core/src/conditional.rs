//! Conditional requests (RFC 9110 section 13) on content that has a strong entity tag and no date of change: the tag is
//! the content's digest. Without a date, conditions about dates are ignored, as section 13.1 has it.

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use http::{HeaderMap, HeaderName, Method};

/// The conditions of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    matches: Option<TagList>,
    matches_none: Option<TagList>,
}

/// The outcome of a request's conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The request is answered as if it had no conditions.
    Proceed,
    /// The client has the content already: 304.
    NotModified,
    /// 412.
    Failed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum TagList {
    /// `*`
    Any,
    Tags(Vec<EntityTag>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct EntityTag {
    is_weak: bool,
    /// Without the quotes.
    opaque: String,
}

impl Conditions {
    /// Reads a request's conditions.
    pub fn of(headers: &HeaderMap) -> Self {
        Self { matches: TagList::read(headers, &IF_MATCH), matches_none: TagList::read(headers, &IF_NONE_MATCH) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// Judges them by the content's tag, without its quotes; None if there is no such content now.
    ///
    /// ```
    /// use entrepot_core::conditional::{Conditions, Verdict};
    /// use http::{HeaderMap, HeaderValue, Method};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert("if-none-match", HeaderValue::from_static("\"sha256:00\""));
    /// let conditions = Conditions::of(&headers);
    /// assert_eq!(conditions.judge(&Method::GET, Some("sha256:00")), Verdict::NotModified);
    /// assert_eq!(conditions.judge(&Method::GET, Some("sha256:11")), Verdict::Proceed);
    /// ```
    pub fn judge(&self, method: &Method, current: Option<&str>) -> Verdict {
        let has = |list: &TagList, is_strong| current.is_some_and(|current| list.has(current, is_strong));
        if self.matches.as_ref().is_some_and(|list| !has(list, true)) {
            return Verdict::Failed;
        }
        match self.matches_none.as_ref().is_some_and(|list| has(list, false)) {
            false => Verdict::Proceed,
            true if matches!(*method, Method::GET | Method::HEAD) => Verdict::NotModified,
            true => Verdict::Failed,
        }
    }
}

/// Whether a range counts: there is no `If-Range`, or it has the content's tag. A date never does, because the content
/// has none.
pub fn range_counts(headers: &HeaderMap, current: &str) -> bool {
    match TagList::read(headers, &IF_RANGE) {
        None => true,
        Some(TagList::Any) => false,
        Some(TagList::Tags(tags)) => {
            matches!(&tags[..], [tag] if !tag.is_weak && tag.opaque == current)
        }
    }
}

impl TagList {
    /// None if there is no such header. What is no tag matches nothing.
    fn read(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut values = headers.get_all(name).iter().peekable();
        values.peek()?;
        let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        if texts.iter().any(|text| text.trim() == "*") {
            return Some(Self::Any);
        }
        Some(Self::Tags(texts.into_iter().flat_map(tags).collect()))
    }

    fn has(&self, current: &str, is_strong: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.opaque == current && !(is_strong && tag.is_weak)),
        }
    }
}

/// The tags of a list. Clients of registries also write a digest without quotes, so such a word is a tag too.
fn tags(mut list: &str) -> Vec<EntityTag> {
    let mut found = Vec::new();
    loop {
        list = list.trim_start_matches([' ', '\t', ',']);
        if list.is_empty() {
            return found;
        }
        let (is_weak, rest) = list.strip_prefix("W/").map_or((false, list), |rest| (true, rest));
        let (opaque, rest) = match rest.strip_prefix('"') {
            // A tag whose quote is never closed is no tag.
            Some(quoted) => match quoted.split_once('"') {
                Some(split) => split,
                None => return found,
            },
            None => rest.split_at(rest.find([',', '"']).unwrap_or(rest.len())),
        };
        let rest = rest.trim_start_matches([' ', '\t']);
        // Behind a tag comes a comma. Otherwise nobody knows where tags begin and end.
        if !rest.is_empty() && !rest.starts_with(',') {
            return found;
        }
        found.push(EntityTag { is_weak, opaque: opaque.trim().to_owned() });
        list = rest;
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn conditions_are_judged_in_their_order() {
        use Verdict::{Failed, NotModified, Proceed};
        let (get, put, is, none) = (Method::GET, Method::PUT, Some("a"), None);
        for (pairs, method, current, expected) in [
            (&[][..], &get, is, Proceed),
            (&[("if-none-match", "\"a\"")], &get, is, NotModified),
            (&[("if-none-match", "\"a\"")], &Method::HEAD, is, NotModified),
            (&[("if-none-match", "W/\"a\"")], &get, is, NotModified),
            (&[("if-none-match", "\"b\", \"a\"")], &get, is, NotModified),
            (&[("if-none-match", "\"b,c\",W/\"a\"")], &get, is, NotModified),
            (&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], &get, is, NotModified),
            (&[("if-none-match", "*")], &get, is, NotModified),
            (&[("if-none-match", "a")], &get, is, NotModified),
            (&[("if-none-match", "\"b\"")], &get, is, Proceed),
            (&[("if-none-match", "\"b, \"a")], &get, is, Proceed),
            (&[("if-none-match", "\"a")], &get, is, Proceed),
            (&[("if-none-match", "")], &get, is, Proceed),
            (&[("if-none-match", "\"a\"")], &put, is, Failed),
            (&[("if-none-match", "*")], &put, is, Failed),
            (&[("if-none-match", "*")], &put, none, Proceed),
            (&[("if-match", "\"a\"")], &get, is, Proceed),
            (&[("if-match", "\"b\", \"a\"")], &put, is, Proceed),
            (&[("if-match", "W/\"a\"")], &put, is, Failed),
            (&[("if-match", "\"b\"")], &get, is, Failed),
            (&[("if-match", "*")], &put, is, Proceed),
            (&[("if-match", "*")], &put, none, Failed),
            (&[("if-match", "\"a\"")], &put, none, Failed),
            (&[("if-match", "")], &put, is, Failed),
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], &get, is, Failed),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], &get, is, NotModified),
            (&[("if-modified-since", "Tue, 01 Dec 2026 00:00:00 GMT")], &get, is, Proceed),
            (&[("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")], &put, is, Proceed),
        ] {
            let conditions = Conditions::of(&headers(pairs));
            assert_eq!(conditions.judge(method, current), expected, "{method} {current:?} {pairs:?}");
        }
    }

    #[test]
    fn a_range_counts_for_the_same_content_only() {
        for (pairs, expected) in [
            (&[][..], true),
            (&[("if-range", "\"a\"")], true),
            (&[("if-range", "W/\"a\"")], false),
            (&[("if-range", "\"b\"")], false),
            (&[("if-range", "*")], false),
            (&[("if-range", "Tue, 01 Dec 2026 00:00:00 GMT")], false),
            (&[("if-range", "\"a\", \"b\"")], false),
        ] {
            assert_eq!(range_counts(&headers(pairs), "a"), expected, "{pairs:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(value in "(\"|W/|,|\\*|a| ){0,12}") {
            if let Ok(value) = HeaderValue::from_str(&value) {
                let map = HeaderMap::from_iter([(IF_NONE_MATCH, value)]);
                let _ = Conditions::of(&map).judge(&Method::GET, Some("a"));
            }
        }
    }
}
