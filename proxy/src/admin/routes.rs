//! The paths of the admin API: one table, and the reading of what a path or query names.

use std::path::PathBuf;

use entrepot_core::digest::{Digest, DigestError};
use entrepot_core::name::RepositoryName;
use entrepot_core::quantity;
use http::Method;
use url::form_urlencoded;

use super::registry::{CollectRequest, RemoveRequest, RepositoriesRequest};
use super::{ListRequest, TagName};

/// A request that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// Answered at once, by nobody else.
    Health,
    /// Answered line by line.
    Verify,
    /// Likewise.
    Collect(CollectRequest),
    /// Likewise.
    Import(PathBuf),
    /// Answered when its power is done.
    Use(Use),
}

/// The backend that answer whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Ready,
    Metrics,
    Config,
    Stats,
    List(ListRequest),
    Clear,
    Remove(Digest),
    ForgetTag(TagName),
    Repositories(RepositoriesRequest),
    RegistryTags(RepositoryName),
    RegistryRemove(RemoveRequest),
    Reload,
}

/// One line of the table. A path that ends in `/` takes one more segment.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    read: fn(&Asked<'_>) -> Result<Operation, String>,
}

/// Why a request has no route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unrouted {
    /// No such path.
    Path,
    /// Another method; these are possible.
    Method(String),
}

const PAGE_BLOBS: usize = 100;
const PAGE_BLOBS_MAX: usize = 1000;
const PAGE_REPOSITORIES: usize = 100;
const PAGE_REPOSITORIES_MAX: usize = 1000;

const ROUTES: [Route; 18] = [
    Route { method: Method::GET, path: "/healthz", read: |_| Ok(Operation::Health) },
    Route { method: Method::GET, path: "/readyz", read: |_| Ok(Operation::Use(Use::Ready)) },
    Route { method: Method::GET, path: "/metrics", read: |_| Ok(Operation::Use(Use::Metrics)) },
    Route { method: Method::GET, path: "/api/config", read: |_| Ok(Operation::Use(Use::Config)) },
    Route { method: Method::POST, path: "/api/reload", read: |_| Ok(Operation::Use(Use::Reload)) },
    Route { method: Method::DELETE, path: "/api/cache", read: |_| Ok(Operation::Use(Use::Clear)) },
    Route { method: Method::GET, path: "/api/cache/stats", read: |_| Ok(Operation::Use(Use::Stats)) },
    Route { method: Method::GET, path: "/api/cache/blobs", read: blobs },
    Route { method: Method::DELETE, path: "/api/cache/blobs/", read: remove },
    Route { method: Method::POST, path: "/api/cache/verify", read: |_| Ok(Operation::Verify) },
    Route { method: Method::DELETE, path: "/api/cache/tags", read: forget_tag },
    Route { method: Method::GET, path: "/api/registry/repositories", read: repositories },
    Route { method: Method::DELETE, path: "/api/registry/repositories", read: remove_repository },
    Route { method: Method::GET, path: "/api/registry/tags", read: registry_tags },
    Route { method: Method::DELETE, path: "/api/registry/tags", read: remove_tag },
    Route { method: Method::DELETE, path: "/api/registry/manifests", read: remove_manifest },
    Route { method: Method::POST, path: "/api/registry/gc", read: collect },
    Route { method: Method::POST, path: "/api/registry/import", read: import },
];

/// The route of a request. HEAD goes where GET goes.
pub(super) fn find(method: &Method, path: &str) -> Result<&'static Route, Unrouted> {
    static TABLE: [Route; 18] = ROUTES;
    let here: Vec<&Route> = TABLE.iter().filter(|route| route.tail(path).is_some()).collect();
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    if let Some(route) = here.iter().find(|route| route.method == wanted) {
        return Ok(route);
    }
    let allowed: Vec<&str> = here
        .iter()
        .flat_map(|route| if route.method == Method::GET { vec!["GET", "HEAD"] } else { vec![route.method.as_str()] })
        .collect();
    Err(if allowed.is_empty() { Unrouted::Path } else { Unrouted::Method(allowed.join(", ")) })
}

impl Route {
    /// Understands the rest of the request; an error names the parameter.
    pub(super) fn read(&self, path: &str, query: &str) -> Result<Operation, String> {
        (self.read)(&Asked { tail: self.tail(path).unwrap_or_default(), query })
    }

    /// What `path` has beyond this route's.
    fn tail<'a>(&self, path: &'a str) -> Option<&'a str> {
        let tail = path.strip_prefix(self.path)?;
        let fits = if self.path.ends_with('/') { !tail.is_empty() && !tail.contains('/') } else { tail.is_empty() };
        fits.then_some(tail)
    }
}

struct Asked<'a> {
    tail: &'a str,
    query: &'a str,
}

impl Asked<'_> {
    fn optional<T>(&self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, String> {
        let value = form_urlencoded::parse(self.query.as_bytes()).find(|(found, _)| found == name);
        let Some((_, text)) = value else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| format!("the parameter {name} is not understood"))
    }

    fn required<T>(&self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
        self.optional(name, parse)?.ok_or_else(|| format!("the parameter {name} is missing"))
    }
}

fn blobs(asked: &Asked<'_>) -> Result<Operation, String> {
    let after = asked.optional("after", |text| text.parse().ok())?;
    let limit = asked.optional("limit", |text| text.parse::<usize>().ok().filter(|limit| *limit > 0))?;
    let limit = limit.unwrap_or(PAGE_BLOBS).min(PAGE_BLOBS_MAX);
    Ok(Operation::Use(Use::List(ListRequest { after, limit })))
}

fn remove(asked: &Asked<'_>) -> Result<Operation, String> {
    let digest: Result<_, DigestError> = asked.tail.parse();
    digest.map(|digest| Operation::Use(Use::Remove(digest))).map_err(|error| error.to_string())
}

fn forget_tag(asked: &Asked<'_>) -> Result<Operation, String> {
    Ok(Operation::Use(Use::ForgetTag(TagName {
        registry: asked.required("registry", |text| text.parse().ok())?,
        repository: asked.required("repository", |text| text.parse().ok())?,
        tag: asked.required("tag", |text| text.parse().ok())?,
    })))
}

fn repositories(asked: &Asked<'_>) -> Result<Operation, String> {
    let after = asked.optional("after", |text| Some(text.to_owned()))?;
    let limit = asked.optional("limit", |text| text.parse::<usize>().ok().filter(|limit| *limit > 0))?;
    let limit = limit.unwrap_or(PAGE_REPOSITORIES).min(PAGE_REPOSITORIES_MAX);
    Ok(Operation::Use(Use::Repositories(RepositoriesRequest { after, limit })))
}

fn repository(asked: &Asked<'_>) -> Result<RepositoryName, String> {
    asked.required("repository", |text| text.parse().ok())
}

fn registry_tags(asked: &Asked<'_>) -> Result<Operation, String> {
    Ok(Operation::Use(Use::RegistryTags(repository(asked)?)))
}

fn remove_repository(asked: &Asked<'_>) -> Result<Operation, String> {
    Ok(Operation::Use(Use::RegistryRemove(RemoveRequest::Repository(repository(asked)?))))
}

fn remove_tag(asked: &Asked<'_>) -> Result<Operation, String> {
    let tag = asked.required("tag", |text| text.parse().ok())?;
    Ok(Operation::Use(Use::RegistryRemove(RemoveRequest::Tag(repository(asked)?, tag))))
}

fn remove_manifest(asked: &Asked<'_>) -> Result<Operation, String> {
    let digest = asked.required("digest", |text| text.parse().ok())?;
    Ok(Operation::Use(Use::RegistryRemove(RemoveRequest::Manifest(repository(asked)?, digest))))
}

fn collect(asked: &Asked<'_>) -> Result<Operation, String> {
    let switch = |name| asked.optional(name, |text| text.parse::<bool>().ok()).map(Option::unwrap_or_default);
    let grace = asked.optional("grace", |text| quantity::parse_duration(text).ok())?;
    Ok(Operation::Collect(CollectRequest { dry_run: switch("dry_run")?, untagged: switch("untagged")?, grace }))
}

fn import(asked: &Asked<'_>) -> Result<Operation, String> {
    let absolute = |text: &str| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    asked.required("directory", absolute).map(Operation::Import)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn understood(method: Method, target: &str) -> Result<Operation, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        find(&method, path).map_err(|error| format!("{error:?}"))?.read(path, query)
    }

    #[test]
    fn paths_and_methods() {
        assert_eq!(understood(Method::GET, "/healthz"), Ok(Operation::Health));
        assert_eq!(understood(Method::HEAD, "/api/cache/stats"), Ok(Operation::Use(Use::Stats)));
        assert_eq!(understood(Method::POST, "/api/cache/verify"), Ok(Operation::Verify));
        for path in ["/", "/healthz/", "/api", "/api/cache/", "/api/cache/blobs/", "/api/cache/blobs/a/b", "//metrics"]
        {
            assert_eq!(find(&Method::GET, path).err(), Some(Unrouted::Path), "{path}");
        }
        for (method, path, allowed) in [
            (Method::POST, "/metrics", "GET, HEAD"),
            (Method::GET, "/api/cache", "DELETE"),
            (Method::HEAD, "/api/reload", "POST"),
            (Method::OPTIONS, "/api/cache/blobs/x", "DELETE"),
        ] {
            assert_eq!(find(&method, path).err(), Some(Unrouted::Method(allowed.into())), "{path}");
        }
    }

    #[test]
    fn parameters() {
        let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, b"x");
        for (target, limit, after) in [
            ("/api/cache/blobs".to_owned(), 100, None),
            ("/api/cache/blobs?limit=7".to_owned(), 7, None),
            ("/api/cache/blobs?limit=999999".to_owned(), 1000, None),
            (format!("/api/cache/blobs?after={digest}"), 100, Some(digest)),
            (format!("/api/cache/blobs?after={}", digest.to_string().replace(':', "%3A")), 100, Some(digest)),
        ] {
            assert_eq!(
                understood(Method::GET, &target),
                Ok(Operation::Use(Use::List(ListRequest { after, limit }))),
                "{target}"
            );
        }
        let removed = understood(Method::DELETE, &format!("/api/cache/blobs/{digest}"));
        assert_eq!(removed, Ok(Operation::Use(Use::Remove(digest))));
        let forgotten = understood(Method::DELETE, "/api/cache/tags?registry=GHCR.io&repository=a%2Fb&tag=v1");
        let Ok(Operation::Use(Use::ForgetTag(TagName { registry, repository, tag }))) = forgotten else {
            panic!("{forgotten:?}")
        };
        assert_eq!((registry.to_string(), repository.as_str(), tag.as_str()), ("ghcr.io".into(), "a/b", "v1"));
    }

    #[test]
    fn changes_of_the_registry() {
        let name: RepositoryName = "a/b".parse().expect("a name");
        let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, b"x");
        let remove = |request| Ok(Operation::Use(Use::RegistryRemove(request)));
        for (target, expected) in [
            ("/api/registry/repositories?repository=a%2Fb".to_owned(), RemoveRequest::Repository(name.clone())),
            (
                "/api/registry/tags?repository=a/b&tag=v1".to_owned(),
                RemoveRequest::Tag(name.clone(), "v1".parse().expect("a tag")),
            ),
            (format!("/api/registry/manifests?repository=a/b&digest={digest}"), RemoveRequest::Manifest(name, digest)),
        ] {
            assert_eq!(understood(Method::DELETE, &target), remove(expected), "{target}");
        }
        let collect = |dry_run, untagged, grace_s: Option<u64>| {
            Ok(Operation::Collect(CollectRequest { dry_run, untagged, grace: grace_s.map(Duration::from_secs) }))
        };
        for (target, expected) in [
            ("/api/registry/gc", collect(false, false, None)),
            ("/api/registry/gc?dry_run=true&untagged=true&grace=90m", collect(true, true, Some(5400))),
            ("/api/registry/gc?grace=0s", collect(false, false, Some(0))),
        ] {
            assert_eq!(understood(Method::POST, target), expected, "{target}");
        }
    }

    #[test]
    fn bad_parameters_are_named() {
        for (method, target, named) in [
            (Method::POST, "/api/registry/gc?dry_run=perhaps", "dry_run"),
            (Method::POST, "/api/registry/gc?grace=soon", "grace"),
            (Method::POST, "/api/registry/import", "directory is missing"),
            (Method::POST, "/api/registry/import?directory=here", "directory"),
            (Method::DELETE, "/api/registry/tags?repository=a", "tag is missing"),
            (Method::GET, "/api/cache/blobs?limit=0", "limit"),
            (Method::GET, "/api/cache/blobs?limit=-1", "limit"),
            (Method::GET, "/api/cache/blobs?after=sha256:..", "after"),
            (Method::DELETE, "/api/cache/blobs/..", "sha256"),
            (Method::DELETE, "/api/cache/tags?registry=ghcr.io&repository=a", "tag is missing"),
            (Method::DELETE, "/api/cache/tags?registry=ghcr.io&repository=../a&tag=v1", "repository"),
        ] {
            let error = understood(method, target).expect_err(target);
            assert!(error.contains(named), "{target}: {error}");
        }
    }
}
