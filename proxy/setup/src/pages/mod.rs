//! The local pages of the proxy's port, for health probes, clients to be set up, and people. `/`, `/ca.crt` and
//! `/setup/systemd` are the same as in docker-registry-proxy.
//!
//! A pure function from the head of a request to an answer. The proxy's door calls it for requests in origin form
//! before anything else. Of the client's text only a parsed [`RegistryHost`] reaches a page.
//!
//! `landing` is the page for people, `console` the text for the appliance's screen, `mirror_pages` and `mirror` the
//! ready files, `script` the text of `/setup/systemd`. The other scripts are in `client::scripts`.

pub mod console;
mod landing;
mod mirror;
pub mod mirror_pages;
mod script;
#[cfg(test)]
mod script_runs;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use entrepot_core::host::RegistryHost;
use http::header::{
    ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::client::scripts::{self, Script};
use crate::client::target::Target;
use crate::discovery::facts::Facts;
use crate::discovery::identity::Identity;
use crate::first_line::first_line;
use entrepot_net::page::POLICY;
use landing::View;
pub use landing::{link, terminal_code};

/// The facts and the CA certificate that the pages show. It is replaced when the CA rotates.
pub struct CaPage {
    pem: Bytes,
    facts: Facts,
    identity: Arc<Identity>,
    etag: HeaderValue,
}

/// Health probes compare it byte for byte.
const BANNER: &str = "docker-registry-proxy: The docker caching proxy is working!";

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const MAC: &str = include_str!("docker-desktop-mac.txt");
const WINDOWS: &str = include_str!("docker-desktop-windows.txt");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CERTIFICATE: HeaderValue = HeaderValue::from_static("application/x-x509-ca-cert");

/// Makes the answer to GET.
type Content = fn(&HeaderMap, &CaPage) -> Response<Bytes>;

const PAGES: &[(&str, Content)] = &[
    ("/", front),
    ("/ca.crt", certificate),
    ("/setup/appliance", appliance),
    ("/setup/systemd", systemd),
    ("/setup/docker", |headers, ca| set_up(Script::Docker, headers, ca)),
    ("/setup/containerd", |headers, ca| set_up(Script::Containerd, headers, ca)),
    ("/setup/podman", |headers, ca| set_up(Script::Podman, headers, ca)),
    ("/setup/k3s", |headers, ca| set_up(Script::K3s, headers, ca)),
    ("/setup/docker-desktop-mac", |headers, ca| desktop(MAC, headers, ca)),
    ("/setup/docker-desktop-windows", |headers, ca| desktop(WINDOWS, headers, ca)),
    ("/setup/undo", |_, _| answer(StatusCode::OK, PLAIN, scripts::undo().into())),
];

/// The page at `path`; None if there is no such page.
pub fn page(method: &Method, path: &str, headers: &HeaderMap, ca: &CaPage) -> Option<Response<Bytes>> {
    let (_, content) = PAGES.iter().find(|(known, _)| *known == path)?;
    Some(match *method {
        Method::GET => content(headers, ca),
        // The head is that of GET, with its Content-Length.
        Method::HEAD => content(headers, ca).map(|_| Bytes::new()),
        _ => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "This page can only be read.\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    })
}

impl CaPage {
    /// `pem` is the CA certificate, `facts` are for clients, `identity` is for people.
    pub fn new(pem: Bytes, facts: Facts, identity: Arc<Identity>) -> Self {
        let tag: String = digest(&SHA256, &pem).as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"ca\""));
        Self { pem, facts, identity, etag }
    }

    /// The facts that clients get about the doors.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

fn certificate(headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    let mut response = if names(headers, &ca.etag) {
        let mut unchanged = Response::new(Bytes::new());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else {
        answer(StatusCode::OK, CERTIFICATE, ca.pem.clone())
    };
    response.headers_mut().insert(ETAG, ca.etag.clone());
    response
}

/// Whether `If-None-Match` has the tag, by weak comparison (RFC 9110 section 13.1.2).
fn names(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let listed = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    listed
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
}

/// Health probes get the banner; a browser, which says that it reads HTML, gets a page.
fn front(headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let host = named_host(headers).filter(|_| accepted.into_iter().any(|value| value.contains("text/html")));
    let mut response = match host {
        Some(host) => {
            let target = target(&host, ca);
            let addresses = ca.identity.addresses().iter().map(ToString::to_string).collect();
            let view = View { target: &target, host: ca.identity.host(), addresses, facts: &ca.facts };
            let mut page = answer(StatusCode::OK, HTML, landing::page(&view).into());
            if let Ok(policy) = HeaderValue::from_str(&POLICY) {
                page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            }
            page
        }
        None => answer(StatusCode::OK, PLAIN, Bytes::from_static(BANNER.as_bytes())),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Instructions for systems that no script of ours can set up.
fn desktop(text: &str, headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    let Some(host) = named_host(headers) else { return no_host() };
    let target = target(&host, ca);
    let values = [
        ("@PROXY@", target.proxy_url()),
        ("@BYPASS@", target.and_itself("localhost,127.0.0.1")),
        ("@LINE@", first_line(&ca.facts, &target.proxy_authority(), "docker").to_string()),
        ("@FINGERPRINT@", target.ca_sha256),
    ];
    let text = values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    answer(StatusCode::OK, PLAIN, text.into())
}

/// The facts, for `entrepot discover` and `entrepot client`.
fn appliance(_: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    let json = ca.facts.to_json(ca.identity.host().as_deref());
    answer(StatusCode::OK, JSON, json.into())
}

fn systemd(headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    match named_host(headers) {
        Some(host) => answer(StatusCode::OK, PLAIN, script::systemd(&host, &ca.facts.ca_sha256).into()),
        None => no_host(),
    }
}

fn set_up(script: Script, headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    match named_host(headers) {
        Some(host) => answer(StatusCode::OK, PLAIN, script.for_target(&target(&host, ca)).into()),
        None => no_host(),
    }
}

/// This appliance under the host name and port of the client's request: a port may be mapped on the way. If the request
/// came to the registry's port, the proxy's own port is used.
fn target(host: &RegistryHost, ca: &CaPage) -> Target {
    let facts = &ca.facts;
    let of_registry = [facts.registry_http_port, facts.registry_https_port].contains(&Some(host.port()));
    Target {
        host: host.name().trim_matches(['[', ']']).to_owned(),
        proxy_port: if of_registry { facts.proxy_port } else { host.port() },
        registry_http_port: facts.registry_http_port,
        registry_https_port: facts.registry_https_port,
        docker_mirror_port: facts.docker_mirror_port,
        ca_pem: String::from_utf8_lossy(&ca.pem).into_owned(),
        ca_sha256: facts.ca_sha256.clone(),
        registries: Vec::new(),
    }
}

/// The host in the Host header; None if that is missing, repeated or not a host.
fn named_host(headers: &HeaderMap) -> Option<RegistryHost> {
    let mut named = headers.get_all(HOST).iter();
    match (named.next().map(HeaderValue::to_str), named.next()) {
        (Some(Ok(text)), None) => RegistryHost::parse(text, HTTP_PORT).ok(),
        _ => None,
    }
}

fn no_host() -> Response<Bytes> {
    plain(StatusCode::BAD_REQUEST, "The Host header must name this proxy once, as host or host:port.\n")
}

/// The port of a URL that has none.
const HTTP_PORT: u16 = 80;

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    answer(status, PLAIN, Bytes::from_static(text.as_bytes()))
}

fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Bytes> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn ca() -> CaPage {
        CaPage::new(Bytes::from_static(PEM.as_bytes()), Facts::new(3128, "AB:CD:EF"), Arc::default())
    }

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    fn get(path: &str, pairs: &[(http::HeaderName, &str)]) -> Response<Bytes> {
        page(&Method::GET, path, &headers(pairs), &ca()).expect("a page")
    }

    #[test]
    fn the_banner_is_exact() {
        let banner = get("/", &[]);
        assert_eq!(banner.status(), StatusCode::OK);
        assert_eq!(banner.headers()[CONTENT_TYPE], "text/plain");
        assert_eq!(banner.body(), "docker-registry-proxy: The docker caching proxy is working!");
    }

    #[test]
    fn browsers_get_a_page_and_probes_the_banner() {
        let html = (ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
        let page = get("/", &[(HOST, "docker-registry.local"), html.clone()]);
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(page.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text").contains("'none'"));
        let text = String::from_utf8_lossy(page.body());
        assert!(text.contains("curl -fsS http://docker-registry.local:80/setup/docker | sudo sh"), "{text}");
        for pairs in [&[(HOST, "proxy:3128"), (ACCEPT, "*/*")][..], &[(HOST, "<b>"), html]] {
            assert_eq!(get("/", pairs).body(), BANNER);
        }
    }

    #[test]
    fn a_registry_door_is_told_apart_from_a_mapped_port() {
        let facts = Facts { registry_http_port: Some(80), ..Facts::new(3128, "AB") };
        let ca = CaPage::new(Bytes::new(), facts, Arc::default());
        for (asked, proxy) in [("a.local", 3128), ("a.local:8080", 8080), ("a.local:3128", 3128)] {
            let host = RegistryHost::parse(asked, HTTP_PORT).expect("a host");
            assert_eq!(target(&host, &ca).proxy_port, proxy, "{asked}");
        }
    }

    #[test]
    fn the_certificate_has_its_type_and_tag() {
        let full = get("/ca.crt", &[]);
        assert_eq!(full.body(), PEM);
        assert_eq!(full.headers()[CONTENT_TYPE], "application/x-x509-ca-cert");
        let etag = full.headers()[ETAG].to_str().expect("text").to_owned();
        for (known, status) in
            [(etag.as_str(), 304), (&format!("\"other\", W/{etag}"), 304), ("*", 304), ("\"other\"", 200), ("", 200)]
        {
            let again = get("/ca.crt", &[(IF_NONE_MATCH, known)]);
            assert_eq!(again.status(), status, "{known}");
            assert_eq!(again.headers()[ETAG], etag.as_str());
            assert_eq!(again.body().is_empty(), status == 304);
        }
        let other = CaPage::new(Bytes::from_static(b"another"), Facts::new(3128, "00"), Arc::default());
        assert_ne!(other.etag, etag.as_str(), "a rotated CA has another tag");
    }

    #[test]
    fn head_has_the_head_of_get() {
        for (path, _) in PAGES {
            let asked = headers(&[(HOST, "proxy:3128")]);
            let got = page(&Method::GET, path, &asked, &ca()).expect("a page");
            let head = page(&Method::HEAD, path, &asked, &ca()).expect("a page");
            assert_eq!((head.status(), head.headers()), (got.status(), got.headers()), "{path}");
            assert!(head.body().is_empty());
            assert_eq!(head.headers()[CONTENT_LENGTH], got.body().len().to_string().as_str());
        }
    }

    #[test]
    fn other_methods_and_paths() {
        let refused = page(&Method::POST, "/ca.crt", &HeaderMap::new(), &ca()).expect("an answer");
        assert_eq!(
            (refused.status(), &refused.headers()[ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().expect("a value"))
        );
        for path in ["", "/v2/", "/ca.crt/", "/setup/", "//"] {
            assert!(page(&Method::GET, path, &HeaderMap::new(), &ca()).is_none(), "{path}");
        }
    }

    #[test]
    fn a_host_that_is_none_gets_no_script() {
        let bad: [&[(http::HeaderName, &str)]; 7] = [
            &[],
            &[(HOST, "")],
            &[(HOST, "proxy:3128; rm -rf /")],
            &[(HOST, "$(reboot)")],
            &[(HOST, "proxy:")],
            &[(HOST, "a'b")],
            &[(HOST, "`id`:80")],
        ];
        for path in ["/setup/systemd", "/setup/docker", "/setup/k3s", "/setup/docker-desktop-mac"] {
            for pairs in bad {
                assert_eq!(get(path, pairs).status(), StatusCode::BAD_REQUEST, "{path} {pairs:?}");
            }
        }
        let mut twice = headers(&[(HOST, "proxy:3128")]);
        twice.append(HOST, HeaderValue::from_static("other:3128"));
        let answered = page(&Method::GET, "/setup/systemd", &twice, &ca()).expect("an answer");
        assert_eq!(answered.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn docker_desktop_goes_past_the_proxy_by_address_and_not_by_a_name_of_mdns() {
        for (host, bypass) in [
            ("docker-registry.local:3128", "localhost,127.0.0.1\n"),
            ("192.0.2.5:3128", "localhost,127.0.0.1,192.0.2.5\n"),
        ] {
            for path in ["/setup/docker-desktop-mac", "/setup/docker-desktop-windows"] {
                let page = get(path, &[(HOST, host)]);
                let text = String::from_utf8_lossy(page.body());
                assert!(text.contains(&format!(" {bypass}")), "{path}: {text}");
            }
        }
    }
}
