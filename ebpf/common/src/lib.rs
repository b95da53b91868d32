//! The code that the eBPF programs and their loader share, without a standard library: addresses as keys of maps, the
//! settings from the loader to the programs, the decision about a connection, and the reader of DNS answers.
//!
//! The code runs in the kernel and on the host, so it is written for the kernel's verifier (loops with fixed bounds,
//! masked indexes) and tested on the host. The programs are in `ebpf/src`, the loader in `proxy/redirect`.

#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod decision;
pub mod dns;
pub mod names;
pub mod outcome;
pub mod proof;
pub mod settings;
