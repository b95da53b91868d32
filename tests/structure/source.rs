//! Rust sources as far as this test reads them: words and marks, without comments, literals and test code.
//!
//! It is no parser. It knows what tells one room from another: `mod` lines, `#[cfg(test)]`, and paths such as
//! `crate::a::{b, c::d}`.

use std::path::{Path, PathBuf};

/// Words that may stand before a path that begins with `::`.
const KEYWORDS: &[&str] = &["as", "dyn", "else", "for", "impl", "in", "match", "mut", "return", "use"];

/// One file.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The modules from the crate's root down to this file; none for the root itself.
    pub(crate) module: Vec<String>,
    tokens: Vec<String>,
    /// Child modules that are compiled for tests only.
    test_modules: Vec<String>,
}

/// Every file below a crate's `src`, without those that are compiled for tests only.
pub(crate) fn of_crate(src: &Path) -> Vec<Source> {
    let sources: Vec<Source> = files(src).into_iter().map(|path| Source::read(src, path)).collect();
    let of_tests: Vec<Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            source.test_modules.iter().map(|name| [&source.module[..], std::slice::from_ref(name)].concat())
        })
        .collect();
    let is_product = |source: &Source| !of_tests.iter().any(|module| source.module.starts_with(module));
    sources.into_iter().filter(is_product).collect()
}

/// The Rust files below a folder, without those of other trees that may lie in it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The words and marks of a text, comments and literals left out. `::` is one mark.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\n');
    let (mut found, mut index) = (Vec::new(), 0);
    while index < chars.len() {
        let start = index;
        match chars[index] {
            '/' if at(index + 1) == '/' => index = line_end(&chars, index),
            '/' if at(index + 1) == '*' => index = comment_end(&chars, index),
            '"' => index = string_end(&chars, index),
            '\'' if at(index + 1) == '\\' => index = quote_end(&chars, index + 3),
            '\'' if at(index + 2) == '\'' => index += 3,
            letter if letter.is_alphabetic() || letter == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                let word: String = chars[start..index].iter().collect();
                match raw_string_end(&chars, &word, index) {
                    Some(end) => index = end,
                    None => found.push(word),
                }
            }
            ':' if at(index + 1) == ':' => {
                found.push("::".to_owned());
                index += 2;
            }
            mark => {
                if !mark.is_whitespace() {
                    found.push(mark.to_string());
                }
                index += 1;
            }
        }
    }
    found
}

impl Source {
    fn read(src: &Path, path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let module = module_of(path.strip_prefix(src).expect("below src"));
        Self { path, module, ..Self::of_text(&text) }
    }

    /// The text of a crate's root that is no file.
    pub(crate) fn of_text(text: &str) -> Self {
        let (tokens, test_modules) = without_tests(tokens(text));
        Self { path: PathBuf::new(), module: Vec::new(), tokens, test_modules }
    }

    /// Whether these tokens stand side by side.
    pub(crate) fn has(&self, words: &[&str]) -> bool {
        self.tokens.windows(words.len()).any(|window| window.iter().eq(words.iter()))
    }

    /// Whether this word stands for the whole of a crate or a module, without a path behind it.
    pub(crate) fn bare(&self, word: &str) -> bool {
        (0..self.tokens.len())
            .any(|index| self.tokens[index] == word && self.tokens.get(index + 1).is_none_or(|next| next != "::"))
    }

    /// The paths that begin with this word, groups spelt out: `a::{b, c::d}` is `a::b` and `a::c::d`.
    pub(crate) fn paths(&self, first: &str) -> Vec<Vec<String>> {
        let is_first = |index: usize| {
            self.tokens[index] == first
                && self.tokens.get(index + 1).is_some_and(|next| next == "::")
                && !self.continues_a_path(index)
        };
        let mut found = Vec::new();
        for index in (0..self.tokens.len()).filter(|index| is_first(*index)) {
            branch(&self.tokens, index, &[], &mut found);
        }
        found
    }

    /// Whether the token at `index` has a part of its path before it. A path may also begin with `::`.
    fn continues_a_path(&self, index: usize) -> bool {
        let before = |steps: usize| index.checked_sub(steps).map(|place| self.tokens[place].as_str());
        let is_part = |token: &str| token == ">" || token.chars().all(|char| char.is_alphanumeric() || char == '_');
        before(1) == Some("::") && before(2).is_some_and(|token| is_part(token) && !KEYWORDS.contains(&token))
    }

    /// The names that the file makes known under a shorter path: the name, and the path behind it (`pub use a::b::C`).
    pub(crate) fn exports(&self) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        for index in 0..self.tokens.len().saturating_sub(2) {
            if self.tokens[index] == "use" && index > 0 && [")", "pub"].contains(&self.tokens[index - 1].as_str()) {
                branch(&self.tokens, index + 1, &[], &mut found);
            }
        }
        found.into_iter().filter_map(|path| Some((path.last()?.clone(), path))).collect()
    }
}

/// Follows a tree of paths from the token at `index`; returns the index behind it.
fn branch(tokens: &[String], mut index: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(index).map(String::as_str) {
            Some("{") => {
                index += 1;
                while tokens.get(index).is_some_and(|token| token != "}") {
                    index = match tokens[index].as_str() {
                        "," => index + 1,
                        _ => branch(tokens, index, &path, found),
                    };
                }
                return index + 1;
            }
            Some(word) => path.push(word.to_owned()),
            None => return index,
        }
        index += 1;
        if tokens.get(index).is_none_or(|token| token != "::") {
            found.push(path);
            // `a as b`
            let renamed = tokens.get(index).is_some_and(|token| token == "as");
            return if renamed { index + 2 } else { index };
        }
        index += 1;
    }
}

/// Takes out what `#[cfg(test)]` stands before, and tells the names of modules in other files among it.
fn without_tests(tokens: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut modules, mut index) = (Vec::new(), Vec::new(), 0);
    while index < tokens.len() {
        let Some(end) = test_attribute_end(&tokens[index..]) else {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        };
        index += end;
        let item = &tokens[index..];
        let length = item_length(item);
        if let Some(at) = item.iter().take(length).position(|token| token == "mod")
            && item.get(at + 2).is_some_and(|token| token == ";")
        {
            modules.push(item[at + 1].clone());
        }
        index += length;
    }
    (kept, modules)
}

/// The length of an attribute `#[cfg(…test…)]` that begins here.
fn test_attribute_end(tokens: &[String]) -> Option<usize> {
    let begins = tokens.iter().take(4).map(String::as_str).eq(["#", "[", "cfg", "("]);
    let end = tokens.iter().position(|token| token == "]").filter(|_| begins)?;
    let has = |word: &str| tokens[..end].iter().any(|token| token == word);
    (has("test") && !has("not")).then_some(end + 1)
}

/// The length of an item: to its semicolon, or to the end of its braces.
fn item_length(tokens: &[String]) -> usize {
    let (mut depth, mut index) = (0_usize, 0);
    while let Some(token) = tokens.get(index) {
        index += 1;
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            ";" if depth == 0 => break,
            _ => {}
        }
    }
    index
}

/// The modules of a file, by its place below `src`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let is_folders_own = module.last().is_some_and(|last| last == "mod");
    let is_root = module.len() == 1 && ["lib", "main"].contains(&module[0].as_str());
    if is_folders_own || is_root {
        module.pop();
    }
    module
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|char| *char == '\n').map_or(chars.len(), |length| from + length)
}

/// Comments in comments count.
fn comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut index) = (0, from);
    while index + 1 < chars.len() {
        match (chars[index], chars[index + 1]) {
            ('/', '*') => (depth, index) = (depth + 1, index + 2),
            ('*', '/') => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut index = from + 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

fn quote_end(chars: &[char], from: usize) -> usize {
    chars.iter().skip(from).position(|char| *char == '\'').map_or(chars.len(), |length| from + length + 1)
}

/// The end of a raw string whose prefix is `word`.
fn raw_string_end(chars: &[char], word: &str, from: usize) -> Option<usize> {
    let hashes = chars[from..].iter().take_while(|char| **char == '#').count();
    if !["r", "br", "cr"].contains(&word) || chars.get(from + hashes) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = from + hashes + 1;
    let length = chars[body..].windows(closing.len()).position(|window| window == closing);
    Some(length.map_or(chars.len(), |length| body + length + closing.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, first: &str) -> Vec<String> {
        Source::of_text(text).paths(first).iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_no_words() {
        let text = r##"//! crate::a
            /* crate::b /* crate::c */ crate::d */
            let x = ("crate::e \" unsafe", 'u', '\'', '\u{75}', b"unsafe", r#"unsafe " unsafe"#);
            fn f<'unsafe_>(x: &'unsafe_ str) {}"##;
        assert!(paths(text, "crate").is_empty());
        assert!(!tokens(text).contains(&"unsafe".to_owned()), "{:?}", tokens(text));
        assert_eq!(tokens("a::b(c)"), ["a", "::", "b", "(", "c", ")"]);
    }

    #[test]
    fn groups_are_spelt_out() {
        let text = "use crate::{a, b::{c, d as e}, f::*}; pub(crate) fn g() -> crate::h::I { x::crate_::j() }";
        assert_eq!(paths(text, "crate"), ["crate::a", "crate::b::c", "crate::b::d", "crate::f::*", "crate::h::I"]);
        assert_eq!(paths("use super::super::a;", "super"), ["super::super::a"]);
        let exports = Source::of_text("pub use a::{B, c::D}; use e::F; pub(crate) use g::H;").exports();
        let names: Vec<&str> = exports.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["B", "D", "H"]);
    }

    #[test]
    fn code_for_tests_is_left_out() {
        let text = "use crate::a; #[cfg(test)] mod tests; #[cfg(test)] #[path = \"x\"] mod more { use crate::b; } \
                    #[cfg(not(test))] use crate::c; #[cfg(any(test, feature = \"x\"))] pub fn d() { crate::e::f() }";
        let source = Source::of_text(text);
        assert_eq!(source.test_modules, ["tests"]);
        assert_eq!(paths(text, "crate"), ["crate::a", "crate::c"]);
    }

    #[test]
    fn a_file_is_the_module_of_its_place() {
        for (path, module) in
            [("lib.rs", vec![]), ("a.rs", vec!["a"]), ("a/mod.rs", vec!["a"]), ("a/b/c.rs", vec!["a", "b", "c"])]
        {
            assert_eq!(module_of(Path::new(path)), module, "{path}");
        }
    }
}
