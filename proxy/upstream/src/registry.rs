//! One upstream registry as a request sees it: where it is, how it is reached, who may read what it gave us.

use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::address::Purpose;
use crate::credential::Login;
use entrepot_config::ready::{Access, LiveConfig, Scheme};

/// The registry of one request, with the configuration's word on it.
#[derive(Clone)]
pub struct Registry {
    /// Its name and port, which is its identity in the index and in the rights table.
    pub host: RegistryHost,
    /// How upstream is spoken to.
    pub scheme: Scheme,
    /// Who a cached image is given to.
    pub access: Access,
    /// Headers that the administrator adds.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Hosts that may be its token server besides its own: the one that the administrator named, and those with an
    /// account that it lies below, as `registry.gitlab.example` does below `gitlab.example`. An account of any other
    /// host is none of its business: it would only have to name that host as its realm to be given a token of it.
    pub realms: Vec<RegistryHost>,
    /// What is dialled for it: a host that is no registry may not be a service of this machine.
    pub purpose: Purpose,
    /// The hops that the client's request came by. Upstream hears of them, so that a loop over several proxies ends
    /// where it closes.
    pub heard_via: Vec<HeaderValue>,
}

impl Registry {
    /// The registry that `host` names. Its scheme is the configuration's word, and else its port's: 80 is plain, any
    /// other is TLS. A client has no say in it, because rights and bytes are known by host and port alone.
    /// `realm` is the host of its token server, where known: an account may be given to either.
    pub fn resolve(config: &LiveConfig, host: &RegistryHost, realm: Option<&RegistryHost>) -> Self {
        let policy = config.registry(host);
        let by_port = if host.port() == 80 { Scheme::Http } else { Scheme::Https };
        let given = has_accounts(config, host) || realm.is_some_and(|realm| has_accounts(config, realm));
        let default_access = if given { Access::Shared } else { Access::Strict };
        let named = policy.and_then(|policy| policy.realm.clone());
        let with_account = config.credentials.iter().filter_map(|account| account.registry.exact());
        Self {
            host: host.clone(),
            scheme: policy.map_or(by_port, |policy| policy.scheme),
            access: policy.and_then(|policy| policy.access).unwrap_or(default_access),
            headers: policy.map(|policy| policy.headers.clone()).unwrap_or_default(),
            realms: named.into_iter().chain(with_account.filter(|realm| lies_below(host, realm))).collect(),
            purpose: Purpose::Registry,
            heard_via: Vec::new(),
        }
    }

    /// A host that is no registry and is only passed on to, in plain HTTP.
    pub fn unlisted(host: &RegistryHost) -> Self {
        let (headers, realms, heard_via) = (Vec::new(), Vec::new(), Vec::new());
        let (scheme, access, purpose) = (Scheme::Http, Access::Strict, Purpose::Tunnel);
        Self { host: host.clone(), scheme, access, headers, realms, purpose, heard_via }
    }

    /// With the `Via` of the request that asks for it.
    #[must_use]
    pub fn heard_of_by(self, request: &HeaderMap) -> Self {
        Self { heard_via: request.get_all(VIA).iter().cloned().collect(), ..self }
    }

    /// The port that the scheme implies.
    pub fn implied_port(&self) -> u16 {
        implied_port(self.scheme)
    }

    /// The base of every URL of this registry.
    pub fn url(&self, path_and_query: &str) -> Option<Url> {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        Url::parse(&format!("{scheme}://{}{path_and_query}", self.host.authority(self.implied_port()))).ok()
    }

    /// Whether the administrator's headers may identify somebody: then an answer to a client that sent nothing is not
    /// public.
    pub fn injects_headers(&self) -> bool {
        !self.headers.is_empty()
    }
}

/// The administrator's account for a repository of `host`, Docker Hub's several names taken as one.
pub fn account(config: &LiveConfig, host: &RegistryHost, repository: Option<&str>) -> Option<Login> {
    aliases(host)
        .iter()
        .find_map(|alias| config.account(alias, repository))
        .map(|account| Login::new(&account.username, &account.password))
}

/// Whether the administrator gave any account for `host`.
pub fn has_accounts(config: &LiveConfig, host: &RegistryHost) -> bool {
    aliases(host).iter().any(|alias| config.account(alias, None).is_some())
}

fn aliases(host: &RegistryHost) -> Vec<RegistryHost> {
    if docker_hub::ALL_NAMES.contains(&host.name()) {
        docker_hub::ALL_NAMES.iter().filter_map(|name| RegistryHost::parse(name, host.port()).ok()).collect()
    } else {
        vec![host.clone()]
    }
}

fn lies_below(host: &RegistryHost, realm: &RegistryHost) -> bool {
    let head = host.name().strip_suffix(realm.name());
    realm.address().is_none() && head.is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

/// The port that a scheme implies.
pub fn implied_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// The host and port that a URL leads to.
pub fn host_of(url: &Url) -> Option<RegistryHost> {
    let port = url.port_or_known_default()?;
    RegistryHost::parse(url.host_str()?, port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn a_registry_has_the_token_servers_that_are_its_own() {
        let config = from_text(
            "[[credentials]]\nregistry = \"gitlab.example\"\nusername = \"a\"\npassword = \"b\"\n\
             [[credentials]]\nregistry = \"auth.docker.io\"\nusername = \"a\"\npassword = \"b\"\n\
             [registries.\"reg.example:5000\"]\nrealm = \"login.example:8443\"\n",
        )
        .expect("configuration")
        .live;
        for (host, realms) in [
            ("registry.gitlab.example", &["gitlab.example"][..]),
            ("registry.gitlab.example:5050", &["gitlab.example"]),
            ("reg.example:5000", &["login.example:8443"]),
            // It may name any realm, and would be given a token of whatever account is configured for that.
            ("evil.example", &[]),
            ("evilgitlab.example", &[]),
            ("gitlab.example", &[]),
            ("docker.io", &[]),
        ] {
            let host = RegistryHost::parse(host, 443).expect("a host");
            let own: Vec<String> =
                Registry::resolve(&config, &host, None).realms.iter().map(|realm| realm.authority(443)).collect();
            assert_eq!(own, realms, "{host}");
        }
    }

    #[test]
    fn what_is_no_registry_may_not_be_a_service_of_this_machine() {
        let host = RegistryHost::parse("intranet.example", 80).expect("a host");
        assert_eq!(Registry::unlisted(&host).purpose, Purpose::Tunnel);
        assert_eq!(
            Registry::resolve(&from_text("").expect("configuration").live, &host, None).purpose,
            Purpose::Registry
        );
    }
}
