//! Asking an appliance itself: is it there, what does it tell, and which CA certificate does it have.
//!
//! Everything comes by plain http from the proxy's port: a certificate is only believed once its fingerprint is the
//! expected one.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
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

/// A CA certificate as an appliance gives it out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaCertificate {
    /// The file's text, as it is installed.
    pub pem: String,
    /// SHA-256 of the first certificate in it, lower-case hex.
    pub sha256: String,
}

/// Why an appliance gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(SocketAddr, String),
    /// An answer, but not an appliance's.
    #[error("{0} is not an entrepot: {1}")]
    Foreign(SocketAddr, String),
}

const DEADLINE: Duration = Duration::from_secs(5);
const PAGE_MAX_BYTES: usize = 256 * 1024;

/// The CA certificate at `/ca.crt`.
pub async fn ca_certificate(proxy: SocketAddr) -> Result<CaCertificate, ProbeError> {
    let body = get(proxy, "/ca.crt").await?;
    let foreign = |reason: &str| ProbeError::Foreign(proxy, reason.to_owned());
    let pem = String::from_utf8(body.into()).map_err(|_| foreign("/ca.crt is not text"))?;
    let first = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| foreign("/ca.crt is no certificate"))?;
    let sha256 = digest(&SHA256, &first).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(CaCertificate { pem, sha256 })
}

/// What it tells about itself at `/setup/appliance`.
pub async fn facts(proxy: SocketAddr) -> Result<Facts, ProbeError> {
    facts_and_name(proxy).await.map(|(facts, _)| facts)
}

/// The same, with the name that it is announced by, where it is.
pub async fn facts_and_name(proxy: SocketAddr) -> Result<(Facts, Option<String>), ProbeError> {
    let body = get(proxy, "/setup/appliance").await?;
    match Facts::from_json(&body) {
        Some(facts) => Ok((facts, Facts::host_in_json(&body))),
        None => Err(ProbeError::Foreign(proxy, "/setup/appliance tells nothing".to_owned())),
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
