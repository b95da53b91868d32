//! entrepot: a caching proxy and registry for container images.

pub mod admin;
pub mod cli;
pub mod config;
pub mod observe;
pub mod secret;
pub mod setup;
