//! Names inside a registry: repository names, tags and references (OCI Distribution 1.1, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// A repository name such as `library/busybox`: components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/`.
///
/// ```
/// use entrepot_core::name::RepositoryName;
///
/// assert!("library/busybox".parse::<RepositoryName>().is_ok());
/// assert!("Library/busybox".parse::<RepositoryName>().is_err());
/// assert!("a/../b".parse::<RepositoryName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Box<str>);

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

/// The last part of a manifest's path: a tag or a digest.
///
/// ```
/// use entrepot_core::name::Reference;
///
/// assert!(matches!("latest".parse()?, Reference::Tag(_)));
/// let digest = format!("sha256:{}", "0".repeat(64));
/// assert!(matches!(digest.parse()?, Reference::Digest(_)));
/// # Ok::<(), entrepot_core::name::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reference {
    /// A name that the registry may point at other content at any time.
    Tag(Tag),
    /// The content's own digest.
    Digest(Digest),
}

/// The reason why text is not a name, tag or reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is outside [`RepositoryName`]'s grammar.
    #[error("not a repository name")]
    Repository,
    /// The text is outside [`Tag`]'s grammar.
    #[error("not a tag")]
    Tag,
    /// The text has a colon and is no supported digest.
    #[error("not a digest")]
    Digest,
}

/// Most clients limit host and name together to 255 characters.
const REPOSITORY_NAME_MAX_BYTES: usize = 255;
const TAG_MAX_BYTES: usize = 128;

impl RepositoryName {
    /// Reads the name of another registry's repository. Those of models have capitals, which the specification's grammar
    /// has not. Two names that differ in capitals are two names.
    pub fn of_upstream(text: &str) -> Result<Self, NameError> {
        text.to_ascii_lowercase().parse::<Self>().map(|_| Self(text.into()))
    }

    /// Whether the name is outside the specification's grammar, because it has capitals.
    pub fn has_capitals(&self) -> bool {
        self.0.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// The name as it stands in paths.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as it stands in paths.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = text.len() <= REPOSITORY_NAME_MAX_BYTES && text.split('/').all(is_component);
        valid.then(|| Self(text.into())).ok_or(NameError::Repository)
    }
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = text.bytes();
        let valid = text.len() <= TAG_MAX_BYTES
            && bytes.next().is_some_and(word)
            && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
        valid.then(|| Self(text.into())).ok_or(NameError::Tag)
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            text.parse().map(Reference::Digest).map_err(|_| NameError::Digest)
        } else {
            text.parse().map(Reference::Tag)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(formatter),
            Reference::Digest(digest) => digest.fmt(formatter),
        }
    }
}

macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    )*};
}
shown_as_text!(RepositoryName, Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for good in ["a", "library/busybox", "a/b/c/d/e/f", "a.b_c__d---e/0", "team-x/app.v2"] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a/../b", "a b", "é", "a/.b", "a._b", &long]
        {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_other_registries_may_have_capitals() {
        for (text, has_capitals) in [
            ("a", false),
            ("Owner/Model-8B-GGUF", true),
            ("hf/Llama-3.2_x", true),
            ("A/b__C", true),
            ("team/app", false),
        ] {
            let name = RepositoryName::of_upstream(text).expect(text);
            assert_eq!((name.as_str(), name.has_capitals()), (text, has_capitals));
            assert_eq!(text.parse::<RepositoryName>().is_ok(), !has_capitals, "{text}");
        }
        for bad in ["", "/A", "A/", "A//b", "A..b", "-A", "A_", "A/../b", "A b", "\u{c9}", "\u{212a}", &"A".repeat(256)]
        {
            assert!(RepositoryName::of_upstream(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_and_references() {
        let longest = "t".repeat(128);
        for good in ["latest", "v1.0", "_x", "A-b.c_d", longest.as_str()] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
            assert!(matches!(good.parse(), Ok(Reference::Tag(_))));
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "a%2f", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert_eq!("sha256:zz".parse::<Reference>(), Err(NameError::Digest));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
    }
}
