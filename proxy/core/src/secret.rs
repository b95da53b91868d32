//! Secrets have a type of their own, without `Debug` or `Display`, so that none reaches a log by accident.

use std::hash::{Hash, Hasher};

/// A password, token, passphrase or the value of an Authorization header.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes the secret in.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Every caller sends it to the origin it belongs to, or compares it, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
