//! entrepot: a caching proxy and registry for container images.

pub mod cli;
pub mod config;
pub mod secret;
