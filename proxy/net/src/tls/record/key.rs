//! One direction's key: which nonce and which additional data each record has.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::aead::{MAX_TAG_LEN, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use super::{HEADER_BYTES, RecordError, TAG_BYTES};

const _: () = assert!(TAG_BYTES == MAX_TAG_LEN);

/// How a record is built around its ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// TLS 1.3: the type lies inside, behind the content.
    Inner,
    /// TLS 1.2 with AES-GCM: eight bytes of the nonce go before the ciphertext (RFC 5288 section 3).
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305: nothing is added (RFC 7905 section 2).
    Implicit,
}

/// The eight bytes of the nonce that TLS 1.2 sends along.
pub(super) const EXPLICIT_BYTES: usize = 8;

impl Form {
    /// What comes before the content.
    pub(super) const fn prefix_bytes(self) -> usize {
        match self {
            Self::Explicit => HEADER_BYTES + EXPLICIT_BYTES,
            Self::Inner | Self::Implicit => HEADER_BYTES,
        }
    }

    /// What comes after it.
    pub(super) const fn suffix_bytes(self) -> usize {
        match self {
            Self::Inner => 1 + TAG_BYTES,
            Self::Explicit | Self::Implicit => TAG_BYTES,
        }
    }
}

/// A key, and how often it was used.
pub(super) struct Key {
    pub(super) aead: LessSafeKey,
    pub(super) form: Form,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    records_max: u64,
}

/// AES-GCM's bound on records under one key, 2^24.5 (RFC 8446 section 5.5), rounded down. ChaCha20-Poly1305's is beyond
/// what sequence numbers count; one bound for all is simpler, and 256 GiB of one connection are far away.
pub(super) const RECORDS_MAX: u64 = 1 << 24;

impl Key {
    /// The key of `secrets`, which has protected `sequence` records already.
    pub(super) fn new(
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
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Sealing)?;
        Ok(Self { aead: LessSafeKey::new(unbound), form, iv, sequence, records_max: RECORDS_MAX })
    }

    /// Whether as many records as are allowed were protected, or soon will be: a batch of them fits still.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.records_max
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.records_max = self.sequence;
    }

    /// The number of the next record, which is used up by asking.
    pub(super) fn advance(&mut self) -> Result<u64, RecordError> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::WornOut)?;
        Ok(sequence)
    }

    /// The nonce of record `sequence` (RFC 8446 section 5.3, which RFC 7905 took over).
    pub(super) fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// The nonce of a record that brought `explicit` along.
    pub(super) fn explicit_nonce(&self, explicit: [u8; EXPLICIT_BYTES]) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        nonce[NONCE_LEN - EXPLICIT_BYTES..].copy_from_slice(&explicit);
        nonce
    }

    /// What is authenticated besides the content: the header in TLS 1.3 (section 5.2), number, type, version and length
    /// of the content in TLS 1.2 (RFC 5246 section 6.2.3.3).
    pub(super) fn additional(
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

/// Additional data of a record.
pub(super) struct Additional {
    bytes: [u8; ADDITIONAL_MAX_BYTES],
    length: usize,
}

impl Additional {
    pub(super) fn aad(&self) -> Aad<&[u8]> {
        Aad::from(&self.bytes[..self.length])
    }
}

/// A nonce that was made by [`Key::nonce`] or [`Key::explicit_nonce`].
pub(super) fn once(nonce: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(nonce)
}
