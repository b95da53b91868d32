//! `[transparent]` and `[redirect]`: the door for redirected connections, and the agent that redirects them.

use std::net::IpAddr;
use std::path::Path;

use entrepot_core::host::{HostError, RegistryHost};
use entrepot_core::origin::authority_of_url;

use super::provenance::{ConfigError, Refusal};
use super::raw::{RawRedirect, RawTransparent};
use super::ready::{Listen, Redirect, TRANSPARENT_PORT, TransparentPolicy};
use super::resolver::{AtAgentStart, AtReload, AtStart, Resolver};
use super::values;

const PORT_MAX: i64 = 65_535;

pub(super) fn listen(resolver: &mut Resolver<'_, AtStart>, raw: &RawTransparent) -> Result<Listen, ConfigError> {
    let addresses = resolver.texts("transparent.listen", &raw.listen, &["[::]:3129"], values::listen_address)?;
    Ok(Listen { addresses, is_default: raw.listen.is_none() })
}

pub(super) fn policy(
    resolver: &mut Resolver<'_, AtReload>,
    raw: &RawTransparent,
) -> Result<TransparentPolicy, ConfigError> {
    Ok(TransparentPolicy {
        proxy_protocol_from: resolver.texts(
            "transparent.proxy_protocol_from",
            &raw.proxy_protocol_from,
            &[],
            values::network,
        )?,
    })
}

pub(super) fn redirect(
    resolver: &mut Resolver<'_, AtAgentStart>,
    raw: &RawRedirect,
    data_dir: &Path,
) -> Result<Redirect, ConfigError> {
    let ports = resolver.numbers("redirect.ports", &raw.ports, &[443], 1..=PORT_MAX)?;
    Ok(Redirect {
        appliance: resolver.optional("redirect.appliance", &raw.appliance, configured_appliance)?,
        ports: ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        prefixes: resolver.texts("redirect.prefixes", &raw.prefixes, &[], values::network)?,
        resolvers: resolver.texts("redirect.resolvers", &raw.resolvers, &[], resolver_address)?,
        cgroups: resolver.texts("redirect.cgroups", &raw.cgroups, &[], values::path)?,
        exempt_cgroups: resolver.texts("redirect.exempt_cgroups", &raw.exempt_cgroups, &[], values::path)?,
        interfaces: resolver.texts("redirect.interfaces", &raw.interfaces, &[], interface)?,
        seed_interval: resolver.text("redirect.seed_interval", &raw.seed_interval, "5m", values::deadline)?,
        enforce: resolver.switch("redirect.enforce", &raw.enforce, false),
        socket: resolver.path("redirect.socket", &raw.socket, data_dir.join("redirect.sock")),
        listen: resolver.optional("redirect.listen", &raw.listen, values::listen_address)?,
    })
}

/// A name or an address. Without a port, it is on the transparent door's port. The port of a URL is that of another
/// door, so only the URL's host counts.
pub fn appliance(text: &str) -> Result<RegistryHost, HostError> {
    let (scheme, authority) = authority_of_url(text.trim());
    let host = RegistryHost::parse(authority, TRANSPARENT_PORT)?;
    Ok(if scheme.is_some() { host.with_port(TRANSPARENT_PORT) } else { host })
}

fn configured_appliance(text: &str) -> Result<RegistryHost, Refusal> {
    appliance(text).map_err(|error| {
        Refusal::new(format!("{text:?} is no usable appliance: {error}"))
            .hint("write for example docker-registry.local or 192.0.2.7:3129")
    })
}

/// The address of a resolver.
fn resolver_address(text: &str) -> Result<IpAddr, Refusal> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => {
            Err(Refusal::new(format!("{text:?} is no address of a resolver")).hint("write for example 192.0.2.53"))
        }
    }
}

/// The name of a network interface, in Linux's grammar.
fn interface(text: &str) -> Result<String, Refusal> {
    let allowed = (1..=15).contains(&text.len()) && !text.contains(['/', ':']) && !text.contains(char::is_whitespace);
    if allowed { Ok(text.to_owned()) } else { Err(Refusal::new(format!("{text:?} is no name of an interface"))) }
}
