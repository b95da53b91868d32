//! The id of an upload.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;

/// The id of an upload: 128 random bits, so that no client guesses another client's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UploadId([u8; 16]);

/// The text is not the id of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an upload's id: 32 lower-case hex digits")]
pub struct NoUploadId;

impl UploadId {
    /// A new id. None if the system gives no randomness.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok().map(|()| Self(bytes))
    }

    /// A part of the id, which tells it from most others.
    pub(crate) fn number(self) -> u64 {
        u64::from_be_bytes(self.0.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for UploadId {
    type Err = NoUploadId;

    fn from_str(text: &str) -> Result<Self, NoUploadId> {
        let plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(NoUploadId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_nothing_else_does() {
        let id = UploadId::random().expect("randomness");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(Some(id), UploadId::random());
        let text = id.to_string();
        for bad in ["", "..", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &"A".repeat(32)] {
            assert_eq!(bad.parse::<UploadId>(), Err(NoUploadId), "{bad}");
        }
    }
}
