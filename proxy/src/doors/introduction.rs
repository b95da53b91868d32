//! Decides about a connection that came without a CONNECT: its first bytes, and the address that it was sent to,
//! decide. Pure.
//!
//! A name that is listed is answered here, whatever address it was looked up at, and so is our own registry's, where
//! the connection is not for another machine. Everything else goes, sealed, to where it meant to go; only where that is
//! unknown does the name decide by the rules of CONNECT. A name is only a claim: what is cached for it is never fetched
//! from the original address.

use std::net::SocketAddr;

use entrepot_core::host::RegistryHost;
use entrepot_core::sniff::{HEALTH_HOST, Sniffed};

use crate::doors::decision::{HostDecision, PolicyRefusal, decide};
use entrepot_config::ready::LiveConfig;
use entrepot_core::origin::Scheme;

/// The decision about a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteDecision {
    /// A listed registry: answered here.
    Answer(RegistryHost),
    /// Our own registry.
    Own,
    /// Sealed, to this host.
    Tunnel(RegistryHost),
    /// The agent's question after our health.
    Health,
    /// By the rules for hosts that are not listed.
    Refuse(RegistryHost, PolicyRefusal),
    /// No name and no destination.
    Nowhere,
}

/// Decides for a connection that begins with `opening` and meant to go to `original`, where that is known. `is_own`
/// knows the names of our own registry.
pub fn route(
    config: &LiveConfig,
    opening: &Sniffed,
    original: Option<SocketAddr>,
    is_own: impl Fn(&RegistryHost) -> bool,
) -> RouteDecision {
    let (named, scheme) = match opening {
        Sniffed::Http(Some(host)) if host == HEALTH_HOST => return RouteDecision::Health,
        Sniffed::Tls(name) => (name, Scheme::Https),
        Sniffed::Http(name) => (name, Scheme::Http),
        Sniffed::NeedMore | Sniffed::Other => (&None, Scheme::Https),
    };
    let port = original.map_or(scheme.default_port(), |original| original.port());
    // An address is no name: a client that gives one means the address that the connection goes to.
    let host = named.as_ref().and_then(|name| RegistryHost::parse(name, port).ok());
    let Some(host) = host else { return original.map_or(RouteDecision::Nowhere, to_original) };
    if is_own(&host) {
        return RouteDecision::Own;
    }
    match (decide(config, &host, scheme), original) {
        (HostDecision::Intercept, _) => RouteDecision::Answer(host),
        (_, Some(original)) => to_original(original),
        (HostDecision::Pass, None) => RouteDecision::Tunnel(host),
        (HostDecision::Refuse(refusal), None) => RouteDecision::Refuse(host, refusal),
    }
}

/// Whether a connection that begins with `opening` names a host. An address is no name.
pub fn has_name(opening: &Sniffed) -> bool {
    let (Sniffed::Tls(Some(name)) | Sniffed::Http(Some(name))) = opening else { return false };
    RegistryHost::parse(name, Scheme::Https.default_port()).is_ok_and(|host| host.address().is_none())
}

fn to_original(original: SocketAddr) -> RouteDecision {
    RegistryHost::parse_with_port(&original.to_string()).map_or(RouteDecision::Nowhere, RouteDecision::Tunnel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    fn tls(name: &str) -> Sniffed {
        Sniffed::Tls(Some(name.to_owned()))
    }

    fn http(host: &str) -> Sniffed {
        Sniffed::Http(Some(host.to_owned()))
    }

    #[test]
    fn names_and_destinations_decide_together() {
        let config = from_text(
            "[intercept]\nregistries = [\"reg.test:5000\", \"http://plain.test:5000\", \"http://eighty.test\"]\n",
        )
        .expect("configuration")
        .live;
        let host = |text: &str| text.parse::<RegistryHost>().expect("a host");
        let answer = |text: &str| RouteDecision::Answer(host(text));
        let tunnel = |text: &str| RouteDecision::Tunnel(host(text));
        let cases = [
            (tls("GHCR.io"), None, answer("ghcr.io")),
            (tls("ghcr.io"), Some("192.0.2.1:443"), answer("ghcr.io")),
            (tls("ghcr.io"), Some("192.0.2.1:8443"), tunnel("192.0.2.1:8443")),
            (tls("reg.test"), Some("192.0.2.1:5000"), answer("reg.test:5000")),
            (tls("reg.test"), Some("192.0.2.1:443"), tunnel("192.0.2.1:443")),
            (tls("shop.test"), Some("192.0.2.1:443"), tunnel("192.0.2.1:443")),
            (tls("shop.test"), Some("[2001:db8::1]:443"), tunnel("[2001:db8::1]:443")),
            (tls("shop.test"), None, tunnel("shop.test")),
            (tls("not a name"), Some("192.0.2.1:443"), tunnel("192.0.2.1:443")),
            (tls("not a name"), None, RouteDecision::Nowhere),
            (Sniffed::Tls(None), Some("192.0.2.1:443"), tunnel("192.0.2.1:443")),
            (Sniffed::Tls(None), None, RouteDecision::Nowhere),
            (Sniffed::Other, Some("192.0.2.1:443"), tunnel("192.0.2.1:443")),
            (Sniffed::Other, None, RouteDecision::Nowhere),
            (http("ghcr.io"), Some("192.0.2.1:80"), tunnel("192.0.2.1:80")),
            (http("eighty.test"), Some("192.0.2.1:80"), answer("eighty.test:80")),
            (http("reg.test:5000"), Some("192.0.2.1:5000"), tunnel("192.0.2.1:5000")),
            (http("plain.test:5000"), Some("192.0.2.1:5000"), answer("plain.test:5000")),
            (http("plain.test:5000"), None, answer("plain.test:5000")),
            (http("shop.test"), Some("192.0.2.1:80"), tunnel("192.0.2.1:80")),
            (http("shop.test"), None, tunnel("shop.test:80")),
            (http("shop.test:8080"), None, tunnel("shop.test:8080")),
            (http(HEALTH_HOST), None, RouteDecision::Health),
            (Sniffed::Http(None), Some("192.0.2.1:80"), tunnel("192.0.2.1:80")),
            (tls("docker-registry.local"), None, RouteDecision::Own),
            (tls("docker-registry.local"), Some("192.0.2.1:443"), RouteDecision::Own),
            (tls("docker-registry.local"), Some("192.0.2.1:8443"), tunnel("192.0.2.1:8443")),
            (http("docker-registry.local"), None, RouteDecision::Own),
        ];
        let is_own = |host: &RegistryHost| host.name() == "docker-registry.local" && host.port() != 8443;
        for (opening, original, expected) in cases {
            let original = original.map(|text: &str| text.parse().expect(text));
            assert_eq!(route(&config, &opening, original, is_own), expected, "{opening:?} {original:?}");
        }
    }

    #[test]
    fn an_address_is_no_name() {
        for (opening, expected) in [
            (tls("ghcr.io"), true),
            (http("shop.test:8080"), true),
            (tls("192.0.2.1"), false),
            (http("[2001:db8::1]:80"), false),
            (http("not a name"), false),
            (Sniffed::Http(None), false),
            (Sniffed::Tls(None), false),
            (Sniffed::Other, false),
        ] {
            assert_eq!(has_name(&opening), expected, "{opening:?}");
        }
    }

    #[test]
    fn policies_for_strangers_hold_where_only_the_name_is_known() {
        let config = from_text("[proxy]\ntunnel = \"none\"\n").expect("configuration").live;
        let stranger = "shop.test".parse().expect("a host");
        assert_eq!(
            route(&config, &tls("shop.test"), None, |_| false),
            RouteDecision::Refuse(stranger, PolicyRefusal::NoTunnels)
        );
        let original = "192.0.2.1:443".parse().expect("an address");
        let tunnel = RouteDecision::Tunnel("192.0.2.1".parse().expect("a host"));
        assert_eq!(
            route(&config, &tls("shop.test"), Some(original), |_| false),
            tunnel,
            "it would have gone there by itself"
        );
    }
}
