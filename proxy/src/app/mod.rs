//! The composition root: the one place that knows every crate. It makes the parts in order and takes them down again.
//!
//! `serve` is a server's life from its configuration to its last log line; `build` makes its parts. `listening` has its
//! sockets, and `accepting` gives their connections to the serving threads. `signals` waits for signals. `reload` puts
//! another configuration in force. `upkeep` has the periodic work. `backend` and `registry_backend` make the closures
//! of the administrator's door. `discovery` has the facts for the local network. `greeting` prints the next steps for a
//! person at the console.

mod accepting;
mod backend;
mod build;
mod discovery;
mod file_limit;
mod greeting;
mod listening;
mod registry_backend;
mod reload;
pub mod serve;
mod signals;
mod start_error;
mod unkept;
mod upkeep;

pub use start_error::StartError;
