//! Asks an appliance for its facts and its CA certificate.
//!
//! Both come by plain HTTP from the proxy's port, so callers trust the certificate only if it has the expected
//! fingerprint.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::facts::Facts;

/// The CA certificate of an appliance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaCertificate {
    /// Exactly one certificate, as it is installed.
    pub pem: String,
    /// The SHA-256 of the certificate, lower-case hex.
    pub sha256: String,
}

/// The reason why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(SocketAddr, String),
    /// Something answered that is not an appliance.
    #[error("{0} is not an entrepot: {1}")]
    Foreign(SocketAddr, String),
}

/// The line length of PEM, as openssl and the set-up scripts write it.
const PEM_COLUMNS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(5);
const PAGE_MAX_BYTES: usize = 256 * 1024;

impl CaCertificate {
    /// The first certificate of a PEM text, encoded again. The fingerprint covers nothing else in the text, and an
    /// attacker on the network may have added more.
    fn first_of(text: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let sha256 = digest(&SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        for (at, letter) in STANDARD.encode(&der).char_indices() {
            if at > 0 && at % PEM_COLUMNS == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.push_str("\n-----END CERTIFICATE-----\n");
        Some(Self { pem, sha256 })
    }
}

/// Reads `/ca.crt`.
pub async fn ca_certificate(proxy: SocketAddr) -> Result<CaCertificate, ProbeError> {
    let body = get(proxy, "/ca.crt").await?;
    let foreign = |reason: &str| ProbeError::Foreign(proxy, reason.to_owned());
    let pem = String::from_utf8(body.into()).map_err(|_| foreign("/ca.crt is not text"))?;
    CaCertificate::first_of(&pem).ok_or_else(|| foreign("/ca.crt is not a certificate"))
}

/// Reads `/setup/appliance`.
pub async fn facts(proxy: SocketAddr) -> Result<Facts, ProbeError> {
    facts_and_name(proxy).await.map(|(facts, _)| facts)
}

/// Reads `/setup/appliance`: the facts, and the announced name if there is one.
pub async fn facts_and_name(proxy: SocketAddr) -> Result<(Facts, Option<String>), ProbeError> {
    let body = get(proxy, "/setup/appliance").await?;
    match Facts::from_json(&body) {
        Some(facts) => Ok((facts, Facts::host_in_json(&body))),
        None => Err(ProbeError::Foreign(proxy, "/setup/appliance has no facts".to_owned())),
    }
}

async fn get(proxy: SocketAddr, path: &'static str) -> Result<Bytes, ProbeError> {
    match timeout(DEADLINE, fetch(proxy, path)).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Unreachable(proxy, format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

async fn fetch(proxy: SocketAddr, path: &'static str) -> Result<Bytes, ProbeError> {
    let foreign = |error: &dyn std::fmt::Display| ProbeError::Foreign(proxy, error.to_string());
    let stream = TcpStream::connect(proxy).await.map_err(|error| ProbeError::Unreachable(proxy, error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| foreign(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, proxy.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| foreign(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| foreign(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(foreign(&format_args!("{path} answers {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), PAGE_MAX_BYTES).collect().await.map_err(|error| foreign(&error))?;
    connection.abort();
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn certificate(name: &str) -> (String, Vec<u8>) {
        let key = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (key.cert.pem(), key.cert.der().to_vec())
    }

    #[tokio::test]
    async fn only_the_certificate_of_the_fingerprint_comes_along() {
        let ((genuine, der), (added, _)) = (certificate("genuine"), certificate("added"));
        let one_line = STANDARD.encode(&der);
        let unusual = format!("CA:\r\n-----BEGIN CERTIFICATE-----\r\n{one_line}\r\n-----END CERTIFICATE-----\r\n");
        for served in [genuine.clone(), format!("{genuine}{added}"), format!("{unusual}{added}")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let proxy = listener.local_addr().expect("an address");
            let answering = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let _ = stream.read(&mut [0; 4096]).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.len());
                stream.write_all(format!("{head}{served}").as_bytes()).await.expect("answered");
            });
            let ca = ca_certificate(proxy).await.expect("a certificate");
            answering.await.expect("answered");
            let sha256: String = digest(&SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((ca.pem, ca.sha256), (genuine.clone(), sha256), "byte for byte as in the usual file");
        }
        assert_eq!(CaCertificate::first_of("no certificate"), None);
    }
}
