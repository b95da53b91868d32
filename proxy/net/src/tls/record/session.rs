//! Both directions of a connection, and what its records mean. The session keeps no bytes but the few that answer the
//! client's own control messages; who drives it sends [`Session::take_replies`] before anything sealed later.
//!
//! Our direction is protected here, or by the kernel (`serving::handed`): then replies are contents rather than records.

use std::ops::Range;

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, HandshakeType, ProtocolVersion,
};

use super::key::RECORDS_MAX;
use super::open::Opener;
use super::seal::Sealer;
use super::{RECORD_MAX_BYTES, RecordError};

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

/// A control message to the client.
pub struct Reply {
    /// What kind of record it is.
    pub kind: ContentType,
    /// The sealed record; the content alone where the kernel seals.
    pub bytes: Vec<u8>,
    /// The key that follows it, where the kernel seals.
    pub next_key: Option<(u64, ConnectionTrafficSecrets)>,
}

/// Who protects what we send.
enum Transmit {
    Own(Sealer),
    /// The kernel, which has made so many records under this key.
    Kernel {
        records: u64,
    },
}

/// A TLS connection whose handshake is over.
pub struct Session {
    transmit: Transmit,
    opener: Opener,
    /// Derives the keys that follow (TLS 1.3).
    secrets: KernelConnection<ServerConnectionData>,
    idle_records: u8,
    replies: Vec<Reply>,
}

impl Session {
    /// Goes on where rustls has stopped.
    pub fn new(
        extracted: ExtractedSecrets,
        secrets: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, RecordError> {
        let sealer = Sealer::new(secrets.protocol_version(), extracted.tx)?;
        Self::with(Transmit::Own(sealer), extracted.rx, secrets)
    }

    /// Goes on where rustls has stopped, with the kernel as the one who seals. The key for it comes back.
    pub fn with_kernel(
        extracted: ExtractedSecrets,
        secrets: KernelConnection<ServerConnectionData>,
    ) -> Result<(Self, (u64, ConnectionTrafficSecrets)), RecordError> {
        let session = Self::with(Transmit::Kernel { records: extracted.tx.0 }, extracted.rx, secrets)?;
        Ok((session, extracted.tx))
    }

    fn with(
        transmit: Transmit,
        receive: (u64, ConnectionTrafficSecrets),
        secrets: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, RecordError> {
        let opener = Opener::new(secrets.protocol_version(), receive)?;
        Ok(Self { transmit, opener, secrets, idle_records: 0, replies: Vec::new() })
    }

    /// What protects our direction, with a key that may be used for as many records as one write makes.
    pub fn sealer(&mut self) -> Result<&mut Sealer, RecordError> {
        if matches!(&self.transmit, Transmit::Own(sealer) if sealer.is_worn()) {
            self.change_key()?;
        }
        match &mut self.transmit {
            Transmit::Own(sealer) => Ok(sealer),
            Transmit::Kernel { .. } => Err(RecordError::Sealing),
        }
    }

    /// The kernel has sealed so many bytes more, in one go; a key that is worn by that is changed.
    pub fn kernel_sealed(&mut self, bytes: usize) -> Result<(), RecordError> {
        if let Transmit::Kernel { records } = &mut self.transmit {
            // What was begun with one write may be ended by the next: one record more than the bytes fill.
            *records += (bytes / RECORD_MAX_BYTES) as u64 + 2;
            if *records >= RECORDS_MAX {
                self.change_key()?;
            }
        }
        Ok(())
    }

    /// What has to go out before what is sealed from now on.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
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
        self.reply(ContentType::Handshake, &[u8::from(HandshakeType::KeyUpdate), 0, 0, 1, 0])?;
        let secrets = self.secrets.update_tx_secret().map_err(|_| RecordError::Sealing)?;
        match &mut self.transmit {
            Transmit::Own(sealer) => *sealer = Sealer::new(ProtocolVersion::TLSv1_3, secrets)?,
            Transmit::Kernel { records } => {
                *records = secrets.0;
                if let Some(reply) = self.replies.last_mut() {
                    reply.next_key = Some(secrets);
                }
            }
        }
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), RecordError> {
        self.reply(ContentType::Alert, &[level, u8::from(description)])
    }

    fn reply(&mut self, kind: ContentType, content: &[u8]) -> Result<(), RecordError> {
        let bytes = match &mut self.transmit {
            Transmit::Own(sealer) => sealer.record(kind, content)?,
            Transmit::Kernel { records } => {
                *records += 1;
                content.to_vec()
            }
        };
        self.replies.push(Reply { kind, bytes, next_key: None });
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn wear_out(&mut self) {
        match &mut self.transmit {
            Transmit::Own(sealer) => sealer.wear_out(),
            Transmit::Kernel { records } => *records = RECORDS_MAX,
        }
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
