//! Pulling through: what a request to an intercepted registry is answered, from the cache where the client has the
//! right to it, from upstream else.
//!
//! `tags.rs`, `manifests.rs` and `blobs.rs` answer reads; `relay.rs` passes everything else on, pushes included;
//! `access.rs` answers pings and tokens; `artefacts.rs` caches what a configured pattern names. All of them ask
//! `rights.rs` before a stored byte leaves. Below are `fill/`, `upstream/` and `store/`.
//!
//! Invariant (DESIGN 2.2): a stored byte is given only to a credential that upstream serves, or served within the
//! verdict's life, the same repository of the same registry; a digest alone grants nothing.

pub mod access;
pub mod artefacts;
pub mod blob_reply;
pub mod blobs;
pub mod identity;
pub mod issued;
pub mod manifests;
pub mod memory;
pub mod oversize;
pub mod relay;
pub mod replies;
pub mod rights;
pub mod stored;
pub mod tags;

use std::sync::Arc;

use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::route::Route;
use http::{HeaderMap, Method};
use hyper::body::Incoming;
use tokio::task::spawn_blocking;

use crate::fetch::source::Source;
use crate::fetch::table::InflightFetches;
use crate::pull::issued::IssuedTokens;
use crate::pull::memory::{KeyedLocks, Negatives};
use crate::pull::rights::Rights;
use entrepot_config::ready::{LiveConfig, Scheme};
use entrepot_net::http::reply::Reply;
use entrepot_observe::metrics::Metrics;
use entrepot_store::Store;
use entrepot_upstream::credential::{Credential, Login};
use entrepot_upstream::exchange::Upstream;
use entrepot_upstream::registry::{Registry, account, host_of};
use entrepot_upstream::token;

/// What pulling remembers, for as long as the process lives.
pub struct Pull {
    /// Content and index.
    pub store: Arc<Store>,
    /// Blobs on their way.
    pub inflight: Arc<InflightFetches>,
    /// Who may read what.
    pub rights: Rights,
    /// Tokens that were given to clients, theirs and ours.
    pub issued: IssuedTokens,
    /// Counters.
    pub metrics: Arc<Metrics>,
    manifest_locks: KeyedLocks,
    negatives: Negatives,
}

/// The configuration in force and the way out that was built from it.
pub struct ConfigSnapshot {
    /// The configuration.
    pub config: LiveConfig,
    /// The way to upstreams.
    pub upstream: Arc<Upstream>,
}

/// One request to one registry.
pub struct Call {
    /// The configuration that it is answered under.
    pub snapshot: Arc<ConfigSnapshot>,
    /// Where it goes.
    pub registry: Registry,
    /// As whom.
    pub credential: Credential,
    /// What the client speaks to us.
    pub client_scheme: Scheme,
    /// The client's method.
    pub method: Method,
    /// The client's path and query.
    pub path_and_query: String,
    /// The client's headers.
    pub headers: HeaderMap,
}

impl Pull {
    /// With nothing remembered yet.
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            inflight: InflightFetches::new(store.clone(), metrics.clone()),
            rights: Rights::new(store.clone()),
            issued: IssuedTokens::default(),
            manifest_locks: KeyedLocks::default(),
            negatives: Negatives::default(),
            store,
            metrics,
        })
    }

    /// Answers a request that the grammar read as `route`.
    pub async fn answer(self: &Arc<Self>, call: &Call, route: Route, body: Incoming) -> Reply {
        if route.is_push(&call.method) {
            return self.push(call, &route, body).await;
        }
        if !route.allows(&call.method) {
            return Reply::error(ErrorCode::Unsupported, "").because("method");
        }
        match route {
            Route::Ping => self.ping(call).await,
            Route::Manifest { repository, reference } => self.manifest(call, &repository, &reference).await,
            Route::Blob { repository, digest } => self.blob(call, &repository, &digest).await,
            Route::Other => self.other(call, body).await,
            route => self.read_through(call, &route).await,
        }
    }
}

impl ConfigSnapshot {
    /// The registry that `host` names, under this configuration and with what it has told about its token server.
    pub fn registry(&self, host: &RegistryHost) -> Registry {
        let registry = Registry::resolve(&self.config, host, None);
        match self.realm_host(&registry) {
            Some(realm) => Registry::resolve(&self.config, host, Some(&realm)),
            None => registry,
        }
    }

    /// The administrator's account for a repository, given to the registry or to its token server.
    pub fn account(&self, host: &RegistryHost, repository: Option<&RepositoryName>) -> Option<Login> {
        let name = repository.map(RepositoryName::as_str);
        account(&self.config, host, name).or_else(|| {
            let registry = Registry::resolve(&self.config, host, None);
            account(&self.config, &self.realm_host(&registry)?, name)
        })
    }

    /// The host of the registry's token server, where it has told one that is its own: it may name any.
    fn realm_host(&self, registry: &Registry) -> Option<RegistryHost> {
        match self.upstream.memory().tokens.scheme(&registry.host)? {
            token::Scheme::Bearer { realm, .. } if self.upstream.trusts(registry, &realm) => host_of(&realm),
            _ => None,
        }
    }
}

impl Call {
    /// Where the bytes of this request can be had.
    pub fn source(&self, repository: &RepositoryName) -> Source {
        Source {
            upstream: self.snapshot.upstream.clone(),
            registry: self.registry.clone(),
            repository: repository.clone(),
            credential: self.credential.clone(),
            elsewhere: None,
        }
    }

    /// The same request made as somebody else.
    pub fn with_credential(&self, credential: Credential) -> Self {
        Self {
            snapshot: self.snapshot.clone(),
            registry: self.registry.clone(),
            credential,
            client_scheme: self.client_scheme,
            method: self.method.clone(),
            path_and_query: self.path_and_query.clone(),
            headers: self.headers.clone(),
        }
    }

    /// Whether only the head is asked.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// Runs a store operation off the event loop. `None` only where it panicked, which is our bug and logged as such.
pub async fn offload<T: Send + 'static>(operation: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match spawn_blocking(operation).await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!("a store operation failed, please report this: {error}");
            None
        }
    }
}
