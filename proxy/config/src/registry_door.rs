//! `[registry]`: our own registry, where it listens and what it keeps. `registry_access` has the rest of the section.

use std::net::IpAddr;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use url::Url;

use super::provenance::{ConfigError, Refusal};
use super::raw::{RawRegistryDoor, Texts};
use super::ready::{Listen, OwnUrl, RegistryListen, RegistrySettings, UploadLimits};
use super::registry_access;
use super::resolver::{AtReload, AtStart, Resolver};
use super::values;

const UPLOADS_MAX: i64 = 1_000_000;

pub(super) fn listen(
    resolver: &mut Resolver<'_, AtStart>,
    raw: &RawRegistryDoor,
) -> Result<RegistryListen, ConfigError> {
    Ok(RegistryListen {
        http: addresses(resolver, "registry.http", &raw.http, "[::]:5000")?,
        https: addresses(resolver, "registry.https", &raw.https, "[::]:5443")?,
        mirror: resolver.texts("registry.mirror_listen", &raw.mirror_listen, &[], values::listen_address)?,
    })
}

pub(super) fn settings(
    resolver: &mut Resolver<'_, AtReload>,
    raw: &RawRegistryDoor,
) -> Result<RegistrySettings, ConfigError> {
    let (rights, notifications) = registry_access::access(resolver, raw)?;
    Ok(RegistrySettings {
        hostname: resolver.text("registry.hostname", &raw.hostname, "docker-registry.local", hostname)?,
        names: resolver.texts("registry.names", &raw.names, &[], own_name)?,
        plain_on_https: resolver.switch("registry.plain_on_https", &raw.plain_on_https, false),
        url: resolver.optional("registry.url", &raw.url, own_url)?,
        forwarded_from: resolver.texts("registry.forwarded_from", &raw.forwarded_from, &[], values::network)?,
        docker_hub_mirror: resolver.switch("registry.docker_hub_mirror", &raw.docker_hub_mirror, true),
        uploads: UploadLimits {
            total: resolver.number("registry.max_uploads", &raw.max_uploads, 1000, 1..=UPLOADS_MAX)?,
            per_client: resolver.number(
                "registry.max_uploads_per_client",
                &raw.max_uploads_per_client,
                100,
                1..=UPLOADS_MAX,
            )?,
        },
        upload_expiry: resolver.text("registry.upload_expiry", &raw.upload_expiry, "24h", values::duration)?,
        empty_upload_expiry: resolver.text(
            "registry.empty_upload_expiry",
            &raw.empty_upload_expiry,
            "5m",
            values::deadline,
        )?,
        grace: resolver.text("registry.grace", &raw.grace, "1h", values::duration)?,
        gc_interval: resolver.text("registry.gc_interval", &raw.gc_interval, "6h", values::duration)?,
        untagged: resolver.text("registry.untagged", &raw.untagged, "keep", time_or_keep)?,
        rights,
        notifications,
    })
}

/// `keep`, or a time.
fn time_or_keep(text: &str) -> Result<Option<Duration>, Refusal> {
    if text == "keep" { Ok(None) } else { values::deadline(text).map(Some) }
}

fn addresses(
    resolver: &mut Resolver<'_, AtStart>,
    key: &str,
    given: &Texts,
    default: &str,
) -> Result<Listen, ConfigError> {
    let is_default = given.is_none();
    Ok(Listen { addresses: resolver.texts(key, given, &[default], values::listen_address)?, is_default })
}

fn hostname(text: &str) -> Result<RegistryHost, Refusal> {
    let is_whole = |host: &RegistryHost| host.name().eq_ignore_ascii_case(text.trim_matches(['[', ']']));
    let host = text.parse::<RegistryHost>().ok().filter(is_whole);
    host.ok_or_else(|| Refusal::new(format!("{text:?} is not a host name")).hint("without a port"))
}

/// `https://host`, perhaps with a port.
fn own_url(text: &str) -> Result<OwnUrl, Refusal> {
    let refusal =
        || Refusal::new(format!("{text:?} is not the address of a registry")).hint("such as https://images.example");
    let url = Url::parse(text).map_err(|_| refusal())?;
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(refusal()),
    };
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.trim_end_matches('/'));
    let host = RegistryHost::parse(authority, scheme.default_port()).map_err(|_| refusal())?;
    Ok(OwnUrl { scheme, host })
}

/// A host name, or an address with or without brackets.
fn own_name(text: &str) -> Result<RegistryHost, Refusal> {
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => hostname(&format!("[{address}]")),
        _ => hostname(text),
    }
}
