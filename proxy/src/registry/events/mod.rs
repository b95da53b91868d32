//! What happened in our registry, for those who want to hear of it.

use std::net::IpAddr;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use http::Method;

use super::access::Principal;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A manifest or blob arrived.
    Push,
    /// A blob was taken over from another repository.
    Mount,
    /// A manifest, tag, blob or repository was taken away.
    Delete,
}

/// One thing that happened. It is durable before anybody hears of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub deed: Deed,
    /// When.
    pub at: SystemTime,
    /// Where.
    pub repository: RepositoryName,
    /// The content, where it is about one.
    pub digest: Option<Digest>,
    /// Its length, where known.
    pub size_bytes: Option<u64>,
    /// Its type.
    pub media_type: Option<String>,
    /// The tag that was set or deleted.
    pub tag: Option<Tag>,
    /// Whence a blob was taken over.
    pub from: Option<RepositoryName>,
    /// Who did it.
    pub actor: Principal,
    /// The request; none where an administrator did it.
    pub request: Option<EventRequest>,
}

/// The request behind an event.
#[derive(Clone, Debug)]
pub struct EventRequest {
    /// From where.
    pub client: IpAddr,
    /// The door's name as the client wrote it.
    pub host: String,
    /// The method.
    pub method: Method,
    /// What the client calls itself.
    pub user_agent: String,
}

/// Where events go. Cloned freely; telling never waits.
#[derive(Clone, Default)]
pub struct Events {}

impl Events {
    /// Tells of an event.
    pub fn tell(&self, _event: Event) {}
}
