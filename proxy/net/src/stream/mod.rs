//! The data plane towards clients: serving threads, and what turns a cached body into bytes on a socket.
//!
//! ```text
//! acceptor ─► workers (a thread a core, the one with the fewest bytes in flight next)
//!                └ hyper ─► guard ─► turns   a piece each, so that no stream keeps its thread
//!                                      ├ outlet   plain: a body's slices of a mapped file leave by sendfile(2)
//!                                      └ secure   TLS:   sealed  they are read straight into the records that leave
//!                                                        handed  the kernel seals what the outlet is given (`data_plane.ktls`)
//! ```
//!
//! hyper keeps all HTTP; a slice of a mapping is an ordinary `Bytes` to it. `store::window` decides what becomes a
//! slice and what is read first; what leaves the page cache before its slice is sent, `late` reads. The kernel work itself
//! is in the crate `entrepot-kernel`.

pub mod client_socket;
mod cold_read;
pub mod fair_writes;
mod gather;
pub mod handshake;
mod incoming;
pub mod kernel_tls;
mod record_buffer;
pub mod sealing;
#[cfg(test)]
mod testing;
pub mod tls;
