//! `[proxy]`, `[admin]`, `[logging]`: the listening addresses, the hosts that clients may reach, and the logs.

use std::path::Path;

use entrepot_core::docker_hub;
use globset::GlobSet;

use super::provenance::{ConfigError, Given, Refusal};
use super::raw::{RawAdmin, RawLogging, RawProxy, Texts};
use super::ready::{AdminDoor, Listen, LogFormat, LogLevel, LogOutput, ProxyListen, ProxyPolicy, TunnelPolicy};
use super::resolver::{AtReload, AtStart, Resolver};
use super::values;

const CONNECTIONS_MAX: i64 = 1_000_000;
const PORT_MAX: i64 = 65_535;

pub(super) fn proxy_listen(resolver: &mut Resolver<'_, AtStart>, raw: &RawProxy) -> Result<ProxyListen, ConfigError> {
    let empty = raw.listen.as_ref().filter(|listen| listen.value.is_empty()).map(|listen| listen.place);
    if let Some(place) = empty {
        let refusal = Refusal::new("the list is empty").hint("write for example [\"[::]:3128\"]");
        return Err(resolver.refuse("proxy.listen", place, refusal));
    }
    let bounds = || 1..=CONNECTIONS_MAX;
    let per_client = &raw.max_connections_per_client;
    Ok(ProxyListen {
        listen: resolver.texts("proxy.listen", &raw.listen, &["[::]:3128"], values::listen_address)?,
        max_connections: resolver.number("proxy.max_connections", &raw.max_connections, 10_000, bounds())?,
        max_connections_per_client: resolver.number("proxy.max_connections_per_client", per_client, 1000, bounds())?,
    })
}

pub(super) fn proxy_policy(resolver: &mut Resolver<'_, AtReload>, raw: &RawProxy) -> Result<ProxyPolicy, ConfigError> {
    const TUNNEL: &[(&str, TunnelPolicy)] =
        &[("any", TunnelPolicy::Any), ("registries", TunnelPolicy::Registries), ("none", TunnelPolicy::None)];
    Ok(ProxyPolicy {
        tunnel: resolver.text("proxy.tunnel", &raw.tunnel, "any", |text| values::choice(text, TUNNEL))?,
        tunnel_ports: resolver
            .numbers("proxy.tunnel_ports", &raw.tunnel_ports, &[], 1..=PORT_MAX)?
            .into_iter()
            .filter_map(|port| u16::try_from(port).ok())
            .collect(),
        allow: allow(resolver, &raw.allow)?,
        allow_push: resolver.switch("proxy.allow_push", &raw.allow_push, false),
        drain_timeout: resolver.text("proxy.drain_timeout", &raw.drain_timeout, "30s", values::duration)?,
    })
}

/// An empty list allows every host. `docker.io` stands for Docker Hub, although its hosts have other names.
fn allow(resolver: &mut Resolver<'_, AtReload>, given: &Texts) -> Result<Option<GlobSet>, ConfigError> {
    const KEY: &str = "proxy.allow";
    let place = given.as_ref().map(|Given { place, .. }| *place);
    let mut globs = resolver.texts(KEY, given, &[], values::host_glob)?;
    if globs.iter().any(|glob| glob == docker_hub::NAME) {
        globs.extend(docker_hub::HOSTS.iter().map(|host| host.to_string()));
    }
    match place {
        Some(place) if !globs.is_empty() => {
            values::host_globs(&globs).map(Some).map_err(|refusal| resolver.refuse(KEY, place, refusal))
        }
        _ => Ok(None),
    }
}

pub(super) fn admin(
    resolver: &mut Resolver<'_, AtStart>,
    raw: &RawAdmin,
    data_dir: &Path,
) -> Result<AdminDoor, ConfigError> {
    let listen = |text: &str| if text == "none" { Ok(None) } else { values::listen_address(text).map(Some) };
    Ok(AdminDoor {
        listen: Listen {
            addresses: resolver.text("admin.listen", &raw.listen, "127.0.0.1:3130", listen)?.into_iter().collect(),
            is_default: raw.listen.is_none(),
        },
        socket: resolver.path("admin.socket", &raw.socket, data_dir.join("admin.sock")),
        token: resolver.secret_file("admin.token_file", &raw.token_file)?,
        loopback_changes: resolver.switch("admin.loopback_changes", &raw.loopback_changes, false),
    })
}

pub(super) fn log_output(resolver: &mut Resolver<'_, AtStart>, raw: &RawLogging) -> Result<LogOutput, ConfigError> {
    const FORMATS: &[(&str, LogFormat)] = &[("json", LogFormat::Json), ("text", LogFormat::Text)];
    Ok(LogOutput {
        format: resolver.text("logging.format", &raw.format, "json", |text| values::choice(text, FORMATS))?,
        file: resolver.optional("logging.file", &raw.file, values::path)?,
    })
}

pub(super) fn log_level(resolver: &mut Resolver<'_, AtReload>, raw: &RawLogging) -> Result<LogLevel, ConfigError> {
    Ok(LogLevel { level: resolver.text("logging.level", &raw.level, "info", values::log_filter)? })
}
