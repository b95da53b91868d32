//! The connections that the agent redirects, and the door that they are led to: the configuration as the agent uses it.
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::{HTTP_PORT, OriginPattern, Scheme};
use entrepot_ebpf_common::names::{BELOW, EXACT, hash};
use entrepot_ebpf_common::settings::PORTS_MAX;
use ipnet::IpNet;

use super::RedirectError;
use entrepot_config::ready::Config;

/// The connections that are redirected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Those of processes on this machine.
    Host,
    /// Those that are routed through this machine.
    Gateway,
}

/// The place of the door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DoorPlace {
    /// On this machine, at most one address for each family.
    Local(Vec<SocketAddr>),
    /// On an appliance, under its name or address.
    Appliance(RegistryHost),
}

/// The agent's settings.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) door: DoorPlace,
    /// The destination ports that are redirected.
    pub(crate) ports: Vec<u16>,
    /// The networks of registries.
    pub(crate) prefixes: Vec<IpNet>,
    /// Hashes of the listed names, each with `EXACT`, `BELOW` or both.
    pub(crate) names: Vec<(u64, u32)>,
    /// The listed names that can be resolved.
    pub(crate) seeds: Vec<String>,
    pub(crate) seed_interval: Duration,
    /// The resolvers that the administrator names.
    pub(crate) resolvers: Vec<IpAddr>,
    /// The control groups to attach to; if empty, the root.
    pub(crate) cgroups: Vec<PathBuf>,
    /// The control groups whose processes are left alone.
    pub(crate) exempt_cgroups: Vec<PathBuf>,
    /// The gateway's interfaces towards the clients.
    pub(crate) interfaces: Vec<String>,
    /// Whether connections are redirected even if the door does not answer.
    pub(crate) enforce: bool,
}

/// The ports that a door on another machine can serve: it does not learn the port, so TLS and HTTP must be on their
/// own.
const NAMED_PORTS: [u16; 2] = [80, 443];

impl Mode {
    /// As in commands and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Gateway => "gateway",
        }
    }
}

impl Plan {
    /// Reads the configuration. The texts are notices for the log, about settings that have no effect.
    pub(crate) fn new(mode: Mode, config: &Config) -> Result<(Self, Vec<String>), RedirectError> {
        let redirect = &config.redirect;
        let mut notices = Vec::new();
        let door = door_place(config)?;
        let mut ports = redirect.ports.clone();
        ports.extend(config.live.intercept.iter().filter_map(port_of));
        ports.sort_unstable();
        ports.dedup();
        if let DoorPlace::Appliance(appliance) = &door {
            let (kept, left): (Vec<_>, Vec<_>) = ports.iter().partition(|port| NAMED_PORTS.contains(port));
            if !left.is_empty() {
                notices.push(format!(
                    "ports {left:?} are not redirected: {appliance} is another machine and cannot learn a connection's \
                     port"
                ));
            }
            ports = kept;
        }
        if ports.is_empty() || ports.len() > PORTS_MAX {
            let count = ports.len();
            return Err(RedirectError::Plan(format!("{count} ports are to be redirected; 1 to {PORTS_MAX} can be")));
        }
        if mode == Mode::Gateway {
            if matches!(door, DoorPlace::Appliance(_)) {
                let message = "a gateway redirects to the door of its own machine; leave redirect.appliance empty";
                return Err(RedirectError::Plan(message.to_owned()));
            }
            if redirect.interfaces.is_empty() {
                let message = "name the interfaces towards the clients: --interface NAME, or redirect.interfaces";
                return Err(RedirectError::Plan(message.to_owned()));
            }
        }
        let plan = Self {
            mode,
            door,
            ports,
            prefixes: redirect.prefixes.clone(),
            names: names(&config.live.intercept),
            seeds: seeds(&config.live.intercept),
            seed_interval: redirect.seed_interval,
            resolvers: redirect.resolvers.clone(),
            cgroups: redirect.cgroups.clone(),
            exempt_cgroups: redirect.exempt_cgroups.clone(),
            interfaces: redirect.interfaces.clone(),
            enforce: redirect.enforce,
        };
        Ok((plan, notices))
    }
}

fn door_place(config: &Config) -> Result<DoorPlace, RedirectError> {
    if let Some(appliance) = &config.redirect.appliance {
        return Ok(DoorPlace::Appliance(appliance.clone()));
    }
    let doors = local_doors(&config.startup.transparent.addresses);
    if doors.is_empty() {
        let message = "no door: transparent.listen is empty, and redirect.appliance names no other machine";
        return Err(RedirectError::Plan(message.to_owned()));
    }
    Ok(DoorPlace::Local(doors))
}

/// The addresses by which this machine reaches its own door, for each family that the door listens on.
fn local_doors(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let v4 = listening.iter().find_map(|address| match address.ip() {
        IpAddr::V4(ip) => {
            Some(SocketAddr::from((if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }, address.port())))
        }
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))),
        IpAddr::V6(_) => None,
    });
    let v6 = listening.iter().find_map(|address| match address.ip() {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => {
            Some(SocketAddr::from((if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }, address.port())))
        }
    });
    v4.into_iter().chain(v6).collect()
}

/// The port that a listed registry needs besides those of `redirect.ports`. None if it is https without a port.
fn port_of(registry: &OriginPattern) -> Option<u16> {
    registry.host.port().or((registry.scheme == Scheme::Http).then_some(HTTP_PORT))
}

/// A pattern's text without its scheme and port: `*.pkg.dev` or `ghcr.io`.
fn name_of(registry: &OriginPattern) -> String {
    let pattern = &registry.host;
    let text = pattern.to_string();
    match pattern.port() {
        Some(port) => text.strip_suffix(&format!(":{port}")).unwrap_or(&text).to_owned(),
        None => text,
    }
}

fn names(patterns: &[OriginPattern]) -> Vec<(u64, u32)> {
    let mut names: Vec<(u64, u32)> = Vec::new();
    for pattern in patterns {
        let text = name_of(pattern);
        let (name, flag) = text.strip_prefix("*.").map_or((text.as_str(), EXACT), |name| (name, BELOW));
        let hash = hash(name);
        match names.iter_mut().find(|(known, _)| *known == hash) {
            Some((_, flags)) => *flags |= flag,
            None => names.push((hash, flag)),
        }
    }
    names
}

fn seeds(patterns: &[OriginPattern]) -> Vec<String> {
    let mut seeds: Vec<String> =
        patterns.iter().filter_map(|pattern| Some(pattern.exact()?.host.name().to_owned())).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn ports_and_names_come_from_the_listed_registries() {
        let config = from_text(
            "[intercept]\nregistries = [\"reg.test:5000\", \"*.reg.test\", \"pkg.dev\", \"http://plain.test\"]\n",
        )
        .expect("configuration");
        let (plan, notices) = Plan::new(Mode::Host, &config).expect("a plan");
        assert_eq!((plan.ports, notices.len()), (vec![80, 443, 5000], 0));
        let flags = |name: &str| plan.names.iter().find(|(known, _)| *known == hash(name)).map(|(_, flags)| *flags);
        assert_eq!(flags("ghcr.io"), Some(EXACT));
        assert_eq!(flags("reg.test"), Some(EXACT | BELOW));
        assert_eq!(flags("pkg.dev"), Some(EXACT | BELOW));
        assert_eq!(flags("example.com"), None);
        assert!(plan.seeds.contains(&"reg.test".to_owned()) && !plan.seeds.iter().any(|seed| seed.contains('*')));
        let both = ["127.0.0.1:3129", "[::1]:3129"].map(|text| text.parse().expect("an address"));
        assert_eq!(plan.door, DoorPlace::Local(both.to_vec()));
    }

    #[test]
    fn doors_are_reached_where_they_listen() {
        for (listening, expected) in [
            (&["0.0.0.0:1"][..], &["127.0.0.1:1"][..]),
            (&["10.0.0.1:1", "[fd00::1]:2"], &["10.0.0.1:1", "[fd00::1]:2"]),
            (&["[::]:7"], &["127.0.0.1:7", "[::1]:7"]),
            (&[], &[]),
        ] {
            let parse = |texts: &[&str]| {
                texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<SocketAddr>>()
            };
            assert_eq!(local_doors(&parse(listening)), parse(expected), "{listening:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_reported() {
        let distant = from_text(
            "[intercept]\nregistries = [\"reg.test:5000\"]\n[redirect]\nappliance = \"docker-registry.local\"\n",
        )
        .expect("configuration");
        let (plan, notices) = Plan::new(Mode::Host, &distant).expect("a plan");
        assert_eq!(plan.ports, [443]);
        assert!(notices[0].contains("5000") && notices[0].contains("docker-registry.local:3129"), "{notices:?}");
        for (mode, toml, says) in [
            (Mode::Gateway, "", "--interface"),
            (Mode::Gateway, "[redirect]\nappliance = \"10.0.0.1\"\ninterfaces = [\"eth0\"]\n", "own machine"),
            (Mode::Host, "[transparent]\nlisten = []\n", "no door"),
            (Mode::Host, "[redirect]\nports = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]\n", "17 ports"),
        ] {
            let error = Plan::new(mode, &from_text(toml).expect("configuration")).expect_err(toml).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
