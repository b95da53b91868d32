//! Validators: what tells one state of content at a URL from another, so that parts of it can be put together (RFC 9110
//! sections 8.8 and 13.1.5). Only strong ones count: parts of two states that are merely alike are no whole.

/// The strongest validator of one state of some content.
///
/// ```
/// use entrepot_core::validator::Validator;
///
/// let known = Validator::of(Some("\"v1\""), None, None).expect("a strong one");
/// assert_eq!(known.if_range(), "\"v1\"");
/// assert!(Validator::of(Some("W/\"v1\""), None, None).is_none(), "a weak one holds no parts together");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Validator {
    /// A strong entity tag, with its quotes.
    ETag(Box<str>),
    /// A date of modification that is not that of the answer.
    LastModified(Box<str>),
}

impl Validator {
    /// The validator in the fields of an answer. None if it has none that is strong. A date counts only if the content
    /// was not modified in the very second of the answer, because it may have been modified once more in that second.
    pub fn of(etag: Option<&str>, last_modified: Option<&str>, date: Option<&str>) -> Option<Self> {
        let is_strong = |etag: &&str| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
        if let Some(etag) = etag.map(str::trim).filter(is_strong) {
            return Some(Self::ETag(etag.into()));
        }
        let last_modified = last_modified.map(str::trim).filter(|text| !text.is_empty())?;
        (date.map(str::trim) != Some(last_modified)).then(|| Self::LastModified(last_modified.into()))
    }

    /// The value of `If-Range` that asks for a part of this state.
    pub fn if_range(&self) -> &str {
        match self {
            Self::ETag(text) | Self::LastModified(text) => text,
        }
    }

    /// Whether an answer to a request with [`Self::if_range`] is about the same state; `told` is the validator in it. A
    /// part need not repeat a date (RFC 9110 section 15.3.7), `is_part` says that the answer is one.
    pub fn holds(&self, told: Option<&Self>, is_part: bool) -> bool {
        match (self, told) {
            (_, Some(told)) => self == told,
            (Self::LastModified(_), None) => is_part,
            (Self::ETag(_), None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY: &str = "Mon, 30 Nov 2026 10:00:00 GMT";
    const TUESDAY: &str = "Tue, 01 Dec 2026 10:00:00 GMT";

    #[test]
    fn only_strong_validators_count() {
        let etag = |text: &str| Some(Validator::ETag(text.into()));
        let date = |text: &str| Some(Validator::LastModified(text.into()));
        for (etag_field, modified, answered, expected) in [
            (Some("\"a\""), None, None, etag("\"a\"")),
            (Some(" \"a\" "), Some(MONDAY), None, etag("\"a\"")),
            (Some("\"\""), None, None, etag("\"\"")),
            (Some("W/\"a\""), None, None, None),
            (Some("W/\"a\""), Some(MONDAY), Some(TUESDAY), date(MONDAY)),
            (Some("\""), None, None, None),
            (Some("a"), None, None, None),
            (Some(""), Some(MONDAY), None, date(MONDAY)),
            (None, Some(MONDAY), Some(TUESDAY), date(MONDAY)),
            (None, Some(MONDAY), Some(MONDAY), None),
            (None, Some(""), None, None),
            (None, None, Some(MONDAY), None),
        ] {
            assert_eq!(Validator::of(etag_field, modified, answered), expected, "{etag_field:?} {modified:?}");
        }
    }

    #[test]
    fn an_answer_is_about_the_same_state_or_not() {
        let (one, other) = (Validator::ETag("\"1\"".into()), Validator::ETag("\"2\"".into()));
        let (monday, tuesday) = (Validator::LastModified(MONDAY.into()), Validator::LastModified(TUESDAY.into()));
        for (known, told, is_part, expected) in [
            (&one, Some(&one), true, true),
            (&one, Some(&one), false, true),
            (&one, Some(&other), true, false),
            (&one, Some(&monday), true, false),
            (&one, None, true, false),
            (&monday, Some(&monday), false, true),
            (&monday, Some(&tuesday), true, false),
            (&monday, None, true, true),
            (&monday, None, false, false),
        ] {
            assert_eq!(known.holds(told, is_part), expected, "{known:?} {told:?} {is_part}");
        }
    }
}
