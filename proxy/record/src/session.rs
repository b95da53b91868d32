//! Both directions of a connection, and what its records mean. The session keeps no bytes but its own control messages.
//! The caller sends [`Session::take_control`] before anything that is sealed later.
//!
//! Our direction is sealed by a [`Sealer`], or by the operating system's kernel (kernel TLS). In the second case
//! control messages are contents rather than records.

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

/// Records in a row that may bring no data: empty ones, warnings, key updates. No honest client sends more than a few.
const IDLE_RECORDS_MAX: u8 = 32;

/// The meaning of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Application data, at this place in the record.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// The client will send no more.
    Closed,
}

/// An alert or a key update for the client.
pub struct ControlMessage {
    /// Its kind of record.
    pub kind: ContentType,
    /// The sealed record. Only the content if the kernel seals.
    pub bytes: Vec<u8>,
    /// The key that the kernel needs after this message, with the number of records it has protected.
    pub next_key: Option<(u64, ConnectionTrafficSecrets)>,
}

/// Our direction, by who seals it.
enum Transmit {
    Own(Sealer),
    /// The kernel, and the number of records it has made under this key.
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
    records_max: u64,
    idle_records: u8,
    control: Vec<ControlMessage>,
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

    /// Goes on where rustls has stopped, but the kernel seals. Also returns the key for the kernel.
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
        Ok(Self { transmit, opener, secrets, records_max: RECORDS_MAX, idle_records: 0, control: Vec::new() })
    }

    /// Has our key changed after `records` records, earlier than the suites demand. TLS 1.2 ends there.
    pub fn limit_key_use(&mut self, records: u64) {
        self.records_max = records.min(RECORDS_MAX);
    }

    /// Seals our direction. A worn key is changed first; the client hears of that by a control message.
    ///
    /// Ask once for each write. The bound on a key's use leaves room for the records of any one write.
    pub fn sealer(&mut self) -> Result<&mut Sealer, RecordError> {
        if matches!(&self.transmit, Transmit::Own(sealer) if sealer.records() >= self.records_max) {
            self.change_key()?;
        }
        match &mut self.transmit {
            Transmit::Own(sealer) => Ok(sealer),
            Transmit::Kernel { .. } => Err(RecordError::Sealing),
        }
    }

    /// Counts `bytes` that the kernel has sealed in one write. A key that is worn by that is changed.
    pub fn kernel_sealed(&mut self, bytes: usize) -> Result<(), RecordError> {
        if let Transmit::Kernel { records } = &mut self.transmit {
            // One write may end a record that another began, so it may touch one record more than its bytes fill.
            *records += (bytes / RECORD_MAX_BYTES) as u64 + 2;
            if *records >= self.records_max {
                self.change_key()?;
            }
        }
        Ok(())
    }

    /// The messages that must be sent before anything that is sealed from now on.
    pub fn take_control(&mut self) -> Vec<ControlMessage> {
        std::mem::take(&mut self.control)
    }

    /// Opens a whole record of the client. After an error nothing more may be received; an alert is among the control
    /// messages.
    pub fn receive(&mut self, record: &mut [u8]) -> Result<Received, RecordError> {
        let received = self.opener.open(record).and_then(|(kind, content)| self.understand(kind, record, content));
        if let Err(RecordError::Broken { alert, .. }) = &received {
            // If even the alert cannot be sealed, the connection ends without it.
            let _ = self.alert(FATAL, *alert);
        }
        received
    }

    /// Tells the client that nothing more will come (RFC 8446 section 6.1).
    pub fn close(&mut self) -> Result<(), RecordError> {
        self.alert(WARNING, AlertDescription::CloseNotify)
    }

    /// Tells the client what is wrong with bytes that are no record.
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
        self.send(ContentType::Handshake, &[u8::from(HandshakeType::KeyUpdate), 0, 0, 1, 0])?;
        let secrets = self.secrets.update_tx_secret().map_err(|_| RecordError::Sealing)?;
        match &mut self.transmit {
            Transmit::Own(sealer) => *sealer = Sealer::new(ProtocolVersion::TLSv1_3, secrets)?,
            Transmit::Kernel { records } => {
                *records = secrets.0;
                if let Some(update) = self.control.last_mut() {
                    update.next_key = Some(secrets);
                }
            }
        }
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), RecordError> {
        self.send(ContentType::Alert, &[level, u8::from(description)])
    }

    fn send(&mut self, kind: ContentType, content: &[u8]) -> Result<(), RecordError> {
        let bytes = match &mut self.transmit {
            Transmit::Own(sealer) => sealer.record(kind, content)?,
            Transmit::Kernel { records } => {
                *records += 1;
                content.to_vec()
            }
        };
        self.control.push(ControlMessage { kind, bytes, next_key: None });
        Ok(())
    }
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The meaning of an alert (RFC 8446 section 6; RFC 5246 section 7.2 has warnings that end nothing).
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
