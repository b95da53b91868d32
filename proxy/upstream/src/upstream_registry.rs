//! An upstream registry as a request sees it: its address, how it is spoken to, and which clients share its content.

use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use crate::address_policy::Purpose;
use crate::http_client::Patience;
use entrepot_config::ready::{AccessMode, Account, LiveConfig};
use entrepot_core::origin::{Origin, Scheme};

/// The registry of one request, with the settings that the configuration has for it.
#[derive(Clone)]
pub struct UpstreamRegistry {
    /// How it is reached. It identifies the registry in the index and in the rights table.
    pub origin: Origin,
    /// The rule by which clients are given a cached image.
    pub access: AccessMode,
    /// Headers that the configuration adds to each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The methods whose requests get them even if they do not read content or ask for a token.
    pub header_methods: Vec<Method>,
    /// The origins that may be its token server, besides its own host: the one that the administrator named, and those
    /// with an account that it is below, as `registry.gitlab.example` is below `gitlab.example`, or beside, as
    /// `reg.example.com` is beside `git.example.com` (`lies_beside`). Other accounts are not for this registry: it could
    /// name such a host as its token server and would get a token of that account.
    pub realms: Vec<Origin>,
    /// The purpose of connections to it. A host that is no registry may not be a service of this machine.
    pub purpose: Purpose,
    /// The `Via` values of the client's request. They are sent upstream, so that a loop over several proxies is noticed.
    pub heard_via: Vec<HeaderValue>,
    /// How long this request may wait for it and its token server.
    pub patience: Patience,
}

impl UpstreamRegistry {
    /// The registry at `host`, with its settings. The configuration decides the scheme, the client has no influence.
    /// `realm` is the origin of its token server, None if unknown: an account may be configured for either.
    pub fn resolve(config: &LiveConfig, host: &RegistryHost, realm: Option<&Origin>) -> Self {
        let origin = config.origin(host);
        let policy = config.registry(&origin);
        let given = has_accounts(config, &origin) || realm.is_some_and(|realm| has_accounts(config, realm));
        let default_access = if given { AccessMode::Shared } else { AccessMode::Strict };
        // A login goes to another host by https, unless that host itself was given an account for plain http.
        let named = policy.and_then(|policy| policy.realm.clone()).map(|host| Origin { scheme: Scheme::Https, host });
        let with_account = config.credentials.iter().filter_map(|account| account.registry.exact());
        let own = with_account.filter(|realm| {
            let is_below = realm.scheme == Scheme::Https && lies_below(host, &realm.host);
            is_below || (named.is_none() && lies_beside(config, &origin, realm))
        });
        let own: Vec<_> = own.collect();
        let realms = named.into_iter().chain(own).collect();
        Self {
            origin,
            access: policy.and_then(|policy| policy.access).unwrap_or(default_access),
            headers: policy.map(|policy| policy.headers.clone()).unwrap_or_default(),
            header_methods: policy.map(|policy| policy.header_methods.clone()).unwrap_or_default(),
            realms,
            purpose: Purpose::Registry,
            heard_via: Vec::new(),
            patience: Patience::Full,
        }
    }

    /// A host that is no registry. Plain HTTP requests to it are passed on.
    pub fn unlisted(host: &RegistryHost) -> Self {
        let (headers, header_methods, realms, heard_via) = Default::default();
        let (access, purpose) = (AccessMode::Strict, Purpose::Tunnel);
        let origin = Origin { scheme: Scheme::Http, host: host.clone() };
        Self { origin, access, headers, header_methods, realms, purpose, heard_via, patience: Patience::Full }
    }

    /// The same registry, with the `Via` values of the client's request.
    #[must_use]
    pub fn heard_of_by(self, request: &HeaderMap) -> Self {
        Self { heard_via: request.get_all(VIA).iter().cloned().collect(), ..self }
    }

    /// The name and the port.
    pub fn host(&self) -> &RegistryHost {
        &self.origin.host
    }

    /// The URL of a path and query at this registry. None if they make no URL. Text without the slash in front would be
    /// read as a part of the host, and the credential would follow it there.
    pub fn url(&self, path_and_query: &str) -> Option<Url> {
        if !path_and_query.starts_with('/') {
            return None;
        }
        Url::parse(&format!("{}://{}{path_and_query}", self.origin.scheme.name(), self.origin.authority())).ok()
    }

    /// Whether the configuration adds headers. They may contain a credential, so an answer to an anonymous client is not
    /// public then.
    pub fn injects_headers(&self) -> bool {
        !self.headers.is_empty()
    }
}

/// The configured account for a repository of a registry. Docker Hub's names count as one host. None as repository means
/// any.
pub fn account<'a>(config: &'a LiveConfig, origin: &Origin, repository: Option<&str>) -> Option<&'a Account> {
    aliases(origin).iter().find_map(|alias| config.account(alias, repository))
}

/// Whether any account is configured for a registry.
fn has_accounts(config: &LiveConfig, origin: &Origin) -> bool {
    aliases(origin).iter().any(|alias| config.account(alias, None).is_some())
}

fn aliases(origin: &Origin) -> Vec<Origin> {
    let Origin { scheme, host } = origin;
    if docker_hub::ALL_NAMES.contains(&host.name()) {
        let names = docker_hub::ALL_NAMES.iter().filter_map(|name| RegistryHost::parse(name, host.port()).ok());
        names.map(|host| Origin { scheme: *scheme, host }).collect()
    } else {
        vec![origin.clone()]
    }
}

fn lies_below(host: &RegistryHost, realm: &RegistryHost) -> bool {
    let head = host.name().strip_suffix(realm.name());
    realm.address().is_none() && head.is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

/// Whether a host with an account is beside the registry, as GitLab is beside its registry. The administrator listed the
/// registry by name, both are reached by the same scheme, and they are of one site: of one host, or of one domain.
/// Without the last, each listed registry could have itself tokens made with the account of another one.
fn lies_beside(config: &LiveConfig, registry: &Origin, account: &Origin) -> bool {
    let mut listed = config.intercept.iter().chain(config.registries.iter().map(|policy| &policy.registry));
    registry != account
        && registry.scheme == account.scheme
        && is_of_one_site(&registry.host, &account.host)
        && listed.any(|listed| listed.exact().as_ref() == Some(registry))
}

/// Top-level names that nobody sells names below (RFC 6761, RFC 6762 appendix G, RFC 9476, ICANN's `internal`).
const PRIVATE_DOMAINS: [&str; 10] =
    ["test", "example", "internal", "local", "lan", "corp", "home", "intranet", "private", "alt"];
/// Names below a country's that names are sold below, as `co.uk`.
const SOLD_BELOW: [&str; 10] = ["co", "com", "org", "net", "edu", "gov", "ac", "or", "ne", "go"];

fn is_of_one_site(one: &RegistryHost, other: &RegistryHost) -> bool {
    if one.name() == other.name() {
        return true;
    }
    let domain = |host: &RegistryHost| host.name().split_once('.').map(|(_, domain)| domain.to_owned());
    let (Some(domain), true) = (domain(one), domain(one) == domain(other)) else { return false };
    if one.address().is_some() || other.address().is_some() {
        return false;
    }
    match domain.rsplit_once('.') {
        None => PRIVATE_DOMAINS.contains(&domain.as_str()),
        Some((below, country)) => country.len() != 2 || !SOLD_BELOW.contains(&below),
    }
}

/// The host and port of a URL. None if it has no host or an invalid one.
pub fn host_of(url: &Url) -> Option<RegistryHost> {
    let port = url.port_or_known_default()?;
    RegistryHost::parse(url.host_str()?, port).ok()
}

/// The origin of a URL. None if it is neither http nor https, or has no valid host.
pub fn origin_of(url: &Url) -> Option<Origin> {
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    Some(Origin { scheme, host: host_of(url)? })
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
            let own: Vec<String> =
                UpstreamRegistry::resolve(&config, &host, None).realms.iter().map(Origin::authority).collect();
            assert_eq!(own, realms, "{host}");
        }
    }

    /// `REGISTRIES` and the host in `AUTH_REGISTRIES`, and whether the first registry may name that host.
    #[test]
    fn a_token_server_beside_its_registry_is_its_own() {
        for (registries, account, is_own) in [
            (&["reg.example.com", "git.example.com"][..], "git.example.com", true),
            (&["reg.test", "git.test"], "git.test", true),
            (&["reg.corp.internal:5000", "git.corp.internal"], "git.corp.internal", true),
            (&["gitlab.example.com:5050", "gitlab.example.com"], "gitlab.example.com", true),
            (&["reg.example.com", "git.example.com:8443"], "git.example.com:8443", true),
            (&["http://reg.test", "http://git.test:81"], "http://git.test:81", true),
            (&["reg.example.com"], "git.example.com", true),
            // A scheme is part of an account.
            (&["reg.example.com", "http://git.example.com"], "http://git.example.com", false),
            (&["http://reg.example.com", "git.example.com"], "git.example.com", false),
            // The registry is listed by name.
            (&["*.example.com", "git.example.com"], "git.example.com", false),
            // Another site could have itself tokens made.
            (&["evil.test", "git.example.com"], "git.example.com", false),
            (&["reg.evil.example.com", "git.example.com"], "git.example.com", false),
            (&["reg.example.com", "git.evil.example.com"], "git.evil.example.com", false),
            (&["reg.com", "git.com"], "git.com", false),
            (&["reg.co.uk", "git.co.uk"], "git.co.uk", false),
            (&["10.0.0.1", "10.0.0.2"], "10.0.0.2", false),
            (&["10.0.0.1:5000", "10.0.0.1"], "10.0.0.1", true),
        ] {
            let listed: Vec<String> = registries.iter().map(|registry| format!("\"{registry}\"")).collect();
            let config = from_text(&format!(
                "[intercept]\nregistries = [{}]\n[[credentials]]\nregistry = \"{account}\"\nusername = \"a\"\n\
                 password = \"b\"\n",
                listed.join(", ")
            ));
            let config = config.expect("configuration").live;
            let origin: Origin = registries[0].replace('*', "reg").parse().expect("an origin");
            let realms = UpstreamRegistry::resolve(&config, &origin.host, None).realms;
            assert_eq!(realms.contains(&account.parse().expect("an origin")), is_own, "{registries:?} {account}");
        }
    }

    #[test]
    fn a_path_leads_to_no_other_host() {
        let host = RegistryHost::parse("reg.example", 443).expect("a host");
        let registry = UpstreamRegistry::resolve(&from_text("").expect("configuration").live, &host, None);
        for path in ["", "*", "@evil.example/v2/", ".evil.example/v2/", ":8443/v2/", "\\evil.example/", "?x"] {
            assert_eq!(registry.url(path), None, "{path}");
        }
        for path in ["/v2/", "//evil.example/v2/", "/@evil.example/", "/\\evil.example/", "/../../evil.example"] {
            let url = registry.url(path).expect(path);
            assert_eq!(origin_of(&url).as_ref(), Some(&registry.origin), "{path}");
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
