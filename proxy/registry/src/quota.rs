//! Whether pushed content has room: the quotas of `access` compared with the content that the store holds and the bytes
//! that arrive.
//!
//! Invariants: where a quota covers a repository, one thing at a time is counted and added, so pushes at the same moment
//! do not pass it together. The bytes of uploads count from the moment they arrive, each once: as arriving, until they
//! are content, and as content from then on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entrepot_core::digest::Digest;
use entrepot_core::name::RepositoryName;

use super::LocalRegistry;
use super::access::{AccessControl, AccessRefusal, Held};
use entrepot_store::StoreError;

/// The turn to count and to add. When it ends, earlier counts are out of date.
pub(super) struct Turn<'r> {
    registry: &'r LocalRegistry,
    _held: tokio::sync::MutexGuard<'r, ()>,
}

/// The bytes of the uploads that run.
#[derive(Default)]
pub(super) struct Arriving {
    sums: Mutex<Sums>,
    /// Grows whenever content may have been added.
    turns: AtomicU64,
}

#[derive(Default)]
struct Sums {
    total: u64,
    repositories: HashMap<RepositoryName, u64>,
}

/// The bytes of one upload among those that arrive, until it is dropped.
pub(super) struct Arrived {
    arriving: Arc<Arriving>,
    repository: RepositoryName,
    bytes: AtomicU64,
}

/// Decides about the next bytes of an upload.
pub(super) struct Budget<'r> {
    registry: &'r LocalRegistry,
    access: Arc<AccessControl>,
    repository: &'r RepositoryName,
    held: Held,
    counted_at: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.registry.arriving.turns.fetch_add(1, Ordering::Release);
    }
}

impl Arriving {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the uploads that run, without one of them.
    fn others(&self, repository: &RepositoryName, own: Option<&Arrived>) -> Held {
        let sums = self.sums();
        let own_bytes = own.map_or(0, Arrived::bytes);
        let of_repository = sums.repositories.get(repository).copied().unwrap_or(0);
        Held {
            repository_bytes: of_repository.saturating_sub(own_bytes),
            total_bytes: sums.total.saturating_sub(own_bytes),
        }
    }

    /// Counts an upload that has so many bytes.
    pub(super) fn count(self: &Arc<Self>, repository: &RepositoryName, bytes: u64) -> Arrived {
        let arrived = Arrived { arriving: self.clone(), repository: repository.clone(), bytes: AtomicU64::new(0) };
        arrived.set(&mut self.sums(), bytes);
        arrived
    }
}

impl Arrived {
    /// The bytes that are counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts so many from now on, whatever the quotas say.
    pub(super) fn set_to(&self, bytes: u64) {
        self.set(&mut self.arriving.sums(), bytes);
    }

    /// Under the lock of the sums, which every change has.
    fn set(&self, sums: &mut Sums, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        sums.total = sums.total.saturating_sub(before).saturating_add(bytes);
        let of_repository = sums.repositories.entry(self.repository.clone()).or_default();
        *of_repository = of_repository.saturating_sub(before).saturating_add(bytes);
        if *of_repository == 0 {
            sums.repositories.remove(&self.repository);
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        self.set_to(0);
    }
}

impl Budget<'_> {
    /// Whether an upload may have so many bytes. Nothing is counted yet.
    pub(super) async fn may_have(
        &mut self,
        arrived: &Arrived,
        bytes: u64,
    ) -> Result<Result<(), AccessRefusal>, StoreError> {
        self.decide(arrived, bytes, false).await
    }

    /// Whether an upload may grow to so many bytes, which count from now on.
    pub(super) async fn grow(
        &mut self,
        arrived: &Arrived,
        bytes: u64,
    ) -> Result<Result<(), AccessRefusal>, StoreError> {
        self.decide(arrived, bytes, true).await
    }

    async fn decide(
        &mut self,
        arrived: &Arrived,
        bytes: u64,
        counts: bool,
    ) -> Result<Result<(), AccessRefusal>, StoreError> {
        let is_current = self.counted_at == self.registry.arriving.turns.load(Ordering::Acquire);
        if is_current && let Ok(()) = self.room(arrived, bytes, counts) {
            return Ok(Ok(()));
        }
        // Something was added or removed since it was counted.
        (self.held, self.counted_at) = self.registry.held(self.repository, &self.access).await?;
        Ok(self.room(arrived, bytes, counts))
    }

    /// Decides and counts in one step.
    fn room(&self, arrived: &Arrived, bytes: u64, counts: bool) -> Result<(), AccessRefusal> {
        let mut sums = arrived.arriving.sums();
        let own_bytes = arrived.bytes();
        let of_repository = sums.repositories.get(self.repository).copied().unwrap_or(0);
        let after =
            |held: u64, arriving: u64| held.saturating_add(arriving.saturating_sub(own_bytes)).saturating_add(bytes);
        let after = Held {
            repository_bytes: after(self.held.repository_bytes, of_repository),
            total_bytes: after(self.held.total_bytes, sums.total),
        };
        self.access.room(self.repository, after)?;
        if counts {
            arrived.set(&mut sums, bytes);
        }
        Ok(())
    }
}

impl LocalRegistry {
    /// The turn to count and to add. None if nothing is counted.
    pub(super) async fn turn(&self, repository: &RepositoryName) -> Option<Turn<'_>> {
        match self.access().has_quota(repository) {
            true => Some(Turn { registry: self, _held: self.counting.lock().await }),
            false => None,
        }
    }

    /// The decider about the bytes of an upload while they arrive. None if no quota covers the repository.
    pub(super) async fn budget<'r>(&'r self, repository: &'r RepositoryName) -> Result<Option<Budget<'r>>, StoreError> {
        let access = self.access();
        if !access.has_quota(repository) {
            return Ok(None);
        }
        let (held, counted_at) = self.held(repository, &access).await?;
        Ok(Some(Budget { registry: self, access, repository, held, counted_at }))
    }

    /// The sizes of the content between two turns, and the number of the last turn.
    async fn held(&self, repository: &RepositoryName, access: &AccessControl) -> Result<(Held, u64), StoreError> {
        let _between = self.counting.lock().await;
        let held = self.held_now(repository, access).await?;
        Ok((held, self.arriving.turns.load(Ordering::Acquire)))
    }

    async fn held_now(&self, repository: &RepositoryName, access: &AccessControl) -> Result<Held, StoreError> {
        // The total is the index's, which notes what was added a moment later.
        let total_bytes = if access.has_total_quota() { self.store.usage_now().await.pinned_bytes } else { 0 };
        let repository_bytes = match access.quota(repository) {
            Some(_) => self.store.repositories.at(repository).held_bytes().await?,
            None => 0,
        };
        Ok(Held { repository_bytes, total_bytes })
    }

    /// The refusal of content for a repository, in a turn. None if it fits beside the uploads that run, of which `own` is
    /// the content itself. Content that the repository has already takes no room; content of another repository takes
    /// none of the total.
    pub(super) async fn overdrawn(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        own: Option<&Arrived>,
    ) -> Result<Option<AccessRefusal>, StoreError> {
        let access = self.access();
        if !access.has_quota(repository) || self.store.repositories.at(repository).has(digest).await {
            return Ok(None);
        }
        let held = self.held_now(repository, &access).await?;
        let is_elsewhere = self.store.repositories.is_pinned(digest).await;
        let others = self.arriving.others(repository, own);
        let after = Held {
            repository_bytes: held.repository_bytes.saturating_add(others.repository_bytes).saturating_add(size_bytes),
            total_bytes: held.total_bytes.saturating_add(others.total_bytes).saturating_add(if is_elsewhere {
                0
            } else {
                size_bytes
            }),
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
        let config = load(&flags, &|_: &str| None, &host).unwrap_or_else(|error| panic!("{error}")).config;
        let limits = Limits {
            max_size_bytes: 1 << 40,
            min_free_bytes: 0,
            inactive: Duration::from_secs(3600),
            proofs: Duration::ZERO,
        };
        let via = http::HeaderValue::from_static("1.1 entrepot-test");
        let metrics = Arc::new(Metrics::new());
        let memory = UpstreamMemory::new(metrics, via);
        let client = HttpClient::new(&config.live.upstream, &[], &Ourselves::default());
        let source = EventSource { address: String::new(), instance: String::new() };
        let events = Events::new(source, Arc::new(RegistryClient::new(client, Arc::new(memory))), folder.path().into());
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

    /// The refusal of content, or of an upload of this length.
    async fn over(registry: &LocalRegistry, repository: &str, digest: Option<&Digest>, size: u64) -> Option<u16> {
        let repository = repository.parse().unwrap();
        let refusal = match digest {
            Some(digest) => registry.overdrawn(&repository, digest, size, None).await.unwrap(),
            None => match registry.budget(&repository).await.unwrap() {
                Some(mut budget) => {
                    let arrived = registry.arriving.count(&repository, 0);
                    budget.grow(&arrived, size).await.unwrap().err()
                }
                None => None,
            },
        };
        Some(refusal?.plain().status.as_u16())
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

    #[tokio::test]
    async fn what_arrives_counts_once_whoever_sends_it() {
        let folder = TempDir::new().unwrap();
        let lines = "max_size = \"1000\"\n[[registry.quotas]]\nrepository = \"small/*\"\nmax_size = \"300\"\n";
        let registry = registry(&folder, lines);
        let (small, large): (RepositoryName, RepositoryName) = ("small/a".parse().unwrap(), "large".parse().unwrap());
        let (mut of_small, mut of_large) = (
            registry.budget(&small).await.unwrap().expect("a quota"),
            registry.budget(&large).await.unwrap().expect("a quota"),
        );
        let [first, second, other] = [&small, &small, &large].map(|repository| registry.arriving.count(repository, 0));
        let status = |decided: Result<(), AccessRefusal>| decided.err().map(|why| why.plain().status.as_u16());
        assert_eq!(status(of_small.grow(&first, 200).await.unwrap()), None);
        assert_eq!(status(of_small.grow(&first, 250).await.unwrap()), None, "its own bytes count once");
        assert_eq!(status(of_small.grow(&second, 51).await.unwrap()), Some(413), "together they pass the quota");
        assert_eq!(status(of_small.may_have(&second, 50).await.unwrap()), None);
        assert_eq!(second.bytes(), 0, "a question counts nothing");
        assert_eq!(status(of_large.grow(&other, 751).await.unwrap()), Some(507));
        assert_eq!(status(of_large.grow(&other, 750).await.unwrap()), None);
        // It becomes content: never counted twice, and never not at all.
        let turn = registry.turn(&small).await;
        push(&registry, "small/a", 1, 250).await;
        drop(first);
        drop(turn);
        assert_eq!(status(of_small.grow(&second, 51).await.unwrap()), Some(413));
        assert_eq!(status(of_small.grow(&second, 50).await.unwrap()), Some(507), "the total is used up");
        drop(other);
        assert_eq!(status(of_small.grow(&second, 50).await.unwrap()), None);
        drop(second);
        assert!(registry.arriving.sums().repositories.is_empty() && registry.arriving.sums().total == 0);
    }
}
