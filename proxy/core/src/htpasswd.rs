//! Apache's `htpasswd` file as container registries use it: one `name:hash` a line, bcrypt only.
//!
//! This module only reads the file. Comparing a password takes a tenth of a second on purpose, so the caller does it
//! on a thread of its own.

use std::collections::HashMap;
use std::fmt;

/// The hash of one password, in bcrypt's text form (`$2y$<cost>$<salt and digest>`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BcryptHash(Box<str>);

/// The accounts of a file, by name.
#[derive(Clone, Default)]
pub struct Accounts {
    by_name: HashMap<Box<str>, BcryptHash>,
}

/// The reason why a file is refused. It quotes no part of the line, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct HtpasswdError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The fault, for the administrator.
    pub reason: &'static str,
}

/// The costs that bcrypt allows.
const COST: std::ops::RangeInclusive<u32> = 4..=31;
/// Salt and digest in bcrypt's base64.
const ENCODED_BYTES: usize = 53;

impl Accounts {
    /// Reads a whole file. Skips empty lines and lines that begin with `#`.
    pub fn parse(text: &str) -> Result<Self, HtpasswdError> {
        let mut by_name = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let refuse = |reason| HtpasswdError { line: number + 1, reason };
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').ok_or(refuse("not of the form name:hash"))?;
            if name.is_empty() {
                return Err(refuse("the name is missing"));
            }
            let hash = BcryptHash::parse(hash).ok_or(refuse("not a bcrypt hash; make it with htpasswd -B"))?;
            if by_name.insert(name.into(), hash).is_some() {
                return Err(refuse("the name appears twice"));
            }
        }
        Ok(Self { by_name })
    }

    /// The hash of an account. None if there is no such account.
    pub fn get(&self, name: &str) -> Option<&BcryptHash> {
        self.by_name.get(name)
    }

    /// The number of accounts.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether the file has no account.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The highest cost of all hashes. A login with an unknown name must take as long as this one. None without accounts.
    pub fn cost_max(&self) -> Option<u32> {
        self.by_name.values().map(BcryptHash::cost).max()
    }
}

impl BcryptHash {
    fn parse(text: &str) -> Option<Self> {
        let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|version| text.strip_prefix(version))?;
        let (cost, encoded) = rest.split_once('$')?;
        let digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
        let cost_ok = digits && cost.parse().is_ok_and(|cost: u32| COST.contains(&cost));
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        let fits = cost_ok && encoded.len() == ENCODED_BYTES && encoded.bytes().all(base64);
        fits.then(|| Self(text.into()))
    }

    /// The text that bcrypt reads.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The binary logarithm of the number of rounds.
    pub fn cost(&self) -> u32 {
        // `parse` accepts only hashes with two digits at this place.
        self.0.get(4..6).and_then(|digits| digits.parse().ok()).unwrap_or(*COST.end())
    }
}

/// Does not show the hash: a password can be guessed from it.
impl fmt::Debug for BcryptHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BcryptHash(cost {})", self.cost())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuS3IfcqE2Cpe9e0oBDnxYBrvQuAUj9jC";

    #[test]
    fn accounts_are_read() {
        let text = format!("# people\n\nalice:{HASH}\r\nbob:{}\n", HASH.replacen("2y$05", "2b$10", 1));
        let accounts = Accounts::parse(&text).unwrap();
        assert_eq!((accounts.len(), accounts.cost_max()), (2, Some(10)));
        assert_eq!(accounts.get("alice").map(BcryptHash::as_str), Some(HASH));
        assert!(accounts.get("carol").is_none() && !accounts.is_empty());
        assert_eq!(format!("{:?}", accounts.get("bob").unwrap()), "BcryptHash(cost 10)");
        assert!(Accounts::parse("").unwrap().is_empty());
    }

    #[test]
    fn other_forms_are_refused_without_being_quoted() {
        for (text, reason) in [
            ("alice", "line 1: not of the form name:hash"),
            (&*format!(":{HASH}"), "line 1: the name is missing"),
            (&*format!("a:{HASH}\nb:$apr1$xyz$canary"), "line 2: not a bcrypt hash; make it with htpasswd -B"),
            ("a:canary", "line 1: not a bcrypt hash; make it with htpasswd -B"),
            (&*format!("a:{}", &HASH[..59]), "line 1: not a bcrypt hash; make it with htpasswd -B"),
            (&*format!("a:{}", HASH.replacen("05", "32", 1)), "line 1: not a bcrypt hash; make it with htpasswd -B"),
            (&*format!("a:{}", HASH.replacen("05", "+5", 1)), "line 1: not a bcrypt hash; make it with htpasswd -B"),
            (&*format!("a:{HASH}\na:{HASH}"), "line 2: the name appears twice"),
        ] {
            assert_eq!(Accounts::parse(text).err().map(|error| error.to_string()), Some(reason.into()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(text in "(alice|:|\\$2y\\$|05|\\$|[a-z./]{53}|\n|#|é){0,20}") {
            let _ = Accounts::parse(&text);
        }
    }
}
