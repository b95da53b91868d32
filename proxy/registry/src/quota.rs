//! Whether what comes in has room: the quotas of `access` compared with what the store holds.
//!
//! Invariant: where a quota covers a repository, one thing at a time is counted and added, so pushes at the same moment
//! do not pass it together.

use entrepot_core::digest::Digest;
use entrepot_core::name::RepositoryName;
use tokio::sync::MutexGuard;

use super::LocalRegistry;
use super::access::{AccessRefusal, Held};
use entrepot_store::StoreError;

impl LocalRegistry {
    /// The turn to count and to add. None if nothing is counted.
    pub(super) async fn turn(&self, repository: &RepositoryName) -> Option<MutexGuard<'_, ()>> {
        match self.access().has_quota(repository) {
            true => Some(self.counting.lock().await),
            false => None,
        }
    }

    /// The refusal of `size_bytes` more for a repository. None if they fit. Content that it has already takes no room;
    /// content of another repository takes none of the total.
    pub(super) async fn overdrawn(
        &self,
        repository: &RepositoryName,
        digest: Option<&Digest>,
        size_bytes: u64,
    ) -> Result<Option<AccessRefusal>, StoreError> {
        let access = self.access();
        if !access.has_quota(repository) {
            return Ok(None);
        }
        let held = self.store.repositories.at(repository);
        if let Some(digest) = digest
            && held.has(digest).await
        {
            return Ok(None);
        }
        if access.has_total_quota() {
            // The total is the index's, which notes what was added a moment later.
            self.store.flush().await;
        }
        let is_elsewhere = match digest {
            Some(digest) => self.store.repositories.is_pinned(digest).await,
            None => false,
        };
        let after = Held {
            repository_bytes: held.held_bytes().await?.saturating_add(size_bytes),
            total_bytes: self.store.usage().pinned_bytes.saturating_add(if is_elsewhere { 0 } else { size_bytes }),
        };
        Ok(access.room(repository, after).err())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use entrepot_core::digest::Algorithm;
    use tempfile::TempDir;

    use super::*;
    use crate::access::AccessControl;
    use crate::events::{EventSource, Events};
    use entrepot_config::{Flags, Found, HostFacts, load};
    use entrepot_observe::metrics::Metrics;
    use entrepot_store::{Limits, Store};
    use entrepot_upstream::http_client::HttpClient;
    use entrepot_upstream::own::Ourselves;
    use entrepot_upstream::registry_client::{RegistryClient, UpstreamMemory};

    /// A registry with these lines in its section.
    fn registry(folder: &TempDir, lines: &str) -> Arc<LocalRegistry> {
        let file = folder.path().join("entrepot.toml");
        std::fs::write(&file, format!("[registry]\n{lines}")).unwrap();
        let flags = Flags { config: Some(file), data_dir: Some(folder.path().to_owned()), listen: Vec::new() };
        let host = HostFacts { uid: 0, look: Box::new(|_| Found::Nothing) };
        let config = load(&flags, &|_| None, &host).unwrap_or_else(|error| panic!("{error}")).config;
        let limits = Limits { max_size_bytes: 1 << 40, min_free_bytes: 0, inactive: Duration::from_secs(3600) };
        let via = http::HeaderValue::from_static("1.1 entrepot-test");
        let metrics = Arc::new(Metrics::new());
        let memory = UpstreamMemory::new(metrics, via);
        let client = HttpClient::new(&config.live.upstream, &[], &Ourselves::default());
        let source = EventSource { address: String::new(), instance: String::new() };
        let events = Events::new(source, Arc::new(RegistryClient::new(client, Arc::new(memory))));
        let access = AccessControl::open(config.live.registry.rights.clone(), folder.path()).unwrap();
        let store = Store::open(folder.path(), limits).unwrap();
        LocalRegistry::open(store, config.startup.registry.ports(), &config.live.registry, access, events)
    }

    /// Pushes so many bytes to a repository.
    async fn push(registry: &LocalRegistry, repository: &str, seed: u8, size: usize) -> Digest {
        let bytes = vec![seed; size];
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let repositories = &registry.store.repositories;
        let _hold = repositories.hold(&digest).await.unwrap();
        repositories.put(&digest, bytes.into()).await.unwrap();
        assert!(repositories.at(&repository.parse().unwrap()).link(&digest).await.unwrap());
        digest
    }

    async fn over(registry: &LocalRegistry, repository: &str, digest: Option<&Digest>, size: u64) -> Option<u16> {
        let refusal = registry.overdrawn(&repository.parse().unwrap(), digest, size).await.unwrap()?;
        Some(refusal.plain().status.as_u16())
    }

    #[tokio::test]
    async fn what_is_held_and_what_comes_are_counted_once() {
        let folder = TempDir::new().unwrap();
        let lines = "max_size = \"1000\"\n[[registry.quotas]]\nrepository = \"small/*\"\nmax_size = \"300\"\n";
        let registry = registry(&folder, lines);
        let held = push(&registry, "small/a", 1, 200).await;
        let other = push(&registry, "large", 2, 500).await;
        for (repository, digest, size, expected) in [
            ("small/a", None, 100, None),
            ("small/a", None, 101, Some(413)),
            ("small/a", Some(&held), 200, None),
            ("small/b", Some(&held), 200, None),
            ("small/b", Some(&other), 500, Some(413)),
            ("large", None, 300, None),
            ("large", None, 301, Some(507)),
            ("another", Some(&other), 500, None),
        ] {
            assert_eq!(over(&registry, repository, digest, size).await, expected, "{repository} {digest:?} {size}");
        }
    }

    #[tokio::test]
    async fn without_quotas_nobody_waits_and_nothing_is_counted() {
        let folder = TempDir::new().unwrap();
        let registry = registry(&folder, "");
        let repository: RepositoryName = "a".parse().unwrap();
        let (first, second) = (registry.turn(&repository).await, registry.turn(&repository).await);
        assert!(first.is_none() && second.is_none());
        assert_eq!(over(&registry, "a", None, u64::MAX).await, None);
    }
}
