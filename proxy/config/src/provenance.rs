//! The provenance of a setting, and the error for one that cannot be used.
//!
//! Layers record a [`Place`] while they read: the file's parser knows only a byte offset. [`Source`] turns it into a
//! [`Provenance`] that an administrator can go to. A [`ConfigError`] is always exactly one line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The source of a setting's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Provenance {
    Default,
    /// The server found the port of a default address in use, so the address is not in force.
    TakenDefault,
    File {
        /// The path as the administrator wrote it.
        path: Arc<Path>,
        /// Counted from 1. None if the file as a whole is meant.
        line: Option<usize>,
    },
    Environment(&'static str),
    Flag(&'static str),
}

/// The reason why the configuration cannot be used: the place, the mistake, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigError {
    /// The place of the mistake.
    pub origin: Provenance,
    /// The mistake in words.
    pub message: String,
    /// The remedy. None if the message says enough.
    pub hint: Option<String>,
}

/// A value as it was typed, with its place.
#[derive(Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A place inside one of the layers above the defaults.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Byte offset in the configuration file.
    File(usize),
    Environment(&'static str),
    Flag(&'static str),
}

/// The reason why one value is refused. The caller adds the place of the value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// The configuration file that was read. The text is empty if there is none.
pub(super) struct Source {
    pub(super) path: Arc<Path>,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        Self { path: path.into(), text }
    }

    pub(super) fn origin(&self, place: Place) -> Provenance {
        match place {
            Place::File(offset) => Provenance::File { path: self.path.clone(), line: Some(self.line(offset)) },
            Place::Environment(name) => Provenance::Environment(name),
            Place::Flag(name) => Provenance::Flag(name),
        }
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

impl<T> Given<T> {
    pub(super) fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn at(self, origin: Provenance) -> ConfigError {
        ConfigError { origin, message: self.message, hint: self.hint }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::TakenDefault => formatter.write_str("default, whose port is in use"),
            Self::File { path, line: Some(line) } => write!(formatter, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(formatter, "{}", path.display()),
            Self::Environment(name) => write!(formatter, "environment variable {name}"),
            Self::Flag(name) => write!(formatter, "flag {name}"),
        }
    }
}

impl fmt::Display for ConfigError {
    /// One line: control characters in quoted text become spaces.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let text = format!("{}: {}{hint}", self.origin, self.message);
        formatter.write_str(&text.replace(char::is_control, " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_becomes_a_line() {
        let source = Source::new("entrepot.toml".into(), "a = 1\nb = 2\n\nc = 3".to_owned());
        for (offset, shown) in
            [(0, "entrepot.toml:1"), (5, "entrepot.toml:1"), (6, "entrepot.toml:2"), (13, "entrepot.toml:4")]
        {
            assert_eq!(source.origin(Place::File(offset)).to_string(), shown);
        }
    }

    #[test]
    fn an_error_is_one_line() {
        let error = Refusal::new("a\nb").hint("c\r\nd").at(Provenance::Environment("X"));
        assert_eq!(error.to_string(), "environment variable X: a b; c  d");
    }
}
