//! Lists: tags, repositories, referrers; the long ones page by page.

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::referrer::REFERRERS_TYPE;
use http::header::LINK;
use http::{HeaderName, StatusCode};
use serde::Serialize;
use url::form_urlencoded;

use super::error::RegistryError;
use super::request::LocalRequest;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_store::{ReferrersAsked, StoreError};

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

/// The page that is asked for.
struct Page {
    after: Option<String>,
    limit: usize,
    /// As the client wrote it, for the link to the next page.
    n: Option<usize>,
}

impl LocalRequest {
    /// `GET /v2/<name>/tags/list`
    pub(super) async fn tags(&self, repository: &RepositoryName) -> Result<Reply, RegistryError> {
        let page = self.page(PAGE_TAGS_MAX)?;
        let store = self.registry.store.repositories.at(repository);
        let Some((tags, more)) = store.tags(page.after.as_deref(), page.limit).await? else {
            return Err(RegistryError::Unknown { has_repository: false, code: ErrorCode::NameUnknown });
        };
        let reply = json(&Tags { name: repository.as_str(), tags: tags.iter().map(Tag::as_str).collect() });
        Ok(page.linked(reply, &format!("/v2/{repository}/tags/list"), tags.last().map(Tag::as_str), more))
    }

    /// `GET /v2/_catalog`
    pub(super) async fn catalog(&self) -> Result<Reply, RegistryError> {
        let page = self.page(PAGE_REPOSITORIES_MAX)?;
        let (access, visitor) = (self.registry.access(), self.visitor.clone());
        let seen = move |name: &RepositoryName| access.may_see(&visitor, name);
        let repositories = &self.registry.store.repositories;
        let (found, more) = repositories.list(page.after.as_deref(), page.limit, seen).await?;
        let reply = json(&Catalog { repositories: found.iter().map(RepositoryName::as_str).collect() });
        Ok(page.linked(reply, "/v2/_catalog", found.last().map(RepositoryName::as_str), more))
    }

    /// `GET /v2/<name>/referrers/<digest>`. A subject that is not here has no referrers, and that is no error.
    pub(super) async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
    ) -> Result<Reply, RegistryError> {
        let artifact_type = self.parameter("artifactType").filter(|filter| !filter.is_empty());
        let asked = ReferrersAsked { after: self.parameter("last"), artifact_type: artifact_type.clone() };
        let (registry, named, digest) = (self.registry.clone(), repository.clone(), *subject);
        let making = async move { registry.store.repositories.at(&named).referrers(&digest, asked).await };
        let page = self.registry.lists.make(making).await.unwrap_or(Err(StoreError::DiskThreadGone))?;
        let body = self.registry.lists.body(self.scope.connection.client.into(), page.body);
        let reply = Reply::full(StatusCode::OK, REFERRERS_TYPE, body.ok_or(RegistryError::TooManyLists)?);
        let reply = match page.next_after {
            Some(last) => {
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.extend_pairs(artifact_type.iter().map(|filter| ("artifactType", filter)));
                let query = query.append_pair("last", &last.to_string()).finish();
                reply.with(LINK, &format!("</v2/{repository}/referrers/{subject}?{query}>; rel=\"next\""))
            }
            None => reply,
        };
        Ok(if artifact_type.is_some() { reply.with(FILTERS_APPLIED, "artifactType") } else { reply })
    }

    fn page(&self, max: usize) -> Result<Page, RegistryError> {
        let n = match self.parameter("n").map(|text| text.parse::<usize>()) {
            None => None,
            Some(Ok(n)) => Some(n),
            Some(Err(_)) => {
                return Err(RegistryError::Invalid {
                    code: ErrorCode::Unsupported,
                    status: Some(StatusCode::BAD_REQUEST),
                    why: "the parameter n is not a number".into(),
                    refused: Refused::Invalid,
                });
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
