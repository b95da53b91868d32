//! The composition root: the one place that knows every room, builds them in order, and takes them down again.
//!
//! `serve.rs` is a server's life from its configuration to its last log line; `listening.rs` has its sockets and
//! `signals.rs` hears what it is asked; `live.rs` makes what a configuration puts in force, at start and at reload;
//! `backend.rs` and `registry_backend.rs` give the administrator's door its closures; `discovery.rs` says what is told on
//! the local network; `greeting.rs` tells a person at the console what to do next.

mod backend;
mod discovery;
mod greeting;
mod listening;
mod registry_backend;
mod reload;
pub mod serve;
mod signals;
