//! Finds the appliance, by mDNS or by its name, asks it for its facts and its certificate, and compares the certificate
//! with the expected fingerprint.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::authority_of_url;

use super::Runtime;
use super::target::is_local_name;
use crate::discovery::browse::{BrowseError, Found, browse};
use crate::discovery::facts::Facts;
use crate::discovery::probe::{self, CaCertificate, ProbeError};

/// An appliance that answered.
pub struct Appliance {
    /// The host as it is written into files: the name that the person gave, else the address.
    pub host: String,
    /// The address at which the proxy answered.
    pub proxy: SocketAddr,
    pub facts: Facts,
    /// Not compared with a fingerprint yet ([`Appliance::expect`]).
    pub ca: CaCertificate,
}

/// The reason why there is no appliance to set this machine up with.
#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    #[error("{0:?} is neither a name nor an address, with or without a port; write for example 192.0.2.5:3128")]
    Name(String),
    #[error(
        "{0} does not resolve here; names under .local need libnss-mdns or systemd-resolved, an address works without"
    )]
    Unresolved(String),
    #[error("no appliance answers on the local network; name one with --appliance NAME|ADDRESS")]
    Nobody,
    #[error("several appliances answer: {0}; choose one with --appliance NAME|ADDRESS")]
    Several(String),
    #[error(transparent)]
    Browse(#[from] BrowseError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(
        "the certificate of {proxy} is not the expected one: expected SHA-256 {expected}, found {found}; nothing was changed"
    )]
    WrongFingerprint { proxy: SocketAddr, expected: String, found: String },
}

const PROXY_PORT: u16 = 3128;
const BROWSE: Duration = Duration::from_secs(3);

/// The host and proxy address of the appliance that was named, or of the only one that answers on this network. Blocks.
pub fn find(named: Option<&str>) -> Result<(String, SocketAddr), ApplianceError> {
    match named {
        Some(named) => by_name(named),
        None => only(browse(BROWSE, |_| false)?),
    }
}

/// Asks the appliance for its facts and its certificate.
pub async fn ask(host: String, proxy: SocketAddr) -> Result<Appliance, ApplianceError> {
    let (facts, ca) = (probe::facts(proxy).await?, probe::ca_certificate(proxy).await?);
    Ok(Appliance { host, proxy, facts, ca })
}

impl Appliance {
    /// The host as `runtime` has to write it: the nodes of Kind do not ask mDNS, even if this machine does.
    pub fn host_for(&self, runtime: Runtime) -> String {
        if runtime == Runtime::Kind && is_local_name(&self.host) {
            return self.proxy.ip().to_string();
        }
        self.host.clone()
    }

    /// An error unless the certificate has this fingerprint.
    pub fn expect(&self, expected: &str) -> Result<(), ApplianceError> {
        if self.ca.sha256 == expected {
            return Ok(());
        }
        let (expected, found) = (expected.to_owned(), self.ca.sha256.clone());
        Err(ApplianceError::WrongFingerprint { proxy: self.proxy, expected, found })
    }
}

/// A name that this machine resolves is written into files as it is. A name that only mDNS knows becomes an address,
/// since not every program asks mDNS.
fn by_name(named: &str) -> Result<(String, SocketAddr), ApplianceError> {
    let host = named_host(named)?;
    let name = host.name().trim_matches(['[', ']']).to_owned();
    if let Some(address) = host.address() {
        return Ok((name, SocketAddr::new(address, host.port())));
    }
    let resolved = (name.as_str(), host.port()).to_socket_addrs();
    let mut resolved: Vec<SocketAddr> = resolved.map(Iterator::collect).unwrap_or_default();
    resolved.sort_by_key(|address| address.is_ipv6());
    if let Some(proxy) = resolved.first() {
        return Ok((name, *proxy));
    }
    let is_it = |found: &Found| found.host == name;
    if is_local_name(&name)
        && let Some(found) = browse(BROWSE, is_it)?.into_iter().find(is_it)
    {
        return only(vec![found]);
    }
    Err(ApplianceError::Unresolved(name))
}

/// The proxy that a person names: a name or an address, or a URL of it as a browser and the pages show it.
fn named_host(named: &str) -> Result<RegistryHost, ApplianceError> {
    let (_, authority) = authority_of_url(named.trim());
    RegistryHost::parse(authority, PROXY_PORT).map_err(|_| ApplianceError::Name(named.to_owned()))
}

fn only(found: Vec<Found>) -> Result<(String, SocketAddr), ApplianceError> {
    let mut reachable = found.iter().filter_map(|found| Some((found, found.proxy()?)));
    match (reachable.next(), reachable.next()) {
        (None, _) => Err(ApplianceError::Nobody),
        (Some((_, proxy)), None) => Ok((proxy.ip().to_string(), proxy)),
        _ => {
            let names = found.iter().map(|found| match found.proxy() {
                Some(proxy) => format!("{} ({proxy})", found.host),
                None => found.host.clone(),
            });
            Err(ApplianceError::Several(names.collect::<Vec<_>>().join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appliance_is_named_as_people_have_its_name() {
        for (text, name, port) in [
            ("cache.lan", "cache.lan", 3128),
            ("cache.lan:8080", "cache.lan", 8080),
            ("http://cache.lan:3128/", "cache.lan", 3128),
            ("http://cache.lan:3128", "cache.lan", 3128),
            ("HTTP://Cache.lan/", "cache.lan", 3128),
            ("https://192.0.2.5:3128/setup/docker", "192.0.2.5", 3128),
            ("http://192.0.2.5:3128/?sha256=abcd", "192.0.2.5", 3128),
            ("http://192.0.2.5:3128#join", "192.0.2.5", 3128),
            ("http://[fd00::5]:3128/", "fd00::5", 3128),
            ("fd00::5", "fd00::5", 3128),
            (" cache.lan/\n", "cache.lan", 3128),
        ] {
            let host = named_host(text).expect(text);
            assert_eq!((host.name(), host.port()), (name, port), "{text:?}");
        }
        for bad in ["", "http://", "http:///", "ftp://cache.lan", "cache lan", "http://user@cache.lan/", "cache.lan:0"]
        {
            assert!(matches!(named_host(bad), Err(ApplianceError::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn kinds_nodes_get_an_address_for_a_name_of_mdns() {
        for (host, in_nodes) in
            [("docker-registry.local", "192.0.2.5"), ("cache.lan", "cache.lan"), ("192.0.2.5", "192.0.2.5")]
        {
            let appliance = Appliance {
                host: host.to_owned(),
                proxy: "192.0.2.5:3128".parse().expect("an address"),
                facts: Facts::new(3128, "ab"),
                ca: CaCertificate { pem: String::new(), sha256: "ab".to_owned() },
            };
            assert_eq!(appliance.host_for(Runtime::Kind), in_nodes);
            assert_eq!(appliance.host_for(Runtime::Docker), host);
        }
    }
}
