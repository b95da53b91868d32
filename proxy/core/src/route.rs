//! The grammar of registry paths (OCI Distribution 1.1, and the additions of Docker's registries).
//!
//! A path is read once, without decoding, from the right, because a component of a repository name may be called
//! `manifests` or `blobs`. All cached content is named by this grammar. A spelling with encoded characters, empty or
//! dotted segments is an error, so that two spellings never name one thing, nor one spelling two things.

use http::Method;

use crate::digest::Digest;
use crate::error::ErrorCode;
use crate::name::{NameError, Reference, RepositoryName};

/// The folder of the registry's web page, beside `/v2/`; other pages link to it.
pub const WEB_PATH: &str = "/registry/";

/// The subject of a request.
///
/// ```
/// use entrepot_core::route::Route;
/// use http::Method;
///
/// let Route::Manifest { repository, .. } = Route::parse(&Method::GET, "/v2/library/busybox/manifests/latest", None)?
/// else {
///     panic!("a manifest");
/// };
/// assert_eq!(repository.as_str(), "library/busybox");
/// // Another spelling of the same path is refused.
/// assert!(Route::parse(&Method::GET, "/v2/library%2Fbusybox/manifests/latest", None).is_err());
/// # Ok::<(), entrepot_core::route::RouteError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// `/v2` and `/v2/`
    Ping,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/manifests/<reference>`
    Manifest {
        /// `<name>`
        repository: RepositoryName,
        /// `<reference>`
        reference: Reference,
    },
    /// `/v2/<name>/blobs/<digest>`
    Blob {
        /// `<name>`: the repository through which the blob is requested.
        repository: RepositoryName,
        /// `<digest>`
        digest: Digest,
    },
    /// `/v2/<name>/blobs/uploads/`: begins an upload.
    Uploads {
        /// `<name>`
        repository: RepositoryName,
    },
    /// A session that [`Route::Uploads`] began, at the location that the registry chose for it.
    Upload {
        /// The repository, which precedes the location's `/blobs/`.
        repository: RepositoryName,
        /// The location, as the client sent it.
        session: UploadSession,
    },
    /// `/v2/<name>/tags/list`
    Tags {
        /// `<name>`
        repository: RepositoryName,
    },
    /// `/v2/<name>/referrers/<digest>`
    Referrers {
        /// `<name>`
        repository: RepositoryName,
        /// `<digest>`: the subject of the referrers.
        digest: Digest,
    },
    /// A path below `/v2/` outside the grammar: an extension of that registry. It is passed on and never cached.
    Extension,
    /// All other paths: token servers (some below `/v2/`), pages, artefacts.
    Other,
}

/// The location at which an upload continues. Registries choose it freely, so the text stays as the client sent it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UploadSession {
    path_and_query: Box<str>,
    place: std::ops::Range<usize>,
}

/// The grammar of repository names.
type Named = fn(&str) -> Result<RepositoryName, NameError>;

/// The reason why a path below `/v2/` is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code}: {}", code.message())]
pub struct RouteError {
    /// The error that the client gets.
    pub code: ErrorCode,
}

impl From<ErrorCode> for RouteError {
    fn from(code: ErrorCode) -> Self {
        Self { code }
    }
}

impl Route {
    /// Reads a request's target. The method tells an upload's location from a malformed digest. A method that no registry
    /// has is an error.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        Self::parse_named(method, path, query, |name| name.parse())
    }

    /// The same for another registry, whose repositories may have capitals ([`RepositoryName::of_upstream`]).
    pub fn parse_upstream(method: &Method, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        Self::parse_named(method, path, query, RepositoryName::of_upstream)
    }

    fn parse_named(method: &Method, path: &str, query: Option<&str>, named: Named) -> Result<Self, RouteError> {
        let Some(rest) = below_v2(path) else {
            return if is_disguised(path) { Err(ErrorCode::BadRequest.into()) } else { Ok(Self::Other) };
        };
        if !is_reading(method) && !is_writing(method) {
            return Err(ErrorCode::Unsupported.into());
        }
        match rest {
            "" => return Ok(Self::Ping),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let plain = !rest.contains('%') && !has_odd_segments(rest);
        let found = if plain { content(rest, named) } else { Err(ErrorCode::NameInvalid.into()) };
        match found {
            // A route by the last two segments has precedence, even if the name contains `blobs/uploads`.
            Ok(Self::Extension | Self::Other) | Err(_) => upload(method, path, rest, query, named).unwrap_or(found),
            Ok(route) => Ok(route),
        }
    }

    /// Whether the specification gives the route this method.
    pub fn allows(&self, method: &Method) -> bool {
        match self {
            Self::Ping | Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => is_reading(method),
            Self::Manifest { .. } => is_reading(method) || matches!(*method, Method::PUT | Method::DELETE),
            Self::Blob { .. } => is_reading(method) || *method == Method::DELETE,
            Self::Uploads { .. } => *method == Method::POST,
            Self::Upload { .. } => {
                is_reading(method) || matches!(*method, Method::PATCH | Method::PUT | Method::DELETE)
            }
            Self::Extension => is_reading(method) || is_writing(method),
            Self::Other => true,
        }
    }

    /// Whether the request would change a registry. A POST for a token does not: token servers are [`Route::Other`].
    pub fn is_push(&self, method: &Method) -> bool {
        *self != Self::Other && is_writing(method)
    }

    /// The repository. None if the route is not inside one.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Uploads { repository }
            | Self::Upload { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => Some(repository),
            Self::Ping | Self::Catalog | Self::Extension | Self::Other => None,
        }
    }
}

impl UploadSession {
    /// The whole target, not decoded, for the registry that chose it.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The part behind `<name>/blobs/uploads/`, without the query, not decoded.
    pub fn id(&self) -> &str {
        &self.path_and_query[self.place.clone()]
    }
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn is_writing(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
}

fn below_v2(path: &str) -> Option<&str> {
    if path == "/v2" { Some("") } else { path.strip_prefix("/v2/") }
}

/// Reads every route but uploads. The last two segments tell the kind; the ones before are the name.
fn content(rest: &str, named: Named) -> Result<Route, RouteError> {
    let (head, last) = rest.rsplit_once('/').unwrap_or(("", rest));
    let (name, kind) = head.rsplit_once('/').unwrap_or(("", head));
    let repository = || named(name).map_err(|_| ErrorCode::NameInvalid);
    let digest = || last.parse::<Digest>().map_err(|_| ErrorCode::DigestInvalid);
    Ok(match (kind, last) {
        ("manifests", _) => Route::Manifest { repository: repository()?, reference: reference(last)? },
        ("blobs", "uploads") => Route::Uploads { repository: repository()? },
        ("blobs", _) => Route::Blob { repository: repository()?, digest: digest()? },
        ("tags", "list") => Route::Tags { repository: repository()? },
        ("referrers", _) => Route::Referrers { repository: repository()?, digest: digest()? },
        // quay.io/v2/auth, gcr.io/v2/token, api.digitalocean.com/v2/registry/auth.
        (_, "auth" | "token") => Route::Other,
        _ => Route::Extension,
    })
}

fn reference(text: &str) -> Result<Reference, ErrorCode> {
    text.parse().map_err(|error| match error {
        NameError::Digest => ErrorCode::DigestInvalid,
        NameError::Tag | NameError::Repository => ErrorCode::NameInvalid,
    })
}

/// Reads uploads: the collection with its closing slash, or a location below it (ghcr.io calls it `upload`). Registries
/// choose the location, so a PATCH or PUT below `/blobs/` without a digest is an upload too.
fn upload(
    method: &Method,
    path: &str,
    rest: &str,
    query: Option<&str>,
    named: Named,
) -> Option<Result<Route, RouteError>> {
    let after = |marker: &str| rest.rfind(marker).map(|at| (at, at + marker.len()));
    let chosen = || {
        let (name_end, place) = after("/blobs/")?;
        let single = matches!(*method, Method::PATCH | Method::PUT) && !rest[place..].contains('/');
        single.then_some((name_end, place))
    };
    let (name_end, place) = after("/blobs/uploads/").max(after("/blobs/upload/")).or_else(chosen)?;
    let repository = named(&rest[..name_end]).map_err(|_| ErrorCode::NameInvalid.into());
    Some(repository.and_then(|repository| upload_at(path, repository, &rest[place..], query)))
}

fn upload_at(path: &str, repository: RepositoryName, place: &str, query: Option<&str>) -> Result<Route, RouteError> {
    if place.is_empty() {
        return Ok(Route::Uploads { repository });
    }
    if has_odd_segments(&decoded(place)) {
        return Err(ErrorCode::NameInvalid.into());
    }
    let path_and_query = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let place = path.len() - place.len()..path.len();
    Ok(Route::Upload { repository, session: UploadSession { path_and_query: path_and_query.into(), place } })
}

/// Whether a path has empty or dotted segments, which some servers fold into another path.
fn has_odd_segments(path: &str) -> bool {
    path.split(['/', '\\']).any(|segment| matches!(segment, "" | "." | ".."))
}

/// Whether a server might fold a path outside `/v2/` into one below it, which would evade the grammar.
fn is_disguised(path: &str) -> bool {
    let decoded = decoded(path);
    let mut segments = decoded.split(['/', '\\']).filter(|segment| !segment.is_empty());
    let dotted = segments.clone().any(|segment| matches!(segment, "." | ".."));
    dotted || segments.next().is_some_and(|first| first.eq_ignore_ascii_case("v2"))
}

/// Undoes one layer of percent-encoding of ASCII characters. The result is only for checks.
fn decoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) if code.is_ascii() => text.push(char::from(code)),
            _ => text.push('%'),
        }
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Result<Route, RouteError> {
        Route::parse(&Method::GET, path, None)
    }

    fn digest() -> String {
        format!("sha256:{}", "0a".repeat(32))
    }

    fn manifest(name: &str, reference: &str) -> Route {
        Route::Manifest { repository: name.parse().unwrap(), reference: reference.parse().unwrap() }
    }

    #[test]
    fn paths_are_read_from_the_right() {
        let digest = digest();
        for (path, route) in [
            ("/v2".into(), Route::Ping),
            ("/v2/".into(), Route::Ping),
            ("/v2/_catalog".into(), Route::Catalog),
            ("/v2/library/busybox/manifests/latest".into(), manifest("library/busybox", "latest")),
            (format!("/v2/a/manifests/{digest}"), manifest("a", &digest)),
            ("/v2/a/blobs/b/manifests/latest".into(), manifest("a/blobs/b", "latest")),
            ("/v2/a/blobs/uploads/manifests/1".into(), manifest("a/blobs/uploads", "1")),
            ("/v2/manifests/manifests/manifests".into(), manifest("manifests", "manifests")),
            ("/v2/a/manifests/uploads".into(), manifest("a", "uploads")),
            ("/v2/a/manifests/token".into(), manifest("a", "token")),
            ("/v2/a/manifests/tags/list".into(), Route::Tags { repository: "a/manifests".parse().unwrap() }),
            ("/v2/a/tags/list".into(), Route::Tags { repository: "a".parse().unwrap() }),
            ("/v2/a/blobs/uploads/".into(), Route::Uploads { repository: "a".parse().unwrap() }),
            ("/v2/a/blobs/uploads".into(), Route::Uploads { repository: "a".parse().unwrap() }),
            (
                format!("/v2/tags/list/blobs/{digest}"),
                Route::Blob { repository: "tags/list".parse().unwrap(), digest: digest.parse().unwrap() },
            ),
            (
                format!("/v2/a/referrers/{digest}"),
                Route::Referrers { repository: "a".parse().unwrap(), digest: digest.parse().unwrap() },
            ),
            ("/v2/auth".into(), Route::Other),
            ("/v2/token".into(), Route::Other),
            ("/v2/registry/auth".into(), Route::Other),
            ("/v2/a/_oci/ext".into(), Route::Extension),
            ("/".into(), Route::Other),
            ("/token".into(), Route::Other),
            ("/v1/search".into(), Route::Other),
            ("/@scope/pkg/-/pkg-1.0.tgz".into(), Route::Other),
            ("/v2x/a/manifests/latest".into(), Route::Other),
        ] {
            assert_eq!(get(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn spellings_that_could_stand_for_another_path_are_errors() {
        use ErrorCode::{BadRequest, DigestInvalid, NameInvalid};
        for (path, code) in [
            ("/v2/UPPER/manifests/latest", NameInvalid),
            ("/v2/manifests/latest", NameInvalid),
            ("/v2/tags/list", NameInvalid),
            ("/v2/a/manifests/", NameInvalid),
            ("/v2/a/manifests/latest/", NameInvalid),
            ("/v2/a/manifests/-bad", NameInvalid),
            ("/v2/a/manifests/sha256:00", DigestInvalid),
            ("/v2/a/blobs/latest", DigestInvalid),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", DigestInvalid),
            ("/v2/a/referrers/latest", DigestInvalid),
            ("/v2//a/manifests/latest", NameInvalid),
            ("/v2/a//b/manifests/latest", NameInvalid),
            ("/v2/a/../b/manifests/latest", NameInvalid),
            ("/v2/./a/manifests/latest", NameInvalid),
            ("/v2/a%2fb/manifests/latest", NameInvalid),
            ("/v2/a/manifests/%6catest", NameInvalid),
            ("/v2/%61/manifests/latest", NameInvalid),
            ("/v2/a/%2e%2e/b/manifests/latest", NameInvalid),
            ("/v2/a/blobs/uploads/../../b/manifests/latest", NameInvalid),
            ("/v2/a/blobs/uploads/%2e%2e/x", NameInvalid),
            ("/v2/a/blobs/uploads/x%2f..%2fy", NameInvalid),
            ("/v2/a/blobs/uploads/x//y", NameInvalid),
            ("/v2/UP/blobs/uploads/x", NameInvalid),
            ("/V2/a/manifests/latest", BadRequest),
            ("//v2/a/manifests/latest", BadRequest),
            ("/%762/a/manifests/latest", BadRequest),
            ("/x/../v2/a/manifests/latest", BadRequest),
            ("/x/%2E%2e/v2/a/manifests/latest", BadRequest),
            ("\\v2\\a", BadRequest),
        ] {
            assert_eq!(get(path), Err(code.into()), "{path}");
        }
    }

    #[test]
    fn upload_places_stay_as_the_registry_wrote_them() {
        for (method, path, query, id) in [
            (Method::PATCH, "/v2/a/b/blobs/uploads/17", None, "17"),
            (Method::GET, "/v2/a/b/blobs/uploads/1%3D", Some("_state=a%2Fb"), "1%3D"),
            (Method::PUT, "/v2/a/b/blobs/uploads/x/y", Some("digest=sha256:0"), "x/y"),
            (Method::PUT, "/v2/a/b/blobs/uploads/token", None, "token"),
            (Method::PATCH, "/v2/a/b/blobs/upload/1..2.z", None, "1..2.z"),
            (Method::PATCH, "/v2/a/b/blobs/17", Some("x"), "17"),
        ] {
            let Ok(Route::Upload { repository, session }) = Route::parse(&method, path, query) else {
                panic!("{path} is an upload");
            };
            let target = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
            assert_eq!((repository.as_str(), session.id(), session.path_and_query()), ("a/b", id, &*target));
        }
        assert_eq!(Route::parse(&Method::GET, "/v2/a/blobs/17", None), Err(ErrorCode::DigestInvalid.into()));
    }

    #[test]
    fn another_registrys_repository_may_have_capitals_and_nothing_else_is_laxer() {
        let digest = digest();
        let upstream = |path: &str| Route::parse_upstream(&Method::GET, path, None);
        for kind in [format!("blobs/{digest}"), "manifests/latest".into(), "tags/list".into(), "blobs/uploads/".into()]
        {
            let path = format!("/v2/Owner/Model-8B/{kind}");
            let route = upstream(&path).expect(&path);
            assert_eq!(route.repository().map(RepositoryName::as_str), Some("Owner/Model-8B"), "{path}");
            assert_eq!(get(&path), Err(ErrorCode::NameInvalid.into()), "{path}");
            let small = format!("/v2/team/app/{kind}");
            assert_eq!(upstream(&small), get(&small));
        }
        let upper = digest.replace("sha256", "SHA256");
        for path in [
            format!("/V2/Owner/Model/blobs/{digest}"),
            format!("/v2/Owner//Model/blobs/{digest}"),
            format!("/v2/Owner/../Model/blobs/{digest}"),
            format!("/v2/Owner%2FModel/blobs/{digest}"),
            format!("/v2/Owner/Model/blobs/{upper}"),
        ] {
            assert!(upstream(&path).is_err(), "{path}");
        }
    }

    #[test]
    fn methods() {
        let digest = digest();
        let refused = |path: &str, method: Method| !Route::parse(&method, path, None).unwrap().allows(&method);
        for path in ["/v2/", "/v2/_catalog", "/v2/a/tags/list", &format!("/v2/a/referrers/{digest}")] {
            assert!(refused(path, Method::PUT), "{path}");
        }
        assert!(refused(&format!("/v2/a/blobs/{digest}"), Method::PUT));
        assert!(refused("/v2/a/blobs/uploads/", Method::GET));
        assert!(refused("/v2/a/manifests/latest", Method::PATCH));
        assert!(!refused("/v2/a/manifests/latest", Method::PUT));
        assert_eq!(Route::parse(&Method::TRACE, "/v2/", None), Err(ErrorCode::Unsupported.into()));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            for path in ["/v2/a/manifests/latest", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/1", "/v2/a/x", "/v2/"] {
                assert!(Route::parse(&method, path, None).unwrap().is_push(&method), "{method} {path}");
            }
            for path in ["/token", "/v2/token", "/v2/auth", "/oauth2/token", "/service/token"] {
                assert!(!Route::parse(&method, path, None).unwrap().is_push(&method), "{method} {path}");
            }
        }
        assert!(!manifest("a", "latest").is_push(&Method::GET));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_names_are_what_was_written(path in "(/v2)?(/[a-z%.0-9é\\\\]{0,6}|/blobs|/manifests|/uploads|/tags/list){0,6}") {
            if let Ok(Route::Manifest { repository, reference }) = get(&path) {
                proptest::prop_assert_eq!(format!("/v2/{repository}/manifests/{reference}"), path);
            }
        }
    }
}
