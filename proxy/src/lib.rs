//! entrepot: a caching proxy and registry for container images.

pub mod config;
pub mod secret;
pub mod store;
