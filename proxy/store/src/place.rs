//! A place where content is known to be: one repository of one registry. Links, tags and verdicts are kept under it.

use std::fmt;
use std::sync::Arc;

use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;

/// A repository of a registry. Clones share one value, so a clone costs nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place(Arc<(RegistryHost, RepositoryName)>);

impl Place {
    pub fn new(registry: RegistryHost, repository: RepositoryName) -> Self {
        Self(Arc::new((registry, repository)))
    }

    /// The registry, with its port.
    pub fn registry(&self) -> &RegistryHost {
        &self.0.0
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &RepositoryName {
        &self.0.1
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry(), self.repository())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
