//! The way to upstream registries, token servers and content networks.
//!
//! From the wire up:
//!
//! | module | task |
//! |---|---|
//! | [`address`] | decides which addresses may be dialled, and for which purpose |
//! | [`own`] | knows our own sockets, our name in `Via` and our certificate authorities |
//! | [`dial`] | resolves a name and connects to an address that policy permits |
//! | `parent` | CONNECT through a parent proxy, and the hosts that bypass it |
//! | `roots` | decides which certificates are trusted |
//! | [`connector`] | combines these into connections, with TLS where the URI says https |
//! | [`body`] | watches that request and response bodies make progress |
//! | [`client`] | pools connections and sends single requests |
//! | [`exchange`] | runs operations: authentication, redirects, quotas; everything else goes through it |
//! | [`operation`] | the requests that a registry may get, without origin and credential |
//! | [`registry`] | one upstream registry: scheme, token servers, added headers |
//! | [`credential`] | the login that a request uses |
//! | [`token`] | tokens that were fetched, and how registries ask for them |
//! | [`quota`] | the pull quotas that registries report |
//! | [`error`] | what failed, in which stage, and whose fault it is |
//!
//! Tunnels use [`connector::Reach`] directly. [`exchange::Upstream`] sends every other request.

pub mod address;
pub mod body;
pub mod client;
pub mod connector;
pub mod credential;
pub mod dial;
pub mod error;
pub mod exchange;
pub mod operation;
pub mod own;
mod parent;
pub mod quota;
pub mod registry;
mod roots;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
