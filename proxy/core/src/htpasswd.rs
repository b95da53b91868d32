//! Apache's `htpasswd` file as container registries use it: one `name:hash` a line, bcrypt only.
//!
//! A line that cannot be used costs its own account only. This module only reads the file. Comparing a password takes a tenth of a second on purpose, so the caller does it
//! on a thread of its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// The hash of one password, in bcrypt's text form (`$2y$<cost>$<salt and digest>`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BcryptHash(Box<str>);

/// The accounts of a file, by name.
#[derive(Clone, Default)]
pub struct Accounts {
    by_name: HashMap<Box<str>, BcryptHash>,
}

/// The reason why a line gives no account. It quotes no part of the line, which may hold a password.
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
/// Editors on other systems put it before the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Accounts {
    /// Reads a whole file: the accounts of its good lines, and the fault of each other one. Skips empty lines and lines
    /// that begin with `#`. A name's first line counts.
    pub fn read(file: &[u8]) -> (Self, Vec<HtpasswdError>) {
        let (mut by_name, mut faults) = (HashMap::new(), Vec::new());
        let file = file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file);
        for (number, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let mut refuse = |reason| faults.push(HtpasswdError { line: number + 1, reason });
            match account(line) {
                Ok(None) => {}
                Ok(Some((name, hash))) => match by_name.entry(name) {
                    Entry::Vacant(place) => {
                        place.insert(hash);
                    }
                    Entry::Occupied(_) => refuse("the name appears twice, and its first line counts"),
                },
                Err(reason) => refuse(reason),
            }
        }
        (Self { by_name }, faults)
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

/// The account of a line. None if the line is empty or a comment.
fn account(line: &[u8]) -> Result<Option<(Box<str>, BcryptHash)>, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line.split_once(':').ok_or("not of the form name:hash")?;
    if name.is_empty() {
        return Err("the name is missing");
    }
    let hash = BcryptHash::parse(hash).ok_or("not a bcrypt hash; make it with htpasswd -B")?;
    Ok(Some((name.into(), hash)))
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
        let (accounts, faults) = Accounts::read(text.as_bytes());
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!((accounts.len(), accounts.cost_max()), (2, Some(10)));
        assert_eq!(accounts.get("alice").map(BcryptHash::as_str), Some(HASH));
        assert!(accounts.get("carol").is_none() && !accounts.is_empty());
        assert_eq!(format!("{:?}", accounts.get("bob").unwrap()), "BcryptHash(cost 10)");
        let (none, faults) = Accounts::read(b"");
        assert!(none.is_empty() && faults.is_empty());
    }

    #[test]
    fn a_line_that_cannot_be_used_costs_its_own_account_only() {
        let good = format!("good:{HASH}");
        for (line, reason) in [
            ("alice".into(), "not of the form name:hash"),
            (format!(":{HASH}"), "the name is missing"),
            ("a:$apr1$xyz$canary".into(), "not a bcrypt hash; make it with htpasswd -B"),
            ("a:{SHA}Y2FuYXJ5".into(), "not a bcrypt hash; make it with htpasswd -B"),
            ("a:canary".into(), "not a bcrypt hash; make it with htpasswd -B"),
            ("a:!".into(), "not a bcrypt hash; make it with htpasswd -B"),
            ("a:".into(), "not a bcrypt hash; make it with htpasswd -B"),
            (format!("a:{}", &HASH[..59]), "not a bcrypt hash; make it with htpasswd -B"),
            (format!("a:{HASH}:more"), "not a bcrypt hash; make it with htpasswd -B"),
            (format!("a:{}", HASH.replacen("05", "32", 1)), "not a bcrypt hash; make it with htpasswd -B"),
            (format!("a:{}", HASH.replacen("05", "+5", 1)), "not a bcrypt hash; make it with htpasswd -B"),
            (format!("good:{}", HASH.replacen("05", "10", 1)), "the name appears twice, and its first line counts"),
            ("<html>".into(), "not of the form name:hash"),
        ] {
            let (accounts, faults) = Accounts::read(format!("{good}\n{line}\nlast:{HASH}\n").as_bytes());
            assert_eq!(faults, [HtpasswdError { line: 2, reason }], "{line}");
            assert_eq!(accounts.len(), 2, "{line}");
            assert_eq!(accounts.get("good").map(BcryptHash::as_str), Some(HASH), "{line}");
            assert!(accounts.get("last").is_some(), "{line}");
        }
        let (accounts, faults) = Accounts::read(&[b"a\xff:x\n", good.as_bytes()].concat());
        assert_eq!((faults[0].to_string().as_str(), accounts.len()), ("line 1: not UTF-8", 1));
        let (accounts, faults) = Accounts::read(&[BYTE_ORDER_MARK, good.as_bytes()].concat());
        assert!(faults.is_empty() && accounts.get("good").is_some());
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(text in "(alice|:|\\$2y\\$|05|\\$|[a-z./]{53}|\n|#|é){0,20}") {
            let (accounts, faults) = Accounts::read(text.as_bytes());
            assert!(accounts.len() + faults.len() <= text.split('\n').count());
        }
    }
}
