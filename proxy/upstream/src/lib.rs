//! The way to upstream registries, token servers and content networks.
//!
//! From the wire up:
//!
//! | module | task |
//! |---|---|
//! | [`address_policy`] | decides which addresses may be dialled, and for which purpose |
//! | [`own`] | knows our own sockets, our name in `Via` and our certificate authorities |
//! | `lookups` | asks the resolver, with a pool for each kind of names |
//! | [`dial`] | resolves a name and connects to an address that policy permits |
//! | `parent_proxy` | CONNECT through a parent proxy, and the hosts that bypass it |
//! | `roots` | decides which certificates are trusted |
//! | [`connector`] | combines these into connections, with TLS where the URI says https |
//! | `origin_states` | remembers origins that do not answer, so that checks do not wait for them |
//! | [`timed_body`] | watches that request and response bodies make progress |
//! | [`http_client`] | pools connections and sends single requests |
//! | [`registry_client`] | runs operations: authentication, redirects, quotas; everything else goes through it |
//! | [`operation`] | the requests that a registry may get, without origin and credential |
//! | [`upstream_registry`] | one upstream registry: scheme, token servers, added headers |
//! | [`credential`] | the login that a request uses |
//! | [`token_cache`] | tokens that were fetched, and how registries ask for them |
//! | [`budget`] | decides when a registry that answered 429 may be asked again; pure |
//! | [`governors`] | a governor of `budget` for each registry, source and credential |
//! | [`pull_quota`] | the pull quotas that registries report |
//! | [`error`] | what failed, in which stage, and whose fault it is |
//!
//! Tunnels use [`connector::Reach`] directly. [`registry_client::RegistryClient`] sends every other request.

pub mod address_policy;
pub mod budget;
pub mod connector;
pub mod credential;
pub mod dial;
pub mod error;
pub mod governors;
pub mod http_client;
mod lookups;
pub mod operation;
mod origin_states;
pub mod own;
mod parent_proxy;
pub mod pull_quota;
pub mod refused_accounts;
pub mod registry_client;
mod roots;
#[cfg(test)]
pub(crate) mod testing;
pub mod timed_body;
pub mod token_cache;
pub mod upstream_registry;
