//! The operations of the administrator's door, as closures over the cache and the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::{FutureExt, future};
use tokio::sync::mpsc;

use crate::admin::answers::{
    BlobState, BlobSummary, CacheStats, Disk, Freed, RateLimit, Verification, VerifiedBlob, VerifyLine, hit_rate,
};
use crate::admin::{AdminBackend, ListRequest, OperationError, OperationResult, TagName, blocking};
use crate::app::registry_backend::registry_backend;
use crate::app::reload::Reloader;
use entrepot_cache::fetch::table::InflightFetches;
use entrepot_cache::pull::Pull;
use entrepot_config::ready::LiveConfig;
use entrepot_store::{DiskSpace, Place, Removal, Store, Verified};

/// The longest wait for complete blobs to be published.
const SETTLING: Duration = Duration::from_secs(30);
/// The refusal to remove pushed content from the cache.
const PUSHED: &str = "this blob was pushed to the registry here; delete what needs it there, then collect";
/// The blobs in one answer of the index.
const PAGE: usize = 1000;

/// Every operation of the door. `draining` is true as soon as the process stops.
pub(super) fn backend(pull: &Arc<Pull>, reloader: &Arc<Reloader>, draining: &Arc<AtomicBool>) -> AdminBackend {
    let store = || pull.store.clone();
    let (ready_store, list_store, remove_store, verify_store) = (store(), store(), store(), store());
    let (clear_store, tag_store, tag_state) = (store(), store(), reloader.state.clone());
    let clear_flights = pull.inflight.clone();
    let (stats_pull, stats_reloader) = (pull.clone(), reloader.clone());
    let (reload, shown, draining) = (reloader.clone(), reloader.clone(), draining.clone());
    AdminBackend {
        ready: Box::new(move || future::ready(ready(&ready_store, &draining)).boxed()),
        stats: Box::new(move || {
            let (pull, reloader) = (stats_pull.clone(), stats_reloader.clone());
            // The kernel's answer about a disk that hangs takes its time.
            blocking(move || stats(&pull, &reloader)).boxed()
        }),
        clear: Box::new(move || clear(clear_store.clone(), clear_flights.clone()).boxed()),
        list: Box::new(move |request: ListRequest| {
            let store = list_store.clone();
            async move {
                let blobs = store.blobs.list(request.after, request.limit).await.map_err(OperationError::failed)?;
                Ok(blobs.into_iter().map(entry).collect())
            }
            .boxed()
        }),
        remove: Box::new(move |digest| {
            let store = remove_store.clone();
            async move {
                // A fetch that broke off is asked for by the same name as what it would have become.
                let paused = store.partial_blobs.drop_paused(&digest).await;
                match store.blobs.remove(&digest).await.map_err(OperationError::failed)? {
                    Removal::Removed(bytes) => {
                        Ok(Some(Freed { freed_blobs: 1, freed_bytes: bytes + paused.unwrap_or(0) }))
                    }
                    Removal::Missing => Ok(paused.map(|bytes| Freed { freed_blobs: 1, freed_bytes: bytes })),
                    Removal::Pinned => Err(OperationError::Refused(PUSHED.to_owned())),
                }
            }
            .boxed()
        }),
        verify: Box::new(move |lines| verify(verify_store.clone(), lines).boxed()),
        forget_tag: Box::new(move |name| {
            let (store, place) = (tag_store.clone(), place(&tag_state.snapshot().config, &name));
            async move {
                let is_known = !store.names.tag_in_all_classes(&place, &name.tag).await.is_empty();
                if is_known {
                    store.names.forget_tag(&place, &name.tag).await;
                }
                Ok(is_known)
            }
            .boxed()
        }),
        registry: registry_backend(&reloader.state),
        // These two read files.
        reload: Box::new(move || {
            let reloader = reload.clone();
            blocking(move || reloader.reload().map_err(OperationError::Refused)).boxed()
        }),
        effective_config: Box::new(move || {
            let reloader = shown.clone();
            blocking(move || reloader.effective()).boxed()
        }),
    }
}

/// The place under which the cache keeps a tag: the configuration says by which scheme its registry is reached.
fn place(config: &LiveConfig, name: &TagName) -> Place {
    Place::new(config.origin(&name.registry), name.repository.clone())
}

/// A client that has read a blob to its end expects that this removes it, so its publication is awaited first.
async fn clear(store: Arc<Store>, inflight: Arc<InflightFetches>) -> OperationResult<Freed> {
    if tokio::time::timeout(SETTLING, inflight.settle()).await.is_err() {
        tracing::warn!("clearing the cache although a blob is still being published");
    }
    let cleared = store.clear().await.map_err(OperationError::failed)?;
    Ok(Freed { freed_blobs: cleared.blobs, freed_bytes: cleared.bytes })
}

fn ready(store: &Store, draining: &AtomicBool) -> Result<Vec<String>, String> {
    if draining.load(Ordering::Relaxed) {
        return Err("stopping: running answers are finished, no more are taken".to_owned());
    }
    // A server that rebuilds its index or whose disk refuses is ready, because it serves meanwhile.
    let rebuilding = store.usage().rebuilding.then(|| "the index is compared with the files".to_owned());
    Ok(store.troubles().iter().map(ToString::to_string).chain(rebuilding).collect())
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
        disk: pull.store.disk_space().ok().map(|DiskSpace { free_bytes, size_bytes }| Disk {
            path: pull.store.root().to_owned(),
            free: free_bytes,
            size: size_bytes,
            min_free: snapshot.config.cache.min_free.0,
        }),
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

async fn verify(store: Arc<Store>, lines: mpsc::Sender<VerifyLine>) -> OperationResult<Verification> {
    let (mut after, mut told) = (None, Verification::default());
    loop {
        let page = store.blobs.list(after, PAGE).await.map_err(OperationError::failed)?;
        let Some(last) = page.last() else { return Ok(told) };
        after = Some(last.digest);
        for blob in page {
            let state = match store.blobs.verify(&blob.digest).await {
                Ok(Verified::Good) => BlobState::Ok,
                Ok(Verified::Bad) => BlobState::Corrupt,
                // The blob was evicted since it was listed.
                Ok(Verified::Missing) => continue,
                Err(_) => BlobState::Unreadable,
            };
            told.checked += 1;
            told.bad += u64::from(state != BlobState::Ok);
            told.bytes += blob.size_bytes;
            let verified = VerifiedBlob { digest: blob.digest.to_string(), size: blob.size_bytes, state };
            if lines.send(VerifyLine::Blob(verified)).await.is_err() {
                return Ok(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_forgotten_where_its_registry_is_reached() {
        let config = entrepot_config::from_text("[intercept]\nregistries = [\"http://plain.lan:5000\"]\n");
        let config = config.expect("a configuration").live;
        for (registry, shown) in [("plain.lan:5000", "http://plain.lan:5000/a/b"), ("ghcr.io", "ghcr.io/a/b")] {
            let name = TagName {
                registry: registry.parse().expect("a host"),
                repository: "a/b".parse().expect("a name"),
                tag: "v1".parse().expect("a tag"),
            };
            assert_eq!(place(&config, &name).to_string(), shown);
        }
    }
}
