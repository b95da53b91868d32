//! Periodic work while a server runs: it looks up our own addresses, drops unused entries and abandoned uploads, and
//! collects in the registry.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::reload::Reloader;
use crate::doors::state::AppState;
use entrepot_setup::discovery::identity::Identity;
use entrepot_store::Sweep;

/// The interval of dropping unused entries and of looking up our own addresses.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

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
        let (registry, grace) = (state.registry.local.clone(), state.snapshot().config.registry.grace);
        let sweep = Sweep { grace, untagged: false, dry_run: false };
        // The log has the result.
        registry.collect_quietly(sweep).await;
        collected = Instant::now();
    }
}
