//! The composition root: the one place that knows every room, builds them in order, and takes them down again.
//!
//! `serve` is a server's life from its configuration to its last log line; `build` makes its parts; `listening` has its
//! sockets, and `accepting` leads their connections to the serving threads; `signals` hears what it is asked, and
//! `reload` puts another configuration in force; `upkeep` does what is due from time to time. `backend` and
//! `registry_backend` give the administrator's door its closures; `discovery` says what is told on the local network;
//! `greeting` tells a person at the console what to do next.

mod accepting;
mod backend;
mod build;
mod discovery;
mod greeting;
mod listening;
mod registry_backend;
mod reload;
pub mod serve;
mod signals;
mod start_error;
mod upkeep;

pub use start_error::StartError;
