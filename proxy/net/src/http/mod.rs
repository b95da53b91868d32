//! HTTP towards clients: strict framing of requests (`guard.rs`), the connection (`serve.rs`), header fields that a
//! decision depends on (`fields.rs`), requests' bodies that rest until they are complete (`held_body.rs`), an exchange
//! from head to last byte (`exchange.rs`), the reply (`reply.rs`, `body.rs`) and its form for HTTP/1.0 (`length.rs`).

pub mod body;
pub mod exchange;
pub mod fields;
pub mod guard;
pub mod held_body;
pub(crate) mod length;
pub mod reply;
pub mod serve;
