//! Setting up the clients of an appliance, and being found by them.
//!
//! ```text
//! pages      answers of the proxy's port: `/`, `/ca.crt`, `/setup/*`, ready files for mirrors    (the server)
//!   │
//! client     changes the configuration of a runtime and takes the change back; owns the texts     (`entrepot client`)
//!   │        of all files and the shell scripts, which `pages` serves too
//!   │
//! discovery  announces this appliance by mDNS, finds others, asks them for facts and certificate
//! ```
//!
//! `first_line` is the line that a person copies to a host, for `pages` and the server's greeting.
//!
//! Arrows point down only: `pages` uses `client` and `discovery`, `client` uses `discovery`.
pub mod client;
pub mod discovery;
pub mod first_line;
pub mod pages;
