//! What the administrator's door can do about our own registry, as closures over it.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::name::{Reference, RepositoryName};

use crate::admin::registry::{
    CollectRequest, Collection, GcLine, OnStep, RegistryPowers, RemoveRequest, Removed, RepositoriesRequest,
    RepositoryEntry, RepositoryPage, TagEntry, TagPage,
};
use crate::admin::{Outcome, PowerError};
use crate::http::dispatch::Site;
use crate::registry::access::Principal;
use crate::registry::events::{Deed, Event};
use crate::registry::{LocalRegistry, import};
use crate::store::{Collected, Step, Store, StoreError, Sweep};

/// Who did it, in events.
const ADMINISTRATOR: &str = "administrator";

/// Everything the door may do with the registry of a site.
pub(super) fn registry_powers(site: &Arc<Site>) -> RegistryPowers {
    let store = || site.registry.store.clone();
    let (list_store, tags_store) = (store(), store());
    let import_store = store();
    let (remove_registry, collect_site) = (site.registry.clone(), site.clone());
    RegistryPowers {
        repositories: Box::new(move |request| repositories(&list_store, &request).map_err(failed)),
        tags: Box::new(move |repository| tags(&tags_store, &repository).map_err(failed)),
        remove: Box::new(move |request| remove(&remove_registry, &request).map_err(failed)),
        collect: Box::new(move |request, on_step| collect(&collect_site, request, on_step)),
        import: Box::new(move |directory, on_imported| {
            import::import(&import_store, directory, on_imported).map_err(|error| PowerError::Failed(error.to_string()))
        }),
    }
}

fn repositories(store: &Store, request: &RepositoriesRequest) -> Result<RepositoryPage, StoreError> {
    let (found, more) = store.repositories(request.after.as_deref(), request.limit)?;
    let next = found.last().filter(|_| more).map(ToString::to_string);
    let entries = found.iter().map(|repository| {
        Ok(RepositoryEntry {
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
        // One whose manifest is deleted meanwhile is none.
        if let Some(manifest) = store.pushed_manifest(repository, &Reference::Digest(tagged.digest))? {
            tags.push(TagEntry {
                tag: tagged.tag.to_string(),
                digest: tagged.digest.to_string(),
                media_type: manifest.media_type.to_string(),
                size: manifest.bytes.len() as u64,
            });
        }
    }
    Ok(Some(TagPage { name: repository.to_string(), tags }))
}

fn remove(registry: &LocalRegistry, request: &RemoveRequest) -> Result<Option<Removed>, StoreError> {
    let store = &registry.store;
    let removed = match request {
        RemoveRequest::Tag(repository, tag) => store.remove_tagged(repository, tag)?.map(|manifests| Removed {
            tags: vec![tag.to_string()],
            manifests: manifests.iter().map(ToString::to_string).collect(),
        }),
        RemoveRequest::Manifest(repository, digest) => {
            let tags = store.remove_pushed_manifest(repository, digest)?;
            tags.map(|tags| Removed {
                tags: tags.iter().map(ToString::to_string).collect(),
                manifests: vec![digest.to_string()],
            })
        }
        RemoveRequest::Repository(repository) => {
            let (tagged, manifests) = (store.tagged(repository)?, store.pushed_manifests(repository)?);
            store.remove_repository(repository)?.then(|| Removed {
                tags: tagged.iter().map(|tagged| tagged.tag.to_string()).collect(),
                manifests: manifests.iter().map(ToString::to_string).collect(),
            })
        }
    };
    if removed.is_some() {
        registry.events.tell(event(request));
    }
    Ok(removed)
}

fn event(request: &RemoveRequest) -> Event {
    let (repository, tag, digest) = match request {
        RemoveRequest::Tag(repository, tag) => (repository, Some(tag.clone()), None),
        RemoveRequest::Manifest(repository, digest) => (repository, None, Some(*digest)),
        RemoveRequest::Repository(repository) => (repository, None, None),
    };
    Event {
        deed: Deed::Delete,
        at: SystemTime::now(),
        repository: repository.clone(),
        digest,
        size_bytes: None,
        media_type: None,
        tag,
        from: None,
        actor: Principal::User(ADMINISTRATOR.into()),
        request: None,
    }
}

fn collect(site: &Site, request: CollectRequest, on_step: OnStep<'_>) -> Outcome<Collection> {
    let CollectRequest { dry_run, untagged, grace } = request;
    let grace = grace.unwrap_or(site.live().config.registry.grace);
    let mut is_heard = true;
    let mut progress = |step| {
        let line = match step {
            Step::Repositories(done, total) => GcLine::Repositories { done, total },
            Step::Content(done, total) => GcLine::Content { done, total },
        };
        // Who leaves does not stop it half way.
        is_heard = is_heard && on_step(line).is_continue();
    };
    let collected = site.registry.store.collect(Sweep { grace, untagged, dry_run }, &mut progress).map_err(failed)?;
    let busy = || PowerError::Refused("a collection is already running".to_owned());
    let collected = collected.ok_or_else(busy)?;
    Ok(told(&collected, dry_run))
}

/// A collection that nobody asked for; logged where it did something.
pub(super) fn collect_quietly(site: &Site) {
    let grace = site.live().config.registry.grace;
    match site.registry.store.collect(Sweep { grace, untagged: false, dry_run: false }, &mut |_| {}) {
        Ok(Some(collected)) if collected.links + collected.blobs > 0 => {
            let Collected { links, blobs, bytes, .. } = collected;
            tracing::info!(links, blobs, bytes, "collected what no manifest of the registry names");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("the registry was not collected: {error}"),
    }
}

fn told(collected: &Collected, dry_run: bool) -> Collection {
    Collection {
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

fn failed(error: StoreError) -> PowerError {
    PowerError::Failed(error.to_string())
}
