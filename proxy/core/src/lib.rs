//! The grammar and the decisions of entrepot, without input or output.
//!
//! Everything here takes bytes or values and returns values: no sockets, files, clocks or threads, so every
//! rule can be tested by a table. Types exist only in their valid form; a `Digest`, `RepositoryName` or
//! `RegistryHost` that one holds needs no further check.

pub mod challenge;
pub mod digest;
pub mod docker_hub;
pub mod error;
pub mod exit;
pub mod framing;
pub mod freshness;
pub mod host;
pub mod htpasswd;
pub mod mdns_name;
pub mod media;
pub mod name;
pub mod outcome;
pub mod platform;
pub mod proxy_header;
pub mod quantity;
pub mod range;
pub mod referrer;
pub mod route;
pub mod scope;
pub mod secret;
pub mod sniff;
