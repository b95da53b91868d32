//! HTTP towards clients: strict framing (`guard.rs`), the connection (`serve.rs`), which room answers (`dispatch.rs`),
//! and the answer (`reply.rs`, `body.rs`).

pub mod body;
pub mod dispatch;
pub mod guard;
pub mod reply;
pub mod serve;
