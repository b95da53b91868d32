//! entrepot: a caching proxy and registry for container images.

pub mod admin;
pub mod app;
pub mod cli;
pub mod doors;
