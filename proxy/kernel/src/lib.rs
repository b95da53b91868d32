//! The kernel's services beyond the standard library. This is the only crate with `unsafe` in it.
//!
//! | file | what |
//! |---|---|
//! | `ktls` | the kernel as the sending half of a TLS connection |
//! | `mapping` | immutable files mapped read-only; slices that know which file they came from |
//! | `residency` | whether a window of a file is in the page cache |
//! | `ring` | a thread's io_uring, and what owns buffers and files while the kernel has them |
//! | `read` | reading a window without blocking the thread: by its ring, else by the blocking pool |
//! | `buffers` | the buffers of those reads, reused |
//! | `send` | sendfile from a mapped slice's file |
//! | `namespace` | which network namespace this process is in |
//! | `inherited` | descriptors that a service manager passed to this process |
//! | `disk_refusal` | why a file system takes no writes |
//! | `link_only` | a filter on datagram sockets that another crate opened: nothing that passed a router |
//!
//! Nothing here knows of registries or HTTP.

pub mod buffers;
pub mod disk_refusal;
pub mod inherited;
pub mod ktls;
pub mod link_only;
pub mod mapping;
pub mod namespace;
pub mod read;
pub mod residency;
pub mod ring;
pub mod send;

use nix::sys::resource::{UsageWho, getrusage};

/// Page faults of this thread so far that had to wait for a disk.
pub fn major_faults_of_this_thread() -> u64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| u64::try_from(usage.major_page_faults()).unwrap_or(0))
}
