//! The doors: what clients connect to, and how a connection finds its way from there.

pub mod tunnel;
