//! The harness of the tests of the product from outside.
//!
//! A [`world::World`] is three network namespaces: the internet with real registries behind fronts
//! ([`upstream`]), the proxy's host with the product in it ([`entrepot`]), and a client host with real container
//! runtimes ([`clients`]) and a bare HTTP client ([`door`]). [`fake`] is a registry that misbehaves as told.

pub mod agent;
pub mod appliance;
pub mod authority;
pub mod avahi;
mod backend;
pub mod bpf;
pub mod client_host;
pub mod clients;
pub mod daemons;
pub mod door;
pub mod entrepot;
pub mod fake;
mod front;
pub mod image;
pub mod images;
pub mod lan;
pub mod ledger;
pub mod machine;
pub mod names;
pub mod namespace;
pub mod probe;
pub mod process;
pub mod pushes;
pub mod root;
pub mod serve;
pub mod settings;
pub mod tokens;
pub mod upstream;
pub mod world;
