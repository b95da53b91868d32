//! HTTP towards clients: strict framing (`guard.rs`) and pace (`deadline.rs`) of a connection, the connection itself
//! (`serve.rs`), reading what a request says of itself (`fields.rs`), which room answers (`dispatch.rs`), the answer
//! (`reply.rs`, `body.rs`), what of it HTTP/1.0 can be given (`length.rs`) and its line in the log (`log.rs`).

pub mod body;
pub mod deadline;
pub mod exchange;
pub mod fields;
pub mod guard;
pub(crate) mod length;
pub mod reply;
pub mod serve;
