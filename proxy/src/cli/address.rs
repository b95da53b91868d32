//! The address of an admin door, `http://host:port` or `https://host:port`, and connections to it.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// An http or https address without a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(Url);

/// The text is not such an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as http://appliance.lan:3130 or https://appliance.lan:3130")]
pub struct AddressError;

/// An open connection.
pub(crate) trait AdminStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> AdminStream for S {}

impl Address {
    /// The host as in a Host header.
    pub(crate) fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Connects; certificates are checked against the system's roots (`SSL_CERT_FILE` is honoured).
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn AdminStream>> {
        let name = self.0.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.0.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((name.as_str(), port)).await?;
        if self.0.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await?))
    }
}

fn tls() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let url = Url::parse(text).map_err(|_| AddressError)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let web = matches!(url.scheme(), "http" | "https") && url.has_host();
        if bare && nobody && web { Ok(Self(url)) } else { Err(AddressError) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.origin().ascii_serialization())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host) in [
            ("http://appliance.lan:3130", "appliance.lan:3130"),
            ("http://appliance.lan:3130/", "appliance.lan:3130"),
            ("https://appliance.lan", "appliance.lan"),
            ("http://[::1]:3130", "[::1]:3130"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.host()).as_deref(), Ok(host), "{text}");
        }
        for bad in ["", "appliance:3130", "ftp://a", "http://", "http://u:p@a", "http://a/api", "http://a/?x"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
    }
}
