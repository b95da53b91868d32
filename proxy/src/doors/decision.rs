//! Decides about a host that a client names: intercepted, passed on, or refused. One pure function.

use entrepot_core::host::RegistryHost;

use entrepot_config::ready::{LiveConfig, TunnelPolicy};
use entrepot_core::origin::{HTTP_PORT, Scheme};

/// The decision about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostDecision {
    /// A listed registry: answered here.
    Intercept,
    /// Anything else that may pass, sealed (or, in plain HTTP, as it is).
    Pass,
    /// Refused.
    Refuse(PolicyRefusal),
}

/// Why a host is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyRefusal {
    /// `proxy.allow` does not name it.
    NotAllowed,
    /// `proxy.tunnel = "none"`.
    NoTunnels,
    /// `proxy.tunnel = "registries"`, and it is none.
    NotARegistry,
    /// A port that tunnels do not lead to.
    Port,
}

/// Decides for a client that speaks `scheme` to `host`.
pub fn decide(config: &LiveConfig, host: &RegistryHost, scheme: Scheme) -> HostDecision {
    let proxy = &config.proxy;
    if proxy.allow.as_ref().is_some_and(|allow| !allow.is_match(host.to_string())) {
        return HostDecision::Refuse(PolicyRefusal::NotAllowed);
    }
    if config.intercepts(scheme, host) {
        return HostDecision::Intercept;
    }
    match proxy.tunnel {
        TunnelPolicy::None => return HostDecision::Refuse(PolicyRefusal::NoTunnels),
        TunnelPolicy::Registries if !config.intercept.iter().any(|registry| registry.host.names(host)) => {
            return HostDecision::Refuse(PolicyRefusal::NotARegistry);
        }
        TunnelPolicy::Registries | TunnelPolicy::Any => {}
    }
    let is_plain = scheme == Scheme::Http && host.port() == HTTP_PORT;
    if proxy.tunnel_ports.is_empty() || proxy.tunnel_ports.contains(&host.port()) || is_plain {
        HostDecision::Pass
    } else {
        HostDecision::Refuse(PolicyRefusal::Port)
    }
}

impl PolicyRefusal {
    /// The text for the person at the client. It names the key that the administrator can change.
    pub fn message(self) -> &'static str {
        match self {
            Self::NotAllowed => "this host is not in proxy.allow (REGISTRY_WHITELIST)",
            Self::NoTunnels => "only listed registries can be reached (proxy.tunnel = \"none\")",
            Self::NotARegistry => "only registries can be reached (proxy.tunnel = \"registries\")",
            Self::Port => "this port cannot be reached through a tunnel (proxy.tunnel_ports)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn each_policy_decides_as_it_says() {
        use HostDecision::{Intercept, Pass, Refuse};
        let any = "[intercept]\nregistries = [\"http://plain.test:5001\", \"sealed.test:5001\"]\n";
        let narrow = "[proxy]\ntunnel_ports = [443]\n";
        let cases = [
            (any, "ghcr.io:443", Scheme::Https, Intercept),
            (any, "GHCR.io:443", Scheme::Https, Intercept),
            (any, "eu-docker.pkg.dev:443", Scheme::Https, Intercept),
            (any, "ghcr.io:80", Scheme::Http, Pass),
            (any, "plain.test:5001", Scheme::Http, Intercept),
            (any, "plain.test:5001", Scheme::Https, Intercept),
            (any, "sealed.test:5001", Scheme::Https, Intercept),
            (any, "sealed.test:5001", Scheme::Http, Pass),
            (any, "example.com:443", Scheme::Https, Pass),
            (any, "example.com:80", Scheme::Http, Pass),
            (any, "example.com:8080", Scheme::Http, Pass),
            (any, "reg.lan:5000", Scheme::Https, Pass),
            (any, "ghcr.io:8443", Scheme::Https, Pass),
            (narrow, "example.com:443", Scheme::Https, Pass),
            (narrow, "example.com:80", Scheme::Http, Pass),
            (narrow, "example.com:8080", Scheme::Http, Refuse(PolicyRefusal::Port)),
            (narrow, "example.com:22", Scheme::Https, Refuse(PolicyRefusal::Port)),
            (narrow, "example.com:80", Scheme::Https, Refuse(PolicyRefusal::Port)),
            (narrow, "ghcr.io:8443", Scheme::Https, Refuse(PolicyRefusal::Port)),
            ("[proxy]\ntunnel = \"none\"\n", "example.com:443", Scheme::Https, Refuse(PolicyRefusal::NoTunnels)),
            ("[proxy]\ntunnel = \"none\"\n", "ghcr.io:443", Scheme::Https, Intercept),
            (
                "[proxy]\ntunnel = \"registries\"\n",
                "example.com:443",
                Scheme::Https,
                Refuse(PolicyRefusal::NotARegistry),
            ),
            ("[proxy]\ntunnel = \"registries\"\ntunnel_ports = [8443]\n", "ghcr.io:8443", Scheme::Https, Pass),
            ("[proxy]\nallow = [\"ghcr.io\"]\n", "ghcr.io:443", Scheme::Https, Intercept),
            ("[proxy]\nallow = [\"ghcr.io\"]\n", "quay.io:443", Scheme::Https, Refuse(PolicyRefusal::NotAllowed)),
        ];
        for (toml, host, scheme, expected) in cases {
            let host = RegistryHost::parse_with_port(host).expect(host);
            assert_eq!(
                decide(&from_text(toml).expect("configuration").live, &host, scheme),
                expected,
                "{host} {scheme:?} under {toml}"
            );
        }
    }
}
