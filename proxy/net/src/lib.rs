//! Connections with clients: what is between a listening socket and a request, and between a reply and the wire.
//!
//! ```text
//! listener ─► workers (a thread a core) ─► stream ─► http (guard ─► hyper ─► exchange) ─► the doors, in the binary
//! drain: the end of all of it          service_manager: systemd, which may hold the sockets
//! ```
//!
//! Nothing here knows registries, the cache or the store.

pub mod admin_socket;
pub mod drain;
pub mod html;
pub mod http;
pub mod listener;
pub mod rewind;
pub mod service_manager;
pub mod stream;
pub mod tls;
pub mod workers;
