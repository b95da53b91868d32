//! The parameters in the query of an admin request. An error names the parameter.

use std::convert::Infallible;
use std::path::PathBuf;

use axum::extract::FromRequestParts;
use entrepot_core::name::RepositoryName;
use entrepot_core::quantity;
use http::request::Parts;
use url::form_urlencoded;

use super::registry::{CollectRequest, RemoveRequest, RepositoriesRequest};
use super::{ListRequest, TagName};

/// Blobs or repositories on a page, if the client names no limit.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// The query of a request. If a parameter is given twice, the first one counts.
pub(super) struct Parameters(String);

/// The reason why a query is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ParameterError {
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    #[error("the parameter {0} is not understood")]
    Bad(&'static str),
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(head.uri.query().unwrap_or_default().to_owned()))
    }
}

impl Parameters {
    pub(super) fn blob_page(&self) -> Result<ListRequest, ParameterError> {
        Ok(ListRequest { after: self.optional("after", |text| text.parse().ok())?, limit: self.limit()? })
    }

    pub(super) fn tag_name(&self) -> Result<TagName, ParameterError> {
        Ok(TagName {
            registry: self.required("registry", |text| text.parse().ok())?,
            repository: self.repository()?,
            tag: self.required("tag", |text| text.parse().ok())?,
        })
    }

    pub(super) fn repository_page(&self) -> Result<RepositoriesRequest, ParameterError> {
        Ok(RepositoriesRequest { after: self.optional("after", |text| Some(text.to_owned()))?, limit: self.limit()? })
    }

    pub(super) fn repository(&self) -> Result<RepositoryName, ParameterError> {
        self.required("repository", |text| text.parse().ok())
    }

    pub(super) fn tag_to_remove(&self) -> Result<RemoveRequest, ParameterError> {
        let tag = self.required("tag", |text| text.parse().ok())?;
        Ok(RemoveRequest::Tag(self.repository()?, tag))
    }

    pub(super) fn manifest_to_remove(&self) -> Result<RemoveRequest, ParameterError> {
        let digest = self.required("digest", |text| text.parse().ok())?;
        Ok(RemoveRequest::Manifest(self.repository()?, digest))
    }

    pub(super) fn collection(&self) -> Result<CollectRequest, ParameterError> {
        let switch = |name| self.optional(name, |text| text.parse::<bool>().ok()).map(Option::unwrap_or_default);
        Ok(CollectRequest {
            grace: self.optional("grace", |text| quantity::parse_duration(text).ok())?,
            dry_run: switch("dry_run")?,
            untagged: switch("untagged")?,
        })
    }

    /// An absolute path. A relative one is refused, because the server's working directory is not the client's.
    pub(super) fn directory(&self) -> Result<PathBuf, ParameterError> {
        self.required("directory", |text| Some(PathBuf::from(text)).filter(|path| path.is_absolute()))
    }

    fn limit(&self) -> Result<usize, ParameterError> {
        let limit = self.optional("limit", |text| text.parse::<usize>().ok().filter(|limit| *limit > 0))?;
        Ok(limit.unwrap_or(PAGE).min(PAGE_MAX))
    }

    fn optional<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ParameterError> {
        let value = form_urlencoded::parse(self.0.as_bytes()).find(|(found, _)| found == name);
        let Some((_, text)) = value else { return Ok(None) };
        parse(&text).map(Some).ok_or(ParameterError::Bad(name))
    }

    fn required<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ParameterError> {
        self.optional(name, parse)?.ok_or(ParameterError::Missing(name))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use entrepot_core::digest::{Algorithm, Digest};

    use super::*;

    fn query(text: &str) -> Parameters {
        Parameters(text.to_owned())
    }

    #[test]
    fn pages() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (text, limit, after) in [
            (String::new(), 100, None),
            ("limit=7&limit=8".to_owned(), 7, None),
            ("limit=999999".to_owned(), 1000, None),
            (format!("after={digest}"), 100, Some(digest)),
            (format!("after={}", digest.to_string().replace(':', "%3A")), 100, Some(digest)),
        ] {
            assert_eq!(query(&text).blob_page(), Ok(ListRequest { after, limit }), "{text}");
        }
        let page = RepositoriesRequest { after: Some("a/b".to_owned()), limit: 2 };
        assert_eq!(query("after=a%2Fb&limit=2").repository_page(), Ok(page));
    }

    #[test]
    fn names() {
        let TagName { registry, repository, tag } =
            query("registry=GHCR.io&repository=a%2Fb&tag=v1").tag_name().expect("a tag");
        assert_eq!((registry.to_string(), repository.as_str(), tag.as_str()), ("ghcr.io".into(), "a/b", "v1"));
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let removal = RemoveRequest::Tag(repository.clone(), tag);
        assert_eq!(query("repository=a/b&tag=v1").tag_to_remove(), Ok(removal));
        let removal = RemoveRequest::Manifest(repository, digest);
        assert_eq!(query(&format!("repository=a/b&digest={digest}")).manifest_to_remove(), Ok(removal));
    }

    #[test]
    fn collections() {
        for (text, dry_run, untagged, grace_s) in [
            ("", false, false, None),
            ("dry_run=true&untagged=true&grace=90m", true, true, Some(5400)),
            ("grace=0s", false, false, Some(0)),
        ] {
            let expected = CollectRequest { dry_run, untagged, grace: grace_s.map(Duration::from_secs) };
            assert_eq!(query(text).collection(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_parameter() {
        use ParameterError::{Bad, Missing};
        for (text, error) in [("dry_run=perhaps", "dry_run"), ("grace=soon", "grace")] {
            assert_eq!(query(text).collection(), Err(Bad(error)), "{text}");
        }
        for (text, error) in [("limit=0", "limit"), ("limit=-1", "limit"), ("after=sha256:..", "after")] {
            assert_eq!(query(text).blob_page(), Err(Bad(error)), "{text}");
        }
        assert_eq!(query("").directory(), Err(Missing("directory")));
        assert_eq!(query("directory=here").directory(), Err(Bad("directory")));
        assert_eq!(query("repository=a").tag_to_remove(), Err(Missing("tag")));
        assert_eq!(query("registry=ghcr.io&repository=a").tag_name(), Err(Missing("tag")));
        assert_eq!(query("registry=ghcr.io&repository=../a&tag=v1").tag_name(), Err(Bad("repository")));
        assert_eq!(Missing("tag").to_string(), "the parameter tag is missing");
        assert_eq!(Bad("tag").to_string(), "the parameter tag is not understood");
    }
}
