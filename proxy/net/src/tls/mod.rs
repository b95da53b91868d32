//! TLS towards clients: the certificate authority, the leaves it mints and the handshake.
//!
//! `key`, `certificate` and `issue` work on bytes alone; `files` does all reading and writing; `authority` puts them
//! together. `leaf` keeps a `rustls::ServerConfig` for each name, cut by `server`; `handshake` runs one connection's
//! handshake; the crate `entrepot-record` protects what follows.
//! Invariants: the CA's key leaves this room only into its own file, mode 0600; a leaf names exactly one host and
//! lives at most 7 days; no process-global crypto provider is used.

pub mod authority;
mod certificate;
pub mod error;
pub mod files;
pub mod handshake;
mod issue;
mod key;
pub mod leaf;
mod server;
#[cfg(test)]
pub(crate) mod testdata;
#[cfg(test)]
pub(crate) mod tests;

pub use authority::Authority;
pub use error::CaError;
pub use handshake::HandshakeError;
pub use leaf::LeafStore;
