//! The registry that is ours: what is pushed to it, pulled from it and deleted, by OCI Distribution 1.1, and other
//! registries by mirror names.
//!
//! ```text
//! door ── request ── access/ (the client's right) ─► blobs, manifests, lists     what is here
//!   │                                                 uploads ─ sessions, receive  what is coming
//!   ├── web/ (for people)                             removal, collection          what goes
//!   └── meant ── mirror ► cache                           events/                      what happened
//! ```
//!
//! Pushed content lies in the store's repositories. This crate alone gives it out; the cache's content is given only by
//! the pipeline, under upstream's rights. One blob may be in both, with its bytes once on the disk. Failures are
//! `error`'s.

pub mod access;
mod blobs;
pub mod collection;
pub mod door;
mod error;
pub mod events;
mod forgery;
pub mod import;
mod list_memory;
mod lists;
mod manifest_reading;
mod manifests;
mod meant;
mod mirror;
mod names;
mod own_url;
mod quota;
mod receive;
pub mod removal;
mod request;
mod sessions;
mod uploads;
pub mod web;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use entrepot_core::docker_hub;
use entrepot_core::host::{HTTPS_PORT, RegistryHost};
use entrepot_core::name::RepositoryName;

use access::AccessControl;
use collection::Collections;
use entrepot_cache::pull::{ConfigSnapshot, Pull};
use entrepot_config::ready::RegistrySettings;
use entrepot_store::Store;
use events::Events;
use list_memory::ListMemory;
use manifest_reading::ManifestReader;
use names::OwnNames;
use quota::Arriving;
use sessions::Sessions;
use web::CsrfKey;

/// Our registry, for as long as the process lives.
pub struct LocalRegistry {
    /// Content, and who has it.
    pub store: Arc<Store>,
    /// Tells receivers of changes.
    pub events: Events,
    sessions: Sessions,
    access: RwLock<Arc<AccessControl>>,
    /// Held while it is counted whether something has room, until it is there.
    counting: tokio::sync::Mutex<()>,
    /// The bytes of uploads that run.
    arriving: Arc<Arriving>,
    names: RwLock<OwnNames>,
    /// The ports of its doors when the process started.
    ports: Vec<u16>,
    collections: Collections,
    lists: ListMemory,
    manifest_reader: ManifestReader,
    /// Proves that a form came from a page of ours.
    csrf: CsrfKey,
}

/// The most repositories of one kind that the log names.
const SHADOWED_NAMED_MAX: usize = 20;

/// Answers at the registry's door: our own registry, and the pipeline for the registries that it mirrors.
pub struct RegistryService {
    /// Our own registry.
    pub local: Arc<LocalRegistry>,
    /// Pulling through, for mirrors.
    pub pull: Arc<Pull>,
}

impl LocalRegistry {
    /// Over a store, with the uploads that an earlier process left; `ports` are those of its doors. Blocks.
    pub fn open(
        store: Arc<Store>,
        ports: Vec<u16>,
        settings: &RegistrySettings,
        access: AccessControl,
        events: Events,
    ) -> Arc<Self> {
        let arriving = Arc::default();
        Arc::new(Self {
            sessions: Sessions::load(store.clone(), &arriving),
            arriving,
            store,
            events,
            access: RwLock::new(Arc::new(access)),
            counting: tokio::sync::Mutex::default(),
            names: RwLock::new(names::own_names(settings)),
            ports,
            collections: Collections::default(),
            lists: ListMemory::default(),
            manifest_reader: ManifestReader::default(),
            csrf: CsrfKey::new(),
        })
    }

    /// The rules that hold now.
    pub fn access(&self) -> Arc<AccessControl> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules in force.
    pub fn set_access(&self, access: AccessControl) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Tells the last events, as long as the deadline lets it.
    pub async fn close(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.events.close()).await.is_err() {
            tracing::warn!("some receivers did not hear of the last events (registry.notifications)");
        }
    }

    /// The names and addresses that its certificate is for.
    pub fn names(&self) -> Arc<[Box<str>]> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).certified.clone()
    }

    /// Whether a host that a client names is this registry: a configured name on a default port, or any name or address
    /// of this machine on a port of the door.
    pub fn is_named(&self, settings: &RegistrySettings, host: &RegistryHost) -> bool {
        let is_configured =
            || [&settings.hostname].into_iter().chain(&settings.names).any(|own| own.name() == host.name());
        let is_default = !self.ports.is_empty() && matches!(host.port(), 80 | HTTPS_PORT);
        (is_default && is_configured()) || (self.ports.contains(&host.port()) && self.is_own_name(host))
    }

    /// Whether a host is one of our names or addresses, on whatever port.
    pub(crate) fn is_own_name(&self, host: &RegistryHost) -> bool {
        self.names.read().unwrap_or_else(PoisonError::into_inner).has(host)
    }

    /// Looks at this machine's name and addresses again. Blocks.
    pub fn refresh_names(&self, settings: &RegistrySettings) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names::own_names(settings);
    }

    /// The number of uploads that run.
    pub fn uploads(&self) -> usize {
        self.sessions.count()
    }

    /// Drops uploads that were not added to for so long, and sooner those that are empty. Returns their number.
    pub async fn expire_uploads(&self, after: Duration, empty_after: Duration) -> usize {
        self.sessions.expire(after, empty_after).await
    }

    /// Says in the log which repositories were pushed under names that mean another registry now: below `library/` by an
    /// earlier release, or below a host that was listed since.
    pub async fn name_shadowed_repositories(&self, config: Arc<ConfigSnapshot>) {
        let is_hidden = |name: &RepositoryName| name.as_str().starts_with(docker_hub::OFFICIAL);
        self.name_some(
            is_hidden,
            "pushed content lies below library/, which is Docker Hub's",
            "It is given to nobody; push it under another name, and remove it with `entrepot registry rm`",
        )
        .await;
        let is_mirrored = move |name: &RepositoryName| meant::names_another_registry(&config.config, name.as_str());
        self.name_some(
            is_mirrored,
            "pushed content has names that begin with a listed registry's",
            "Clients that ask by such a name still get what was pushed, and not the registry's repository of that name, \
             which they get with ?ns= or through the proxy. No more can be pushed there: push under another name, and \
             remove it with `entrepot registry rm`",
        )
        .await;
    }

    async fn name_some(
        &self,
        is_named: impl Fn(&RepositoryName) -> bool + Send + 'static,
        found: &'static str,
        advice: &'static str,
    ) {
        match self.store.repositories.list(None, SHADOWED_NAMED_MAX, is_named).await {
            Ok((names, _)) if names.is_empty() => {}
            Ok((names, more)) => {
                let names: Vec<_> = names.iter().map(RepositoryName::as_str).collect();
                let names = names.join(", ");
                tracing::warn!("{found}: {names}{}. {advice}", if more { " and more" } else { "" });
            }
            Err(error) => tracing::warn!("the repositories cannot be listed: {error}"),
        }
    }
}
