//! One TLS handshake with a client, under a deadline, and the reason if it fails.
//!
//! A door calls [`accept`] with a name's configuration (`tls::leaf`) and gets the connection after the handshake.
//! rustls does the handshake and nothing else. It gets one record at a time, and none after the last of the handshake,
//! because its answer to such a record (a key update of its own) would be lost. The alert of a failed handshake is sent
//! before the error returns, so the client knows as much as we do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use entrepot_record::record_bytes;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client_socket::ClientSocket;
use super::tls::{Secured, Tls};

/// The reason why a client got no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client was too slow.
    #[error("the client did not finish the TLS handshake within {timeout_ms} ms")]
    Timeout { timeout_ms: u128 },
    /// The client refuses our certificate.
    #[error(
        "the client does not trust this proxy's CA (alert {alert}); install the CA on the client: the proxy serves it \
         at /ca.crt with a script at /setup/systemd, and `entrepot ca export` writes it"
    )]
    Untrusted { alert: &'static str },
    /// The client offers only application protocols that we do not speak.
    #[error("the client offers no application protocol that is spoken here; let it offer http/1.1")]
    NoCommonProtocol,
    /// The connection broke, or the client spoke another protocol.
    #[error("the TLS handshake with the client failed: {0}")]
    Other(#[source] io::Error),
}

/// The alerts of a client that does not know our CA, in the words of RFC 8446: openssl and rustls send the first, Go
/// (docker, containerd, podman) the second, Java and browsers the third.
const UNTRUSTED: [(AlertDescription, &str); 3] = [
    (AlertDescription::UnknownCA, "unknown_ca"),
    (AlertDescription::BadCertificate, "bad_certificate"),
    (AlertDescription::CertificateUnknown, "certificate_unknown"),
];

/// The size of one read. The messages that a client sends at once are usually smaller.
const READ_BYTES: usize = 4096;
/// The most bytes of a client that are kept before its handshake is over. A message may have 64 KiB, in records.
const INCOMING_MAX_BYTES: usize = 128 * 1024;

/// Does the handshake with the client on `socket`. Afterwards the kernel encrypts if `kernel_wanted` and if it can.
pub async fn accept(
    socket: ClientSocket,
    config: Arc<ServerConfig>,
    timeout: Duration,
    kernel_wanted: bool,
) -> Result<Tls, HandshakeError> {
    let secured = match tokio::time::timeout(timeout, shake(socket, config)).await {
        Ok(done) => done.map_err(classify)?,
        Err(_) => return Err(HandshakeError::Timeout { timeout_ms: timeout.as_millis() }),
    };
    Tls::new(secured, kernel_wanted).map_err(HandshakeError::Other)
}

/// The handshake, without a bound on its time.
pub(super) async fn shake(mut socket: ClientSocket, config: Arc<ServerConfig>) -> io::Result<Secured> {
    // On the heap, because it is large and short-lived.
    let mut connection = Box::new(UnbufferedServerConnection::new(config).map_err(io::Error::other)?);
    let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
    loop {
        match step(&mut connection, &mut incoming, &mut outgoing) {
            Ok(Step::Go) => {}
            Ok(Step::Send) => {
                socket.write_all(&outgoing).await?;
                socket.flush().await?;
                outgoing.clear();
            }
            Ok(Step::Closed) => return Err(has_left()),
            Ok(Step::Receive) if incoming.show_next() => {}
            Ok(Step::Receive) => {
                if incoming.bytes.len() > INCOMING_MAX_BYTES {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the client's handshake is too long"));
                }
                incoming.bytes.reserve(READ_BYTES);
                if socket.read_buf(&mut incoming.bytes).await? == 0 {
                    return Err(has_left());
                }
            }
            Ok(Step::Done) => break,
            Err(error) => {
                tell(&mut connection, &mut socket).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
    let (extracted, secrets) = connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
    Ok(Secured { socket, extracted, secrets, records: incoming.bytes })
}

fn has_left() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the client left during the handshake")
}

/// Bytes that the client has sent and rustls still needs.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    /// The number of bytes that rustls has seen of a message that continues in the next record.
    shown_bytes: usize,
}

impl Incoming {
    /// Gives rustls one more record, if one is complete.
    fn show_next(&mut self) -> bool {
        let waiting = &self.bytes[self.shown_bytes..];
        let length = match record_bytes(waiting) {
            Ok(Some(length)) if length <= waiting.len() => length,
            Ok(_) => 0,
            // rustls has the alert for bytes that are not a record.
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

/// The next step of the handshake.
enum Step {
    Go,
    Send,
    Receive,
    Closed,
    Done,
}

/// Lets rustls process the part of `incoming` that it may see. Bytes that it wants to send are put into `outgoing`.
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
        // Early data are switched off (`server`), rustls gets no application data, and no other state is known.
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

/// Sends the alert that rustls has ready after an error, if the client is still there.
///
/// rustls is asked only while it has something to send. Else it would read on, and it panics if the client's bytes are
/// missing in which it remembers places. Not every error has an alert.
async fn tell(connection: &mut UnbufferedServerConnection, socket: &mut ClientSocket) {
    let mut alert = Vec::new();
    while connection.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(data)) = connection.process_tls_records(&mut []).state
    {
        if encode(data, &mut alert).is_err() {
            break;
        }
    }
    let _ = socket.write_all(&alert).await;
    let _ = socket.flush().await;
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
