//! The state that every door shares, made once at the start: the pipeline, the registry, the log of requests, and the
//! configuration that holds now.

use std::sync::{Arc, PoisonError, RwLock};

use http::Request;

use entrepot_cache::pull::{ConfigSnapshot, Pull};
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_net::tls::leaf::LeafStore;
use entrepot_observe::request_log::RequestLog;
use entrepot_registry::RegistryService;
use entrepot_setup::pages::{self, CaPage};

/// Shared by every connection.
pub struct AppState {
    /// Pulling through, with all its memories.
    pub pull: Arc<Pull>,
    /// Our own registry and its mirrors.
    pub registry: RegistryService,
    /// Takes the report of each request.
    pub log: Arc<RequestLog>,
    /// The content of the local pages.
    pub ca_page: CaPage,
    /// Certificates for intercepted names, and for our registry's own.
    pub leaves: Arc<LeafStore>,
    snapshot: RwLock<Arc<ConfigSnapshot>>,
}

impl AppState {
    /// With the configuration that holds now.
    pub fn new(
        pull: Arc<Pull>,
        registry: RegistryService,
        log: Arc<RequestLog>,
        ca_page: CaPage,
        leaves: Arc<LeafStore>,
        snapshot: Arc<ConfigSnapshot>,
    ) -> Arc<Self> {
        Arc::new(Self { pull, registry, log, ca_page, leaves, snapshot: RwLock::new(snapshot) })
    }

    /// The local page that is asked for. None if the path is not one of them.
    pub fn page<B>(&self, request: &Request<B>) -> Option<Reply> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let mirrors =
            || pages::mirror_pages::page(method, path, headers, &self.snapshot().config, self.ca_page.facts());
        let (head, body) = pages::page(method, path, headers, &self.ca_page).or_else(mirrors)?.into_parts();
        Some(Reply { status: head.status, headers: head.headers, body: ReplyBody::Full(body), refused: None })
    }

    /// The configuration that holds now. A request keeps the one that it began with.
    pub fn snapshot(&self) -> Arc<ConfigSnapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another configuration in force.
    pub fn set_snapshot(&self, snapshot: Arc<ConfigSnapshot>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}
