//! Periodic work while a server runs: it looks up our own addresses, drops unused entries and abandoned uploads,
//! collects in the registry, and compares what is stored with its digests.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::reload::Reloader;
use crate::doors::state::AppState;
use entrepot_registry::collection::sweep_of;
use entrepot_setup::discovery::identity::Identity;
use entrepot_store::Scrubbed;

/// The interval of dropping unused entries and of looking up our own addresses.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Shorter rests of the scrub are added up: most blobs are small.
const SHORTEST_REST: Duration = Duration::from_millis(100);

/// Looks up our addresses, which are those of `interfaces`, and drops entries that were unused for too long.
pub(super) async fn housekeeping(reloader: Arc<Reloader>, identity: Arc<Identity>, interfaces: Vec<String>) {
    let (mut ticks, interfaces) = (tokio::time::interval(HOUSEKEEPING), Arc::<[String]>::from(interfaces));
    loop {
        ticks.tick().await;
        let (looking, identity, interfaces) = (reloader.clone(), identity.clone(), interfaces.clone());
        let looked = spawn_blocking(move || {
            looking.ourselves.sockets.refresh();
            identity.refresh(&interfaces);
            looking.state.registry.local.refresh_names(&looking.state.snapshot().config.registry);
        });
        // If the look-up panics, the log has it, and the next tick looks again.
        let _ = looked.await;
        let snapshot = reloader.state.snapshot();
        let settings = &snapshot.config.registry;
        let (after, empty_after) = (settings.upload_expiry, settings.empty_upload_expiry);
        let expired = reloader.state.registry.local.expire_uploads(after, empty_after).await;
        let dropped = reloader.store.expire_unused(entrepot_store::judging_now()).await;
        if dropped > 0 {
            tracing::info!("dropped {dropped} unused entries");
        }
        if expired > 0 {
            tracing::info!("dropped {expired} uploads that nobody went on with");
        }
    }
}

/// Compares what is stored with its digests, round after round, each in the time of `cache.scrub`. It reads that from the
/// configuration each time.
pub(super) async fn scrubbing(state: Arc<AppState>) {
    let scrub = state.registry.local.store.scrub.clone();
    let mut rest = Duration::ZERO;
    loop {
        let period = state.snapshot().config.cache.scrub;
        if period.is_zero() {
            tokio::time::sleep(HOUSEKEEPING).await;
            continue;
        }
        match scrub.step().await {
            Ok(Scrubbed::Compared(bytes)) => rest += scrub.rest_after(bytes, period),
            Ok(Scrubbed::Round) => rest += HOUSEKEEPING,
            Err(error) => {
                tracing::warn!("stored content cannot be compared with its digests now: {error}");
                rest += HOUSEKEEPING;
            }
        }
        while rest >= SHORTEST_REST {
            let nap = rest.min(HOUSEKEEPING);
            tokio::time::sleep(nap).await;
            // A reload may shorten the time meanwhile.
            rest = (rest - nap).min(state.snapshot().config.cache.scrub);
        }
    }
}

/// Collects in the registry. It reads the interval from the configuration each time.
pub(super) async fn collecting(state: Arc<AppState>) {
    let mut collected = Instant::now();
    loop {
        let interval = state.snapshot().config.registry.gc_interval;
        if interval.is_zero() {
            collected = Instant::now();
        }
        let left = if interval.is_zero() { HOUSEKEEPING } else { interval.saturating_sub(collected.elapsed()) };
        if !left.is_zero() {
            // A reload may change the interval meanwhile.
            tokio::time::sleep(left.min(HOUSEKEEPING)).await;
            continue;
        }
        let (registry, snapshot) = (state.registry.local.clone(), state.snapshot());
        let sweep = sweep_of(&snapshot.config.registry, false);
        // The log has the result.
        registry.collect_quietly(sweep).await;
        collected = Instant::now();
    }
}
