//! Pulling through: from a request to a registry to its reply, from the store where the client has the right, else from
//! upstream.
//!
//! ```text
//! doors, registry's mirrors ─► pull/pipeline   admit ─► resolve ─► locate ─► fetch or join ─► serve
//!                                 │  rights     may this client have it; asking upstream
//!                                 │  manifest, serve, replies, error     replies
//!                                 ▼
//!                              fetch/table ─► driver ─► fetcher, hashing ─► the store
//!                                                └─ reader, through: what clients read meanwhile
//! ```
//!
//! `pull` knows clients and rights, `fetch` knows neither: it brings one missing blob, once, for all that wait for it.

pub mod fetch;
pub mod pull;
