//! One direction's key: which nonce and which additional data each record has, and how many records it may protect.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::aead::{MAX_TAG_LEN, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};
use zeroize::Zeroizing;

use super::{HEADER_BYTES, RecordError, TAG_BYTES};

const _: () = assert!(TAG_BYTES == MAX_TAG_LEN);

/// How a record is built around its ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// TLS 1.3: the type lies inside, behind the content.
    Inner,
    /// TLS 1.2 with AES-GCM: eight bytes of the nonce precede the ciphertext (RFC 5288 section 3).
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305: nothing is added (RFC 7905 section 2).
    Implicit,
}

/// The eight bytes of the nonce that TLS 1.2 sends along.
pub(crate) const EXPLICIT_BYTES: usize = 8;

impl Form {
    /// Bytes in front of the content.
    pub(crate) const fn prefix_bytes(self) -> usize {
        match self {
            Self::Explicit => HEADER_BYTES + EXPLICIT_BYTES,
            Self::Inner | Self::Implicit => HEADER_BYTES,
        }
    }

    /// Bytes behind the content.
    pub(crate) const fn suffix_bytes(self) -> usize {
        match self {
            Self::Inner => 1 + TAG_BYTES,
            Self::Explicit | Self::Implicit => TAG_BYTES,
        }
    }
}

/// A key and the number of its next record. aws-lc wipes the key when it frees it.
pub(crate) struct Key {
    pub(crate) aead: LessSafeKey,
    pub(crate) form: Form,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

/// AES-GCM's bound on records under one key, 2^24.5 (RFC 8446 section 5.5), rounded down. ChaCha20-Poly1305's is beyond
/// what sequence numbers count; one bound for all is simpler, and few connections send 256 GiB.
pub(crate) const RECORDS_MAX: u64 = 1 << 24;

impl Key {
    /// The key of `secrets`, which has protected `sequence` records already.
    pub(crate) fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Sealing),
        };
        let form = match version {
            ProtocolVersion::TLSv1_3 => Form::Inner,
            _ if std::ptr::eq(algorithm, &CHACHA20_POLY1305) => Form::Implicit,
            _ => Form::Explicit,
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Sealing)?;
        let iv = Zeroizing::new(iv.as_ref().try_into().map_err(|_| RecordError::Sealing)?);
        Ok(Self { aead: LessSafeKey::new(unbound), form, iv, sequence })
    }

    /// Records that were protected under this key.
    pub(crate) fn records(&self) -> u64 {
        self.sequence
    }

    /// Takes the number of the next record.
    pub(crate) fn advance(&mut self) -> Result<u64, RecordError> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::WornOut)?;
        Ok(sequence)
    }

    /// The nonce of record `sequence` (RFC 8446 section 5.3, like RFC 7905 section 2).
    pub(crate) fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// The nonce of a record that brought `explicit` along.
    pub(crate) fn explicit_nonce(&self, explicit: [u8; EXPLICIT_BYTES]) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        nonce[NONCE_LEN - EXPLICIT_BYTES..].copy_from_slice(&explicit);
        nonce
    }

    /// The data that are authenticated besides the content: the header in TLS 1.3 (section 5.2); number, type, version
    /// and length of the content in TLS 1.2 (RFC 5246 section 6.2.3.3).
    pub(crate) fn additional(
        &self,
        sequence: u64,
        kind: ContentType,
        header: [u8; HEADER_BYTES],
        content: usize,
    ) -> Additional {
        let mut bytes = [0; ADDITIONAL_MAX_BYTES];
        if self.form == Form::Inner {
            bytes[..HEADER_BYTES].copy_from_slice(&header);
            return Additional { bytes, length: HEADER_BYTES };
        }
        bytes[..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8] = u8::from(kind);
        bytes[9..11].copy_from_slice(&header[1..3]);
        bytes[11..].copy_from_slice(&u16::try_from(content).unwrap_or(u16::MAX).to_be_bytes());
        Additional { bytes, length: ADDITIONAL_MAX_BYTES }
    }
}

const ADDITIONAL_MAX_BYTES: usize = 13;

/// A record's additional data.
pub(crate) struct Additional {
    bytes: [u8; ADDITIONAL_MAX_BYTES],
    length: usize,
}

impl Additional {
    pub(crate) fn aad(&self) -> Aad<&[u8]> {
        Aad::from(&self.bytes[..self.length])
    }
}

/// A nonce that [`Key::nonce`] or [`Key::explicit_nonce`] made.
pub(crate) fn once(nonce: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};
    use zeroize::ZeroizeOnDrop;

    use super::*;

    fn is_wiped(_: &impl ZeroizeOnDrop) {}

    #[test]
    fn the_secret_part_of_nonces_is_wiped() {
        let secrets =
            ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([7; 32]), iv: Iv::from([9; NONCE_LEN]) };
        let key = Key::new(ProtocolVersion::TLSv1_3, (3, secrets)).expect("a key");
        is_wiped(&key.iv);
    }

    #[test]
    fn no_number_is_given_twice() {
        let secrets =
            ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([7; 32]), iv: Iv::from([9; NONCE_LEN]) };
        let mut key = Key::new(ProtocolVersion::TLSv1_3, (u64::MAX - 1, secrets)).expect("a key");
        assert_eq!(key.advance(), Ok(u64::MAX - 1));
        assert_eq!(key.advance(), Err(RecordError::WornOut));
        assert_eq!(key.advance(), Err(RecordError::WornOut));
    }
}
