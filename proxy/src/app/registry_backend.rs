//! The operations of the administrator's door on our own registry, as closures over it.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::name::{Reference, RepositoryName};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::admin::registry::{
    CollectRequest, CollectionReport, GcLine, OnStep, RegistryBackend, RemoveRequest, RemovedNames,
    RepositoriesRequest, RepositoryPage, RepositorySummary, TagPage, TagSummary,
};
use crate::admin::{OperationError, OperationResult};
use crate::doors::state::AppState;
use entrepot_registry::access::Principal;
use entrepot_registry::events::{Deed, Event};
use entrepot_registry::removal::RemovalTarget;
use entrepot_registry::{LocalRegistry, import};
use entrepot_store::{Collected, Step, Store, StoreError, Sweep};

/// The actor in events about changes through the administrator's door.
const ADMINISTRATOR: &str = "administrator";

/// Every operation of the door on our registry.
pub(super) fn registry_backend(state: &Arc<AppState>) -> RegistryBackend {
    let store = || state.registry.local.store.clone();
    let (list_store, tags_store) = (store(), store());
    let import_store = store();
    let (remove_registry, collect_site) = (state.registry.local.clone(), state.clone());
    let runtime = Handle::current;
    let (list_on, tags_on, remove_on, collect_on, import_on) = (runtime(), runtime(), runtime(), runtime(), runtime());
    RegistryBackend {
        repositories: Box::new(move |request| list_on.block_on(repositories(&list_store, &request)).map_err(failed)),
        tags: Box::new(move |repository| tags_on.block_on(tags(&tags_store, &repository)).map_err(failed)),
        remove: Box::new(move |request| remove_on.block_on(remove(&remove_registry, request)).map_err(failed)),
        collect: Box::new(move |request, on_step| collect(&collect_on, &collect_site, request, on_step)),
        import: Box::new(move |directory, on_imported| {
            import_on
                .block_on(import::import(&import_store, directory, on_imported))
                .map_err(|error| OperationError::Failed(error.to_string()))
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
    if !repository.exists().await {
        return Ok(None);
    }
    let mut tags = Vec::new();
    for tagged in repository.tagged().await? {
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

async fn remove(registry: &LocalRegistry, request: RemoveRequest) -> Result<Option<RemovedNames>, StoreError> {
    let (repository, target) = match request {
        RemoveRequest::Tag(repository, tag) => (repository, RemovalTarget::Image(tag)),
        RemoveRequest::Manifest(repository, digest) => (repository, RemovalTarget::Manifest(digest)),
        RemoveRequest::Repository(repository) => (repository, RemovalTarget::Everything),
    };
    let Some(removed) = registry.remove(&repository, &target).await? else { return Ok(None) };
    registry.events.tell(target.about(event(repository)));
    Ok(Some(RemovedNames {
        tags: removed.tags.iter().map(ToString::to_string).collect(),
        manifests: removed.manifests.iter().map(ToString::to_string).collect(),
    }))
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

/// Collects on `runtime`, and tells the steps from this thread of the blocking pool. `on_step` may block, so it is
/// called outside the runtime: a wake-up of the collection would be lost to it if both waited on one thread.
fn collect(
    runtime: &Handle,
    state: &AppState,
    request: CollectRequest,
    on_step: OnStep<'_>,
) -> OperationResult<CollectionReport> {
    let CollectRequest { dry_run, untagged, grace } = request;
    let grace = grace.unwrap_or(state.snapshot().config.registry.grace);
    let (said, mut heard) = mpsc::unbounded_channel();
    // If the client leaves, the collection still runs to its end.
    let progress = move |step| {
        let _ = said.send(step);
    };
    let registry = state.registry.local.clone();
    let collecting = runtime.spawn(async move { registry.collect(Sweep { grace, untagged, dry_run }, progress).await });
    while let Some(step) = heard.blocking_recv() {
        let line = match step {
            Step::Repositories(done, total) => GcLine::Repositories { done, total },
            Step::Content(done, total) => GcLine::Content { done, total },
        };
        if on_step(line).is_break() {
            break;
        }
    }
    drop(heard);
    let collected = runtime.block_on(collecting).unwrap_or(Err(StoreError::DiskThreadGone)).map_err(failed)?;
    let busy = || OperationError::Refused("a collection is already running".to_owned());
    let collected = collected.ok_or_else(busy)?;
    Ok(told(&collected, dry_run))
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

fn failed(error: StoreError) -> OperationError {
    OperationError::Failed(error.to_string())
}
