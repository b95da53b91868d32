//! Redirects connections to registries without any setting at the clients. The agent loads eBPF programs, tells them
//! what to redirect, and makes them let everything pass while the door does not answer.
//!
//! ```text
//! configuration ─► plan ─► preflight ─► programs, attach, pins ◄── arrival: health, does the door answer;
//!                                          │     (maps, links)     proof, traffic, do packets arrive; causes, why not
//!                                          │                   ◄── seed     addresses of the listed names
//!                                          │                   ◄── resolvers whose answers of DNS count
//!                                          │                   ──► report   `entrepot redirect status`, by server
//!                                          ▼
//!                                        kernel: programs in ebpf/src, decisions in ebpf/common
//! ```
//!
//! `agent` starts all of it and takes it down; `routing` has the rules and routes of a gateway.
//!
//! Invariants: links are pinned only if the administrator enforces, so otherwise the kernel removes everything with the
//! process. The programs count the door as healthy for two seconds, unless `agent` extends that. Nothing is redirected
//! before a door has answered, and by a gateway before a packet has arrived there.
pub mod agent;
mod arrival;
mod attach;
mod causes;
mod error;
mod health;
pub mod pins;
pub mod plan;
mod preflight;
mod programs;
mod proof;
pub mod report;
mod resolvers;
mod routing;
mod seed;
mod segment;
mod server;
mod traffic;

pub use error::RedirectError;
pub use health::FindByMdns;
