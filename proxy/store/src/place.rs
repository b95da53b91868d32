//! A place where content is known to be: one repository of one origin. Links, their proofs and tags are kept under it.
//! An artefact has no place; like a repository it is something that upstream gives to anonymous clients or refuses.

use std::fmt;
use std::sync::Arc;

use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;

/// A repository of an origin. Clones share one value, so a clone costs nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place(Arc<(Origin, RepositoryName)>);

impl Place {
    pub fn new(origin: Origin, repository: RepositoryName) -> Self {
        Self(Arc::new((origin, repository)))
    }

    /// The registry as it is reached.
    pub fn origin(&self) -> &Origin {
        &self.0.0
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &RepositoryName {
        &self.0.1
    }
}

/// The thing that upstream gives to anonymous clients or refuses to them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Holder {
    Repository(Place),
    /// An artefact: its origin, and its path and query.
    Artefact(Origin, Box<str>),
}

impl Holder {
    pub(crate) fn artefact(origin: &Origin, path_and_query: &str) -> Self {
        Self::Artefact(origin.clone(), path_and_query.into())
    }
}

impl From<&Place> for Holder {
    fn from(place: &Place) -> Self {
        Self::Repository(place.clone())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.origin(), self.repository())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
