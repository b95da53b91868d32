//! Notes about names that lead to content: the link of a repository, the key of a tag, the manifest that it pointed to,
//! the content that an artefact's path gave.

use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::Tag;

use crate::place::Place;

/// The knowledge that a repository, or an artefact's path, has some content. Times are kept to the millisecond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Since when it is known without a break.
    pub linked_at: SystemTime,
    /// When upstream last served this content there to an anonymous client. None if it never did, or has refused
    /// anonymous clients since.
    pub public_at: Option<SystemTime>,
}

/// The key that a tag's answer is kept under.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagKey {
    pub place: Place,
    pub tag: Tag,
    /// The class of the request's `Accept`, which changes the answer.
    pub accept_class: u16,
}

/// The manifest that a tag pointed to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagEntry {
    pub digest: Digest,
    pub media_type: String,
    pub size_bytes: u64,
    /// When upstream last said so, to the millisecond.
    pub validated_at: SystemTime,
}

/// The content that the path of an artefact gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArtefactEntry {
    pub digest: Digest,
    pub size_bytes: u64,
    pub content_type: String,
    /// Other headers of the answer, to be given back.
    pub headers: Vec<(String, String)>,
    /// Since when it is known, and its own public proof.
    pub link: Link,
}
