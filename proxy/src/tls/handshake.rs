//! One TLS handshake with a client, under a deadline, and what its failure means.
//!
//! Neighbours: ingress calls [`accept`] with the configuration of `leaf`. A failed handshake's alert is sent before
//! the error comes back, so the client knows as much as we do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

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

/// Shakes hands with the client behind `io`.
pub async fn accept<IO>(io: IO, config: Arc<ServerConfig>, timeout: Duration) -> Result<TlsStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(timeout, TlsAcceptor::from(config).accept(io)).await {
        Ok(done) => done.map_err(classify),
        Err(_) => Err(HandshakeError::Timeout { timeout_ms: timeout.as_millis() }),
    }
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
mod tests {
    use super::*;

    #[test]
    fn alerts_about_our_ca_are_told_apart() {
        for (alert, untrusted) in [
            (AlertDescription::UnknownCA, true),
            (AlertDescription::BadCertificate, true),
            (AlertDescription::CertificateUnknown, true),
            (AlertDescription::HandshakeFailure, false),
            (AlertDescription::CertificateExpired, false),
        ] {
            let error = classify(io::Error::other(rustls::Error::AlertReceived(alert)));
            assert_eq!(matches!(error, HandshakeError::Untrusted { .. }), untrusted, "{alert:?}");
        }
        let reset = classify(io::ErrorKind::ConnectionReset.into());
        assert!(matches!(reset, HandshakeError::Other(error) if error.kind() == io::ErrorKind::ConnectionReset));
    }
}
