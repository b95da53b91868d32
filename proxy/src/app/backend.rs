//! The operations of the administrator's door, as closures over the cache and the registry.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::Handle;

use crate::admin::answers::{BlobState, BlobSummary, CacheStats, Freed, RateLimit, VerifiedBlob, hit_rate};
use crate::admin::{AdminBackend, ListRequest, OnVerified, OperationError, OperationResult};
use crate::app::registry_backend::registry_backend;
use crate::app::reload::Reloader;
use entrepot_cache::pull::Pull;
use entrepot_store::{Place, Removal, Store, StoreError, Verified};

/// The longest wait for complete blobs to be published.
const SETTLING: Duration = Duration::from_secs(30);
/// The refusal to remove pushed content from the cache.
const PUSHED: &str = "this blob was pushed to the registry here; delete what needs it there, then collect";
/// The blobs in one answer of the index.
const PAGE: usize = 1000;

/// Every operation of the door. `draining` is true as soon as the process stops. Call it within a tokio runtime.
pub(super) fn backend(pull: &Arc<Pull>, reloader: &Arc<Reloader>, draining: &Arc<AtomicBool>) -> AdminBackend {
    let store = || pull.store.clone();
    let (ready_store, list_store, remove_store, verify_store) = (store(), store(), store(), store());
    let (clear_store, tag_store) = (store(), store());
    let (clear_flights, runtime) = (pull.inflight.clone(), Handle::current());
    let runtimes = || runtime.clone();
    let (list_on, remove_on, verify_on, tag_on) = (runtimes(), runtimes(), runtimes(), runtimes());
    let (stats_pull, stats_reloader) = (pull.clone(), reloader.clone());
    let (reload, shown, draining) = (reloader.clone(), reloader.clone(), draining.clone());
    AdminBackend {
        ready: Box::new(move || ready(&ready_store, &draining)),
        stats: Box::new(move || stats(&stats_pull, &stats_reloader)),
        clear: Box::new(move || {
            // A client that has read a blob to its end expects that `clear` removes it, so its publication is awaited
            // first.
            let settled = async { tokio::time::timeout(SETTLING, clear_flights.settle()).await };
            if runtime.block_on(settled).is_err() {
                tracing::warn!("clearing the cache although a blob is still being published");
            }
            let cleared = runtime.block_on(clear_store.clear()).map_err(failed)?;
            Ok(Freed { freed_blobs: cleared.blobs, freed_bytes: cleared.bytes })
        }),
        list: Box::new(move |request: ListRequest| {
            let blobs = list_on.block_on(list_store.blobs.list(request.after, request.limit)).map_err(failed)?;
            Ok(blobs.into_iter().map(entry).collect())
        }),
        remove: Box::new(move |digest| {
            match remove_on.block_on(remove_store.blobs.remove(&digest)).map_err(failed)? {
                Removal::Removed(bytes) => Ok(Some(Freed { freed_blobs: 1, freed_bytes: bytes })),
                Removal::Missing => Ok(None),
                Removal::Pinned => Err(OperationError::Refused(PUSHED.to_owned())),
            }
        }),
        verify: Box::new(move |on_verified| verify_on.block_on(verify(&verify_store, on_verified))),
        forget_tag: Box::new(move |name| {
            let place = Place::new(name.registry, name.repository);
            tag_on.block_on(tag_store.names.forget_tag(&place, &name.tag));
            Ok(())
        }),
        registry: registry_backend(&reloader.state),
        reload: Box::new(move || reload.reload().map_err(OperationError::Refused)),
        effective_config: Box::new(move || shown.effective()),
    }
}

fn ready(store: &Store, draining: &AtomicBool) -> Result<(), String> {
    if draining.load(Ordering::Relaxed) {
        return Err("stopping: running answers are finished, no more are taken".to_owned());
    }
    // A server that rebuilds its index is ready, because it serves meanwhile.
    let _ = store.usage();
    Ok(())
}

fn stats(pull: &Pull, reloader: &Reloader) -> CacheStats {
    let (usage, metrics) = (pull.store.usage(), &pull.metrics);
    let (hits, misses) = (metrics.hits(), metrics.misses());
    let snapshot = reloader.state.snapshot();
    let rate_limits = reloader.memory.quotas.all().into_iter().map(|(registry, credential, quota, at)| RateLimit {
        registry: registry.to_string(),
        credential: credential.to_string(),
        limit: quota.limit,
        remaining: quota.remaining,
        window_seconds: quota.window_s.unwrap_or_default(),
        seen_seconds_ago: at.elapsed().as_secs(),
    });
    CacheStats {
        hits,
        misses,
        stores: metrics.stores(),
        evictions: usage.evictions,
        errors: metrics.errors() + usage.write_errors + usage.read_errors,
        current_size: usage.used_bytes,
        hit_rate: hit_rate(hits, misses),
        blobs: usage.blobs,
        max_size: snapshot.config.cache.max_size.0,
        reserved: usage.reserved_bytes,
        rate_limits: rate_limits.collect(),
        fills_running: metrics.fills_running(),
        pushed_size: usage.pinned_bytes,
    }
}

fn entry(blob: entrepot_store::BlobEntry) -> BlobSummary {
    let last_use = blob.last_use.duration_since(UNIX_EPOCH).unwrap_or_default();
    BlobSummary {
        digest: blob.digest.to_string(),
        size: blob.size_bytes,
        last_used_unix_seconds: last_use.as_secs(),
        pinned: blob.is_pinned,
        repositories: blob.places.iter().map(ToString::to_string).collect(),
    }
}

async fn verify(store: &Store, on_verified: OnVerified<'_>) -> OperationResult<()> {
    let mut after = None;
    loop {
        let page = store.blobs.list(after, PAGE).await.map_err(failed)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.digest);
        for blob in page {
            let state = match store.blobs.verify(&blob.digest).await {
                Ok(Verified::Good) => BlobState::Ok,
                Ok(Verified::Bad) => BlobState::Corrupt,
                // The blob was evicted since it was listed.
                Ok(Verified::Missing) => continue,
                Err(_) => BlobState::Unreadable,
            };
            let verified = VerifiedBlob { digest: blob.digest.to_string(), size: blob.size_bytes, state };
            if let ControlFlow::Break(()) = on_verified(verified) {
                return Ok(());
            }
        }
    }
}

fn failed(error: StoreError) -> OperationError {
    OperationError::Failed(error.to_string())
}
