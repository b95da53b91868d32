//! Both directions of a connection, and what its records mean. The session keeps no bytes but the few that answer the
//! client's own control messages; who drives it sends [`Session::take_reply`] before anything sealed later.

use std::ops::Range;

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ContentType, ExtractedSecrets, HandshakeType, ProtocolVersion};

use super::RecordError;
use super::open::Opener;
use super::seal::Sealer;

/// Records in a row that may bring nothing: empty ones, warnings, key updates. No honest client sends more than a few.
const IDLE_RECORDS_MAX: u8 = 32;

/// What a record brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Application data, at this place in the record.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// The client will send no more.
    Closed,
}

/// A TLS connection whose handshake is over.
pub struct Session {
    sealer: Sealer,
    opener: Opener,
    /// Derives the keys that follow (TLS 1.3).
    secrets: KernelConnection<ServerConnectionData>,
    idle_records: u8,
    reply: Vec<u8>,
}

impl Session {
    /// Goes on where rustls has stopped.
    pub fn new(
        extracted: ExtractedSecrets,
        secrets: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, RecordError> {
        let version = secrets.protocol_version();
        Ok(Self {
            sealer: Sealer::new(version, extracted.tx)?,
            opener: Opener::new(version, extracted.rx)?,
            secrets,
            idle_records: 0,
            reply: Vec::new(),
        })
    }

    /// What protects our direction, with a key that may be used for as many records as one write makes.
    pub fn sealer(&mut self) -> Result<&mut Sealer, RecordError> {
        if self.sealer.is_worn() {
            self.change_key()?;
        }
        Ok(&mut self.sealer)
    }

    /// Sealed records that have to go out before what is sealed from now on.
    pub fn take_reply(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.reply)
    }

    /// Opens a whole record of the client's. After an error nothing more may be received; the alert is in the reply.
    pub fn receive(&mut self, record: &mut [u8]) -> Result<Received, RecordError> {
        let received = self.opener.open(record).and_then(|(kind, content)| self.understand(kind, record, content));
        if let Err(RecordError::Broken { alert, .. }) = &received {
            // Where even the alert cannot be sealed, the connection ends without it.
            let _ = self.alert(FATAL, *alert);
        }
        received
    }

    /// Says that nothing more will come (RFC 8446 section 6.1).
    pub fn close(&mut self) -> Result<(), RecordError> {
        self.alert(WARNING, AlertDescription::CloseNotify)
    }

    /// Says what is wrong with bytes that are no record.
    pub fn refuse(&mut self, error: &RecordError) {
        if let RecordError::Broken { alert, .. } = error {
            let _ = self.alert(FATAL, *alert);
        }
    }

    fn understand(&mut self, kind: ContentType, record: &[u8], content: Range<usize>) -> Result<Received, RecordError> {
        if kind == ContentType::ApplicationData && !content.is_empty() {
            self.idle_records = 0;
            return Ok(Received::Data(content));
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(RecordError::unexpected("many records that bring nothing"));
        }
        match kind {
            ContentType::ApplicationData => Ok(Received::Nothing),
            ContentType::Alert => alerted(self.secrets.protocol_version(), &record[content]),
            ContentType::Handshake => self.handshake(&record[content]),
            _ => Err(RecordError::unexpected("a record of a type that has no place after the handshake")),
        }
    }

    /// A key update, or an attempt to renegotiate, which is declined (RFC 5246 section 7.2.2, `no_renegotiation`).
    fn handshake(&mut self, message: &[u8]) -> Result<Received, RecordError> {
        let update = u8::from(HandshakeType::KeyUpdate);
        match (self.secrets.protocol_version(), message) {
            (ProtocolVersion::TLSv1_3, [kind, 0, 0, 1, request @ (0 | 1)]) if *kind == update => {
                let secrets = self.secrets.update_rx_secret().map_err(|_| RecordError::Sealing)?;
                self.opener = Opener::new(ProtocolVersion::TLSv1_3, secrets)?;
                if *request == 1 {
                    self.change_key()?;
                }
            }
            (ProtocolVersion::TLSv1_2, [kind, ..]) if *kind == u8::from(HandshakeType::ClientHello) => {
                self.alert(WARNING, AlertDescription::NoRenegotiation)?;
            }
            _ => return Err(RecordError::unexpected("a handshake message after the handshake")),
        }
        Ok(Received::Nothing)
    }

    /// Tells the client that a new key follows, and takes it (RFC 8446 section 4.6.3).
    fn change_key(&mut self) -> Result<(), RecordError> {
        if self.secrets.protocol_version() != ProtocolVersion::TLSv1_3 {
            return Err(RecordError::WornOut);
        }
        let message = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, 0];
        self.sealer.append(ContentType::Handshake, &message, &mut self.reply)?;
        let secrets = self.secrets.update_tx_secret().map_err(|_| RecordError::Sealing)?;
        self.sealer = Sealer::new(ProtocolVersion::TLSv1_3, secrets)?;
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), RecordError> {
        self.sealer.append(ContentType::Alert, &[level, u8::from(description)], &mut self.reply)
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.sealer.wear_out();
    }
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What an alert means (RFC 8446 section 6; RFC 5246 section 7.2 has warnings that end nothing).
fn alerted(version: ProtocolVersion, alert: &[u8]) -> Result<Received, RecordError> {
    let [level, description] = *alert else {
        return Err(RecordError::Broken { what: "an alert of the wrong size", alert: AlertDescription::DecodeError });
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Received::Closed),
        AlertDescription::UserCanceled => Ok(Received::Nothing),
        _ if level == WARNING && version == ProtocolVersion::TLSv1_2 => Ok(Received::Nothing),
        description => Err(RecordError::Alert(description)),
    }
}
