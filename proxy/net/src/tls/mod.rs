//! TLS towards clients, before any connection: the certificate authority, its leaves, and the `rustls::ServerConfig` of
//! each name. `stream::handshake` uses a configuration for a connection's handshake.
//!
//! `key`, `legacy_key`, `certificate` and `issue` work on bytes alone; `files` does all reading and writing;
//! `authority` puts them together; `leaf` keeps the configurations that `server` makes.
//!
//! `own_key` is the key of our own name, which stays when its certificate is renewed.
//!
//! Invariants: the CA's key leaves this folder only into its own file, mode 0600; a leaf names exactly one host, or the
//! names of our own registry, and lives at most 7 days; no process-global crypto provider is used.

pub mod authority;
pub(crate) mod certificate;
pub mod error;
pub mod files;
mod issue;
pub(crate) mod key;
pub mod leaf;
mod legacy_key;
mod own_key;
mod server;
#[cfg(test)]
pub(crate) mod testdata;

pub use authority::Authority;
pub use error::CaError;
pub use leaf::LeafStore;
pub use own_key::OwnKey;
#[cfg(test)]
pub(crate) use server::Whose;
