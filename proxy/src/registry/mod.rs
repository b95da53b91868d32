//! The push registry.

pub mod access;
