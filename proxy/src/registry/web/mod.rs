//! The registry's page for people: what was pushed, what it takes, deletion and collection. Forms and links, no script.
//!
//! ```text
//! door ─ Asked (path, fields) ─ seal (is it a form of ours?) ─ access (may he?) ─┬─► look ─► pages
//!                                                        removal, collection ◄──┴─ confirmed
//! ```
//!
//! Invariants: rights are the API's, asked by the same functions: who may not pull does not see a repository, who may not
//! delete gets no button, and 401 or 403 when he asks all the same. What a form does is what DELETE does, events included.
//! Nothing is changed by GET, nor by a form that is not from here (`seal`).

mod look;
mod pages;
mod problem;
mod seal;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::task::spawn_blocking;
use url::form_urlencoded;

use super::access::{Action, Principal, Refusal, Wish};
use super::door::Arrival;
use super::removal::{NotRemoved, Target};
use super::request::Request;
use crate::http::dispatch::Site;
use crate::http::reply::Reply;
use crate::pull::{identity, offload};
use crate::store::{StoreError, Sweep};
use look::Look;
use problem::Problem;
pub use seal::Seal;
use seal::{check_host, check_origin};

/// Where it is.
pub const PATH: &str = "/registry/";
/// The longest form that is read: a name, a tag, a digest and a seal.
const FORM_MAX_BYTES: usize = 8 << 10;
/// A collection that takes longer is shown as it runs.
const SHORT_COLLECTION: Duration = Duration::from_secs(2);

/// What a request asks for, its fields read.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Asked {
    Repositories {
        after: Option<String>,
    },
    Tags {
        repository: RepositoryName,
        after: Option<String>,
    },
    /// The question before a deletion.
    Confirm(Deletion),
    Delete(Deletion),
    Collect {
        dry_run: bool,
    },
    /// Has the browser ask for a name and a password.
    LogIn,
}

/// What is to be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Deletion {
    repository: RepositoryName,
    /// None: all of the repository.
    tag: Option<Tag>,
    /// Where the tag pointed when the question was asked.
    digest: Option<Digest>,
}

/// Fields of a query or a form.
struct Fields<'f>(&'f [u8]);

/// A line of the table of pages.
struct Place {
    path: &'static str,
    method: Method,
    read: fn(&Fields<'_>) -> Option<Asked>,
}

const PLACES: [Place; 6] = [
    Place { path: "", method: Method::GET, read: |fields| Some(Asked::Repositories { after: fields.get("after") }) },
    Place {
        path: "repository",
        method: Method::GET,
        read: |fields| Some(Asked::Tags { repository: fields.parsed("name")?, after: fields.get("after") }),
    },
    Place { path: "delete", method: Method::GET, read: |fields| fields.deletion().map(Asked::Confirm) },
    Place { path: "delete", method: Method::POST, read: |fields| fields.deletion().map(Asked::Delete) },
    Place {
        path: "collect",
        method: Method::POST,
        read: |fields| Some(Asked::Collect { dry_run: fields.get("dry_run").is_some() }),
    },
    Place { path: "login", method: Method::GET, read: |_| Some(Asked::LogIn) },
];

/// Whether a path is one of these pages, or would be.
pub(super) fn is_here(path: &str) -> bool {
    path.strip_prefix(PATH.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request to a page.
pub(super) async fn answer(site: &Arc<Site>, arrival: &Arrival, request: http::Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    if !head.uri.path().starts_with(PATH) {
        return see(StatusCode::PERMANENT_REDIRECT, PATH);
    }
    let is_head = head.method == Method::HEAD;
    let reply = match page(site, arrival, head, body).await {
        Ok(reply) => reply,
        Err(problem) => problem.reply(),
    };
    // The length of what GET would send stays in the head.
    if is_head { reply.without_body() } else { reply }
}

async fn page(site: &Arc<Site>, arrival: &Arrival, head: Parts, body: Incoming) -> Result<Reply, Problem> {
    let live = site.live();
    check_host(&site.registry, &live.config.registry, &head)?;
    let place = place(&head)?;
    let is_form = place.method == Method::POST;
    let form = if is_form { form(&head, body, live.config.client.body_timeout).await? } else { Bytes::new() };
    let fields = Fields(if is_form { &form } else { head.uri.query().unwrap_or_default().as_bytes() });
    let visitor = site.registry.access().identify(identity::header(&head.headers).as_ref()).await?;
    if is_form {
        check_origin(&head)?;
        site.registry.seal.check(&visitor.principal, &fields.get("seal").unwrap_or_default())?;
    }
    let asked = (place.read)(&fields).ok_or(Problem::Form)?;
    let done = head.uri.query().and_then(|query| Fields(query.as_bytes()).get("done"));
    let request = Request {
        registry: site.registry.clone(),
        live,
        visitor,
        client: arrival.client,
        scheme: arrival.scheme,
        method: head.method,
        query: String::new(),
        headers: head.headers,
    };
    request.open(asked, done.as_deref()).await
}

fn place(head: &Parts) -> Result<&'static Place, Problem> {
    static TABLE: [Place; 6] = PLACES;
    let path = head.uri.path().strip_prefix(PATH).unwrap_or_default();
    let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
    let mut here = TABLE.iter().filter(|place| place.path == path).peekable();
    here.peek().ok_or(Problem::Unknown)?;
    here.find(|place| place.method == *method).ok_or(Problem::Method)
}

/// The body of a form.
async fn form(head: &Parts, body: Incoming, timeout: Duration) -> Result<Bytes, Problem> {
    let told = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = told.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Problem::Form);
    }
    match tokio::time::timeout(timeout, Limited::new(body, FORM_MAX_BYTES).collect()).await {
        Ok(Ok(form)) => Ok(form.to_bytes()),
        _ => Err(Problem::Form),
    }
}

fn see(status: StatusCode, place: &str) -> Reply {
    Reply::full(status, "text/plain", "").with(LOCATION, place)
}

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let mut found = form_urlencoded::parse(self.0).filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// A field that is there and not understood makes the whole not understood: a tag with a slip of the pen must not
    /// become a whole repository.
    fn deletion(&self) -> Option<Deletion> {
        let tag = self.get("tag").map(|text| text.parse()).transpose().ok()?;
        let digest = self.get("digest").map(|text| text.parse()).transpose().ok()?;
        Some(Deletion { repository: self.parsed("name")?, tag, digest })
    }
}

impl Request {
    async fn open(&self, asked: Asked, done: Option<&str>) -> Result<Reply, Problem> {
        match asked {
            Asked::Repositories { after } => self.show_repositories(after, done).await,
            Asked::Tags { repository, after } => self.show_tags(repository, after, done).await,
            Asked::Confirm(deletion) => self.confirm(deletion).await,
            Asked::Delete(deletion) => self.delete(deletion).await,
            Asked::Collect { dry_run } => self.run_collection(dry_run).await,
            Asked::LogIn if self.visitor.principal == Principal::Anonymous => {
                Err(Refusal::Unauthenticated { scope: None }.into())
            }
            Asked::LogIn => Ok(see(StatusCode::SEE_OTHER, PATH)),
        }
    }

    async fn show_repositories(&self, after: Option<String>, done: Option<&str>) -> Result<Reply, Problem> {
        self.check(&Wish::Catalog)?;
        let list = self.look(move |look| Ok((look.repositories(after.as_deref())?, look.store.pushed_usage(None)?)));
        let (part, held_bytes) = list.await?;
        Ok(pages::repositories(&self.shown(done), &part, held_bytes, self.check(&Wish::Collect).is_ok()))
    }

    async fn show_tags(
        &self,
        repository: RepositoryName,
        after: Option<String>,
        done: Option<&str>,
    ) -> Result<Reply, Problem> {
        self.check(&Wish::In(&repository, Action::Pull))?;
        let named = repository.clone();
        let found = self.look(move |look| {
            let held_bytes = look.store.pushed_usage(Some(&named))?;
            Ok((look.tags(&named, after.as_deref())?, held_bytes, look.may_delete(&named)))
        });
        let (part, held_bytes, may_delete) = found.await?;
        let part = part.ok_or(Problem::Unknown)?;
        Ok(pages::tags(&self.shown(done), &repository, &part, held_bytes, may_delete))
    }

    async fn confirm(&self, deletion: Deletion) -> Result<Reply, Problem> {
        self.check(&Wish::In(&deletion.repository, Action::Delete))?;
        let (named, tag) = (deletion.repository.clone(), deletion.tag.clone());
        let target = deletion.target();
        let found = self.look(move |look| {
            if let Some(refusal) = target.kept(look.store, look.access, &named)? {
                return Ok(Err(Problem::from(refusal)));
            }
            Ok(match tag {
                Some(tag) => look.tag(&named, tag)?.map(Some).ok_or(Problem::Unknown),
                None => look.store.has_repository(&named).then_some(None).ok_or(Problem::Unknown),
            })
        });
        let row = found.await??;
        Ok(pages::confirm(&self.shown(None), &deletion.repository, row.as_ref()))
    }

    async fn delete(&self, deletion: Deletion) -> Result<Reply, Problem> {
        let Deletion { repository, tag, digest } = &deletion;
        self.check(&Wish::In(repository, Action::Delete))?;
        if let (Some(tag), Some(expected)) = (tag.clone(), *digest) {
            let named = repository.clone();
            let found = self.look(move |look| look.store.pushed_tag(&named, &tag)).await?;
            if found.is_some_and(|found| found != expected) {
                return Err(Problem::Moved);
            }
        }
        self.remove(repository, &deletion.target()).await?;
        Ok(match tag {
            Some(_) => see(StatusCode::SEE_OTHER, &format!("{PATH}repository?name={repository}&done=tag")),
            None => see(StatusCode::SEE_OTHER, &format!("{PATH}?done=repository")),
        })
    }

    /// Begins one, and waits for it a moment.
    async fn run_collection(&self, dry_run: bool) -> Result<Reply, Problem> {
        self.check(&Wish::Collect)?;
        let registry = self.registry.clone();
        let sweep = Sweep { grace: self.live.config.registry.grace, untagged: false, dry_run };
        let running = spawn_blocking(move || registry.collect_quietly(sweep));
        // However it goes on, the page shows how far it is.
        let _ = tokio::time::timeout(SHORT_COLLECTION, running).await;
        Ok(see(StatusCode::SEE_OTHER, &format!("{PATH}?done=collection")))
    }

    fn check(&self, wish: &Wish<'_>) -> Result<(), Problem> {
        Ok(self.registry.access().may(&self.visitor, wish)?)
    }

    /// Looks at the store, off the event loop.
    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Look<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let (store, access, visitor) = (self.registry.store.clone(), self.registry.access(), self.visitor.clone());
        let found = offload(move || read(&Look { store: &store, access: &access, visitor: &visitor }));
        Ok(found.await.ok_or(Problem::BrokenOff)??)
    }

    fn shown<'a>(&'a self, done: Option<&'a str>) -> pages::Shown<'a> {
        let access = self.registry.access();
        pages::Shown {
            user: self.visitor.principal.user(),
            may_log_in: access.has_accounts(),
            is_read_only: access.is_read_only(),
            max_size: access.max_size(),
            seal: self.registry.seal.of(&self.visitor.principal),
            collections: self.registry.collections(),
            done,
            access,
        }
    }
}

impl Deletion {
    fn target(&self) -> Target {
        self.tag.clone().map_or(Target::Everything, Target::Image)
    }
}

impl From<NotRemoved> for Problem {
    fn from(why: NotRemoved) -> Self {
        match why {
            NotRemoved::Missing => Self::Unknown,
            NotRemoved::Refused(refusal) => refusal.into(),
            NotRemoved::Failed(error) => error.into(),
            NotRemoved::BrokenOff => Self::BrokenOff,
        }
    }
}
