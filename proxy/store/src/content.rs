//! The names of content that an origin gives: a digest, or a path whose digest is known only at its end. Bytes on their
//! way are found by origin and name, here and after a pause.

use std::fmt;
use std::sync::Arc;

use entrepot_core::digest::Digest;
use entrepot_core::origin::Origin;

/// The name of content at its origin.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ContentName {
    /// The digest that its bytes have.
    Digest(Digest),
    /// The path and query of an artefact. Nothing tells beforehand which bytes it names.
    Path(Arc<str>),
}

/// The origin and the name of content. Bytes whose digest is not proven yet belong to one origin: a client of another
/// one neither gets them nor adds to them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ContentKey {
    pub origin: Origin,
    pub name: ContentName,
}

impl ContentName {
    /// The digest. None for an artefact.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Path(_) => None,
        }
    }
}

impl From<Digest> for ContentName {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// As it stands in messages: without the query, where tokens and signatures are.
impl fmt::Display for ContentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => fmt::Display::fmt(digest, formatter),
            Self::Path(path) => formatter.write_str(path.split('?').next().unwrap_or_default()),
        }
    }
}
