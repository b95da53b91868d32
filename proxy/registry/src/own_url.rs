//! The address by which a client reaches our registry: challenges name the token endpoint below it, and events name
//! content below it. Behind a reverse proxy the connection tells nothing of it.

use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use http::header::HOST;
use http::{HeaderMap, HeaderName};

use entrepot_config::ready::{OwnUrl, RegistrySettings};
use entrepot_net::connection::ConnectionContext;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The configured address; else the one that a reverse proxy tells, if it is one of ours; else the connection's.
pub(super) fn seen_by(settings: &RegistrySettings, connection: &ConnectionContext, headers: &HeaderMap) -> OwnUrl {
    if let Some(url) = &settings.url {
        return url.clone();
    }
    let is_believed = settings.forwarded_from.iter().any(|network| network.contains(&connection.client));
    let forwarded = |name: &HeaderName| first(headers, name).filter(|_| is_believed);
    let scheme = forwarded(&FORWARDED_PROTO).and_then(scheme_of).unwrap_or(connection.scheme);
    let port = scheme.default_port();
    // The client's text comes back to it only as the host that it names.
    let host_of = |text: &str| RegistryHost::parse(text, port).ok();
    let host = forwarded(&FORWARDED_HOST).and_then(host_of).or_else(|| first(headers, &HOST).and_then(host_of));
    OwnUrl { scheme, host: host.unwrap_or_else(|| settings.hostname.with_port(port)) }
}

/// The first element, which the proxy that is next to the client wrote.
fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim)
}

fn scheme_of(text: &str) -> Option<Scheme> {
    let known = [("http", Scheme::Http), ("https", Scheme::Https)];
    known.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, scheme)| scheme)
}

#[cfg(test)]
mod tests {
    use entrepot_config::from_text;
    use entrepot_net::connection::Destination;
    use entrepot_net::places::Standing;
    use entrepot_observe::labels::Door;
    use http::HeaderValue;

    use super::*;

    const PROXY: [u8; 4] = [10, 0, 0, 7];

    #[test]
    fn the_address_is_the_configured_or_the_forwarded_one() {
        let believed = "forwarded_from = [\"10.0.0.0/24\"]\n";
        let fixed = "url = \"https://images.example:8443\"\n";
        let (proto, host) = ("x-forwarded-proto", "x-forwarded-host");
        for (settings, client, headers, expected) in [
            ("", PROXY, &[("host", "reg.lan:5000")][..], "http://reg.lan:5000"),
            ("", PROXY, &[("host", "reg.lan"), (proto, "https"), (host, "images.example")], "http://reg.lan"),
            (
                believed,
                PROXY,
                &[("host", "reg.lan"), (proto, "https"), (host, "images.example")],
                "https://images.example",
            ),
            (believed, PROXY, &[("host", "images.example"), (proto, "https")], "https://images.example"),
            (believed, PROXY, &[("host", "reg.lan:5000"), (host, "images.example:8080")], "http://images.example:8080"),
            (
                believed,
                PROXY,
                &[("host", "a.lan"), (proto, "HTTPS, http"), (host, "b.example, c.lan")],
                "https://b.example",
            ),
            (believed, PROXY, &[("host", "a.lan"), (proto, "https"), (host, "b.example:443")], "https://b.example"),
            (believed, PROXY, &[("host", "a.lan:5000"), (proto, "gopher"), (host, "\"><script>")], "http://a.lan:5000"),
            (believed, PROXY, &[("host", "a.lan"), (proto, ""), (host, "")], "http://a.lan"),
            (believed, PROXY, &[], "http://docker-registry.local"),
            (believed, [192, 0, 2, 1], &[("host", "a.lan"), (proto, "https"), (host, "evil.example")], "http://a.lan"),
            (fixed, [192, 0, 2, 1], &[("host", "a.lan")], "https://images.example:8443"),
            (fixed, PROXY, &[("host", "a.lan"), (proto, "http")], "https://images.example:8443"),
        ] {
            let config = from_text(&format!("[registry]\n{settings}")).expect("configuration").live;
            let connection = ConnectionContext {
                client: client.into(),
                door: Door::Registry,
                scheme: Scheme::Http,
                destination: Destination::Own,
                standing: Standing::uncounted(),
            };
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(seen_by(&config.registry, &connection, &map).to_string(), expected, "{settings}{headers:?}");
        }
        for bad in ["images.example", "ftp://images.example", "https://images.example/v2", "https://u@images.example"] {
            assert!(from_text(&format!("[registry]\nurl = \"{bad}\"\n")).is_err(), "{bad}");
        }
    }
}
