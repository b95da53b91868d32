//! Redirection without any setting at the clients: the agent that loads eBPF programs, tells them what to redirect, and
//! sees to it that they let everything pass where the door does not answer.
//!
//! ```text
//! configuration ─ plan ─ preflight ─► programs (maps, links)          kernel: ebpf/src, decisions in ebpf/common
//!                                       ▲        ▲        ▲
//!                               health ─┘  seed ─┘        └─ report (status, metrics) ◄─ `entrepot redirect status`
//! ```
//!
//! `agent` puts them together and takes them down. Invariants: links are not pinned unless the administrator enforces, so
//! the kernel removes everything with the process; what the programs see as healthy ends by itself unless `health` moves
//! it on; nothing is redirected before a door has answered.

pub mod agent;
mod attach;
pub mod error;
mod health;
pub mod pins;
pub mod plan;
mod preflight;
mod programs;
pub mod report;
mod routing;
mod seed;
mod server;

pub use error::RedirectError;
