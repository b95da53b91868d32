//! The streams of a client's connection, from the socket up to where HTTP begins. Each layer is one file; `lib.rs`
//! shows the stacks.
//!
//! | file | content |
//! |---|---|
//! | `client_socket` | the socket: sendfile for mapped slices, the write timeout, bytes that are read again |
//! | `handshake` | a TLS handshake, and the reason if it fails |
//! | `tls` | the connection after it: `sealing` or `kernel_tls` sends, `incoming` receives |
//! | `gather`, `record_buffer` | laying out the contents of records; the memory for them |
//! | `cold_read` | bytes that left the page cache before they were sent |
//! | `fair_writes` | one piece at a time, so that no stream keeps its thread |
//!
//! hyper does all of HTTP. A slice of a mapping is an ordinary `Bytes` to it. `store::window` decides which bytes
//! become a slice and which are read first. The crate `entrepot-kernel` makes the system calls.

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
