//! Secrets have a type of their own: it cannot be printed, and it wipes its memory.

use std::hash::{Hash, Hasher};

use zeroize::Zeroizing;

/// A password, a token, a passphrase or the value of an `Authorization` header.
///
/// It has neither `Debug` nor `Display`, so it reaches no log by accident, and a type that contains it cannot derive
/// them either. Its text is overwritten when it is dropped. Copies that a caller makes of [`Self::expose`], and those
/// inside HTTP libraries, are beyond its reach.
///
/// ```compile_fail
/// let password = entrepot_core::secret::Secret::new("hunter2");
/// println!("{password:?}");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over. A `String` is not copied, so no second copy stays in memory.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text. Callers may compare it, or send it to the server it belongs to, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}
