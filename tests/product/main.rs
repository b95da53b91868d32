//! The product from outside. Each module is a promise; each test has a world of its own, so one that fails leaves the
//! others alone.

mod access;
mod admin;
mod bad_input;
mod config;
mod crash;
mod direct;
mod disk;
mod faults;
mod isolation;
mod logs;
mod mirror_files;
mod notifications;
mod pulls;
mod push;
mod push_crash;
mod ranges;
mod redirects;
mod registry;
mod registry_cli;
mod setup;
mod sharing;
mod stale;
mod takeover;
mod tunnel;

use std::sync::{Mutex, MutexGuard, PoisonError};

use entrepot_tests::images::{Blob, random};

/// Held by tests that move hundreds of megabytes or run a hundred clients: one at a time.
fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob of about so many random bytes.
fn blob(seed: u64, size: usize) -> Blob {
    random(seed, 1, size).layers()[0].clone()
}

/// The Accept header of a client that takes Docker's manifests and lists.
const ACCEPT: (&str, &str) = (
    "accept",
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json",
);
