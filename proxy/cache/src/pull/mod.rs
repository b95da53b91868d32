//! Pulling through: what a request to an intercepted registry is answered, from the cache where the client has the
//! right to it, from upstream else.
//!
//! Read `pipeline.rs` first: it tells a pull from its first decision to its reply, with `request.rs` as what every
//! phase needs and `error.rs` as the one way to fail. `manifest.rs` and `serve.rs` make replies; `asking.rs` asks
//! upstream, and `rights.rs` is asked before a stored byte leaves. `relay.rs` passes everything else on, pushes
//! included; `access.rs` answers pings and tokens; `artefacts.rs` caches what a configured pattern names.
//!
//! Invariant: a stored byte is given only to a credential that upstream serves, or served within the
//! verdict's life, the same repository of the same registry; a digest alone grants nothing.

pub mod access;
pub mod artefacts;
mod asking;
pub mod error;
mod heads;
pub mod identity;
pub mod issued;
mod known;
mod list_query;
mod lists;
pub mod manifest;
pub mod memory;
pub mod oversize;
pub mod pipeline;
pub mod relay;
pub mod replies;
pub mod request;
pub mod rights;
pub mod serve;
mod stale;
pub mod stored;
mod tag_policy;
mod told;
mod wish;

use std::sync::Arc;

use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;

use crate::fetch::table::InflightFetches;
use crate::pull::heads::LyingHeads;
use crate::pull::issued::IssuedTokens;
use crate::pull::lists::ListMemory;
use crate::pull::memory::{KeyedLocks, Negatives};
pub use crate::pull::request::{RequestContext, RequestScope};
use crate::pull::rights::Rights;
use crate::pull::told::ToldTags;
use entrepot_config::ready::{Account, LiveConfig};
use entrepot_net::http::held_body::HeldBodies;
use entrepot_observe::metrics::Metrics;
use entrepot_store::Store;
use entrepot_upstream::credential::Login;
use entrepot_upstream::registry_client::RegistryClient;
use entrepot_upstream::token_cache;
use entrepot_upstream::upstream_registry::{UpstreamRegistry, account, origin_of};

/// Pulling through, with all that it remembers for as long as the process lives.
pub struct Pull {
    /// Content and index.
    pub store: Arc<Store>,
    /// Blobs on their way.
    pub inflight: Arc<InflightFetches>,
    /// The verdicts about who may read which repository.
    pub rights: Rights,
    /// Tokens that were given to clients, theirs and ours.
    pub issued: IssuedTokens,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Requests' bodies that rest until they are complete.
    pub bodies: HeldBodies,
    manifest_locks: KeyedLocks,
    lists: ListMemory,
    negatives: Negatives,
    lying_heads: LyingHeads,
    told_tags: ToldTags,
}

/// The configuration in force and the way out that was built from it.
pub struct ConfigSnapshot {
    /// The configuration.
    pub config: LiveConfig,
    /// The way to upstreams.
    pub upstream: Arc<RegistryClient>,
}

impl Pull {
    /// With nothing remembered yet.
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>, bodies: HeldBodies) -> Arc<Self> {
        Arc::new(Self {
            inflight: InflightFetches::new(store.clone(), metrics.clone()),
            rights: Rights::default(),
            issued: IssuedTokens::default(),
            manifest_locks: KeyedLocks::default(),
            lists: ListMemory::default(),
            negatives: Negatives::default(),
            lying_heads: LyingHeads::default(),
            told_tags: ToldTags::default(),
            store,
            metrics,
            bodies,
        })
    }
}

impl ConfigSnapshot {
    /// The registry that `host` names, under this configuration and with what it has told about its token server.
    pub fn registry(&self, host: &RegistryHost) -> UpstreamRegistry {
        let registry = UpstreamRegistry::resolve(&self.config, host, None);
        match self.realm(&registry) {
            Some(realm) => UpstreamRegistry::resolve(&self.config, host, Some(&realm)),
            None => registry,
        }
    }

    /// The administrator's account for a repository, given to the registry or to its token server; the latter goes
    /// nowhere else. None as well for a minute after upstream refused it.
    pub fn account(&self, origin: &Origin, repository: Option<&RepositoryName>) -> Option<Login> {
        let (account, is_token_servers) = self.configured_account(origin, repository)?;
        let login = Login::of_account(account, is_token_servers);
        (!self.upstream.memory().refused_accounts.has(origin, login.id())).then_some(login)
    }

    /// The same for a push. None as well if the account only reads.
    pub fn account_for_pushes(&self, origin: &Origin, repository: Option<&RepositoryName>) -> Option<Login> {
        let (account, _) = self.configured_account(origin, repository)?;
        self.account(origin, repository).filter(|_| account.push)
    }

    /// Whether an account is configured, though upstream may not take it.
    pub fn has_account(&self, origin: &Origin, repository: Option<&RepositoryName>) -> bool {
        self.configured_account(origin, repository).is_some()
    }

    /// Whether upstream refused the registry's account lately.
    pub fn is_account_refused(&self, origin: &Origin, repository: Option<&RepositoryName>) -> bool {
        self.has_account(origin, repository) && self.account(origin, repository).is_none()
    }

    /// The account, and whether it is the token server's.
    fn configured_account(&self, origin: &Origin, repository: Option<&RepositoryName>) -> Option<(&Account, bool)> {
        if self.config.credentials.is_empty() {
            return None;
        }
        let name = repository.map(RepositoryName::as_str);
        let own = account(&self.config, origin, name).map(|account| (account, false));
        own.or_else(|| {
            let registry = UpstreamRegistry::resolve(&self.config, &origin.host, None);
            Some((account(&self.config, &self.realm(&registry)?, name)?, true))
        })
    }

    /// The origin of the registry's token server, if it has told one that is its own: it may name any. If the
    /// administrator gave an account for another one, it is said why that is not used.
    fn realm(&self, registry: &UpstreamRegistry) -> Option<Origin> {
        let scheme = self.upstream.memory().tokens.scheme(&registry.origin)?;
        let token_cache::AuthScheme::Bearer { realm, .. } = scheme else { return None };
        let origin = origin_of(&realm)?;
        if self.upstream.trusts(registry, &realm) {
            return Some(origin);
        }
        if account(&self.config, &origin, None).is_some() {
            self.upstream.warn_of_realm(registry, &realm);
        }
        None
    }
}
