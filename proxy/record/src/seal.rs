//! Sealing records where their content lies already.

use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use super::key::{Form, Key, once};
use super::{HEADER_BYTES, RECORD_MAX_BYTES, RecordError, TAG_BYTES};

/// The version in every record's header (RFC 8446 section 5.1).
const LEGACY_VERSION: [u8; 2] = [3, 3];

/// The server's direction.
pub struct Sealer {
    key: Key,
}

impl Sealer {
    pub(crate) fn new(version: ProtocolVersion, secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Ok(Self { key: Key::new(version, secrets)? })
    }

    /// Bytes that a record has in front of its content.
    pub fn prefix_bytes(&self) -> usize {
        self.key.form.prefix_bytes()
    }

    /// Bytes that a record has behind its content.
    pub fn suffix_bytes(&self) -> usize {
        self.key.form.suffix_bytes()
    }

    /// Records that were sealed under this key.
    pub(crate) fn records(&self) -> u64 {
        self.key.records()
    }

    /// Makes a record of `record`, whose content lies between room for the prefix and the suffix.
    pub fn seal(&mut self, kind: ContentType, record: &mut [u8]) -> Result<(), RecordError> {
        let (prefix, suffix) = (self.prefix_bytes(), self.suffix_bytes());
        let content = record.len().checked_sub(prefix + suffix).filter(|content| *content <= RECORD_MAX_BYTES);
        let content = content.ok_or(RecordError::Sealing)?;
        let length = u16::try_from(record.len() - HEADER_BYTES).map_err(|_| RecordError::Sealing)?.to_be_bytes();
        let form = self.key.form;
        let outer = if form == Form::Inner { ContentType::ApplicationData } else { kind };
        let header = [u8::from(outer), LEGACY_VERSION[0], LEGACY_VERSION[1], length[0], length[1]];
        let sequence = self.key.advance()?;
        let nonce = self.key.nonce(sequence);
        let additional = self.key.additional(sequence, kind, header, content);
        record[..HEADER_BYTES].copy_from_slice(&header);
        if form == Form::Explicit {
            record[HEADER_BYTES..prefix].copy_from_slice(&nonce[nonce.len() - (prefix - HEADER_BYTES)..]);
        }
        if form == Form::Inner {
            record[prefix + content] = u8::from(kind);
        }
        let (protected, tag) = record[prefix..].split_at_mut(content + suffix - TAG_BYTES);
        let sealed = self.key.aead.seal_in_place_separate_tag(once(nonce), additional.aad(), protected);
        tag.copy_from_slice(sealed.map_err(|_| RecordError::Sealing)?.as_ref());
        Ok(())
    }

    /// A new record with this content.
    pub(crate) fn record(&mut self, kind: ContentType, content: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut record = vec![0; self.prefix_bytes()];
        record.extend_from_slice(content);
        record.resize(record.len() + self.suffix_bytes(), 0);
        self.seal(kind, &mut record)?;
        Ok(record)
    }
}
