//! The pages with ready files for mirror mode, at the proxy's door and the registry's. They are made of the present
//! configuration and of the host name in the client's request; `mirror` has the texts.

use bytes::Bytes;
use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Scheme;
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::mirror::{containerd, docker, k3s, podman};
use super::{PLAIN, answer, named_host, no_host, plain};
use crate::client::target::Mirror;
use crate::discovery::facts::Facts;
use entrepot_config::ready::LiveConfig;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const DOCKER: &str = "/setup/docker-mirror";
const NO_DOCKER_LISTENER: &str =
    "There is no listener for Docker's registry-mirrors here: set registry.mirror_listen.\n";
/// It is followed by `<registry>/hosts.toml`.
const CERTS_D: &str = "/setup/containerd/certs.d/";

/// The page at `path`. None if there is no such page, or if the registry door is closed.
pub fn page(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    config: &LiveConfig,
    facts: &Facts,
) -> Option<Response<Bytes>> {
    let listed = || listed(config);
    let file: Box<dyn Fn(&Mirror) -> String> = match path {
        "/setup/containerd/hosts.toml" => Box::new(|mirror| containerd(mirror, None)),
        "/setup/k3s/registries.yaml" => Box::new(k3s),
        "/setup/podman/registries.conf" => Box::new(move |mirror| podman(mirror, &listed())),
        DOCKER => Box::new(docker),
        _ => {
            let registry = path.strip_prefix(CERTS_D)?.strip_suffix("/hosts.toml")?;
            let host = registry.parse::<RegistryHost>().ok();
            let known = host.filter(|host| config.intercepts(Scheme::Https, host));
            let hub = RegistryHost::parse(docker_hub::NAME, 443).ok().filter(|_| registry == docker_hub::NAME);
            let host = known.or(hub)?;
            Box::new(move |mirror| containerd(mirror, Some(&host)))
        }
    };
    let content_type = if path == DOCKER { JSON } else { PLAIN };
    let asked = named_host(headers);
    let mirror = match &asked {
        Some(host) if path == DOCKER => match docker_mirror(host, facts) {
            Some(mirror) => mirror,
            None => return Some(plain(StatusCode::NOT_FOUND, NO_DOCKER_LISTENER)),
        },
        Some(host) => mirror(host, facts)?,
        None => return Some(no_host()),
    };
    Some(match *method {
        Method::GET => answer(StatusCode::OK, content_type, file(&mirror).into()),
        // The head is that of GET, with its Content-Length.
        Method::HEAD => answer(StatusCode::OK, content_type, file(&mirror).into()).map(|_| Bytes::new()),
        _ => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "This page can only be read.\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    })
}

/// The registry under the host name that the client used. HTTP comes before HTTPS, since it needs no trust in our CA.
fn mirror(asked: &RegistryHost, facts: &Facts) -> Option<Mirror> {
    let plain = facts.registry_http_port.map(|port| ("http", port));
    let (scheme, port) = plain.or_else(|| Some(("https", facts.registry_https_port?)))?;
    // No host has port 0, so the text always has the port.
    Some(Mirror { scheme, authority: asked.with_port(port).authority(0) })
}

/// The listener for Docker's `registry-mirrors` under the host name that the client used.
fn docker_mirror(asked: &RegistryHost, facts: &Facts) -> Option<Mirror> {
    let port = facts.docker_mirror_port?;
    Some(Mirror { scheme: "http", authority: asked.with_port(port).authority(0) })
}

/// The registries of the configuration that are whole names, not patterns.
fn listed(config: &LiveConfig) -> Vec<RegistryHost> {
    let hosts = config.intercept.iter().filter_map(|registry| Some(registry.exact()?.host));
    hosts.filter(|host| host.name() != docker_hub::TOKEN_HOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use entrepot_config::from_text;
    use http::header::HOST;

    /// With plain http at a port, if there is one, and https at another.
    fn facts(http: Option<u16>, https: Option<u16>) -> Facts {
        Facts {
            registry_http_port: http,
            registry_https_port: https,
            docker_mirror_port: Some(5001),
            ..Facts::new(3128, "00")
        }
    }

    fn get(path: &str, toml: &str, facts: &Facts) -> Option<String> {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("appliance.lan:3128"))]);
        let page = page(&Method::GET, path, &headers, &from_text(toml).expect("configuration").live, facts)?;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        Some(String::from_utf8(page.into_body().to_vec()).expect("text"))
    }

    #[test]
    fn every_file_leads_to_the_registry_door_by_the_name_that_was_asked() {
        for (path, part) in [
            ("/setup/containerd/hosts.toml", "[host.\"http://appliance.lan:5000\"]"),
            ("/setup/containerd/certs.d/ghcr.io/hosts.toml", "server = \"https://ghcr.io\""),
            ("/setup/containerd/certs.d/docker.io/hosts.toml", "server = \"https://registry-1.docker.io\""),
            ("/setup/containerd/certs.d/reg.example:5000/hosts.toml", "server = \"https://reg.example:5000\""),
            ("/setup/k3s/registries.yaml", "- \"http://appliance.lan:5000\""),
            ("/setup/podman/registries.conf", "location = \"appliance.lan:5000/reg.example:5000\""),
            ("/setup/docker-mirror", "{\n  \"registry-mirrors\": [\"http://appliance.lan:5001\"]\n}\n"),
        ] {
            let toml = "[intercept]\nregistries = [\"reg.example:5000\", \"*.other.example\"]";
            let text = get(path, toml, &facts(Some(5000), Some(5443))).expect(path);
            assert!(text.contains(part), "{path}: {text}");
            // The token server has no images, and a pattern is no name. A lone `*` is k3s's word for every registry.
            assert!(!text.contains("auth.docker.io") && !text.contains("*."), "{path}: {text}");
        }
        let secure = get("/setup/containerd/hosts.toml", "", &facts(None, Some(5443))).expect("a page");
        assert!(secure.contains("https://appliance.lan:5443"), "{secure}");
    }

    #[test]
    fn there_is_no_page_for_what_is_not_mirrored() {
        for path in [
            "/setup/containerd/certs.d/evil.example/hosts.toml",
            "/setup/containerd/certs.d/../hosts.toml",
            "/setup/containerd/certs.d/ghcr.io",
            "/setup/containerd",
            "/setup/k3s/",
        ] {
            assert_eq!(get(path, "", &facts(Some(5000), None)), None, "{path}");
        }
        let without_the_door = Facts { docker_mirror_port: None, ..facts(Some(5000), None) };
        let live = from_text("").expect("configuration").live;
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("appliance.lan:3128"))]);
        let shut = page(&Method::GET, "/setup/docker-mirror", &headers, &live, &without_the_door).expect("an answer");
        assert_eq!(shut.status(), StatusCode::NOT_FOUND);
        let nameless = page(
            &Method::GET,
            "/setup/docker-mirror",
            &HeaderMap::new(),
            &from_text("").expect("configuration").live,
            &facts(Some(5000), None),
        )
        .expect("an answer");
        assert_eq!(nameless.status(), StatusCode::BAD_REQUEST);
    }
}
