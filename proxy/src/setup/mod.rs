//! The local pages of the client port: what health probes, Docker hosts and the Kind recipe fetch from docker-registry-proxy.
//!
//! A pure function from a request's head to an answer; the proxy door calls it for origin-form requests before anything
//! else. Nothing that a client wrote reaches a page except a parsed [`RegistryHost`].

pub mod mirror;
pub mod mirror_pages;
mod script;
#[cfg(test)]
mod script_runs;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use entrepot_core::host::RegistryHost;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

/// What the pages say about the certificate authority. Made once; made anew when the CA rotates.
pub struct CaPage {
    pem: Bytes,
    fingerprint: String,
    etag: HeaderValue,
}

/// Compared by health probes, byte for byte.
const BANNER: &str = "docker-registry-proxy: The docker caching proxy is working!";

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const CERTIFICATE: HeaderValue = HeaderValue::from_static("application/x-x509-ca-cert");

/// The page at `path`, or `None` where there is none.
pub fn page(method: &Method, path: &str, headers: &HeaderMap, ca: &CaPage) -> Option<Response<Bytes>> {
    let content: fn(&HeaderMap, &CaPage) -> Response<Bytes> = match path {
        "/" => |_, _| answer(StatusCode::OK, PLAIN, Bytes::from_static(BANNER.as_bytes())),
        "/ca.crt" => certificate,
        "/setup/systemd" => systemd,
        _ => return None,
    };
    Some(match *method {
        Method::GET => content(headers, ca),
        // The length of what GET would send stays in the head.
        Method::HEAD => content(headers, ca).map(|_| Bytes::new()),
        _ => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "This page can only be read.\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    })
}

impl CaPage {
    /// `fingerprint` is the SHA-256 of the first certificate's DER; hex, with or without colons.
    pub fn new(pem: Bytes, fingerprint: &str) -> Self {
        let hex: String = fingerprint.chars().filter(char::is_ascii_hexdigit).collect();
        let tag: String = digest(&SHA256, &pem).as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"ca\""));
        Self { pem, fingerprint: hex.to_ascii_lowercase(), etag }
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

/// Whether `If-None-Match` lists the tag; compared weakly, as RFC 9110 section 13.1.2 has it.
fn names(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let listed = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    listed
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
}

fn systemd(headers: &HeaderMap, ca: &CaPage) -> Response<Bytes> {
    match named_host(headers) {
        Some(host) => answer(StatusCode::OK, PLAIN, script::systemd(&host, &ca.fingerprint).into()),
        None => no_host(),
    }
}

/// The host that the client asked, where the Host header names one, once.
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

/// What a client means that asked a URL without a port.
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
        CaPage::new(Bytes::from_static(PEM.as_bytes()), "AB:CD:EF")
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
        let other = CaPage::new(Bytes::from_static(b"another"), "00");
        assert_ne!(other.etag, etag.as_str(), "a rotated CA has another tag");
    }

    #[test]
    fn head_has_the_head_of_get() {
        for path in ["/", "/ca.crt", "/setup/systemd"] {
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
        for pairs in bad {
            assert_eq!(get("/setup/systemd", pairs).status(), StatusCode::BAD_REQUEST, "{pairs:?}");
        }
        let mut twice = headers(&[(HOST, "proxy:3128")]);
        twice.append(HOST, HeaderValue::from_static("other:3128"));
        let answered = page(&Method::GET, "/setup/systemd", &twice, &ca()).expect("an answer");
        assert_eq!(answered.status(), StatusCode::BAD_REQUEST);
    }
}
