//! Which appliance, and is it the one: found by mDNS or named, asked for what it tells, its certificate held against the
//! fingerprint.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use entrepot_core::host::RegistryHost;

use super::Runtime;
use super::plan::is_local_name;
use crate::discovery::browse::{BrowseError, Found, browse};
use crate::discovery::facts::Facts;
use crate::discovery::probe::{self, CaCertificate, ProbeError};

/// An appliance that answered.
pub struct Appliance {
    /// As it is written into files: what the person named, else its address.
    pub host: String,
    /// Where it was reached.
    pub proxy: SocketAddr,
    /// What it tells about itself.
    pub facts: Facts,
    /// Its certificate, with the fingerprint that it has.
    pub ca: CaCertificate,
}

/// Why there is no appliance to be set up with.
#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    /// Not a name or address.
    #[error("{0:?} is neither a name nor an address, with or without a port")]
    Name(String),
    /// The name leads nowhere.
    #[error(
        "{0} does not resolve here; names under .local need libnss-mdns or systemd-resolved, an address works without"
    )]
    Unresolved(String),
    /// Nobody answered.
    #[error("no appliance answered on the local network; name one with --appliance NAME|ADDRESS")]
    Nobody,
    /// More than one answered.
    #[error("several appliances answered: {0}; choose one with --appliance NAME|ADDRESS")]
    Several(String),
    /// Looking failed.
    #[error(transparent)]
    Browse(#[from] BrowseError),
    /// Asking it failed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Its certificate is another one.
    #[error(
        "the certificate of {proxy} is not the expected one: expected SHA-256 {expected}, found {found}; nothing was changed"
    )]
    WrongFingerprint {
        /// Which appliance.
        proxy: SocketAddr,
        /// What was asked for.
        expected: String,
        /// What it has.
        found: String,
    },
}

const PROXY_PORT: u16 = 3128;
const BROWSE: Duration = Duration::from_secs(3);

/// The appliance that `named` means, or the only one of this network. Blocks while it looks around.
pub fn find(named: Option<&str>) -> Result<(String, SocketAddr), ApplianceError> {
    match named {
        Some(named) => by_name(named),
        None => only(browse(BROWSE, |_| false)?),
    }
}

/// Asks it for everything.
pub async fn ask(host: String, proxy: SocketAddr) -> Result<Appliance, ApplianceError> {
    let (facts, ca) = (probe::facts(proxy).await?, probe::ca_certificate(proxy).await?);
    Ok(Appliance { host, proxy, facts, ca })
}

impl Appliance {
    /// As `runtime` reaches it: Kind's nodes do not ask mDNS, even where this machine does.
    pub fn host_for(&self, runtime: Runtime) -> String {
        if runtime == Runtime::Kind && is_local_name(&self.host) {
            return self.proxy.ip().to_string();
        }
        self.host.clone()
    }

    /// Refuses any certificate but the expected one.
    pub fn expect(&self, expected: &str) -> Result<(), ApplianceError> {
        if self.ca.sha256 == expected {
            return Ok(());
        }
        let (expected, found) = (expected.to_owned(), self.ca.sha256.clone());
        Err(ApplianceError::WrongFingerprint { proxy: self.proxy, expected, found })
    }
}

/// A name that this machine resolves is written into files as it is; one that only mDNS knows becomes an address, for
/// programs that do not ask mDNS.
fn by_name(named: &str) -> Result<(String, SocketAddr), ApplianceError> {
    let host = RegistryHost::parse(named, PROXY_PORT).map_err(|_| ApplianceError::Name(named.to_owned()))?;
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
