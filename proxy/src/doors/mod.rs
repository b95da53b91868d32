//! The doors: what clients connect to, and how a connection finds its way from there.
//!
//! `listener.rs` accepts within bounds; `proxy.rs` is the door on 3128; `transparent.rs` the one on 3129, where
//! `introduction.rs` finds out what a connection is for; `registry.rs` our registry's; `client.rs` is a connection as all
//! three hold it. `decision.rs` decides what becomes of a host; `intercept.rs` takes TLS apart where a registry is listed,
//! `tunnel.rs` leaves everything else sealed; `drain.rs` ends it all in peace.

pub mod client;
pub mod decision;
pub mod dispatch;
pub mod intercept;
pub mod introduction;
pub mod original;
pub mod proxy;
mod refusal;
pub mod registry;
pub mod state;
pub mod transparent;
pub mod tunnel;
