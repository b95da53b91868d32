//! Pulling through: `pull` is the pipeline that answers a request to a registry, `fetch` brings one missing blob from
//! upstream for everybody who waits for it.

pub mod fetch;
pub mod pull;
