//! The subcommands of `entrepot`, one file each, and the exit codes they share.

pub mod check;
pub mod exit;
