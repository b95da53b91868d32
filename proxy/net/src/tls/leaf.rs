//! The leaves: a certificate for exactly the name that a client asks for, signed on demand and kept.
//!
//! The doors call [`LeafStore::server_config`] with the name that a connection leads to. `authority` signs, `server`
//! makes the configuration.
//!
//! Invariants: at most `NAMES_MAX` names are kept. Only one thread signs for a name at a time, and at most `MINTERS`
//! threads sign at once, however many clients ask. Nothing is signed on the event loop.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_core::host::RegistryHost;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

use super::authority::{Authority, rfc3339};
use super::error::CaError;
use super::issue::{BACKDATE, Validity};
use super::own_key::OwnKey;
use super::server::{Template, Whose};

/// The most names that are kept. Beyond it, the name that was unused for longest is dropped.
pub(crate) const NAMES_MAX: usize = 1024;
/// The longest validity of a leaf, including the backdated day.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The most threads that sign at once.
const MINTERS: usize = 4;

/// The source of the time. Tests use their own.
pub type Clock = fn() -> SystemTime;

/// Signs and keeps the leaves of one authority: our own with the key of our name, the others with one key that lives as
/// long as the process.
pub struct LeafStore {
    authority: Arc<Authority>,
    lifetime: Duration,
    clock: Clock,
    key: KeyPair,
    own_key: OwnKey,
    template: Template,
    kept: Mutex<Kept>,
    /// A name always uses the same lock, so a second client that asks for it waits and then finds it kept.
    minters: [Arc<tokio::sync::Mutex<()>>; MINTERS],
}

impl LeafStore {
    /// Prepares the store. `lifetime` is cut to `LIFETIME_MAX`.
    pub fn new(authority: Arc<Authority>, own_key: OwnKey, lifetime: Duration, clock: Clock) -> Result<Self, CaError> {
        let failed = |reason: String| CaError::Issue { subject: "the leaves' key".to_owned(), reason };
        let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let template = Template::new(PrivateKeyDer::Pkcs8(key.serialize_der().into()), own_key.key().der())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            authority,
            lifetime: lifetime.min(LIFETIME_MAX),
            clock,
            key,
            own_key,
            template,
            kept: Mutex::default(),
            minters: Default::default(),
        })
    }

    /// The authority behind the leaves.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The configuration for `host`, kept or newly signed on a blocking thread.
    pub async fn server_config(self: &Arc<Self>, host: &RegistryHost) -> Result<Arc<ServerConfig>, CaError> {
        self.config_of([host.name().into()].into(), Whose::Others).await
    }

    /// The configuration for this server itself, which has several names and addresses: one certificate for exactly
    /// these, with the key of our own name.
    pub async fn own_config(self: &Arc<Self>, names: Arc<[Box<str>]>) -> Result<Arc<ServerConfig>, CaError> {
        self.config_of(names, Whose::Own).await
    }

    async fn config_of(self: &Arc<Self>, names: Arc<[Box<str>]>, whose: Whose) -> Result<Arc<ServerConfig>, CaError> {
        let own = if whose == Whose::Own { "this server: " } else { "" };
        let subject = format!("{own}{}", names.join(" "));
        if let Some(config) = self.fresh(&subject) {
            return Ok(config);
        }
        let turn = Arc::clone(&self.minters[stripe(&subject)]).lock_owned().await;
        if let Some(config) = self.fresh(&subject) {
            return Ok(config);
        }
        let store = Arc::clone(self);
        let asked = subject.clone();
        // The blocking thread holds the lock, so that no second thread signs the same names if the client leaves.
        let minted = tokio::task::spawn_blocking(move || {
            let minted = store.mint(&names, whose, &asked);
            drop(turn);
            minted
        });
        minted.await.unwrap_or_else(|error| Err(CaError::Issue { subject, reason: error.to_string() }))
    }

    /// The configuration that is kept for these names. None if there is none, or if it has to be renewed. Never blocks.
    pub(crate) fn fresh(&self, subject: &str) -> Option<Arc<ServerConfig>> {
        self.kept().fresh(subject, (self.clock)())
    }

    /// Signs, keeps and returns a configuration. Blocks for the signature.
    pub(crate) fn mint(&self, names: &[Box<str>], whose: Whose, subject: &str) -> Result<Arc<ServerConfig>, CaError> {
        let (validity, renew_at) = self.schedule((self.clock)())?;
        let texts: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let key = match whose {
            Whose::Own => self.own_key.key().pair(),
            Whose::Others => &self.key,
        };
        let chain = self.authority.sign_leaf(&texts, validity, key)?;
        let config = self
            .template
            .config(chain, whose)
            .map_err(|error| CaError::Issue { subject: subject.to_owned(), reason: error.to_string() })?;
        tracing::debug!(names = subject, not_after = %rfc3339(validity.not_after), "minted a leaf");
        let leaf = Leaf { config: Arc::clone(&config), from: validity.not_before, renew_at, last_use: 0 };
        self.kept().put(subject, leaf);
        Ok(config)
    }

    /// The validity of a leaf that is signed `now`, and the time to replace it. It is replaced with a third of its life
    /// left, unless the end of the CA cuts it short, so that a new one would be no better.
    fn schedule(&self, now: SystemTime) -> Result<(Validity, SystemTime), CaError> {
        let ca_end = self.authority.not_after();
        if ca_end <= now {
            return Err(CaError::Outlived { subject: self.authority.subject().to_owned(), not_after: rfc3339(ca_end) });
        }
        let not_before = now - BACKDATE;
        let wanted = (now + self.lifetime).min(not_before + LIFETIME_MAX);
        let not_after = wanted.min(ca_end);
        let renew_at = if not_after < wanted { not_after } else { not_after - self.lifetime / 3 };
        Ok((Validity { not_before, not_after }, renew_at))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change under the lock is complete before any code can panic, so a poisoned map is still right.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stripe(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % MINTERS as u64) as usize
}

struct Leaf {
    config: Arc<ServerConfig>,
    from: SystemTime,
    renew_at: SystemTime,
    last_use: u64,
}

/// The names that are kept. The least recently used is dropped first.
#[derive(Default)]
struct Kept {
    leaves: HashMap<Box<str>, Leaf>,
    uses: u64,
}

impl Kept {
    fn fresh(&mut self, name: &str, now: SystemTime) -> Option<Arc<ServerConfig>> {
        let leaf = self.leaves.get_mut(name)?;
        // If the clock was set back, it may be before the leaf's first moment.
        if !(leaf.from <= now && now < leaf.renew_at) {
            return None;
        }
        self.uses += 1;
        leaf.last_use = self.uses;
        Some(Arc::clone(&leaf.config))
    }

    fn put(&mut self, name: &str, leaf: Leaf) {
        if self.leaves.len() >= NAMES_MAX && !self.leaves.contains_key(name) {
            // A walk over the names costs little beside a signature, so no second structure is kept.
            let oldest = self.leaves.iter().min_by_key(|(_, leaf)| leaf.last_use).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.leaves.remove(&oldest));
        }
        self.uses += 1;
        self.leaves.insert(name.into(), Leaf { last_use: self.uses, ..leaf });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testdata::ca_files;
    use super::*;

    fn store(lifetime: Duration) -> Arc<LeafStore> {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(&ca_files(folder.path())).expect("a CA");
        let own_key = OwnKey::generate().expect("a key");
        Arc::new(LeafStore::new(Arc::new(authority), own_key, lifetime, SystemTime::now).expect("a store"))
    }

    fn host(text: &str) -> RegistryHost {
        text.parse().expect(text)
    }

    #[test]
    fn a_leaf_lives_as_long_as_configured_and_never_beyond_seven_days() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (lifetime, ahead, renewed_after) in [
            (hours(24), hours(24), hours(16)),
            (hours(144), hours(144), hours(96)),
            // The backdated day counts.
            (hours(168), hours(144), hours(88)),
            (hours(9999), hours(144), hours(88)),
        ] {
            let store = store(lifetime);
            let now = SystemTime::now();
            let (validity, renew_at) = store.schedule(now).expect("a schedule");
            assert_eq!(validity, Validity { not_before: now - hours(24), not_after: now + ahead });
            assert_eq!(renew_at, now + renewed_after);
        }
    }

    #[test]
    fn near_the_end_of_the_ca_a_leaf_is_kept_to_the_end() {
        let store = store(LIFETIME_MAX);
        let end = store.authority.not_after();
        let (validity, renew_at) = store.schedule(end - Duration::from_secs(60)).expect("a schedule");
        assert_eq!((validity.not_after, renew_at), (end, end));
        assert!(matches!(store.schedule(end), Err(CaError::Outlived { .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_crowd_asking_for_one_name_gets_one_leaf() {
        let store = store(LIFETIME_MAX);
        let ask = |name: &str| {
            let (store, host) = (Arc::clone(&store), host(name));
            tokio::spawn(async move { store.server_config(&host).await.expect("a leaf") })
        };
        let crowd: Vec<_> = (0..64).map(|_| ask("ghcr.io")).collect();
        let first = store.server_config(&host("GHCR.io:8443")).await.expect("a leaf");
        for one in crowd {
            assert!(Arc::ptr_eq(&one.await.expect("no panic"), &first));
        }
        assert!(!Arc::ptr_eq(&ask("quay.io").await.expect("no panic"), &first));
    }

    #[tokio::test]
    async fn an_asker_that_leaves_harms_nobody() {
        let store = store(LIFETIME_MAX);
        let ghcr = host("ghcr.io");
        // The future is polled once, which starts the signing, and then dropped.
        tokio::select! {
            biased;
            _ = store.server_config(&ghcr) => (),
            () = std::future::ready(()) => (),
        }
        let minted = store.server_config(&ghcr).await.expect("a leaf");
        assert!(store.fresh(ghcr.name()).is_some_and(|kept| Arc::ptr_eq(&kept, &minted)));
    }

    #[test]
    fn names_are_bounded_and_those_in_use_stay() {
        let store = store(LIFETIME_MAX);
        let config = store.mint(&["hot.example".into()], Whose::Others, "hot.example").expect("a leaf");
        let now = SystemTime::now();
        let mut kept = Kept::default();
        for number in 0..NAMES_MAX * 2 {
            let leaf = Leaf { config: Arc::clone(&config), from: now, renew_at: now + BACKDATE, last_use: 0 };
            kept.put(&format!("n{number}"), leaf);
            assert!(kept.fresh("n0", now).is_some(), "used all the time");
            assert!(kept.leaves.len() <= NAMES_MAX);
        }
        assert!(kept.fresh("n1", now).is_none() && kept.fresh(&format!("n{}", NAMES_MAX * 2 - 1), now).is_some());
    }
}
