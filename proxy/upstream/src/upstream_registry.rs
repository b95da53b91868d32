//! An upstream registry as a request sees it: its address, how it is spoken to, and which clients share its content.

use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::address_policy::Purpose;
use crate::credential::Login;
use entrepot_config::ready::{AccessMode, LiveConfig};
use entrepot_core::origin::Scheme;

/// The registry of one request, with the settings that the configuration has for it.
#[derive(Clone)]
pub struct UpstreamRegistry {
    /// The name and port. They identify the registry in the index and in the rights table.
    pub host: RegistryHost,
    /// Plain HTTP or TLS towards upstream.
    pub scheme: Scheme,
    /// The rule by which clients are given a cached image.
    pub access: AccessMode,
    /// Headers that the configuration adds to each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Hosts that may be its token server, besides its own host: the one that the administrator named, and the hosts with
    /// an account that it is below, as `registry.gitlab.example` is below `gitlab.example`. Accounts of other hosts are
    /// not for this registry: it could name such a host as its token server and would get a token of that account.
    pub realms: Vec<RegistryHost>,
    /// The purpose of connections to it. A host that is no registry may not be a service of this machine.
    pub purpose: Purpose,
    /// The `Via` values of the client's request. They are sent upstream, so that a loop over several proxies is noticed.
    pub heard_via: Vec<HeaderValue>,
}

impl UpstreamRegistry {
    /// The registry at `host`, with its settings. The configuration decides the scheme; without a setting the port does: 80
    /// is plain, any other is TLS. The client has no influence, because rights and content are stored by host and port
    /// alone. `realm` is the host of its token server, None if unknown: an account may be configured for either.
    pub fn resolve(config: &LiveConfig, host: &RegistryHost, realm: Option<&RegistryHost>) -> Self {
        let policy = config.registry(host);
        let by_port = if host.port() == 80 { Scheme::Http } else { Scheme::Https };
        let given = has_accounts(config, host) || realm.is_some_and(|realm| has_accounts(config, realm));
        let default_access = if given { AccessMode::Shared } else { AccessMode::Strict };
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

    /// A host that is no registry. Plain HTTP requests to it are passed on.
    pub fn unlisted(host: &RegistryHost) -> Self {
        let (headers, realms, heard_via) = (Vec::new(), Vec::new(), Vec::new());
        let (scheme, access, purpose) = (Scheme::Http, AccessMode::Strict, Purpose::Tunnel);
        Self { host: host.clone(), scheme, access, headers, realms, purpose, heard_via }
    }

    /// The same registry, with the `Via` values of the client's request.
    #[must_use]
    pub fn heard_of_by(self, request: &HeaderMap) -> Self {
        Self { heard_via: request.get_all(VIA).iter().cloned().collect(), ..self }
    }

    /// The default port of the registry's scheme.
    pub fn implied_port(&self) -> u16 {
        implied_port(self.scheme)
    }

    /// The URL of a path and query at this registry. None if they make no URL.
    pub fn url(&self, path_and_query: &str) -> Option<Url> {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        Url::parse(&format!("{scheme}://{}{path_and_query}", self.host.authority(self.implied_port()))).ok()
    }

    /// Whether the configuration adds headers. They may contain a credential, so an answer to an anonymous client is not
    /// public then.
    pub fn injects_headers(&self) -> bool {
        !self.headers.is_empty()
    }
}

/// The configured account for a repository of `host`. Docker Hub's names count as one host. None as repository means any.
pub fn account(config: &LiveConfig, host: &RegistryHost, repository: Option<&str>) -> Option<Login> {
    aliases(host)
        .iter()
        .find_map(|alias| config.account(alias, repository))
        .map(|account| Login::new(&account.username, &account.password))
}

/// Whether any account is configured for `host`.
fn has_accounts(config: &LiveConfig, host: &RegistryHost) -> bool {
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

/// The default port of a scheme.
pub fn implied_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// The host and port of a URL. None if it has no host or an invalid one.
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
            // It may name any token server, and would get a token of the account that is configured for that one.
            ("evil.example", &[]),
            ("evilgitlab.example", &[]),
            ("gitlab.example", &[]),
            ("docker.io", &[]),
        ] {
            let host = RegistryHost::parse(host, 443).expect("a host");
            let own: Vec<String> = UpstreamRegistry::resolve(&config, &host, None)
                .realms
                .iter()
                .map(|realm| realm.authority(443))
                .collect();
            assert_eq!(own, realms, "{host}");
        }
    }

    #[test]
    fn what_is_no_registry_may_not_be_a_service_of_this_machine() {
        let host = RegistryHost::parse("intranet.example", 80).expect("a host");
        assert_eq!(UpstreamRegistry::unlisted(&host).purpose, Purpose::Tunnel);
        assert_eq!(
            UpstreamRegistry::resolve(&from_text("").expect("configuration").live, &host, None).purpose,
            Purpose::Registry
        );
    }
}
