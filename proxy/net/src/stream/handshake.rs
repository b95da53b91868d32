//! One TLS handshake with a client, under a deadline, and what its failure means.
//!
//! Neighbours: ingress calls [`accept`] with the configuration of `leaf`; its outcome becomes a session of `entrepot_record`,
//! which `serving` drives. rustls does the handshake and nothing else: it is shown a record at a time, and none behind the
//! last of the handshake, because what it would answer to one (a key update of its own) would be lost with it. A failed
//! handshake's alert is sent before the error comes back, so the client knows as much as we do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{AlertDescription, ExtractedSecrets, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use entrepot_record::record_bytes;

/// Why a client got no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client was too slow.
    #[error("the client did not finish the TLS handshake within {timeout_ms} ms")]
    Timeout {
        /// The deadline that passed.
        timeout_ms: u128,
    },
    /// The client refuses our certificate.
    #[error(
        "the client does not trust this proxy's CA (alert {alert}); install the CA on the client: the proxy serves it \
         at /ca.crt with a script at /setup/systemd, and `entrepot ca export` writes it"
    )]
    Untrusted {
        /// The alert that it sent.
        alert: &'static str,
    },
    /// The client offers only protocols above TLS that are not spoken here.
    #[error("the client offers no application protocol that is spoken here; let it offer http/1.1")]
    NoCommonProtocol,
    /// The connection broke, or the client spoke something else.
    #[error("the TLS handshake with the client failed: {0}")]
    Other(#[source] io::Error),
}

/// Alerts by which clients say that they do not know our CA, in the words of RFC 8446: openssl and rustls send the
/// first, Go (docker, containerd, podman) the second, Java and browsers the third.
const UNTRUSTED: [(AlertDescription, &str); 3] = [
    (AlertDescription::UnknownCA, "unknown_ca"),
    (AlertDescription::BadCertificate, "bad_certificate"),
    (AlertDescription::CertificateUnknown, "certificate_unknown"),
];

/// A connection whose handshake is over.
pub struct Secured<IO> {
    /// The connection.
    pub io: IO,
    /// Its keys as they are now.
    pub extracted: ExtractedSecrets,
    /// What derives the keys that follow.
    pub secrets: KernelConnection<ServerConnectionData>,
    /// What the client has sent beyond the handshake.
    pub records: Vec<u8>,
}

/// Room for what one read brings; a client's whole flight is smaller as a rule.
const READ_BYTES: usize = 4096;
/// More than this is never kept of a client that has not finished its handshake: a message may have 64 KiB, in records.
const INCOMING_MAX_BYTES: usize = 128 * 1024;

/// Shakes hands with the client behind `io`.
pub async fn accept<IO>(io: IO, config: Arc<ServerConfig>, timeout: Duration) -> Result<Secured<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(timeout, shake(io, config)).await {
        Ok(done) => done.map_err(classify),
        Err(_) => Err(HandshakeError::Timeout { timeout_ms: timeout.as_millis() }),
    }
}

async fn shake<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, config: Arc<ServerConfig>) -> io::Result<Secured<IO>> {
    // On the heap, as it is large and lives for a moment.
    let mut connection = Box::new(UnbufferedServerConnection::new(config).map_err(io::Error::other)?);
    let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
    loop {
        match step(&mut connection, &mut incoming, &mut outgoing) {
            Ok(Step::Go) => {}
            Ok(Step::Send) => {
                io.write_all(&outgoing).await?;
                io.flush().await?;
                outgoing.clear();
            }
            Ok(Step::Closed) => return Err(has_left()),
            Ok(Step::Receive) if incoming.show_next() => {}
            Ok(Step::Receive) => {
                if incoming.bytes.len() > INCOMING_MAX_BYTES {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the client's handshake is too long"));
                }
                incoming.bytes.reserve(READ_BYTES);
                if io.read_buf(&mut incoming.bytes).await? == 0 {
                    return Err(has_left());
                }
            }
            Ok(Step::Done) => break,
            Err(error) => {
                tell(&mut connection, &mut io).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
    let (extracted, secrets) = connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
    Ok(Secured { io, extracted, secrets, records: incoming.bytes })
}

fn has_left() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the client left during the handshake")
}

/// What the client has sent and rustls has not done with.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    /// So much of it rustls has seen: messages that go on in the next record.
    shown_bytes: usize,
}

impl Incoming {
    /// Has rustls see one record more, if one is whole.
    fn show_next(&mut self) -> bool {
        let waiting = &self.bytes[self.shown_bytes..];
        let length = match record_bytes(waiting) {
            Ok(Some(length)) if length <= waiting.len() => length,
            Ok(_) => 0,
            // rustls has the alert for bytes that are no record.
            Err(_) => waiting.len(),
        };
        self.shown_bytes += length;
        length > 0
    }

    fn discard(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        self.shown_bytes -= bytes;
    }
}

/// What the handshake needs next.
enum Step {
    Go,
    Send,
    Receive,
    Closed,
    Done,
}

/// Has rustls take what it is shown of `incoming`, and put into `outgoing` what is to be sent.
fn step(
    connection: &mut UnbufferedServerConnection,
    incoming: &mut Incoming,
    outgoing: &mut Vec<u8>,
) -> Result<Step, rustls::Error> {
    let shown = &mut incoming.bytes[..incoming.shown_bytes];
    let UnbufferedStatus { discard, state } = connection.process_tls_records(shown);
    let step = match state? {
        ConnectionState::EncodeTlsData(data) => {
            encode(data, outgoing)?;
            Step::Go
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Send
        }
        ConnectionState::BlockedHandshake => Step::Receive,
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::Closed,
        ConnectionState::WriteTraffic(_) => Step::Done,
        // Early data are switched off (`server`), traffic is not shown, and nothing else is known.
        _ => return Err(rustls::Error::HandshakeNotComplete),
    };
    incoming.discard(discard);
    Ok(step)
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => needed.required_size,
        Err(EncodeError::AlreadyEncoded) | Ok(_) => return Ok(()),
    };
    outgoing.resize(start + needed, 0);
    let encoded = data.encode(&mut outgoing[start..]).map_err(|error| rustls::Error::General(error.to_string()))?;
    outgoing.truncate(start + encoded);
    Ok(())
}

/// Sends the alert that rustls has ready after an error. Who is gone is not told.
async fn tell<IO: AsyncWrite + Unpin>(connection: &mut UnbufferedServerConnection, io: &mut IO) {
    let mut alert = Vec::new();
    while let Ok(ConnectionState::EncodeTlsData(data)) = connection.process_tls_records(&mut []).state {
        if encode(data, &mut alert).is_err() {
            break;
        }
    }
    let _ = io.write_all(&alert).await;
    let _ = io.flush().await;
}

fn classify(error: io::Error) -> HandshakeError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(received)) => match UNTRUSTED.iter().find(|(alert, _)| alert == received) {
            Some((_, alert)) => HandshakeError::Untrusted { alert },
            None => HandshakeError::Other(error),
        },
        Some(rustls::Error::NoApplicationProtocol) => HandshakeError::NoCommonProtocol,
        _ => HandshakeError::Other(error),
    }
}

#[cfg(test)]
pub(crate) mod tests;
