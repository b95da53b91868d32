//! The registry that a request means: by `?ns=` (containerd, and Docker's `certs.d/_default/hosts.toml`), by a path that
//! begins with a registry's host (podman, CRI-O), by both (containerd with `override_path`), by a path below `library/`,
//! or by coming to the listener for Docker's `registry-mirrors`.
//!
//! A pure decision about the path and the query; what the client says of itself does not matter. `door` alone asks
//! besides whether a repository of our own has the name of a mirrored one, and `mirror` answers.

use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use entrepot_core::route::Route;
use http::Method;
use url::form_urlencoded;

use entrepot_config::ready::LiveConfig;

/// The registry that a request means by its path and query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Meant {
    /// Something of ours.
    Ours,
    /// Something of a registry that the client names.
    Upstream(Named),
    /// Something of Docker Hub, which the client does not name, at this place there.
    DockerHub(String),
    /// A registry that is not listed.
    Stranger,
}

/// Something of a registry that the client names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) host: RegistryHost,
    /// Path and query at that registry.
    pub(super) place: String,
    pub(super) way: Way,
    /// Whether a repository of our own may have the same name: the path alone names the registry.
    pub(super) may_be_ours: bool,
}

/// The way by which a client names a registry, so that links for it lead the same way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Way {
    /// The registry's host as the path has it before the repository.
    prefix: Option<String>,
    /// The value of `ns`.
    namespace: Option<String>,
}

/// The registry that the parameter `ns` names.
enum Parameter {
    /// There is no such parameter.
    Missing,
    /// It is no registry's name.
    Unreadable,
    Registry(RegistryHost, String),
}

/// A path that begins with a registry's host.
struct Prefixed<'p> {
    host: RegistryHost,
    prefix: &'p str,
    /// The path at that registry.
    path: String,
}

/// Reads a request below `/v2/` at our registry's door. `is_own` tells our own names.
pub(super) fn meant(
    config: &LiveConfig,
    path: &str,
    query: Option<&str>,
    is_own: impl Fn(&RegistryHost) -> bool,
) -> Meant {
    let is_mirrored = |prefixed: &Prefixed<'_>| may_be_meant(config, &prefixed.host);
    let prefixed = prefixed(path).filter(is_mirrored);
    let rest = without_namespace(query);
    let namespace = match parameter(path, query) {
        Parameter::Unreadable => return Meant::Stranger,
        Parameter::Registry(host, namespace) if !is_own(&host) => {
            if !may_be_meant(config, &host) {
                return Meant::Stranger;
            }
            // Docker Hub has no repository whose name begins with a host's, so a rewritten path means that host. Another
            // registry may have one (Harbor's proxy projects).
            let names_it = |found: &Prefixed<'_>| found.host == host || host.name() == docker_hub::REGISTRY;
            let named = match prefixed.filter(names_it) {
                Some(found) => found.named(rest.as_deref(), Some(namespace), false),
                None => {
                    let way = Way { prefix: None, namespace: Some(namespace) };
                    let place = place(&official(&host, path), rest.as_deref());
                    Named { host, place, way, may_be_ours: false }
                }
            };
            return Meant::Upstream(named);
        }
        Parameter::Registry(_, namespace) => Some(namespace),
        Parameter::Missing => None,
    };
    match prefixed {
        Some(found) => Meant::Upstream(found.named(rest.as_deref(), namespace, true)),
        None if is_official(path) && config.registry.docker_hub_mirror => {
            of_docker_hub(config, place(path, rest.as_deref()))
        }
        None if is_official(path) => Meant::Stranger,
        None => Meant::Ours,
    }
}

/// Reads a request below `/v2/` at the listener for Docker's `registry-mirrors`: only the question whether there is a
/// registry is answered by us.
pub(super) fn meant_at_mirror(config: &LiveConfig, path: &str, query: Option<&str>) -> Meant {
    if path.len() <= "/v2/".len() {
        return Meant::Ours;
    }
    match parameter(path, query) {
        Parameter::Registry(host, _) if !docker_hub::is_meant(&host) => return Meant::Stranger,
        Parameter::Unreadable => return Meant::Stranger,
        Parameter::Registry(..) | Parameter::Missing => {}
    }
    let named = prefixed(path).filter(|found| found.host.name() == docker_hub::REGISTRY);
    let path = named.map_or_else(|| path.to_owned(), |found| found.path);
    of_docker_hub(config, place(&path, without_namespace(query).as_deref()))
}

impl Way {
    /// The place here of a page whose link, at the registry, is `target`, in the answer for the list at `list`.
    pub(super) fn leading_to(&self, target: &str, list: &str) -> Option<String> {
        // Links may be relative to the list, and may name the registry by a host that clients do not know.
        let next = url::Url::parse("https://registry.invalid").ok()?.join(list).ok()?.join(target).ok()?;
        let path = if next.path().starts_with("/v2/") { next.path() } else { path_of(list) };
        let path = match &self.prefix {
            Some(prefix) => format!("/v2/{prefix}{}", path.strip_prefix("/v2")?),
            None => path.to_owned(),
        };
        let mut query = without_namespace(next.query()).unwrap_or_default();
        if let Some(namespace) = &self.namespace {
            query = form_urlencoded::Serializer::for_suffix(query.clone(), 0).append_pair("ns", namespace).finish();
        }
        Some(place(&path, Some(&query).filter(|query| !query.is_empty()).map(String::as_str)))
    }
}

impl Prefixed<'_> {
    fn named(self, query: Option<&str>, namespace: Option<String>, may_be_ours: bool) -> Named {
        let way = Way { prefix: Some(self.prefix.to_owned()), namespace };
        Named { host: self.host, place: place(&self.path, query), way, may_be_ours }
    }
}

fn place(path: &str, query: Option<&str>) -> String {
    query.map_or(path.to_owned(), |query| format!("{path}?{query}"))
}

pub(super) fn path_of(place: &str) -> &str {
    place.split('?').next().unwrap_or_default()
}

fn of_docker_hub(config: &LiveConfig, place: String) -> Meant {
    let host = RegistryHost::parse(docker_hub::REGISTRY, 443).ok().filter(|host| may_be_meant(config, host));
    host.map_or(Meant::Stranger, |_| Meant::DockerHub(place))
}

fn pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

/// The `ns` of a request for more than whether there is a registry.
fn parameter(path: &str, query: Option<&str>) -> Parameter {
    let namespace = pairs(query.unwrap_or_default()).find(|(name, _)| name == "ns");
    let Some((_, namespace)) = namespace.filter(|_| path.len() > "/v2/".len()) else { return Parameter::Missing };
    match RegistryHost::parse(&namespace, 443) {
        Ok(host) => Parameter::Registry(canonical(host), namespace.into_owned()),
        Err(_) => Parameter::Unreadable,
    }
}

/// The query without `ns`, byte for byte if it has none. None if nothing is left.
fn without_namespace(query: Option<&str>) -> Option<String> {
    let query = query?;
    if !pairs(query).any(|(name, _)| name == "ns") {
        return Some(query.to_owned());
    }
    let rest: Vec<_> = pairs(query).filter(|(name, _)| name != "ns").collect();
    (!rest.is_empty()).then(|| form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish())
}

/// Whether a path is below `library/`, where Docker Hub has its official images. A path that is no route counts too.
fn is_official(path: &str) -> bool {
    match Route::parse(&Method::GET, path, None) {
        Ok(route) if route.repository().is_some() => {
            route.repository().is_some_and(|repository| repository.as_str().starts_with(docker_hub::OFFICIAL))
        }
        _ => path.strip_prefix("/v2/").is_some_and(|rest| rest.starts_with(docker_hub::OFFICIAL)),
    }
}

/// `/v2/<host>/<repository>/…`
fn prefixed(path: &str) -> Option<Prefixed<'_>> {
    let (prefix, rest) = path.strip_prefix("/v2/")?.split_once('/')?;
    let looks_like_a_host = prefix.contains(['.', ':']) && !rest.is_empty();
    let host = canonical(RegistryHost::parse(prefix, 443).ok().filter(|_| looks_like_a_host)?);
    let path = official(&host, &format!("/v2/{rest}"));
    Some(Prefixed { host, prefix, path })
}

/// The path at a registry. Docker Hub's official images are people's `docker.io/busybox`.
fn official(host: &RegistryHost, path: &str) -> String {
    match path.strip_prefix("/v2/") {
        Some(rest) if host.name() == docker_hub::REGISTRY && is_in_one_component(rest) => format!("/v2/library/{rest}"),
        _ => path.to_owned(),
    }
}

fn is_in_one_component(rest: &str) -> bool {
    let mut parts = rest.split('/');
    parts.next().is_some() && matches!(parts.next(), Some("manifests" | "blobs" | "tags" | "referrers"))
}

fn canonical(host: RegistryHost) -> RegistryHost {
    if docker_hub::is_meant(&host) { RegistryHost::parse(docker_hub::REGISTRY, 443).unwrap_or(host) } else { host }
}

fn may_be_meant(config: &LiveConfig, host: &RegistryHost) -> bool {
    let allowed = config.proxy.allow.as_ref().is_none_or(|allow| allow.is_match(host.to_string()));
    allowed && config.intercepts(Scheme::Https, host)
}

/// Whether a repository's name begins with that of a listed registry, so that the registry is meant by it.
pub(super) fn names_another_registry(config: &LiveConfig, repository: &str) -> bool {
    prefixed(&format!("/v2/{repository}/tags/list")).is_some_and(|found| may_be_meant(config, &found.host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn what_is_meant_is_ours_or_a_listed_registrys() {
        let config = from_text("[intercept]\nregistries = [\"reg.example:5000\"]\n").expect("configuration").live;
        let is_own = |host: &RegistryHost| host.name() == "docker-registry.local";
        for (path, query, host, place) in [
            ("/v2/a/manifests/1", "ns=ghcr.io", "ghcr.io", "/v2/a/manifests/1"),
            ("/v2/a/tags/list", "n=5&ns=ghcr.io", "ghcr.io", "/v2/a/tags/list?n=5"),
            ("/v2/a/manifests/1", "ns=reg.example:5000", "reg.example:5000", "/v2/a/manifests/1"),
            ("/v2/library/a/manifests/1", "ns=docker.io", docker_hub::REGISTRY, "/v2/library/a/manifests/1"),
            ("/v2/busybox/manifests/1", "ns=docker.io", docker_hub::REGISTRY, "/v2/library/busybox/manifests/1"),
            ("/v2/ghcr.io/a/b/manifests/1", "", "ghcr.io", "/v2/a/b/manifests/1"),
            ("/v2/ghcr.io/a/tags/list", "n=1", "ghcr.io", "/v2/a/tags/list?n=1"),
            ("/v2/reg.example:5000/a/blobs/x", "", "reg.example:5000", "/v2/a/blobs/x"),
            ("/v2/docker.io/busybox/manifests/1", "", docker_hub::REGISTRY, "/v2/library/busybox/manifests/1"),
            ("/v2/docker.io/a/b/manifests/1", "", docker_hub::REGISTRY, "/v2/a/b/manifests/1"),
            // containerd with override_path says both.
            ("/v2/docker.io/library/a/manifests/1", "ns=docker.io", docker_hub::REGISTRY, "/v2/library/a/manifests/1"),
            ("/v2/docker.io/a/manifests/1", "ns=docker.io", docker_hub::REGISTRY, "/v2/library/a/manifests/1"),
            ("/v2/docker.io/a/b/blobs/x", "ns=registry-1.docker.io", docker_hub::REGISTRY, "/v2/a/b/blobs/x"),
            ("/v2/registry-1.docker.io/a/b/blobs/x", "ns=docker.io", docker_hub::REGISTRY, "/v2/a/b/blobs/x"),
            ("/v2/ghcr.io/a/b/blobs/x", "ns=ghcr.io", "ghcr.io", "/v2/a/b/blobs/x"),
            ("/v2/ghcr.io:443/a/b/blobs/x", "ns=ghcr.io", "ghcr.io", "/v2/a/b/blobs/x"),
            ("/v2/GHCR.io/a/b/blobs/x", "ns=ghcr.io", "ghcr.io", "/v2/a/b/blobs/x"),
            ("/v2/reg.example:5000/a/tags/list", "n=2&ns=reg.example:5000", "reg.example:5000", "/v2/a/tags/list?n=2"),
            ("/v2/ghcr.io/a/b/blobs/x", "ns=docker-registry.local", "ghcr.io", "/v2/a/b/blobs/x"),
            // A rewrite to another registry; but Harbor's proxy projects have such names of their own.
            ("/v2/ghcr.io/mirror/a/blobs/x", "ns=docker.io", "ghcr.io", "/v2/mirror/a/blobs/x"),
            ("/v2/ghcr.io/a/blobs/x", "ns=reg.example:5000", "reg.example:5000", "/v2/ghcr.io/a/blobs/x"),
            ("/v2/my.team/a/blobs/x", "ns=docker.io", docker_hub::REGISTRY, "/v2/my.team/a/blobs/x"),
        ] {
            let query = Some(query).filter(|query| !query.is_empty());
            let Meant::Upstream(named) = meant(&config, path, query, is_own) else { panic!("{path} {query:?}") };
            assert_eq!(named.host, host.parse().expect(host), "{path} {query:?}");
            assert_eq!(named.place, place, "{path} {query:?}");
            let by_path = query.is_none_or(|query| !query.contains("ns=") || query.contains("docker-registry"));
            assert_eq!(named.may_be_ours, by_path, "{path} {query:?}");
        }
        for (path, query, expected) in [
            ("/v2/a/manifests/1", None, Meant::Ours),
            ("/v2/a/manifests/1", Some("ns=docker-registry.local"), Meant::Ours),
            ("/v2/", Some("ns=ghcr.io"), Meant::Ours),
            ("/v2/my.team/app/manifests/1", None, Meant::Ours),
            ("/v2/ghcr.io/", None, Meant::Ours),
            ("/v2/localhost/a/manifests/1", None, Meant::Ours),
            ("/v2/a/manifests/1", Some("ns=evil.example"), Meant::Stranger),
            ("/v2/a/manifests/1", Some("ns=169.254.169.254"), Meant::Stranger),
            ("/v2/a/manifests/1", Some("ns=http://ghcr.io/"), Meant::Stranger),
            ("/v2/ghcr.io/a/manifests/1", Some("ns=evil.example"), Meant::Stranger),
        ] {
            assert_eq!(meant(&config, path, query, is_own), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn links_lead_the_way_that_the_client_came() {
        let config = from_text("").expect("configuration").live;
        for (path, query, target, expected) in [
            (
                "/v2/a/b/tags/list",
                "ns=ghcr.io",
                "/v2/a/b/tags/list?last=x&n=1",
                "/v2/a/b/tags/list?last=x&n=1&ns=ghcr.io",
            ),
            ("/v2/ghcr.io/a/b/tags/list", "n=1", "/v2/a/b/tags/list?last=x", "/v2/ghcr.io/a/b/tags/list?last=x"),
            (
                "/v2/ghcr.io/a/b/tags/list",
                "ns=ghcr.io",
                "/v2/a/b/tags/list?last=x",
                "/v2/ghcr.io/a/b/tags/list?last=x&ns=ghcr.io",
            ),
            (
                "/v2/docker.io/a/tags/list",
                "",
                "https://registry-1.docker.io/v2/library/a/tags/list?last=x",
                "/v2/docker.io/library/a/tags/list?last=x",
            ),
            (
                "/v2/ghcr.io/a/tags/list",
                "",
                "http://inside:5000/v2/a/tags/list?last=x",
                "/v2/ghcr.io/a/tags/list?last=x",
            ),
            ("/v2/ghcr.io/a/tags/list", "", "?last=x%2Fy", "/v2/ghcr.io/a/tags/list?last=x%2Fy"),
            ("/v2/ghcr.io/a/tags/list", "", "list?last=x", "/v2/ghcr.io/a/tags/list?last=x"),
            // A registry behind another's path, such as Artifactory: its list is asked again by its own name.
            (
                "/v2/ghcr.io/a/tags/list",
                "",
                "/artifactory/docker/v2/a/tags/list?last=x",
                "/v2/ghcr.io/a/tags/list?last=x",
            ),
            ("/v2/a/tags/list", "ns=ghcr.io", "/v2/a/tags/list?ns=inside&last=x", "/v2/a/tags/list?last=x&ns=ghcr.io"),
            (
                "/v2/a/referrers/sha256:x",
                "ns=quay.io&artifactType=a%2Fb",
                "/v2/a/referrers/sha256:x?artifactType=a%2Fb&page=2",
                "/v2/a/referrers/sha256:x?artifactType=a%2Fb&page=2&ns=quay.io",
            ),
        ] {
            let query = Some(query).filter(|query| !query.is_empty());
            let Meant::Upstream(named) = meant(&config, path, query, |_| false) else { panic!("{path} {query:?}") };
            let link = named.way.leading_to(target, &named.place);
            assert_eq!(link.as_deref(), Some(expected), "{path} {query:?} {target}");
            let (next, query) = expected.split_once('?').expect("a query");
            let Meant::Upstream(again) = meant(&config, next, Some(query), |_| false) else { panic!("{expected}") };
            assert_eq!((again.host, path_of(&again.place)), (named.host, path_of(&named.place)), "{expected}");
        }
        assert_eq!(Way::default().leading_to("https://[", "/v2/a/tags/list"), None);
    }

    #[test]
    fn what_is_below_library_is_docker_hubs_whoever_asks() {
        let config = |text: &str| from_text(text).expect("configuration").live;
        let (open, off) = (config(""), config("[registry]\ndocker_hub_mirror = false\n"));
        let narrow = config("[proxy]\nallow = [\"ghcr.io\"]\n");
        let is_own = |host: &RegistryHost| host.name() == "docker-registry.local";
        for (path, query, is_hubs) in [
            ("/v2/library/alpine/manifests/1", None, true),
            ("/v2/library/alpine/manifests/1", Some("ns=docker-registry.local"), true),
            ("/v2/library/a/b/blobs/uploads/", None, true),
            ("/v2/library/alpine/anything", None, true),
            ("/v2/library/manifests/1", None, false),
            ("/v2/libraryx/alpine/manifests/1", None, false),
            ("/v2/team/library/manifests/1", None, false),
            ("/v2/grafana/grafana/manifests/1", None, false),
        ] {
            let expected = if is_hubs { Meant::DockerHub(path.to_owned()) } else { Meant::Ours };
            assert_eq!(meant(&open, path, query, is_own), expected, "{path} {query:?}");
            let refused = if is_hubs { Meant::Stranger } else { Meant::Ours };
            assert_eq!(meant(&off, path, query, is_own), refused, "{path}: never ours, also where nothing is mirrored");
            assert_eq!(meant(&narrow, path, query, is_own), refused, "{path}");
        }
    }

    #[test]
    fn at_the_mirrors_listener_everything_is_docker_hubs() {
        let config = from_text("[intercept]\nregistries = [\"reg.example\"]\n").expect("configuration").live;
        let hub = |place: &str| Meant::DockerHub(place.to_owned());
        for (path, query, expected) in [
            ("/v2/", None, Meant::Ours),
            ("/v2", None, Meant::Ours),
            ("/v2/team/app/manifests/1", None, hub("/v2/team/app/manifests/1")),
            ("/v2/ghcr.io/a/manifests/1", None, hub("/v2/ghcr.io/a/manifests/1")),
            ("/v2/a/b/manifests/1", Some("ns=docker.io"), hub("/v2/a/b/manifests/1")),
            ("/v2/docker.io/a/b/manifests/1", Some("ns=docker.io"), hub("/v2/a/b/manifests/1")),
            ("/v2/docker.io/a/manifests/1", None, hub("/v2/library/a/manifests/1")),
            ("/v2/a/b/tags/list", Some("n=1"), hub("/v2/a/b/tags/list?n=1")),
            ("/v2/_catalog", None, hub("/v2/_catalog")),
            ("/v2/a/b/manifests/1", Some("ns=reg.example"), Meant::Stranger),
            ("/v2/a/b/manifests/1", Some("ns=docker-registry.local"), Meant::Stranger),
        ] {
            assert_eq!(meant_at_mirror(&config, path, query), expected, "{path} {query:?}");
        }
    }
}
