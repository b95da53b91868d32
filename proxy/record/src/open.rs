//! Opening a client's records in place.

use std::ops::Range;

use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use super::key::{EXPLICIT_BYTES, Form, Key, once};
use super::{HEADER_BYTES, RECORD_MAX_BYTES, RecordError, TAG_BYTES};

/// The client's direction.
pub(crate) struct Opener {
    key: Key,
}

impl Opener {
    pub(crate) fn new(version: ProtocolVersion, secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Ok(Self { key: Key::new(version, secrets)? })
    }

    /// Opens a whole record. Returns its type and the place of its content in it.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), RecordError> {
        let form = self.key.form;
        let header = *record.first_chunk::<HEADER_BYTES>().ok_or_else(too_short)?;
        let outer = ContentType::from(header[0]);
        if form == Form::Inner && outer != ContentType::ApplicationData {
            return Err(RecordError::unexpected("an unprotected record after the handshake"));
        }
        let prefix = form.prefix_bytes();
        let content = record.len().checked_sub(prefix + TAG_BYTES).ok_or_else(too_short)?;
        // In TLS 1.3 the type and padding may add 256 bytes to a content of full size, the tag among them.
        if content > RECORD_MAX_BYTES + if form == Form::Inner { 256 - TAG_BYTES } else { 0 } {
            return Err(RecordError::too_long());
        }
        let sequence = self.key.advance()?;
        let nonce = match record[HEADER_BYTES..].first_chunk::<EXPLICIT_BYTES>() {
            Some(explicit) if form == Form::Explicit => self.key.explicit_nonce(*explicit),
            _ => self.key.nonce(sequence),
        };
        let additional = self.key.additional(sequence, outer, header, content);
        let opened = self.key.aead.open_in_place(once(nonce), additional.aad(), &mut record[prefix..]);
        let opened = opened.map_err(|_| RecordError::Broken {
            what: "a record was changed on its way",
            alert: AlertDescription::BadRecordMac,
        })?;
        if form != Form::Inner {
            return Ok((outer, prefix..prefix + content));
        }
        // The type is the last byte that is not padding (RFC 8446 section 5.4).
        let Some(end) = opened.iter().rposition(|byte| *byte != 0) else {
            return Err(RecordError::unexpected("a record without a type"));
        };
        if end > RECORD_MAX_BYTES {
            return Err(RecordError::too_long());
        }
        Ok((ContentType::from(opened[end]), prefix..prefix + end))
    }
}

fn too_short() -> RecordError {
    RecordError::Broken { what: "a record is shorter than its protection", alert: AlertDescription::BadRecordMac }
}
