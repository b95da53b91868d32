//! Other registries under our name: what a request means by `?ns=` (containerd, and Docker's
//! `certs.d/_default/hosts.toml`), by a path that begins with a registry's host (podman, CRI-O), by a path below
//! `library/`, or by coming to the listener for Docker's `registry-mirrors`. The door and the path decide alone: what the
//! client says of itself does not matter, and neither does what was pushed here. All of them are answered by
//! `entrepot_cache::pull`, under its rights, from its cache.
//!
//! Only registries that are intercepted as well can be meant (T5), and rules hold for them under their hosts' names
//! (T14). A login that came with the request is for us, and is never passed on: upstream is asked anonymously, or with
//! the administrator's account where that is shared.

use std::sync::Arc;

use entrepot_core::docker_hub;
use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Scheme;
use entrepot_core::route::Route;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Incoming;
use url::form_urlencoded;

use entrepot_cache::pull::{Pull, RequestContext, RequestScope};
use entrepot_config::ready::{AccessMode, LiveConfig};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_upstream::credential::Credential;
use entrepot_upstream::own::has_passed;

/// The registry that a request means by its path and query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Meant {
    /// Something of ours.
    Ours,
    /// Something of this registry, which the client names, at this place there.
    Upstream(RegistryHost, String),
    /// Something of Docker Hub, which the client does not name, at this place there.
    DockerHub(String),
    /// A registry that is not listed.
    Stranger,
}

/// Reads a request below `/v2/` at our registry's door. `is_own` tells our own names.
pub(super) fn meant(
    config: &LiveConfig,
    path: &str,
    query: Option<&str>,
    is_own: impl Fn(&RegistryHost) -> bool,
) -> Meant {
    let place = match named(path, query) {
        Named::Nothing => place(path, query),
        Named::Registry(host, place) if is_own(&host) => place,
        Named::Registry(host, place) if may_be_meant(config, &host) => return Meant::Upstream(host, place),
        Named::Registry(..) | Named::Unreadable => return Meant::Stranger,
    };
    match by_path(config, path) {
        Some((host, path)) => Meant::Upstream(host, self::place(&path, place.split_once('?').map(|(_, query)| query))),
        None if is_official(path) && config.registry.docker_hub_mirror => of_docker_hub(config, place),
        None if is_official(path) => Meant::Stranger,
        None => Meant::Ours,
    }
}

/// Reads a request below `/v2/` at the listener for Docker's `registry-mirrors`: only the question whether there is a
/// registry is answered by us.
pub(super) fn meant_at_mirror(config: &LiveConfig, path: &str, query: Option<&str>) -> Meant {
    match named(path, query) {
        _ if path.len() <= "/v2/".len() => Meant::Ours,
        Named::Registry(host, place) if docker_hub::is_meant(&host) => of_docker_hub(config, place),
        Named::Registry(..) | Named::Unreadable => Meant::Stranger,
        Named::Nothing => of_docker_hub(config, place(path, query)),
    }
}

fn place(path: &str, query: Option<&str>) -> String {
    query.map_or(path.to_owned(), |query| format!("{path}?{query}"))
}

fn of_docker_hub(config: &LiveConfig, place: String) -> Meant {
    let host = RegistryHost::parse(docker_hub::REGISTRY, 443).ok().filter(|host| may_be_meant(config, host));
    host.map_or(Meant::Stranger, |_| Meant::DockerHub(place))
}

/// The registry that the parameter `ns` names.
enum Named {
    /// There is no such parameter.
    Nothing,
    /// It is no registry's name.
    Unreadable,
    /// A registry, and the request's path and query without the parameter.
    Registry(RegistryHost, String),
}

fn named(path: &str, query: Option<&str>) -> Named {
    let pairs = || form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let namespace = pairs().find(|(name, _)| name == "ns").filter(|_| path.len() > "/v2/".len());
    let Some((_, namespace)) = namespace else { return Named::Nothing };
    let Ok(host) = RegistryHost::parse(&namespace, 443) else { return Named::Unreadable };
    let rest: Vec<_> = pairs().filter(|(name, _)| name != "ns").collect();
    let place = if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish())
    };
    Named::Registry(canonical(host), place)
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

/// `/v2/<host>/<repository>/…`, where the host is a listed registry.
fn by_path(config: &LiveConfig, path: &str) -> Option<(RegistryHost, String)> {
    let (first, rest) = path.strip_prefix("/v2/")?.split_once('/')?;
    let looks_like_a_host = first.contains(['.', ':']) && !rest.is_empty();
    let host = canonical(RegistryHost::parse(first, 443).ok().filter(|_| looks_like_a_host)?);
    if !may_be_meant(config, &host) {
        return None;
    }
    // Docker Hub's official images are people's `docker.io/busybox`.
    let is_official = host.name() == docker_hub::REGISTRY && is_in_one_component(rest);
    Some((host, if is_official { format!("/v2/library/{rest}") } else { format!("/v2/{rest}") }))
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

/// The name of another registry's repository in rules: below its host's name, whatever the port. None if that is no
/// repository's name (an IPv6 address, or more than 255 characters), so that no rule can be about it.
pub(super) fn name_in_rules(host_name: &str, repository: &RepositoryName) -> Option<RepositoryName> {
    format!("{host_name}/{repository}").parse().ok()
}

/// Added to the refusal of a push to Docker Hub's names.
const DOCKER_HUB_INSTEAD: &str = "; library/… is Docker Hub's here, so push under another name, such as team/…";

/// A request to another registry, made through us.
pub(super) struct Mirrored {
    pub(super) scope: RequestScope,
    pub(super) host: RegistryHost,
    pub(super) method: Method,
    pub(super) path_and_query: String,
    pub(super) headers: HeaderMap,
}

impl Mirrored {
    /// The answer of the pipeline that interception uses.
    pub(super) async fn answer(self, pull: &Arc<Pull>, body: Incoming) -> Reply {
        if has_passed(&self.headers, &self.scope.snapshot.upstream.memory().via) {
            return Reply::error(ErrorCode::Loop, "").because(Refused::Loop);
        }
        if !matches!(self.method, Method::GET | Method::HEAD) {
            let instead = if self.host.name() == docker_hub::REGISTRY { DOCKER_HUB_INSTEAD } else { "" };
            let message = format!("entrepot: this is a mirror of {}, which takes no pushes{instead}", self.host);
            return Reply::error(ErrorCode::Denied, &message).because(Refused::Mirror);
        }
        let (path, query) = self
            .path_and_query
            .split_once('?')
            .map_or((&*self.path_and_query, None), |(path, query)| (path, Some(query)));
        let route = match Route::parse(&self.method, path, query) {
            Ok(
                route @ (Route::Manifest { .. } | Route::Blob { .. } | Route::Tags { .. } | Route::Referrers { .. }),
            ) => route,
            Ok(_) => return Reply::error(ErrorCode::Unsupported, "").because(Refused::Mirror),
            Err(error) => {
                return Reply::error(error.code, "").because(Refused::Grammar);
            }
        };
        let registry = self.scope.snapshot.registry(&self.host).heard_of_by(&self.headers);
        let is_shared = registry.access == AccessMode::Shared;
        let account = self.scope.snapshot.account(&registry.origin, route.repository()).filter(|_| is_shared);
        let mut headers = self.headers;
        headers.remove(AUTHORIZATION);
        let RequestScope { connection, snapshot, trail } = self.scope;
        let request = RequestContext {
            connection,
            snapshot,
            trail,
            registry,
            credential: Credential::Answered(account),
            method: self.method,
            path_and_query: self.path_and_query,
            headers,
        };
        let reply = pull.answer(&request, route, body).await;
        let is_login_asked = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !is_login_asked || reply.refused == Some(Refused::AccountRefused) {
            return reply;
        }
        // The challenge is not one that can be answered here. A client with a login gets the image without a mirror.
        let message = format!(
            "entrepot: {} asks for a login; give entrepot an account for it ([[credentials]]), or pull without the mirror",
            self.host
        );
        Reply::error(ErrorCode::Denied, &message).because(Refused::Mirror)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;

    #[test]
    fn what_is_meant_is_ours_or_a_listed_registrys() {
        let config = from_text("[intercept]\nregistries = [\"reg.example:5000\"]\n").expect("configuration").live;
        let is_own = |host: &RegistryHost| host.name() == "docker-registry.local";
        let upstream = |host: &str, place: &str| Meant::Upstream(host.parse().expect(host), place.to_owned());
        for (path, query, expected) in [
            ("/v2/a/manifests/1", None, Meant::Ours),
            ("/v2/a/manifests/1", Some("ns=ghcr.io"), upstream("ghcr.io", "/v2/a/manifests/1")),
            ("/v2/a/tags/list", Some("n=5&ns=ghcr.io"), upstream("ghcr.io", "/v2/a/tags/list?n=5")),
            (
                "/v2/library/a/manifests/1",
                Some("ns=docker.io"),
                upstream(docker_hub::REGISTRY, "/v2/library/a/manifests/1"),
            ),
            ("/v2/a/manifests/1", Some("ns=reg.example:5000"), upstream("reg.example:5000", "/v2/a/manifests/1")),
            ("/v2/a/manifests/1", Some("ns=docker-registry.local"), Meant::Ours),
            ("/v2/a/manifests/1", Some("ns=evil.example"), Meant::Stranger),
            ("/v2/a/manifests/1", Some("ns=169.254.169.254"), Meant::Stranger),
            ("/v2/a/manifests/1", Some("ns=http://ghcr.io/"), Meant::Stranger),
            ("/v2/", Some("ns=ghcr.io"), Meant::Ours),
            ("/v2/ghcr.io/a/b/manifests/1", None, upstream("ghcr.io", "/v2/a/b/manifests/1")),
            ("/v2/reg.example:5000/a/blobs/x", None, upstream("reg.example:5000", "/v2/a/blobs/x")),
            (
                "/v2/docker.io/busybox/manifests/1",
                None,
                upstream(docker_hub::REGISTRY, "/v2/library/busybox/manifests/1"),
            ),
            ("/v2/docker.io/a/b/manifests/1", None, upstream(docker_hub::REGISTRY, "/v2/a/b/manifests/1")),
            ("/v2/my.team/app/manifests/1", None, Meant::Ours),
            ("/v2/ghcr.io/", None, Meant::Ours),
            ("/v2/localhost/a/manifests/1", None, Meant::Ours),
        ] {
            assert_eq!(meant(&config, path, query, is_own), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn rules_name_other_registries_without_their_port() {
        let longest = "a".repeat(255);
        for (host, repository, expected) in [
            ("ghcr.io", "a/b", Some("ghcr.io/a/b")),
            ("reg.example:5000", "a/b", Some("reg.example/a/b")),
            ("127.0.0.1:5000", "a", Some("127.0.0.1/a")),
            ("[::1]:5000", "a", None),
            ("ghcr.io", &longest, None),
        ] {
            let (host, repository): (RegistryHost, RepositoryName) =
                (host.parse().expect(host), repository.parse().expect(repository));
            let name = name_in_rules(host.name(), &repository);
            assert_eq!(name.as_ref().map(RepositoryName::as_str), expected, "{host} {repository}");
        }
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
            ("/v2/a/b/tags/list", Some("n=1"), hub("/v2/a/b/tags/list?n=1")),
            ("/v2/_catalog", None, hub("/v2/_catalog")),
            ("/v2/a/b/manifests/1", Some("ns=reg.example"), Meant::Stranger),
            ("/v2/a/b/manifests/1", Some("ns=docker-registry.local"), Meant::Stranger),
        ] {
            assert_eq!(meant_at_mirror(&config, path, query), expected, "{path} {query:?}");
        }
    }
}
