//! Content digests (OCI image specification, "Digests"): the only names of content in the store.
//!
//! A digest is an algorithm and a fixed number of bytes, never text. Paths and headers are encoded from these bytes, so
//! no text of a client gets into a file name.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as hash;
use http::HeaderName;

/// The response header that names the digest of the content (OCI distribution specification, "Pulling manifests").
pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A sha256 or sha512 digest. The specification registers no other algorithm, so others are refused.
///
/// ```
/// use entrepot_core::digest::{Algorithm, Digest};
///
/// let digest: Digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse()?;
/// assert_eq!(digest, Digest::of(Algorithm::Sha256, b""));
/// assert!(digest.hex().starts_with("e3b0c442"));
/// assert!("sha256:../../etc/passwd".parse::<Digest>().is_err());
/// # Ok::<(), entrepot_core::digest::DigestError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// `sha256:`, 32 bytes.
    Sha256([u8; 32]),
    /// `sha512:`, 64 bytes.
    Sha512([u8; 64]),
}

/// The algorithms a digest may use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// `sha256:` and 64 hex digits.
    Sha256,
    /// `sha512:` and 128 hex digits.
    Sha512,
}

/// The reason why text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has no `algorithm:` in front, or one that is not supported.
    #[error("a digest starts with sha256: or sha512:")]
    Algorithm,
    /// The number of digits is wrong, or one is not a lower-case hex digit.
    #[error("a digest is 64 (sha256) or 128 (sha512) lower-case hex digits")]
    Encoding,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm, as its text has it before the colon.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes: 32 for sha256, 64 for sha512.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }

    /// The lower-case hex digits without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(self.bytes().len() * 2);
        for byte in self.bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// Rebuilds a digest as the index stores it. None if `bytes` has another length than the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Digest::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(Digest::Sha512),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Algorithm {
    /// The name before the colon. The store's folder under `blobs/` has the same name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Algorithm)?;
        match algorithm {
            "sha256" => Ok(Digest::Sha256(decode(hex)?)),
            "sha512" => Ok(Digest::Sha512(decode(hex)?)),
            _ => Err(DigestError::Algorithm),
        }
    }
}

fn decode<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
    let hex = hex.as_bytes();
    if hex.len() != N * 2 {
        return Err(DigestError::Encoding);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Encoding),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A running hash. A clone keeps the state, so a second reader can continue from the same offset.
#[derive(Clone)]
pub struct Hasher {
    context: hash::Context,
    algorithm: Algorithm,
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = hash::Context::new(match algorithm {
            Algorithm::Sha256 => &hash::SHA256,
            Algorithm::Sha512 => &hash::SHA512,
        });
        Self { context, algorithm }
    }

    /// The algorithm of the digest that [`Self::finish`] returns.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes added so far.
    pub fn finish(self) -> Digest {
        let output = self.context.finish();
        let bytes = output.as_ref();
        match self.algorithm {
            Algorithm::Sha256 => Digest::Sha256(std::array::from_fn(|i| bytes[i])),
            Algorithm::Sha512 => Digest::Sha512(std::array::from_fn(|i| bytes[i])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_digests_round_trip() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(digest));
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, digest.bytes()), Some(digest));
        let long = Digest::of(Algorithm::Sha512, b"entrepot");
        assert_eq!(long.to_string().parse(), Ok(long));
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, long.bytes()), None);
    }

    #[test]
    fn only_canonical_text_is_a_digest() {
        for (text, error) in [
            ("", DigestError::Algorithm),
            ("sha256", DigestError::Algorithm),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("SHA256:e3b0", DigestError::Algorithm),
            ("sha256:e3b0", DigestError::Encoding),
            ("sha256:../../../../../../../../../../../../../../../../../../../../etc/pass", DigestError::Encoding),
            (&EMPTY.to_uppercase().replace("SHA", "sha"), DigestError::Encoding),
            (&format!("{EMPTY}0"), DigestError::Encoding),
            (&format!("sha512:{}", &EMPTY[7..]), DigestError::Encoding),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_cloned_hasher_goes_on_alone() {
        let mut first = Hasher::new(Algorithm::Sha256);
        first.update(b"entre");
        let mut second = first.clone();
        first.update(b"pot");
        second.update(b"pot");
        assert_eq!(first.finish(), second.finish());
    }
}
