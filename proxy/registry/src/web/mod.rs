//! The registry's page for people: the pushed content, its size, deletion and collection. Forms and links, no script.
//!
//! ```text
//! door ─ Asked (path, fields) ─ csrf (is it a form of ours?) ─ access (rights?) ─┬─► look ─► pages
//!                                                        removal, collection ◄──┴─ confirmed
//! ```
//!
//! Invariants: the rights are the API's, decided by the same functions. A person without the right to pull does not see
//! a repository. A person without the right to delete gets no button, and 401 or 403 for a request. A form does the
//! same as DELETE, including events. GET changes nothing, and neither does a form from another site (`forgery`, `csrf`).

mod asked;
mod csrf;
mod look;
mod pages;
mod problem;

use std::sync::atomic::AtomicBool;

use std::time::Duration;

use entrepot_core::name::RepositoryName;
use entrepot_core::route::WEB_PATH as PATH;
use http::header::LOCATION;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;

use super::RegistryService;
use super::access::{AccessRefusal, Action, Principal, Wish};
use super::collection::sweep_of;
use super::forgery::{Forgery, check_change, check_host};
use super::removal::NotRemoved;
use super::request::LocalRequest;
use asked::{Asked, Deletion, Fields, form, place};
pub use csrf::CsrfKey;
use entrepot_cache::pull::{RequestScope, identity};
use entrepot_net::http::reply::Reply;
use entrepot_store::Repository;
use look::Look;
use problem::Problem;

/// The time that a collection's form waits for the end. After it, the page shows the running collection.
const SHORT_COLLECTION: Duration = Duration::from_secs(2);

/// A request to a page, with its visitor.
struct Guest {
    request: LocalRequest,
    /// Whether the request names this registry. Otherwise it may read, as with the API, but change nothing.
    host: Result<(), Forgery>,
}

/// Whether a path is below that of these pages.
pub fn is_here(path: &str) -> bool {
    path.strip_prefix(PATH.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request to a page.
pub async fn answer(service: &RegistryService, scope: &RequestScope, request: http::Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    if !head.uri.path().starts_with(PATH) {
        return see(StatusCode::PERMANENT_REDIRECT, PATH);
    }
    let is_head = head.method == Method::HEAD;
    let reply = match page(service, scope, head, body).await {
        Ok(reply) => reply,
        Err(problem) => problem.reply(),
    };
    // HEAD keeps the Content-Length of GET.
    if is_head { reply.without_body() } else { reply }
}

async fn page(service: &RegistryService, scope: &RequestScope, head: Parts, body: Incoming) -> Result<Reply, Problem> {
    let place = place(&head)?;
    let host = check_host(&service.local, &head);
    let is_form = place.method == Method::POST;
    let form = if is_form { Some(form(service, scope, &head, body).await?) } else { None };
    let query = || head.uri.query().unwrap_or_default().as_bytes();
    let fields = Fields(form.as_ref().map_or_else(query, |form| form.bytes()));
    let visitor = service
        .local
        .access()
        .identify(scope.connection.client.into(), identity::header(&head.headers).as_ref())
        .await?;
    if is_form {
        host?;
        check_change(&service.local, &head)?;
        service.local.csrf.check(&visitor.principal, &fields.get("seal").unwrap_or_default())?;
    }
    let asked = (place.read)(&fields).ok_or(Problem::Form)?;
    let done = head.uri.query().and_then(|query| Fields(query.as_bytes()).get("done"));
    let request = LocalRequest {
        registry: service.local.clone(),
        scope: scope.clone(),
        visitor,
        method: head.method,
        query: String::new(),
        headers: head.headers,
        bodies: service.pull.bodies.clone(),
        reads_body: AtomicBool::new(false),
    };
    Guest { request, host }.open(asked, done.as_deref()).await
}

fn see(status: StatusCode, place: &str) -> Reply {
    Reply::full(status, "text/plain", "").with(LOCATION, place)
}

impl Guest {
    async fn open(&self, asked: Asked, done: Option<&str>) -> Result<Reply, Problem> {
        match asked {
            Asked::Repositories { after } => self.show_repositories(after, done).await,
            Asked::Tags { repository, after } => self.show_tags(repository, after, done).await,
            Asked::Confirm(deletion) => self.confirm(deletion).await,
            Asked::Delete(deletion) => self.delete(deletion).await,
            Asked::Collect { dry_run } => self.run_collection(dry_run).await,
            Asked::LogIn => self.log_in(),
        }
    }

    /// The refusal makes the browser ask for a login. Without accounts the browser would ask for ever.
    fn log_in(&self) -> Result<Reply, Problem> {
        let is_anonymous = self.request.visitor.principal == Principal::Anonymous;
        match is_anonymous && self.request.registry.access().has_accounts() {
            true => Err(AccessRefusal::Unauthenticated { scope: None }.into()),
            false => Ok(see(StatusCode::SEE_OTHER, PATH)),
        }
    }

    async fn show_repositories(&self, after: Option<String>, done: Option<&str>) -> Result<Reply, Problem> {
        self.check(&Wish::Catalog)?;
        let part = self.look().repositories(after.as_deref()).await?;
        let held_bytes = self.request.registry.store.usage().pinned_bytes;
        Ok(pages::repositories(&self.shown(done), &part, held_bytes, self.may_change(&Wish::Collect)))
    }

    async fn show_tags(
        &self,
        repository: RepositoryName,
        after: Option<String>,
        done: Option<&str>,
    ) -> Result<Reply, Problem> {
        self.check(&Wish::In(&repository, Action::Pull))?;
        let held_bytes = self.repository(&repository).held_bytes().await?;
        let part = self.look().tags(&repository, after.as_deref()).await?;
        let may_delete = self.may_change(&Wish::In(&repository, Action::Delete));
        let part = part.ok_or(Problem::Unknown)?;
        Ok(pages::tags(&self.shown(done), &repository, &part, held_bytes, may_delete))
    }

    async fn confirm(&self, deletion: Deletion) -> Result<Reply, Problem> {
        self.check(&Wish::In(&deletion.repository, Action::Delete))?;
        self.host?;
        let repository = self.repository(&deletion.repository);
        let access = self.request.registry.access();
        if let Some(refusal) = deletion.target().kept(&repository, &access, &deletion.repository).await? {
            return Err(Problem::from(refusal));
        }
        let row = match deletion.tag.clone() {
            Some(tag) => Some(self.look().tag(&deletion.repository, tag).await?.ok_or(Problem::Unknown)?),
            None if repository.exists().await => None,
            None => return Err(Problem::Unknown),
        };
        Ok(pages::confirm(&self.shown(None), &deletion.repository, row.as_ref()))
    }

    async fn delete(&self, deletion: Deletion) -> Result<Reply, Problem> {
        let Deletion { repository, tag, digest } = &deletion;
        self.check(&Wish::In(repository, Action::Delete))?;
        if let (Some(tag), Some(expected)) = (tag.clone(), *digest) {
            let found = self.repository(repository).tag(&tag).await?;
            if found.is_some_and(|found| found != expected) {
                return Err(Problem::Moved);
            }
        }
        self.request.remove(repository, &deletion.target()).await?;
        Ok(match tag {
            Some(_) => see(StatusCode::SEE_OTHER, &format!("{PATH}repository?name={repository}&done=tag")),
            None => see(StatusCode::SEE_OTHER, &format!("{PATH}?done=repository")),
        })
    }

    /// Begins a collection, and waits a short time for its end.
    async fn run_collection(&self, dry_run: bool) -> Result<Reply, Problem> {
        self.check(&Wish::Collect)?;
        let registry = self.request.registry.clone();
        let sweep = sweep_of(&self.request.scope.snapshot.config.registry, dry_run);
        let running = tokio::spawn(async move { registry.collect_quietly(sweep).await });
        // If the collection runs on, the page shows its progress.
        let _ = tokio::time::timeout(SHORT_COLLECTION, running).await;
        Ok(see(StatusCode::SEE_OTHER, &format!("{PATH}?done=collection")))
    }

    fn check(&self, wish: &Wish<'_>) -> Result<(), Problem> {
        Ok(self.request.registry.access().may(&self.request.visitor, wish)?)
    }

    /// Whether the page has a button for it.
    fn may_change(&self, wish: &Wish<'_>) -> bool {
        self.host.is_ok() && self.check(wish).is_ok()
    }

    fn look(&self) -> Look<'_> {
        let (registry, visitor) = (&self.request.registry, &self.request.visitor);
        Look { store: &registry.store, access: registry.access(), visitor, may_change: self.host.is_ok() }
    }

    fn repository(&self, name: &RepositoryName) -> Repository {
        self.request.registry.store.repositories.at(name)
    }

    fn shown<'a>(&'a self, done: Option<&'a str>) -> pages::Shown<'a> {
        let access = self.request.registry.access();
        pages::Shown {
            user: self.request.visitor.principal.user(),
            may_log_in: access.has_accounts(),
            is_read_only: access.is_read_only(),
            max_size: access.max_size(),
            seal: self.host.map(|()| self.request.registry.csrf.of(&self.request.visitor.principal)),
            collections: self.request.registry.collections(),
            done,
            access,
        }
    }
}

impl From<NotRemoved> for Problem {
    fn from(why: NotRemoved) -> Self {
        match why {
            NotRemoved::Missing => Self::Unknown,
            NotRemoved::Refused(refusal) => refusal.into(),
            NotRemoved::Failed(error) => error.into(),
        }
    }
}
