//! TLS records after the handshake: protecting them, opening them, and what they mean (RFC 8446 section 5 and RFC 5246
//! section 6 with the AEAD suites of RFC 5288 and RFC 7905). Pure: bytes in, bytes out.
//!
//! rustls shakes hands, keeps tickets and derives every secret; this room has the record layer alone, because rustls
//! copies what it seals and an idle connection of it holds tens of KiB. Measured beside it, see `tests/bench/NOTES.md`.
//!
//! | file | what |
//! |---|---|
//! | `key` | one direction's key: nonces, additional data, the bound on its use |
//! | `seal` | protecting records in place |
//! | `open` | opening records in place |
//! | `session` | both directions: alerts, key updates, renegotiation, closing |
//!
//! Invariants: a nonce is used once (the sequence number only grows, and a key that is worn out is replaced or refused);
//! nothing of a record that did not open is handed on; whatever the peer sends, an error is all that comes of it.

mod key;
mod open;
mod seal;
mod session;
#[cfg(test)]
mod tests;

use rustls::AlertDescription;

pub use seal::Sealer;
pub use session::{Received, Reply, Session};

/// The most plaintext in one record (RFC 8446 section 5.1).
pub const RECORD_MAX_BYTES: usize = 16 * 1024;
/// Type, version and length.
pub const HEADER_BYTES: usize = 5;
/// The tag of every AEAD suite that is offered.
const TAG_BYTES: usize = 16;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The client broke the protocol; it was sent this alert.
    #[error("the client broke the TLS protocol: {what} (alert {alert:?} sent)")]
    Broken {
        /// What it did.
        what: &'static str,
        /// What it was told.
        alert: AlertDescription,
    },
    /// The client gave up.
    #[error("the client ended the TLS connection with alert {0:?}")]
    Alert(AlertDescription),
    /// As many records as a key may protect went over the connection, and TLS 1.2 has no way to change it.
    #[error("the connection's TLS 1.2 key has protected all the records it may; the client has to connect again")]
    WornOut,
    /// The cryptographic library refused.
    #[error("a TLS record could not be protected; this is a bug of entrepot's")]
    Sealing,
}

impl RecordError {
    fn unexpected(what: &'static str) -> Self {
        Self::Broken { what, alert: AlertDescription::UnexpectedMessage }
    }
}

/// How long a record is, header and all, once its header is in `bytes`; none while it is not.
pub fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // RFC 5246 section 6.2.3 allows 2048 more than the plaintext, RFC 8446 section 5.2 only 256.
    if length > RECORD_MAX_BYTES + 2048 {
        return Err(RecordError::Broken { what: "a record is too long", alert: AlertDescription::RecordOverflow });
    }
    if header[1] != 3 {
        return Err(RecordError::Broken { what: "this is no TLS record", alert: AlertDescription::ProtocolVersion });
    }
    Ok(Some(HEADER_BYTES + length))
}
