//! Connections with clients: what is between a listening socket and a request, and between a reply and the wire.
//!
//! ```text
//! listener ─► serving (a thread a core) ─► tls ─► http (guard ─► hyper ─► exchange) ─► the doors, in the binary
//! drain: the end of all of it          service_manager: systemd, which may hold the sockets
//! ```
//!
//! Nothing here knows registries, the cache or the store.

pub mod admin_socket;
pub mod connection;
pub mod drain;
pub mod html;
pub mod http;
pub mod listener;
pub mod rewind;
pub mod service_manager;
pub mod serving;
pub mod tls;
