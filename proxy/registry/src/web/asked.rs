//! The requests to pages: the table of pages, and the parser of their fields. If one field cannot be parsed, the whole
//! request is refused.

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use http::Method;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use hyper::body::Incoming;
use url::form_urlencoded;

use super::PATH;
use super::problem::Problem;
use crate::RegistryService;
use crate::removal::RemovalTarget;
use entrepot_cache::pull::RequestScope;
use entrepot_net::http::held_body::{HeldBody, NotHeld};

/// The longest form that is read: a name, a tag, a digest and a seal.
const FORM_MAX_BYTES: usize = 8 << 10;

/// A request to a page, with its fields parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Repositories {
        after: Option<String>,
    },
    Tags {
        repository: RepositoryName,
        after: Option<String>,
    },
    /// Shows the question before a deletion.
    Confirm(Deletion),
    Delete(Deletion),
    Collect {
        dry_run: bool,
    },
    /// Has the browser ask for a name and a password.
    LogIn,
}

/// The content that is to be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Deletion {
    pub(super) repository: RepositoryName,
    /// None if the whole repository is to be deleted.
    pub(super) tag: Option<Tag>,
    /// The digest that the tag had when the question was asked.
    pub(super) digest: Option<Digest>,
}

/// Fields of a query or a form.
pub(super) struct Fields<'f>(pub(super) &'f [u8]);

/// A line of the table of pages.
pub(super) struct Place {
    path: &'static str,
    pub(super) method: Method,
    pub(super) read: fn(&Fields<'_>) -> Option<Asked>,
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

/// The line of the table for a request.
pub(super) fn place(head: &Parts) -> Result<&'static Place, Problem> {
    static TABLE: [Place; 6] = PLACES;
    let path = head.uri.path().strip_prefix(PATH).unwrap_or_default();
    let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
    let mut here = TABLE.iter().filter(|place| place.path == path).peekable();
    here.peek().ok_or(Problem::Unknown)?;
    here.find(|place| place.method == *method).ok_or(Problem::Method)
}

/// The body of a form.
pub(super) async fn form(
    service: &RegistryService,
    scope: &RequestScope,
    head: &Parts,
    body: Incoming,
) -> Result<HeldBody, Problem> {
    let told = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = told.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Problem::Form);
    }
    let (client, patience) = (scope.connection.client.into(), scope.snapshot.config.client.body_timeout);
    let received = service.pull.bodies.receive(client, body, FORM_MAX_BYTES, patience).await;
    received.map_err(|why| if why == NotHeld::Stalled { Problem::Stalled } else { Problem::Form })
}

impl Fields<'_> {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut found = form_urlencoded::parse(self.0).filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// If one field cannot be parsed, the whole form is refused: a tag with a typing error must not delete a whole
    /// repository.
    fn deletion(&self) -> Option<Deletion> {
        let tag = self.get("tag").map(|text| text.parse()).transpose().ok()?;
        let digest = self.get("digest").map(|text| text.parse()).transpose().ok()?;
        Some(Deletion { repository: self.parsed("name")?, tag, digest })
    }
}

impl Deletion {
    pub(super) fn target(&self) -> RemovalTarget {
        self.tag.clone().map_or(RemovalTarget::Everything, RemovalTarget::Image)
    }
}
