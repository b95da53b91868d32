//! The parts of the tests: a proxy in process, clients for it, a fake upstream, and images to pull.

mod answer;
mod client;
mod gate;
mod image;
mod proxy;
mod tokens;
mod upstream;
mod wire;

pub(crate) use answer::Answer;
pub(crate) use client::{Ask, Reading, Reply, Session};
pub(crate) use gate::Gate;
pub(crate) use image::{Image, MANIFEST_TYPE, bytes, digest_of};
pub(crate) use proxy::{Proxy, Setup, VIA};
pub(crate) use tokens::{NOBODY, TokenServer};
pub(crate) use upstream::{Seen, Upstream};

use std::time::Duration;

/// Longer than any test step takes, shorter than a person waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a state that no event announces.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came true: {what}");
}

/// Runs a task that must not hang.
pub(crate) async fn in_time<T>(what: &str, task: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}
