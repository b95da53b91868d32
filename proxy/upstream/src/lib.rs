//! Upstream: how requests reach registries, token servers and content networks.
//!
//! From the wire up: `address` decides which addresses may be dialled (`own` knows which are ourselves), `dial`
//! resolves and connects, `parent` goes through a parent proxy, `roots` decides whom TLS trusts, `connector` joins
//! these into connections, `body` watches that bodies progress, `client` pools and sends. `error` names what failed.
//! On top of that, `exchange` runs one `operation` against one `registry` as one `credential`: redirects, challenges
//! (`token`) and pull quotas (`quota`).

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
pub mod parent;
pub mod quota;
pub mod registry;
pub mod roots;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
