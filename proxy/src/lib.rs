//! entrepot: a caching proxy and registry for container images.

pub mod admin;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod discovery;
pub mod doors;
pub mod fill;
pub mod html;
pub mod http;
pub mod observe;
pub mod pull;
pub mod redirect;
pub mod registry;
pub mod service_manager;
pub mod serving;
pub mod setup;
pub mod store;
pub mod tls;
pub mod upstream;
