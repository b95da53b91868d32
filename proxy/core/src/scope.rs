//! The rights in our own registry, and the scopes by which clients request them in tokens (distribution's token
//! specification, "Token Scope Documentation").

use std::fmt;

use crate::name::{NameError, RepositoryName};

/// An operation on a repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Action {
    /// Reading manifests, blobs, tags and referrers.
    Pull = 1,
    /// Uploading, and setting tags.
    Push = 2,
    /// Deleting tags, manifests and blobs.
    Delete = 4,
}

/// A set of [`Action`]s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(u8);

/// A right that a client requests for its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `repository:<name>:<actions>`
    Repository {
        /// `<name>`
        name: RepositoryName,
        /// `<actions>`, without unknown ones.
        actions: Actions,
    },
    /// `registry:catalog:*`
    Catalog,
}

impl Action {
    /// All actions, in the order of [`Actions::words`].
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word in scopes and in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl Actions {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Only [`Action::Pull`].
    pub const PULL: Self = Self(Action::Pull as u8);
    /// [`Action::Pull`] and [`Action::Push`].
    pub const PULL_AND_PUSH: Self = Self(Action::Pull as u8 | Action::Push as u8);
    /// All actions.
    pub const ALL: Self = Self(Action::Pull as u8 | Action::Push as u8 | Action::Delete as u8);

    /// Whether the set has this action.
    pub fn contains(self, action: Action) -> bool {
        self.0 & action as u8 != 0
    }

    /// Whether the set has every action of `other`.
    pub fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set has no action.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The union of both sets.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The intersection of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The words, in the order of [`Action::ALL`].
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action)).map(Action::word)
    }

    /// Reads one word. `*` means all actions. None if the word is unknown.
    pub fn from_word(word: &str) -> Option<Self> {
        if word == "*" {
            return Some(Self::ALL);
        }
        Action::ALL.into_iter().find(|action| action.word() == word).map(Self::from)
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(action as u8)
    }
}

impl FromIterator<Actions> for Actions {
    fn from_iter<I: IntoIterator<Item = Actions>>(sets: I) -> Self {
        sets.into_iter().fold(Self::NONE, Self::or)
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Scope {
    /// Reads one `scope` parameter: scopes with spaces between them. Unknown scopes and actions are left out, because a
    /// token for them would allow nothing.
    pub fn parse_all(text: &str) -> impl Iterator<Item = Self> {
        text.split(' ').filter_map(|scope| Self::parse(scope, |name| name.parse()))
    }

    /// The same for another registry, whose repositories may have capitals.
    pub fn parse_all_upstream(text: &str) -> impl Iterator<Item = Self> {
        text.split(' ').filter_map(|scope| Self::parse(scope, RepositoryName::of_upstream))
    }

    fn parse(text: &str, named: fn(&str) -> Result<RepositoryName, NameError>) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // A class in parentheses tells what the repository holds: `repository(plugin)`.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        match (kind, name) {
            ("repository", name) => {
                let actions = actions.split(',').filter_map(Actions::from_word).collect();
                Some(Self::Repository { name: named(name).ok()?, actions })
            }
            ("registry", "catalog") => Some(Self::Catalog),
            _ => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { name, actions } => write!(formatter, "repository:{name}:{actions}"),
            Self::Catalog => formatter.write_str("registry:catalog:*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        Scope::parse_all(text).map(|scope| scope.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn scopes_are_read_and_others_left_out() {
        for (text, expected) in [
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a/b:push,pull", "repository:a/b:pull,push"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("repository:a:pull repository:b:delete", "repository:a:pull repository:b:delete"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("repository:a:fly", "repository:a:"),
            ("repository:../a:pull", ""),
            ("repository:A:pull", ""),
            ("repository:a", ""),
            ("warehouse:a:pull", ""),
            ("registry:other:*", ""),
            ("", ""),
            (" : :: ", ""),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn sets_of_actions() {
        let pull_push = Actions::from(Action::Pull).or(Action::Push.into());
        assert!(pull_push.contains(Action::Push) && !pull_push.contains(Action::Delete));
        assert!(Actions::ALL.contains_all(pull_push) && !pull_push.contains_all(Actions::ALL));
        assert_eq!(pull_push.and(Action::Delete.into()), Actions::NONE);
        assert_eq!(Actions::ALL.to_string(), "pull,push,delete");
        assert!(Actions::NONE.is_empty() && Actions::from_word("").is_none());
    }

    proptest::proptest! {
        #[test]
        fn what_was_read_reads_again(text in "(repository|registry|catalog|a/b|:|,|pull|push|\\*| |\\(){0,12}") {
            let once = read(&text);
            proptest::prop_assert_eq!(read(&once), once);
        }
    }
}
