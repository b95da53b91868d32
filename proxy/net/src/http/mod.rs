//! HTTP towards clients: strict framing of what they send (`guard.rs`), the connection (`serve.rs`), reading what a
//! request says of itself (`fields.rs`), an exchange from head to last byte (`exchange.rs`), the reply (`reply.rs`,
//! `body.rs`) and the part of it that HTTP/1.0 can be given (`length.rs`).

pub mod body;
pub mod exchange;
pub mod fields;
pub mod guard;
pub(crate) mod length;
pub mod reply;
pub mod serve;
