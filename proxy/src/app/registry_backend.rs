//! The operations of the administrator's door on our own registry, as closures over it.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::name::{Reference, RepositoryName};

use crate::admin::registry::{
    CollectRequest, CollectionReport, GcLine, OnStep, RegistryBackend, RemoveRequest, RemovedNames,
    RepositoriesRequest, RepositoryPage, RepositorySummary, TagPage, TagSummary,
};
use crate::admin::{OperationError, OperationResult};
use crate::doors::state::AppState;
use entrepot_registry::access::Principal;
use entrepot_registry::events::{Deed, Event};
use entrepot_registry::removal::Target;
use entrepot_registry::{LocalRegistry, import};
use entrepot_store::{Collected, Step, Store, StoreError, Sweep};

/// The actor in events about changes through this door.
const ADMINISTRATOR: &str = "administrator";

/// Every operation of the door on the registry of a state.
pub(super) fn registry_backend(state: &Arc<AppState>) -> RegistryBackend {
    let store = || state.registry.local.store.clone();
    let (list_store, tags_store) = (store(), store());
    let import_store = store();
    let (remove_registry, collect_site) = (state.registry.local.clone(), state.clone());
    RegistryBackend {
        repositories: Box::new(move |request| repositories(&list_store, &request).map_err(failed)),
        tags: Box::new(move |repository| tags(&tags_store, &repository).map_err(failed)),
        remove: Box::new(move |request| remove(&remove_registry, request).map_err(failed)),
        collect: Box::new(move |request, on_step| collect(&collect_site, request, on_step)),
        import: Box::new(move |directory, on_imported| {
            import::import(&import_store, directory, on_imported)
                .map_err(|error| OperationError::Failed(error.to_string()))
        }),
    }
}

fn repositories(store: &Store, request: &RepositoriesRequest) -> Result<RepositoryPage, StoreError> {
    let (found, more) = store.repositories(request.after.as_deref(), request.limit)?;
    let next = found.last().filter(|_| more).map(ToString::to_string);
    let entries = found.iter().map(|repository| {
        Ok(RepositorySummary {
            name: repository.to_string(),
            tags: store.tagged(repository)?.len() as u64,
            manifests: store.pushed_manifests(repository)?.len() as u64,
            size: store.pushed_usage(Some(repository))?,
        })
    });
    Ok(RepositoryPage { repositories: entries.collect::<Result<_, StoreError>>()?, next })
}

fn tags(store: &Store, repository: &RepositoryName) -> Result<Option<TagPage>, StoreError> {
    if !store.has_repository(repository) {
        return Ok(None);
    }
    let mut tags = Vec::new();
    for tagged in store.tagged(repository)? {
        // A tag whose manifest was deleted meanwhile is left out.
        if let Some(manifest) = store.pushed_manifest(repository, &Reference::Digest(tagged.digest))? {
            tags.push(TagSummary {
                tag: tagged.tag.to_string(),
                digest: tagged.digest.to_string(),
                media_type: manifest.media_type.to_string(),
                size: manifest.bytes.len() as u64,
            });
        }
    }
    Ok(Some(TagPage { name: repository.to_string(), tags }))
}

fn remove(registry: &LocalRegistry, request: RemoveRequest) -> Result<Option<RemovedNames>, StoreError> {
    let (repository, target) = match request {
        RemoveRequest::Tag(repository, tag) => (repository, Target::Image(tag)),
        RemoveRequest::Manifest(repository, digest) => (repository, Target::Manifest(digest)),
        RemoveRequest::Repository(repository) => (repository, Target::Everything),
    };
    let Some(removed) = registry.remove(&repository, &target)? else { return Ok(None) };
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

fn collect(state: &AppState, request: CollectRequest, on_step: OnStep<'_>) -> OperationResult<CollectionReport> {
    let CollectRequest { dry_run, untagged, grace } = request;
    let grace = grace.unwrap_or(state.snapshot().config.registry.grace);
    let mut is_heard = true;
    let mut progress = |step| {
        let line = match step {
            Step::Repositories(done, total) => GcLine::Repositories { done, total },
            Step::Content(done, total) => GcLine::Content { done, total },
        };
        // A client that leaves does not stop the collection half way.
        is_heard = is_heard && on_step(line).is_continue();
    };
    let collected = state.registry.local.collect(Sweep { grace, untagged, dry_run }, &mut progress).map_err(failed)?;
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
