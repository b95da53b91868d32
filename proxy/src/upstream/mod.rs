//! Upstream: how requests reach registries, token servers and content networks.
//!
//! From the wire up: `address` decides which addresses may be dialled (`own` knows which are ourselves), `dial`
//! resolves and connects, `parent` goes through a parent proxy, `roots` decides whom TLS trusts, `connector` joins
//! these into connections, `body` watches that bodies progress, `client` pools and sends. `error` names what failed.

pub mod address;
pub mod body;
pub mod client;
pub mod connector;
pub mod dial;
pub mod error;
pub mod own;
pub mod parent;
pub mod roots;
#[cfg(test)]
pub(crate) mod testing;
