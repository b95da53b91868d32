//! Resolves the listed names, because the programs miss some answers of DNS: those before the agent ran, and those that
//! do not pass as UDP packets (DNS over TCP or TLS, `/etc/hosts`, a cache of the resolver).

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::net::lookup_host;
use tokio::time::{interval, timeout};

use super::health::monotonic_ns;
use super::programs::{Programs, lock};

/// The longest wait for one name: a resolver that does not answer must not delay the other names.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest validity of a learned address, as for those that the programs learn.
const VALID_MAX: Duration = Duration::from_secs(3600);

/// The number of names that are resolved at the same time, each on a thread.
const TOGETHER: usize = 8;

/// Resolves the names now and at every interval. An address stays valid for two intervals, and for an hour at most.
pub(super) async fn run(programs: Arc<Mutex<Programs>>, names: Vec<String>, every: Duration) {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        let mut rounds =
            stream::iter(names.clone()).map(|name| async move { resolve(&name).await }).buffer_unordered(TOGETHER);
        while let Some(found) = rounds.next().await {
            let valid = every.saturating_mul(2).min(VALID_MAX);
            let until_ns = monotonic_ns().saturating_add(u64::try_from(valid.as_nanos()).unwrap_or(u64::MAX));
            let mut programs = lock(&programs);
            for address in found {
                if let Err(error) = programs.learn(address, until_ns) {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

async fn resolve(name: &str) -> Vec<IpAddr> {
    match timeout(PATIENCE, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, "the name cannot be resolved: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(name, "the resolver does not answer");
            Vec::new()
        }
    }
}
