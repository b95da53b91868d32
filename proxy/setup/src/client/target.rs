//! The appliance as clients write it into their files: names, ports, URLs. `texts` and `scripts` are made of it.

use std::net::IpAddr;

use super::Runtime;

/// The appliance as it is written into files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// A name or address, without brackets.
    pub host: String,
    /// The explicit proxy's port.
    pub proxy_port: u16,
    /// The registry's port for HTTP; None if that is closed.
    pub registry_http_port: Option<u16>,
    /// The registry's port for HTTPS; None if that is closed.
    pub registry_https_port: Option<u16>,
    /// The port for Docker's `registry-mirrors`; None if there is none.
    pub docker_mirror_port: Option<u16>,
    pub ca_pem: String,
    /// The SHA-256 of the certificate, lower-case hex.
    pub ca_sha256: String,
    /// Registries to mirror besides the built-in ones.
    pub registries: Vec<String>,
}

/// The reason why the appliance cannot be a mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoMirror {
    #[error("the appliance has no open registry door, and a mirror needs one; use --mode proxy")]
    RegistryDoor,
    #[error(
        "the appliance has no listener for Docker's registry-mirrors, and a mirror for Docker needs one; set \
         registry.mirror_listen there, or use --mode proxy"
    )]
    DockerListener,
}

impl Target {
    /// The value of HTTPS_PROXY.
    pub(crate) fn proxy_url(&self) -> String {
        format!("http://{}/", self.proxy_authority())
    }

    /// The explicit proxy's host and port, as a URL has them.
    pub(crate) fn proxy_authority(&self) -> String {
        format!("{}:{}", self.authority_host(), self.proxy_port)
    }

    /// The value of NO_PROXY: this machine, and the appliance itself.
    pub(crate) fn no_proxy(&self) -> String {
        self.and_itself("localhost,127.0.0.0/8,::1")
    }

    /// These hosts and the appliance's own. A name under `.local` is left out: under that name the proxy itself answers
    /// for the registry, whichever ports the registry has.
    pub(crate) fn and_itself(&self, hosts: &str) -> String {
        if is_local_name(&self.host) { hosts.to_owned() } else { format!("{hosts},{}", self.host) }
    }

    /// The registry as a mirror: by TLS if that port is open, since the client trusts the CA anyway.
    pub(crate) fn mirror(&self) -> Result<Mirror, NoMirror> {
        self.sealed_registry().or_else(|| self.plain_registry()).ok_or(NoMirror::RegistryDoor)
    }

    /// The registry's page for people: in plain HTTP if that port is open, since a browser need not trust the CA. None if
    /// the registry has no open door.
    pub(crate) fn registry_page(&self) -> Option<Mirror> {
        self.plain_registry().or_else(|| self.sealed_registry())
    }

    fn sealed_registry(&self) -> Option<Mirror> {
        self.registry_https_port.map(|port| self.at("https", port, 443))
    }

    fn plain_registry(&self) -> Option<Mirror> {
        self.registry_http_port.map(|port| self.at("http", port, 80))
    }

    fn at(&self, scheme: &'static str, port: u16, usual: u16) -> Mirror {
        let host = self.authority_host();
        let authority = if port == usual { host } else { format!("{host}:{port}") };
        Mirror { scheme, authority }
    }

    /// Docker Hub as Docker's mirror, which names no registry: the listener that means nothing else. By TLS, as above.
    pub(crate) fn docker_mirror(&self) -> Result<Mirror, NoMirror> {
        let port = self.docker_mirror_port.ok_or(NoMirror::DockerListener)?;
        Ok(Mirror { scheme: "https", authority: format!("{}:{port}", self.authority_host()) })
    }

    /// The mirror that a runtime is led to.
    pub(crate) fn mirror_for(&self, runtime: Runtime) -> Result<Mirror, NoMirror> {
        if runtime == Runtime::Docker { self.docker_mirror() } else { self.mirror() }
    }

    fn authority_host(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        }
    }
}

/// Whether the name is under `.local`, so that only mDNS knows it.
pub(super) fn is_local_name(host: &str) -> bool {
    host.trim_end_matches('.').to_ascii_lowercase().ends_with(".local")
}

/// The appliance's registry as a mirror of other registries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mirror {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The host, with the port unless it is the scheme's own.
    pub(crate) authority: String,
}

impl Mirror {
    /// A URL without a path.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Whether the mirror has no TLS, which some clients have to be told.
    pub(crate) fn is_plain(&self) -> bool {
        self.scheme == "http"
    }
}
