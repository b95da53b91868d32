//! `[mdns]`: the announcement of this server on the local network.

use super::provenance::{ConfigError, Refusal};
use super::raw::RawMdns;
use super::ready::Mdns;
use super::resolver::{AtStart, Resolver};
use entrepot_core::mdns_name::MdnsName;

/// The kernel's IFNAMSIZ without the final zero byte.
const INTERFACE_MAX_BYTES: usize = 15;

pub(super) fn mdns(resolver: &mut Resolver<'_, AtStart>, raw: &RawMdns) -> Result<Mdns, ConfigError> {
    Ok(Mdns {
        enabled: resolver.switch("mdns.enabled", &raw.enabled, true),
        hostname: resolver.text("mdns.hostname", &raw.hostname, "docker-registry", hostname)?,
        interfaces: resolver.texts("mdns.interfaces", &raw.interfaces, &[], interface)?,
    })
}

fn hostname(text: &str) -> Result<MdnsName, Refusal> {
    MdnsName::parse(text).ok_or_else(|| {
        Refusal::new(format!("{text:?} is not a host name under .local"))
            .hint("write one word of letters, digits and hyphens, for example docker-registry")
    })
}

fn interface(text: &str) -> Result<String, Refusal> {
    let usable = !text.is_empty() && text.len() <= INTERFACE_MAX_BYTES && !text.contains(['/', ' ']);
    usable.then(|| text.to_owned()).ok_or_else(|| {
        Refusal::new(format!("{text:?} is not the name of an interface")).hint("`ip link` shows them, for example eth0")
    })
}
