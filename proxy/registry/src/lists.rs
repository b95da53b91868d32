//! Lists: tags, repositories, referrers; the long ones page by page.

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::referrer::{self, REFERRERS_TYPE};
use http::header::LINK;
use http::{HeaderName, StatusCode};
use serde::Serialize;
use url::form_urlencoded;

use super::failure::{store_failed, unavailable};
use super::request::LocalRequest;
use entrepot_cache::pull::offload;
use entrepot_net::http::reply::Reply;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The most that one page has, whatever was asked.
const PAGE_TAGS_MAX: usize = 10_000;
const PAGE_REPOSITORIES_MAX: usize = 1000;

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

#[derive(Serialize)]
struct Catalog<'a> {
    repositories: Vec<&'a str>,
}

/// Which page.
struct Page {
    after: Option<String>,
    limit: usize,
    /// As the client wrote it, for the link to the next page.
    n: Option<usize>,
}

impl LocalRequest {
    /// `GET /v2/<name>/tags/list`
    pub(super) async fn tags(&self, repository: &RepositoryName) -> Reply {
        let page = match self.page(PAGE_TAGS_MAX) {
            Ok(page) => page,
            Err(reply) => return *reply,
        };
        let (store, named) = (self.registry.store.clone(), repository.clone());
        let (after, limit) = (page.after.clone(), page.limit);
        match offload(move || store.pushed_tags(&named, after.as_deref(), limit)).await {
            Some(Ok(Some((tags, more)))) => {
                let names = tags.iter().map(Tag::as_str).collect();
                let reply = json(&Tags { name: repository.as_str(), tags: names });
                page.linked(reply, &format!("/v2/{repository}/tags/list"), tags.last().map(Tag::as_str), more)
            }
            Some(Ok(None)) => Reply::error(ErrorCode::NameUnknown, ""),
            Some(Err(error)) => store_failed(&error),
            None => unavailable(),
        }
    }

    /// `GET /v2/_catalog`
    pub(super) async fn catalog(&self) -> Reply {
        let page = match self.page(PAGE_REPOSITORIES_MAX) {
            Ok(page) => page,
            Err(reply) => return *reply,
        };
        let (store, after, limit) = (self.registry.store.clone(), page.after.clone(), page.limit);
        let (access, visitor) = (self.registry.access(), self.visitor.clone());
        let seen = move |name: &RepositoryName| access.may_see(&visitor, name);
        match offload(move || store.repositories_where(after.as_deref(), limit, seen)).await {
            Some(Ok((found, more))) => {
                let reply = json(&Catalog { repositories: found.iter().map(RepositoryName::as_str).collect() });
                page.linked(reply, "/v2/_catalog", found.last().map(RepositoryName::as_str), more)
            }
            Some(Err(error)) => store_failed(&error),
            None => unavailable(),
        }
    }

    /// `GET /v2/<name>/referrers/<digest>`. A subject that nobody knows has no referrers, and that is no error.
    pub(super) async fn referrers(&self, repository: &RepositoryName, subject: &Digest) -> Reply {
        let (store, named, subject) = (self.registry.store.clone(), repository.clone(), *subject);
        let mut found = match offload(move || store.referrers(&named, &subject)).await {
            Some(Ok(found)) => found,
            Some(Err(error)) => return store_failed(&error),
            None => return unavailable(),
        };
        let filter = self.parameter("artifactType").filter(|filter| !filter.is_empty());
        if let Some(filter) = &filter {
            found.retain(|referrer| referrer.artifact_type.as_deref() == Some(filter));
        }
        let reply = Reply::full(StatusCode::OK, REFERRERS_TYPE, referrer::list(&found));
        if filter.is_some() { reply.with(FILTERS_APPLIED, "artifactType") } else { reply }
    }

    fn page(&self, max: usize) -> Result<Page, Box<Reply>> {
        let n = match self.parameter("n").map(|text| text.parse::<usize>()) {
            None => None,
            Some(Ok(n)) => Some(n),
            Some(Err(_)) => {
                let message = "the parameter n is not a number";
                let status = StatusCode::BAD_REQUEST;
                return Err(Box::new(Reply::error_with_status(status, ErrorCode::Unsupported, message)));
            }
        };
        let after = self.parameter("last").filter(|last| !last.is_empty());
        Ok(Page { after, limit: n.unwrap_or(max).min(max), n })
    }
}

impl Page {
    /// With a link to the next page, where there is one.
    fn linked(&self, reply: Reply, path: &str, last: Option<&str>, more: bool) -> Reply {
        let Some(last) = last.filter(|_| more) else { return reply };
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(n) = self.n {
            query.append_pair("n", &n.to_string());
        }
        query.append_pair("last", last);
        reply.with(LINK, &format!("<{path}?{}>; rel=\"next\"", query.finish()))
    }
}

fn json(value: &impl Serialize) -> Reply {
    // Texts always serialise; `null` would say that one did not.
    let body = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    Reply::full(StatusCode::OK, "application/json", body)
}
