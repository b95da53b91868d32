//! Connections with clients: everything between a listening socket and a request, and between a reply and the network.
//!
//! ```text
//! listener ─► workers (a thread a core) ─► stream ─► http (guard ─► hyper ─► exchange) ─► the doors, in the binary
//! tls: certificates for the handshakes     service_manager: systemd, which may hold the sockets
//! drain: the end of it all                 connection: what is known before the first request
//! ```
//!
//! The stack of a connection, from hyper down:
//!
//! ```text
//! plain   Guard ─► FairWrites ─► ClientSocket
//! TLS     Guard ─► FairWrites ─► Tls ─► ClientSocket
//! ```
//!
//! Folders use each other in one direction only: http ─► workers ─► stream, service_manager ─► listener ─► drain,
//! listener ─► places, http ─► connection ─► places, and http ─► drain. `tls` uses none of them. This crate does not know registries, the
//! cache or the store.

pub mod admin_socket;
pub mod connection;
pub mod drain;
pub mod http;
pub mod listener;
pub mod page;
pub mod places;
pub mod service_manager;
pub mod stream;
pub mod tls;
pub mod workers;
