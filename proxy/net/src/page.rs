//! The frame of every web page of this program: the layout, the style, and the policy for browsers.
//!
//! `setup::pages` and `registry::web` write their pages with maud, which escapes all values. Invariant: the policy
//! allows no script and nothing that is fetched. It names the one style by its hash.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style of every page.
const STYLE: &str = include_str!("page.css");

/// The policy for browsers: a page may use that style and post its forms back, and nothing else.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// A page without its frame.
pub struct Page<'a> {
    /// The text of the browser's tab.
    pub title: &'a str,
    /// The page is loaded again after this many seconds.
    pub reload_after_s: Option<u32>,
    /// The page has tables and needs more width than text does.
    pub is_wide: bool,
    /// Everything below `body`.
    pub body: Markup,
}

impl Page<'_> {
    /// The page as it is sent.
    pub fn into_string(self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width";
                    @if let Some(seconds) = self.reload_after_s { meta http-equiv="refresh" content=(seconds); }
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body class=[self.is_wide.then_some("wide")] { (self.body) }
            }
        };
        page.into_string()
    }
}

/// Text from outside with its invisible characters made visible. A character that changes the direction of the text, or
/// that is not shown, becomes U+FFFD, so a name cannot look like another one.
pub fn visible(text: &str) -> String {
    text.chars().map(|character| if is_hidden(character) { char::REPLACEMENT_CHARACTER } else { character }).collect()
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
            ("&amp;", "&amp;amp;"),
            ("a\u{202e}b\u{0}c\u{200b}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("größe", "größe"),
        ] {
            let page = html! { p title=(visible(hostile)) { (visible(hostile)) } }.into_string();
            assert_eq!(page, format!("<p title=\"{shown}\">{shown}</p>"));
        }
    }

    #[test]
    fn the_policy_names_the_style_that_the_page_has() {
        let body = html! { p { "body" } };
        let page = Page { title: "<t>", reload_after_s: Some(3), is_wide: true, body }.into_string();
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");
        let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()).as_ref());
        assert!(POLICY.contains(&hash) && POLICY.contains("default-src 'none'") && !POLICY.contains("unsafe"));
        for part in [
            "<!DOCTYPE html><html lang=\"en\">",
            "<meta http-equiv=\"refresh\" content=\"3\">",
            "<title>&lt;t&gt;</title>",
            "<body class=\"wide\"><p>body</p></body></html>",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
    }
}
