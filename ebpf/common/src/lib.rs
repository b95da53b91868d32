//! What the eBPF programs and their loader share, without a standard library: address keys, the settings that the loader
//! writes for the programs, the decision about a connection, and the reader of DNS answers.
//!
//! Everything here runs in both worlds, so it is written for the kernel's verifier (loops with fixed bounds, indexes
//! that are masked) and tested on the host. The programs are in `ebpf/src`, the loader in `proxy/src/redirect`.

#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod decision;
pub mod dns;
pub mod names;
pub mod outcome;
pub mod settings;
