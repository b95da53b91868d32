//! The subcommands of `entrepot`.

pub mod ca;
