//! The streams of a client's connection, from the socket up to where HTTP begins. Each layer is one file; `lib.rs`
//! shows the stacks.
//!
//! | file | what |
//! |---|---|
//! | `client_socket` | the socket: sendfile for mapped slices, the write timeout, bytes that are read again |
//! | `handshake` | a TLS handshake, and what its failure means |
//! | `tls` | the connection behind it, with `sealing` or `kernel_tls` as its sending half and `incoming` as the other |
//! | `gather`, `record_buffer` | laying out the contents of records; the memory for them |
//! | `cold_read` | bytes that left the page cache before they were sent |
//! | `fair_writes` | a piece each, so that no stream keeps its thread |
//!
//! hyper keeps all HTTP; a slice of a mapping is an ordinary `Bytes` to it. `store::window` decides what becomes a
//! slice and what is read first. The kernel work itself is in the crate `entrepot-kernel`.

pub mod client_socket;
mod cold_read;
pub(crate) mod fair_writes;
mod gather;
pub mod handshake;
mod incoming;
pub(crate) mod kernel_tls;
mod record_buffer;
mod sealing;
#[cfg(test)]
mod testing;
pub mod tls;
