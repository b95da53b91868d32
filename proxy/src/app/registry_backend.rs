//! The operations of the administrator's door on our own registry, as closures over it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use entrepot_core::name::{Reference, RepositoryName};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::admin::registry::{
    CollectionReport, GcLine, RegistryBackend, RemoveRequest, RemovedNames, RepositoriesRequest, RepositoryPage,
    RepositorySummary, TagPage, TagSummary,
};
use crate::admin::{OperationError, OperationResult, blocking};
use crate::doors::state::AppState;
use entrepot_config::ready::RegistrySettings;
use entrepot_registry::access::Principal;
use entrepot_registry::collection::sweep_of;
use entrepot_registry::events::{Deed, Event};
use entrepot_registry::removal::RemovalTarget;
use entrepot_registry::{LocalRegistry, import};
use entrepot_store::{Collected, Step, Store, StoreError, Sweep, Untagged};

/// The actor in events about changes through the administrator's door.
const ADMINISTRATOR: &str = "administrator";

/// Every operation of the door on our registry.
pub(super) fn registry_backend(state: &Arc<AppState>) -> RegistryBackend {
    let store = || state.registry.local.store.clone();
    let (list_store, tags_store, import_store) = (store(), store(), store());
    let (remove_registry, remove_state, collect_state) = (state.registry.local.clone(), state.clone(), state.clone());
    RegistryBackend {
        repositories: Box::new(move |request| {
            let store = list_store.clone();
            async move { repositories(&store, &request).await.map_err(OperationError::failed) }.boxed()
        }),
        tags: Box::new(move |repository| {
            let store = tags_store.clone();
            async move { tags(&store, &repository).await.map_err(OperationError::failed) }.boxed()
        }),
        remove: Box::new(move |request| {
            let (registry, state) = (remove_registry.clone(), remove_state.clone());
            async move {
                let settings = &state.snapshot().config.registry;
                remove(&registry, request, settings).await.map_err(OperationError::failed)
            }
            .boxed()
        }),
        collect: Box::new(move |request, lines| {
            let state = collect_state.clone();
            async move {
                let mut sweep = sweep_of(&state.snapshot().config.registry, request.dry_run);
                sweep.grace = request.grace.unwrap_or(sweep.grace);
                sweep.untagged = if request.untagged { Untagged::All } else { sweep.untagged };
                collect(&state.registry.local, sweep, lines).await
            }
            .boxed()
        }),
        import: Box::new(move |directory, lines| {
            let store = import_store.clone();
            // The tree is read by ordinary calls, so the whole import has a thread of the blocking pool. The door runs
            // one import at a time.
            let importing = move || Handle::current().block_on(import::import(&store, &directory, lines));
            blocking(move || importing().map_err(OperationError::failed)).boxed()
        }),
    }
}

async fn repositories(store: &Store, request: &RepositoriesRequest) -> Result<RepositoryPage, StoreError> {
    let (found, more) = store.repositories.list(request.after.as_deref(), request.limit, |_| true).await?;
    let next = found.last().filter(|_| more).map(ToString::to_string);
    let mut repositories = Vec::with_capacity(found.len());
    for name in found {
        let repository = store.repositories.at(&name);
        repositories.push(RepositorySummary {
            name: name.to_string(),
            tags: repository.tagged().await?.len() as u64,
            manifests: repository.manifests().await?.len() as u64,
            size: repository.held_bytes().await?,
        });
    }
    Ok(RepositoryPage { repositories, next })
}

async fn tags(store: &Store, name: &RepositoryName) -> Result<Option<TagPage>, StoreError> {
    let repository = store.repositories.at(name);
    let tagged = repository.tagged().await?;
    if tagged.is_empty() && repository.manifests().await?.is_empty() {
        return Ok(None);
    }
    let mut tags = Vec::new();
    for tagged in tagged {
        // A tag whose manifest was deleted meanwhile is left out.
        if let Some(manifest) = repository.manifest(&Reference::Digest(tagged.digest)).await? {
            tags.push(TagSummary {
                tag: tagged.tag.to_string(),
                digest: tagged.digest.to_string(),
                media_type: manifest.media_type.to_string(),
                size: manifest.bytes.len() as u64,
            });
        }
    }
    Ok(Some(TagPage { name: name.to_string(), tags }))
}

async fn remove(
    registry: &LocalRegistry,
    request: RemoveRequest,
    settings: &RegistrySettings,
) -> Result<Option<RemovedNames>, StoreError> {
    let (repository, target) = match request {
        RemoveRequest::Tag(repository, tag) => (repository, RemovalTarget::Image(tag)),
        RemoveRequest::Manifest(repository, digest) => (repository, RemovalTarget::Manifest(digest)),
        RemoveRequest::Repository(repository) => (repository, RemovalTarget::Everything),
    };
    let Some(removed) = registry.remove(&repository, &target).await? else { return Ok(None) };
    let unneeded_since = registry.store.repositories.at(&repository).unneeded_since().await;
    registry.events.tell(target.about(event(repository)));
    // If a manifest cannot be read, the repository is not collected, so there is no such time.
    let freed_from = unneeded_since.ok().flatten().and_then(|since| since.checked_add(settings.grace));
    Ok(Some(RemovedNames {
        freed_from_unix_seconds: freed_from.map(unix_seconds),
        collected_every_seconds: settings.gc_interval.as_secs(),
        tags: removed.tags.iter().map(ToString::to_string).collect(),
        manifests: removed.manifests.iter().map(ToString::to_string).collect(),
    }))
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn event(repository: RepositoryName) -> Event {
    Event {
        deed: Deed::Delete,
        at: SystemTime::now(),
        repository,
        digest: None,
        size_bytes: None,
        media_type: None,
        tag: None,
        from: None,
        actor: Principal::User(ADMINISTRATOR.into()),
        request: None,
    }
}

/// Collects and tells the steps. Only the newest step waits for a slow client, so a collection never does.
async fn collect(
    registry: &Arc<LocalRegistry>,
    sweep: Sweep,
    lines: mpsc::Sender<GcLine>,
) -> OperationResult<CollectionReport> {
    let (newest, mut steps) = watch::channel(None);
    let collecting = registry.collect(sweep, move |step| _ = newest.send(Some(step)));
    let telling = async {
        while steps.changed().await.is_ok() {
            let line = match *steps.borrow_and_update() {
                Some(Step::Repositories(done, total)) => GcLine::Repositories { done, total },
                Some(Step::Content(done, total)) => GcLine::Content { done, total },
                None => continue,
            };
            // If the client has left, the collection still runs to its end.
            if lines.send(line).await.is_err() {
                break;
            }
        }
    };
    let (collected, ()) = tokio::join!(collecting, telling);
    let busy = || OperationError::Refused("a collection is already running".to_owned());
    Ok(told(&collected.map_err(OperationError::failed)?.ok_or_else(busy)?, sweep.dry_run))
}

fn told(collected: &Collected, dry_run: bool) -> CollectionReport {
    CollectionReport {
        dry_run,
        repositories: collected.repositories,
        skipped: collected.skipped,
        manifests: collected.manifests,
        unlinked: collected.links,
        waiting: collected.waiting,
        freed_blobs: collected.blobs,
        freed_bytes: collected.bytes,
        kept_by_cache: collected.kept_by_cache,
    }
}
