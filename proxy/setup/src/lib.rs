//! Setting clients up: `client` changes a machine and takes the change back, `pages` are what the proxy serves for it,
//! `discovery` finds appliances on the local network and announces this one.

pub mod client;
pub mod discovery;
pub mod pages;
