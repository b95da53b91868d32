//! entrepot: a caching proxy and registry for container images.

pub mod config;
pub mod http;
pub mod secret;
