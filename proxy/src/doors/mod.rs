//! The doors: where clients connect, and how a request finds the part that answers it.
//!
//! ```text
//! proxy.rs        the door on 3128            ┐  client.rs     a connection as every door holds it
//! transparent.rs  the door on 3129            ├► decision.rs   listed, relayed, or refused
//!   original.rs, introduction.rs: its target  │  intercept.rs  TLS to a listed registry, and the requests in it
//! registry.rs     our own registry's door     ┘  tunnel.rs     everything else, sealed
//!                                                dispatch.rs   a request's prologue, and the part that answers it
//! state.rs        what all of them share         refusal.rs    a refusal as HTTP
//! ```
//!
//! `entrepot_net` accepts connections, bounds them and ends them in peace.

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
mod unplaced;
