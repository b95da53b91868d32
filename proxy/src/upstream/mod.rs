//! The way to upstream registries: operations, credentials, redirects, tokens and quotas above (`exchange.rs`);
//! addresses, connections and deadlines below (`client.rs`).

pub mod credential;
pub mod exchange;
pub mod operation;
pub mod quota;
pub mod registry;
pub mod token;
