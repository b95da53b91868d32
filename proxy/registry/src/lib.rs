//! The registry that is ours: what is pushed to it, pulled from it and deleted, by OCI Distribution 1.1, and other
//! registries by mirror names.
//!
//! ```text
//! door ── request ── access/ (the client's right) ─► blobs, manifests, lists     what is here
//!   │                                                 uploads ─ sessions, receive  what is coming
//!   ├── web/ (for people)                             removal, collection          what goes
//!   └── mirror ──► cache                              events/                      what happened
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
pub mod import;
mod lists;
mod manifests;
mod mirror;
mod names;
mod quota;
mod receive;
pub mod removal;
mod request;
mod sessions;
mod uploads;
pub mod web;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use entrepot_core::host::{HTTPS_PORT, RegistryHost};
use http::StatusCode;

use access::AccessControl;
use collection::Collections;
use entrepot_cache::pull::Pull;
use entrepot_config::ready::RegistrySettings;
use entrepot_store::Store;
use events::Events;
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
    names: RwLock<Arc<[Box<str>]>>,
    /// The ports of its doors when the process started.
    ports: Vec<u16>,
    collections: Collections,
    /// Proves that a form came from a page of ours.
    csrf: CsrfKey,
    /// Docker Hub could not be reached; it is not asked before.
    docker_hub_down_until: Mutex<Option<Instant>>,
}

/// Answers at the registry's door: our own registry, and the pipeline for the registries that it mirrors.
pub struct RegistryService {
    /// Our own registry.
    pub local: Arc<LocalRegistry>,
    /// Pulling through, for mirrors.
    pub pull: Arc<Pull>,
}

/// How long what is not here is taken for unknown after Docker Hub could not be reached.
const DOCKER_HUB_PAUSE: Duration = Duration::from_secs(30);

impl LocalRegistry {
    /// Over a store, with the uploads that an earlier process left; `ports` are those of its doors. Blocks.
    pub fn open(
        store: Arc<Store>,
        ports: Vec<u16>,
        settings: &RegistrySettings,
        access: AccessControl,
        events: Events,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions: Sessions::load(store.clone()),
            store,
            events,
            access: RwLock::new(Arc::new(access)),
            counting: tokio::sync::Mutex::default(),
            names: RwLock::new(names::own_names(settings)),
            ports,
            collections: Collections::default(),
            csrf: CsrfKey::new(),
            docker_hub_down_until: Mutex::default(),
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
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a host that a client names is this registry: its configured name on a default port, or any name or
    /// address of this machine on a port of the door.
    pub fn is_named(&self, settings: &RegistrySettings, host: &RegistryHost) -> bool {
        if self.ports.is_empty() {
            return false;
        }
        // An IPv4 address may be written as IPv6.
        let name = host.address().map_or_else(|| host.name().to_owned(), |ip| ip.to_canonical().to_string());
        let is_known = || self.names().iter().any(|known| **known == *name);
        let is_configured = host.name() == settings.hostname.name();
        let on_its_port = self.ports.contains(&host.port());
        (is_configured && matches!(host.port(), 80 | HTTPS_PORT)) || (on_its_port && (is_configured || is_known()))
    }

    /// Looks at this machine's name and addresses again. Blocks.
    pub fn refresh_names(&self, settings: &RegistrySettings) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names::own_names(settings);
    }

    /// Drops uploads that were not added to for so long. Returns their number.
    pub async fn expire_uploads(&self, after: Duration) -> usize {
        self.sessions.expire(after).await
    }

    fn is_docker_hub_down(&self) -> bool {
        let until = *self.docker_hub_down_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Notes Docker Hub's answer to a pull that our registry could not serve.
    fn heard_of_docker_hub(&self, status: StatusCode) {
        let is_down = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
        let until = is_down.then(|| Instant::now() + DOCKER_HUB_PAUSE);
        *self.docker_hub_down_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}
