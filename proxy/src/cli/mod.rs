//! The subcommands of `entrepot`, one file each, and the exit codes they share.

pub mod cache;
pub mod exit;
