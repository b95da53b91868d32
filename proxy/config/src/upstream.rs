//! `[upstream]`, `[client]`: the way to upstreams, and the deadlines on both sides.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entrepot_core::host::RegistryHost;
use percent_encoding::percent_decode_str;
use url::Url;

use super::effective::MASK;
use super::provenance::{ConfigError, Given, Place, Provenance, Refusal};
use super::raw::{Hidden, RawClient, RawUpstream, Texts};
use super::ready::{ClientDeadlines, NoProxy, ParentProxy, Upstream};
use super::resolver::{AtReload, Resolver};
use super::values;
use entrepot_core::secret::Secret;

/// The deadline of docker-registry-proxy, for every wait that has no reason to be longer.
const DEADLINE: &str = "60s";

pub(super) fn upstream(resolver: &mut Resolver<'_, AtReload>, raw: &RawUpstream) -> Result<Upstream, ConfigError> {
    Ok(Upstream {
        proxy: parent_proxy(resolver, &raw.proxy)?,
        no_proxy: no_proxy(resolver, &raw.no_proxy)?,
        extra_roots: resolver.optional("upstream.extra_ca", &raw.extra_ca, values::certificates)?.unwrap_or_default(),
        verify: resolver.switch("upstream.verify", &raw.verify, true),
        connect_timeout: resolver.text("upstream.connect_timeout", &raw.connect_timeout, DEADLINE, values::deadline)?,
        check_connect_timeout: resolver.text(
            "upstream.check_connect_timeout",
            &raw.check_connect_timeout,
            "2s",
            values::deadline,
        )?,
        check_timeout: resolver.text("upstream.check_timeout", &raw.check_timeout, "10s", values::deadline)?,
        read_timeout: resolver.text("upstream.read_timeout", &raw.read_timeout, DEADLINE, values::deadline)?,
        send_timeout: resolver.text("upstream.send_timeout", &raw.send_timeout, DEADLINE, values::deadline)?,
        tunnel_idle_timeout: resolver.text(
            "upstream.tunnel_idle_timeout",
            &raw.tunnel_idle_timeout,
            "15m",
            values::deadline,
        )?,
        tunnel_connect_timeout: resolver.text(
            "upstream.tunnel_connect_timeout",
            &raw.tunnel_connect_timeout,
            DEADLINE,
            values::deadline,
        )?,
        ipv6: resolver.switch("upstream.ipv6", &raw.ipv6, true),
        allow_addresses: resolver.texts("upstream.allow_addresses", &raw.allow_addresses, &[], values::network)?,
    })
}

pub(super) fn client(resolver: &mut Resolver<'_, AtReload>, raw: &RawClient) -> Result<ClientDeadlines, ConfigError> {
    Ok(ClientDeadlines {
        header_timeout: resolver.text("client.header_timeout", &raw.header_timeout, DEADLINE, values::deadline)?,
        body_timeout: resolver.text("client.body_timeout", &raw.body_timeout, DEADLINE, values::deadline)?,
        send_timeout: resolver.text("client.send_timeout", &raw.send_timeout, DEADLINE, values::deadline)?,
        keepalive_timeout: resolver.text(
            "client.keepalive_timeout",
            &raw.keepalive_timeout,
            "300s",
            values::duration,
        )?,
    })
}

fn parent_proxy(resolver: &mut Resolver<'_, AtReload>, given: &Hidden) -> Result<Option<ParentProxy>, ConfigError> {
    const KEY: &str = "upstream.proxy";
    let Some(Given { value, place }) = given.as_ref().filter(|given| !given.value.0.expose().is_empty()) else {
        resolver.record(KEY, "", Provenance::Default);
        return Ok(None);
    };
    let parent = parse_parent_proxy(value.0.expose()).map_err(|refusal| resolver.refuse(KEY, *place, refusal))?;
    let user = if parent.authorization.is_some() { format!("{MASK}@") } else { String::new() };
    let origin = resolver.origin(*place);
    resolver.record(KEY, format!("http://{user}{}", parent.host.authority(0)), origin);
    Ok(Some(parent))
}

/// A refusal does not quote the address, because it may hold a password.
fn parse_parent_proxy(text: &str) -> Result<ParentProxy, Refusal> {
    let unusable =
        || Refusal::new("the parent proxy's address is unusable").hint("write http://[user:password@]host:port");
    // Other programs accept HTTPS_PROXY without a scheme.
    let address = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&address).map_err(|_| unusable())?;
    if url.scheme() != "http" {
        return Err(Refusal::new(format!("a parent proxy is not reached by {}://", url.scheme()))
            .hint("write http://host:port; what passes through it is encrypted anyway"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable());
    }
    let port = url.port_or_known_default().ok_or_else(unusable)?;
    let host = RegistryHost::parse(url.host_str().ok_or_else(unusable)?, port).map_err(|_| unusable())?;
    Ok(ParentProxy { host, authorization: basic(&url) })
}

fn basic(url: &Url) -> Option<Secret> {
    let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut account = decoded(url.username());
    account.push(b':');
    account.extend(decoded(url.password().unwrap_or_default()));
    Some(Secret::new(format!("Basic {}", STANDARD.encode(account))))
}

fn no_proxy(resolver: &mut Resolver<'_, AtReload>, given: &Texts) -> Result<NoProxy, ConfigError> {
    const KEY: &str = "upstream.no_proxy";
    resolver.texts(KEY, given, &[], |_| Ok(()))?;
    let mut list = NoProxy::default();
    for Given { value, place } in given.iter().flat_map(|given| &given.value) {
        match (list.add(value), *place) {
            (Ok(()), _) => {}
            // The variable is for every program of the machine. Each program ignores the parts that it does not
            // understand.
            (Err(_), Place::Environment(name)) => resolver.notice(format!("{name}: {value:?} is ignored")),
            (Err(refusal), _) => return Err(resolver.refuse(KEY, *place, refusal)),
        }
    }
    Ok(list)
}

impl NoProxy {
    fn add(&mut self, entry: &str) -> Result<(), Refusal> {
        if entry == "*" {
            self.everything = true;
        } else if let Ok(network) = values::network(entry) {
            self.networks.push(network);
        } else {
            let name = entry.strip_prefix("*.").or(entry.strip_prefix('.')).unwrap_or(entry);
            let host = values::host_pattern(name)?;
            let exact = host.exact().ok_or_else(|| Refusal::new(format!("{entry:?} is not a host name")))?;
            self.names.push((exact.name().to_owned(), host.port()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_proxies() {
        for (text, host, authorization) in [
            ("http://proxy.example:8080", "proxy.example:8080", None),
            ("http://proxy.example:8080/", "proxy.example:8080", None),
            ("proxy.example:3128", "proxy.example:3128", None),
            ("http://proxy.example", "proxy.example:80", None),
            ("http://[fd00::1]:8080", "[fd00::1]:8080", None),
            ("http://us%3Aer:p%40ss@proxy:8080", "proxy:8080", Some("Basic dXM6ZXI6cEBzcw==")),
        ] {
            let parent = parse_parent_proxy(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
            assert_eq!(parent.host.authority(0), host, "{text}");
            assert_eq!(parent.authorization.as_ref().map(Secret::expose), authorization, "{text}");
        }
        for bad in [
            "https://proxy:8080",
            "socks5://proxy:1080",
            "http://",
            "http://a b:80",
            "http://proxy/path",
            "http://proxy:x",
        ] {
            assert!(parse_parent_proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_proxy_entries() {
        let mut list = NoProxy::default();
        for entry in
            [".corp.example", "*.lan", "reg.example:5000", "10.0.0.0/8", "192.168.1.1", "fd00::/8", "10.0.0.1:80"]
        {
            list.add(entry).unwrap_or_else(|refusal| panic!("{entry}: {refusal:?}"));
        }
        let names: Vec<(&str, Option<u16>)> = list.names.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let expected = [("corp.example", None), ("lan", None), ("reg.example", Some(5000)), ("10.0.0.1", Some(80))];
        assert_eq!(names, expected);
        assert_eq!(
            list.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "192.168.1.1/32", "fd00::/8"]
        );
        assert!(!list.everything);
        assert!(list.add("10.*").is_err());
        list.add("*").expect("everything");
        assert!(list.everything);
    }
}
