//! What is noted of names that lead to content: the key of a tag, what it pointed to, what an artefact's path gave.

use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::Tag;

use crate::place::Place;

/// What a tag's answer is kept under.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagKey {
    /// The repository.
    pub place: Place,
    /// Its tag.
    pub tag: Tag,
    /// The class of the request's `Accept`, which changes the answer.
    pub accept_class: u16,
}

/// What a tag pointed to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagEntry {
    /// The manifest.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
    /// Its size.
    pub size_bytes: u64,
    /// When upstream last said so; kept to the millisecond.
    pub validated_at: SystemTime,
}

/// What the path of an artefact gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArtefactEntry {
    /// The content.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Other headers to give back.
    pub headers: Vec<(String, String)>,
}
