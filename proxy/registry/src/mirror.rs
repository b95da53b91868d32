//! Other registries under our name: what a request that reads means by `?ns=` (containerd, and Docker's
//! `certs.d/_default/hosts.toml`), by a path that begins with a registry's host (podman, CRI-O), or by being one that
//! Docker sends its `registry-mirrors`. All of them are answered by `entrepot_cache::pull`, under its rights, from its
//! cache.
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
    /// Something of this registry, at this place there.
    Upstream(RegistryHost, String),
    /// A registry that is not listed.
    Stranger,
}

/// Reads a request below `/v2/`. `is_own` tells our own names.
pub(super) fn meant(
    config: &LiveConfig,
    path: &str,
    query: Option<&str>,
    is_own: impl Fn(&RegistryHost) -> bool,
) -> Meant {
    let pairs = || form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    if let Some((_, namespace)) = pairs().find(|(name, _)| name == "ns").filter(|_| path.len() > "/v2/".len()) {
        let host = match RegistryHost::parse(&namespace, 443) {
            Ok(host) if is_own(&host) => return Meant::Ours,
            Ok(host) => canonical(host),
            Err(_) => return Meant::Stranger,
        };
        if !may_be_meant(config, &host) {
            return Meant::Stranger;
        }
        let rest: Vec<_> = pairs().filter(|(name, _)| name != "ns").collect();
        let place = if rest.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish())
        };
        return Meant::Upstream(host, place);
    }
    match by_path(config, path) {
        Some((host, path)) => Meant::Upstream(host, query.map_or(path.clone(), |query| format!("{path}?{query}"))),
        None => Meant::Ours,
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

/// Whether a read of something that is not here is one that Docker sends its mirror: dockerd's own, or anybody's below
/// `library/`, where no one pushes. A blob's HEAD is not: a client that pushes must not hear of Docker Hub's. dockerd
/// with containerd's store says `ns` where it means a mirror.
pub(super) fn is_for_docker_hub(config: &LiveConfig, method: &Method, route: &Route, user_agent: Option<&str>) -> bool {
    let reads = match route {
        Route::Manifest { .. } => matches!(*method, Method::GET | Method::HEAD),
        Route::Blob { .. } => *method == Method::GET,
        _ => false,
    };
    let engine = user_agent.is_some_and(|agent| agent.starts_with("docker/") && !agent.contains("containerd"));
    let official = route.repository().is_some_and(|repository| repository.as_str().starts_with("library/"));
    config.registry.docker_hub_mirror && reads && (engine || official)
}

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
            return Reply::error(
                ErrorCode::Denied,
                &format!("entrepot: this is a mirror of {}, which takes no pushes", self.host),
            )
            .because(Refused::Mirror);
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
    fn only_what_docker_sends_its_mirror_is_for_docker_hub() {
        let config = from_text("").expect("configuration").live;
        let engine = Some("docker/28.5.2 go/go1.24 kernel/6.1 os/linux arch/amd64 UpstreamClient(Docker-Client/28.5)");
        let with_containerd = Some("docker/28.5.2 containerd-client/2.1 storage-driver/overlayfs");
        let digest = format!("sha256:{}", "0a".repeat(32));
        let (manifest, blob) = ("/v2/team/app/manifests/1", format!("/v2/team/app/blobs/{digest}"));
        for (method, path, agent, expected) in [
            (Method::GET, manifest, engine, true),
            (Method::HEAD, manifest, engine, true),
            (Method::GET, &*blob, engine, true),
            (Method::HEAD, &*blob, engine, false),
            (Method::GET, manifest, with_containerd, false),
            (Method::GET, manifest, Some("curl/8"), false),
            (Method::GET, manifest, None, false),
            (Method::GET, "/v2/library/app/manifests/1", None, true),
            (Method::PUT, manifest, engine, false),
            (Method::GET, "/v2/team/app/tags/list", engine, false),
        ] {
            let route = Route::parse(&method, path, None).expect(path);
            assert_eq!(is_for_docker_hub(&config, &method, &route, agent), expected, "{method} {path} {agent:?}");
        }
    }
}
