//! The requests that an upstream registry may get. Each request is built from an [`Operation`]. Of the client's own head
//! only a few end-to-end headers of relayed operations are passed on (threat T8).

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName};
use entrepot_core::validator::Validator;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HOST,
    IF_RANGE, RANGE, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A request to a registry, without origin and credential.
#[derive(Clone)]
pub struct Operation {
    /// GET, HEAD, or a push's method.
    pub method: Method,
    /// The absolute path and the query, as they are sent.
    pub path: String,
    /// The headers of the operation, without those that every request gets.
    pub headers: HeaderMap,
    /// The repository of the token's scope. None if the operation needs no scope.
    pub repository: Option<RepositoryName>,
    /// Whether a digest names the content. Its bytes are checked, so a redirect to plain http is allowed.
    pub verified_by_digest: bool,
    /// Whether redirects are followed. The client itself follows those of a push. For a probe of rights the redirect is the
    /// answer: upstream told the content's address.
    pub follows_redirects: bool,
    /// Whether it reads content or asks for a token: only then it gets the headers that the administrator injects.
    pub reads_content: bool,
    /// The error of a 404 without a body, as every HEAD's.
    pub unknown: ErrorCode,
}

/// A range of a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The position of the first byte, from 0.
    pub start: u64,
    /// The position behind the last byte. None means up to the end of the blob.
    pub end: Option<u64>,
}

/// The client's headers that a relayed operation passes on. `Authorization` belongs to the credential.
const RELAYED: [HeaderName; 5] = [
    ACCEPT,
    RANGE,
    USER_AGENT,
    HeaderName::from_static("docker-distribution-api-version"),
    HeaderName::from_static("oci-chunk-min-length"),
];

/// Headers that describe a request's body. They are passed on only with a body: upstream would take the start of the next
/// request for the body of a length without one.
const OF_THE_BODY: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_ENCODING];

/// Headers of a single connection (RFC 9110 section 7.6.1).
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

/// Whether a header is about a single connection and never passed on.
pub fn is_of_the_hop(name: &HeaderName) -> bool {
    OF_THE_HOP.contains(&name.as_str())
}

/// Request headers that are made for the next hop, or belong to the credential.
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
            reads_content: true,
            unknown: ErrorCode::ManifestUnknown,
        }
    }

    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`. None as range means the whole blob.
    pub fn blob(method: Method, repository: &RepositoryName, digest: &Digest, range: Option<ByteRange>) -> Self {
        Self {
            method,
            path: format!("/v2/{repository}/blobs/{digest}"),
            headers: range_header(range),
            repository: Some(repository.clone()),
            verified_by_digest: true,
            follows_redirects: true,
            reads_content: true,
            unknown: ErrorCode::BlobUnknown,
        }
    }

    /// `GET` of content that a path names. `client` is the head that it is asked for with, and `state` the one that a part
    /// has to be of. With `verified_by_digest`, the digest was found when it was first read.
    pub fn artefact(
        path: &str,
        client: &HeaderMap,
        range: Option<ByteRange>,
        state: Option<&Validator>,
        verified_by_digest: bool,
    ) -> Self {
        let mut operation = Self::relay(Method::GET, path.to_owned(), client, None);
        operation.headers.remove(RANGE);
        operation.headers.extend(range_header(range));
        let state = state.filter(|_| range.is_some()).and_then(|state| HeaderValue::from_str(state.if_range()).ok());
        operation.headers.extend(state.map(|state| (IF_RANGE, state)));
        Self { verified_by_digest, unknown: ErrorCode::BlobUnknown, ..operation }
    }

    /// A `HEAD` that finds out whether upstream would serve a blob to the credential.
    pub fn probe(repository: &RepositoryName, digest: &Digest) -> Self {
        Self { follows_redirects: false, ..Self::blob(Method::HEAD, repository, digest, None) }
    }

    /// Any other request below `/v2/`, to a token server or for an artefact, with the headers of `client` that may be passed on.
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
            reads_content: reads,
            unknown: ErrorCode::NameUnknown,
        }
    }

    /// A request to a host that is no registry, or for something else than content. All end-to-end headers are passed on unchanged.
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
        Self { follows_redirects: false, reads_content: false, ..operation }
    }

    /// Whether upstream counts the request as nothing, so that it may be sent a second time before the first is answered.
    /// The GET of a manifest is counted as a pull.
    pub(crate) fn may_race(&self) -> bool {
        let is_blob = || self.verified_by_digest && self.path.rsplit('/').nth(1) == Some("blobs");
        self.method == Method::HEAD || (self.method == Method::GET && is_blob())
    }

    /// The scope of the token that the operation needs (Docker token authentication, "Requesting a Token"). None without a
    /// repository.
    pub(crate) fn scope(&self) -> Option<String> {
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

fn range_header(range: Option<ByteRange>) -> HeaderMap {
    let value = range.map(|range| {
        let end = range.end.map(|end| (end - 1).to_string()).unwrap_or_default();
        HeaderValue::from_str(&format!("bytes={}-{end}", range.start))
    });
    value.and_then(Result::ok).map(|value| (RANGE, value)).into_iter().collect()
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
    fn a_part_of_an_artefact_is_asked_for_of_one_state() {
        let mut client = HeaderMap::new();
        for (name, value) in [(RANGE, "bytes=1-2"), (USER_AGENT, "npm"), (CONTENT_LENGTH, "4")] {
            client.insert(name, HeaderValue::from_static(value));
        }
        let (part, state) = (ByteRange { start: 7, end: None }, Validator::ETag("\"1\"".into()));
        let ask = |range, state| Operation::artefact("/a.tgz?x", &client, range, state, false).headers;
        let headers = ask(Some(part), Some(&state));
        for (name, value) in [(RANGE, "bytes=7-"), (IF_RANGE, "\"1\""), (USER_AGENT, "npm")] {
            assert_eq!(headers[&name], value);
        }
        assert_eq!(headers.len(), 3);
        let whole = ask(None, Some(&state));
        assert!(
            !whole.contains_key(RANGE) && !whole.contains_key(IF_RANGE),
            "the whole is asked for whatever its state"
        );
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
