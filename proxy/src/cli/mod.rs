//! The subcommands of `entrepot`, one file each, and what they share: the admin client, the output and the environment.

pub mod address;
mod admin_client;
pub mod ca;
pub mod cache;
pub mod check;
pub mod client;
pub mod config;
pub mod discover;
pub mod output;
pub mod redirect;
pub mod registry;

use entrepot_config::Environment;

/// The environment of this process. Bytes that are not UTF-8 are replaced, and the variable is not ignored, so that its
/// parser refuses it by name.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn value(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}
