//! The `Link` header (RFC 8288), as far as lists in pages use it: the place of the next page.

/// The target of the link to the next page, in the values of all `Link` headers. None if there is no such link.
///
/// ```
/// use entrepot_core::link::next;
///
/// let values = ["</v2/a/tags/list?last=b>; rel=\"next\", </>; rel=first"];
/// assert_eq!(next(values), Some("/v2/a/tags/list?last=b"));
/// ```
pub fn next<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    values.into_iter().find_map(|value| {
        let mut rest = value;
        while let Some((target, after)) = rest.split_once('<').and_then(|(_, link)| link.split_once('>')) {
            let (parameters, following) = split_outside_quotes(after, ',');
            if leads_to_next(parameters) {
                return Some(target);
            }
            rest = following;
        }
        None
    })
}

fn leads_to_next(mut parameters: &str) -> bool {
    while !parameters.is_empty() {
        let (parameter, following) = split_outside_quotes(parameters, ';');
        if is_next(parameter) {
            return true;
        }
        parameters = following;
    }
    false
}

/// The text before the first separator that is not in quotes, and the text behind it.
fn split_outside_quotes(text: &str, separator: char) -> (&str, &str) {
    let mut is_quoted = false;
    let end = text.find(|letter| {
        is_quoted ^= letter == '"';
        letter == separator && !is_quoted
    });
    end.map_or((text, ""), |end| (&text[..end], &text[end + separator.len_utf8()..]))
}

/// A link may have several relations, separated by spaces.
fn is_next(parameter: &str) -> bool {
    let relations = parameter.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("rel"));
    relations.is_some_and(|(_, value)| {
        value.trim().trim_matches('"').split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_every_form() {
        for (values, expected) in [
            (&["</v2/a/tags/list?n=1&last=b>; rel=\"next\""][..], Some("/v2/a/tags/list?n=1&last=b")),
            (&["<https://reg.example/v2/a/tags/list?x>;rel=next"], Some("https://reg.example/v2/a/tags/list?x")),
            (&["<?last=b> ; title=\"a, b; c\" ; REL = \"prev Next\""], Some("?last=b")),
            (&["</first>; rel=first, </next>; rel=next"], Some("/next")),
            (&["</first>; rel=first", "</next>; rel=next"], Some("/next")),
            (&["</a>; title=\", <b>; rel=next\"; rel=prev"], None),
            (&["</a>; rel=prev"], None),
            (&["</a>"], None),
            (&["/a; rel=next", "<a", ""], None),
            (&[], None),
        ] {
            assert_eq!(next(values.iter().copied()), expected, "{values:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value in "(<|>|;|,|\"|rel|=|next| |é){0,24}") {
            let _ = next([value.as_str()]);
        }
    }
}
