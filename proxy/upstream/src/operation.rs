//! What may be asked of an upstream registry. A request is rebuilt from one of these: nothing of the client's raw
//! head travels further (threat T8), except the few end-to-end headers that a relayed operation names.

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName};
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HOST,
    RANGE, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A request to a registry, without origin and credential.
#[derive(Clone)]
pub struct Operation {
    /// GET, HEAD, or a push's method.
    pub method: Method,
    /// Absolute path and query, as it goes on the wire.
    pub path: String,
    /// The headers that this operation needs.
    pub headers: HeaderMap,
    /// The repository that the operation reads or writes, for token scopes.
    pub repository: Option<RepositoryName>,
    /// Whether its content is named by digest: then any transport will do, the bytes are checked.
    pub verified_by_digest: bool,
    /// Whether redirects are followed here. A push's are the client's own to follow, and to a probe of rights the
    /// redirect itself is the answer: upstream gave the address away.
    pub follows_redirects: bool,
    /// What upstream's 404 means, for answers that it leaves without words (every HEAD's).
    pub unknown: ErrorCode,
}

/// Bytes of a blob, end exclusive; no end means up to the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: Option<u64>,
}

/// Request headers that a relayed operation may carry on; `Authorization` goes through the credential.
const RELAYED: [HeaderName; 5] = [
    ACCEPT,
    RANGE,
    USER_AGENT,
    HeaderName::from_static("docker-distribution-api-version"),
    HeaderName::from_static("oci-chunk-min-length"),
];

/// What describes a request's body; carried on only where there is one, since a length without a body would swallow
/// the start of the next request on the connection.
const OF_THE_BODY: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_ENCODING];

/// Headers of one hop (RFC 9110 section 7.6.1).
const OF_THE_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header is about one connection and never passed on.
pub fn is_of_the_hop(name: &HeaderName) -> bool {
    OF_THE_HOP.contains(&name.as_str())
}

/// Request headers that are made anew for the next hop, or go through the credential.
const MADE_ANEW: [HeaderName; 5] = [EXPECT, HOST, VIA, AUTHORIZATION, CONTENT_LENGTH];

impl Operation {
    /// `GET` or `HEAD /v2/<name>/manifests/<reference>`.
    pub fn manifest(method: Method, repository: &RepositoryName, reference: &Reference, accept: AcceptClass) -> Self {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&accept.header_value()) {
            headers.insert(ACCEPT, value);
        }
        Self {
            method,
            path: format!("/v2/{repository}/manifests/{reference}"),
            headers,
            repository: Some(repository.clone()),
            verified_by_digest: matches!(reference, Reference::Digest(_)),
            follows_redirects: true,
            unknown: ErrorCode::ManifestUnknown,
        }
    }

    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`, whole or from a range.
    pub fn blob(method: Method, repository: &RepositoryName, digest: &Digest, range: Option<ByteRange>) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            let end = range.end.map(|end| (end - 1).to_string()).unwrap_or_default();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes={}-{end}", range.start)) {
                headers.insert(RANGE, value);
            }
        }
        Self {
            method,
            path: format!("/v2/{repository}/blobs/{digest}"),
            headers,
            repository: Some(repository.clone()),
            verified_by_digest: true,
            follows_redirects: true,
            unknown: ErrorCode::BlobUnknown,
        }
    }

    /// A `HEAD` whose only purpose is to learn whether upstream would serve this credential.
    pub fn probe(repository: &RepositoryName, digest: &Digest) -> Self {
        Self { follows_redirects: false, ..Self::blob(Method::HEAD, repository, digest, None) }
    }

    /// Anything else, with the headers of `client` that are safe to carry on.
    pub fn relay(method: Method, path: String, client: &HeaderMap, repository: Option<RepositoryName>) -> Self {
        let mut headers = HeaderMap::new();
        let reads = matches!(method, Method::GET | Method::HEAD);
        let of_the_body = if reads { &[] } else { OF_THE_BODY.as_slice() };
        for name in RELAYED.iter().chain(of_the_body) {
            for value in client.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let follows_redirects = reads;
        Self {
            method,
            path,
            headers,
            repository,
            verified_by_digest: false,
            follows_redirects,
            unknown: ErrorCode::NameUnknown,
        }
    }

    /// A request to a host that is no registry: everything end-to-end goes on as it is.
    pub fn pass(method: Method, path: String, client: &HeaderMap) -> Self {
        let mut operation = Self::relay(method, path, client, None);
        let named = client.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<_> =
            named.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
        for name in client.keys() {
            let of_the_hop =
                is_of_the_hop(name) || MADE_ANEW.contains(name) || named.iter().any(|hop| hop == name.as_str());
            if !of_the_hop && !operation.headers.contains_key(name) {
                operation.headers.extend(client.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            }
        }
        Self { follows_redirects: false, ..operation }
    }

    /// The scope to ask a token for (Docker token authentication, "Requesting a Token").
    pub fn scope(&self) -> Option<String> {
        let repository = self.repository.as_ref()?;
        let reads = matches!(self.method, Method::GET | Method::HEAD);
        let actions = match self.method {
            _ if reads => "pull",
            Method::DELETE => "delete",
            _ => "pull,push",
        };
        Some(format!("repository:{repository}:{actions}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_headers_and_scopes() {
        let repository: RepositoryName = "library/busybox".parse().expect("name");
        let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, b"");
        let range = ByteRange { start: 5, end: Some(10) };
        let blob = Operation::blob(Method::GET, &repository, &digest, Some(range));
        assert_eq!(blob.path, format!("/v2/library/busybox/blobs/{digest}"));
        assert_eq!(blob.headers[RANGE], "bytes=5-9");
        assert_eq!(blob.scope().as_deref(), Some("repository:library/busybox:pull"));
        let put = Operation::relay(Method::PUT, "/x".into(), &HeaderMap::new(), Some(repository));
        assert_eq!(put.scope().as_deref(), Some("repository:library/busybox:pull,push"));
        assert!(!put.follows_redirects && blob.follows_redirects);
    }

    #[test]
    fn a_relay_carries_nothing_but_the_named_headers() {
        let mut client = HeaderMap::new();
        for name in ["cookie", "authorization", "connection", "transfer-encoding", "x-forwarded-for", "content-type"] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let relay = Operation::relay(Method::POST, "/token".into(), &client, None);
        assert_eq!(relay.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn a_read_has_no_body_and_says_so() {
        let mut client = HeaderMap::new();
        client.insert(CONTENT_LENGTH, HeaderValue::from_static("40"));
        client.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert!(Operation::relay(Method::GET, "/v2/a/tags/list".into(), &client, None).headers.is_empty());
        assert!(!Operation::pass(Method::GET, "/".into(), &client).headers.contains_key(CONTENT_LENGTH));
        assert_eq!(Operation::relay(Method::PUT, "/x".into(), &client, None).headers.len(), 2);
    }

    #[test]
    fn what_passes_keeps_all_but_the_hop() {
        let mut client = HeaderMap::new();
        for name in ["cookie", "x-api-key", "if-none-match", "connection", "keep-alive", "x-hop", "te", "host"] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static("x-hop"));
        }
        let passed = Operation::pass(Method::GET, "/".into(), &client).headers;
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort();
        assert_eq!(names, ["cookie", "if-none-match", "x-api-key"]);
    }
}
