//! entrepot: a caching proxy and registry for container images. This crate is the program around the crates below it.
//!
//! ```text
//! main ─► cli (one file a command) ─► app (builds, binds, serves, reloads, drains)
//!                                       ├─► doors   what clients connect to: proxy, transparent, registry
//!                                       └─► admin   the administrator's door
//! ```
//!
//! `doors` decides to whom a connection leads and hands each request to `entrepot_cache` or `entrepot_registry`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod doors;
