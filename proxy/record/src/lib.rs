//! TLS records behind the handshake: sealing them, opening them, and what they mean (RFC 8446 section 5, and RFC 5246
//! section 6 with the AEAD suites of RFC 5288 and RFC 7905). It does no I/O: bytes in, bytes out.
//!
//! rustls does the handshake of a server, keeps the tickets and derives every secret. This crate takes over where
//! [`rustls::kernel`] hands over. `README.md` says why, with the measurement.
//!
//! ```text
//! rustls (UnbufferedServerConnection) ──► ExtractedSecrets, KernelConnection ──► Session
//! Session   sealer()        Sealer: seals in place
//!           receive()       opens in place
//!           take_control()  alerts and key updates that have to be sent
//! ```
//!
//! | file | what |
//! |---|---|
//! | `key` | one direction's key: nonces, additional data, the bound on its use |
//! | `seal` | sealing records in place |
//! | `open` | opening records in place |
//! | `session` | both directions: alerts, key updates, renegotiation, closing |
//!
//! Invariants:
//! - A nonce is used once. The sequence number only grows; a key that is worn out is replaced or refused.
//! - Nothing of a record that did not open is handed on.
//! - Whatever the client sends, the worst outcome is an error. There is no panic and no growing memory.
//! - Keys and traffic secrets are wiped when they are dropped (aws-lc, rustls). Of the nonces' secret part only this
//!   crate's copy is wiped: rustls frees its own unwiped. Without the key it opens nothing.

#![warn(missing_docs)]

mod key;
mod open;
mod seal;
mod session;

use rustls::AlertDescription;

pub use seal::Sealer;
pub use session::{ControlMessage, Received, Session};

/// The most plaintext in one record (RFC 8446 section 5.1).
pub const RECORD_MAX_BYTES: usize = 16 * 1024;
/// A record's type, version and length.
pub const HEADER_BYTES: usize = 5;
/// The tag of every AEAD suite that is supported.
const TAG_BYTES: usize = 16;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The client broke the protocol. The alert is among the session's control messages.
    #[error("the client broke the TLS protocol: {what} (alert {alert:?} sent)")]
    Broken {
        /// The fault, for people.
        what: &'static str,
        /// The alert for the client.
        alert: AlertDescription,
    },
    /// The client ended the connection.
    #[error("the client ended the TLS connection with alert {0:?}")]
    Alert(AlertDescription),
    /// The key has protected as many records as it may, and TLS 1.2 has no way to change it.
    #[error("the connection's TLS 1.2 key has protected all the records it may; the client has to connect again")]
    WornOut,
    /// The cryptographic library refused, or this library was used wrongly.
    #[error("a TLS record could not be protected; this is a bug of the record layer or of its caller")]
    Sealing,
}

impl RecordError {
    fn unexpected(what: &'static str) -> Self {
        Self::Broken { what, alert: AlertDescription::UnexpectedMessage }
    }

    fn too_long() -> Self {
        Self::Broken { what: "a record is too long", alert: AlertDescription::RecordOverflow }
    }
}

/// The length of the record that `bytes` begin with, header included. None while its header is incomplete.
pub fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // RFC 5246 section 6.2.3 allows 2048 more than the plaintext, RFC 8446 section 5.2 only 256.
    if length > RECORD_MAX_BYTES + 2048 {
        return Err(RecordError::too_long());
    }
    if header[1] != 3 {
        return Err(RecordError::Broken { what: "this is no TLS record", alert: AlertDescription::ProtocolVersion });
    }
    Ok(Some(HEADER_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_known_from_the_header_and_bounded() {
        assert_eq!(record_bytes(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(record_bytes(&[23, 3, 3, 1, 2, 9]), Ok(Some(5 + 258)));
        assert_eq!(record_bytes(&[23, 3, 3, 0x48, 0]), Ok(Some(5 + 0x4800)));
        assert!(matches!(record_bytes(&[23, 3, 3, 0x48, 1]), Err(RecordError::Broken { .. })));
        assert!(matches!(record_bytes(b"GET / HTTP/1.1"), Err(RecordError::Broken { .. })));
    }
}
