//! Text of web pages. Everything but the program's own literals is escaped on its way in, so names that clients made up
//! stay text.
//!
//! The crates entrepot-setup and entrepot-registry make their pages of it. Invariant: a template is a literal of this
//! program, and filling it looks at its places once, so a value is never taken for a template.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Complete HTML: every element in it is closed.
#[derive(Clone, Default, Debug)]
pub struct Html(String);

/// The style of every page.
const STYLE: &str = include_str!("html.css");

/// The content security policy of every page: it is shown in that style and posts its forms back. No script, nothing
/// fetched, no frame around it.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// Around every page.
const FRAME: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">@HEAD@\n<title>@TITLE@</title>\n<style>@STYLE@</style>\n\
    @BODY@\n</html>\n";

impl Html {
    /// Text, in an element or in a quoted attribute.
    pub fn text(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                // Characters that turn the direction of the rest, or that are invisible, are shown as unreadable.
                hidden if is_hidden(hidden) => escaped.push(char::REPLACEMENT_CHARACTER),
                plain => escaped.push(plain),
            }
        }
        Self(escaped)
    }

    /// HTML of ours.
    pub fn literal(html: &'static str) -> Self {
        Self(html.to_owned())
    }

    /// An SVG picture that a library drew.
    pub fn picture(svg: String) -> Self {
        Self(svg)
    }

    /// `template` with its places, such as `@NAME@`, filled. A place that nothing is given for stays empty.
    pub fn fill(template: &'static str, values: &[(&str, Html)]) -> Self {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, name, after)) = next_place(rest) {
            filled.push_str(before);
            let value = values.iter().find(|(known, _)| *known == name);
            filled.push_str(value.map_or("", |(_, value)| &value.0));
            rest = after;
        }
        filled.push_str(rest);
        Self(filled)
    }

    /// A whole page; `head` is for what else its head needs.
    pub fn page(title: &str, head: Self, body: Self) -> Self {
        let style = Self::literal(STYLE);
        Self::fill(FRAME, &[("TITLE", Self::text(title)), ("HEAD", head), ("STYLE", style), ("BODY", body)])
    }

    /// The text to send.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect())
    }
}

/// The text before the first place, the name of that place, and the text behind it.
fn next_place(template: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let start = from + template[from..].find('@')?;
        let length = template[start + 1..].find('@')?;
        let name = &template[start + 1..start + 1 + length];
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
            return Some((&template[..start], name, &template[start + length + 2..]));
        }
        from = start + 1;
    }
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_stays_text() {
        for (hostile, shown) in [
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("\" onmouseover=\"x", "&quot; onmouseover=&quot;x"),
            ("'><img src=x>", "&#39;&gt;&lt;img src=x&gt;"),
            ("&amp;", "&amp;amp;"),
            ("a\u{202e}b\u{0}c\u{200b}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("größe", "größe"),
        ] {
            assert_eq!(Html::text(hostile).into_string(), shown);
        }
    }

    #[test]
    fn a_value_is_never_a_template() {
        let values = [("ONE", Html::text("@TWO@")), ("TWO", Html::text("2"))];
        let filled = Html::fill("a@b.c @ONE@ @TWO@ @NONE@ @media @", &values).into_string();
        assert_eq!(filled, "a@b.c @TWO@ 2  @media @");
    }

    #[test]
    fn the_policy_names_the_style_that_the_page_has() {
        let page = Html::page("<t>", Html::default(), Html::literal("<p>body")).into_string();
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");
        let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()).as_ref());
        assert!(POLICY.contains(&hash) && POLICY.contains("default-src 'none'") && !POLICY.contains("unsafe"));
        assert!(page.contains("<title>&lt;t&gt;</title>") && page.contains("<p>body"), "{page}");
    }
}
