//! Asks the system's resolver for addresses, on threads of its own.
//!
//! `getaddrinfo` blocks and cannot be ended: a name whose server never answers holds its thread for ten seconds and more. So
//! no lookup runs on a pool that other work needs, and there is a pool for each kind of names: a stranger chooses the names
//! of tunnels and of redirects, and those never hold up a registry that the administrator listed. In the pool of tunnels, a
//! client ([`ClientKey`]) has a share as well.
//!
//! Lookups of one name for registries are one lookup while it runs.
//!
//! Invariants: a lookup keeps its places until its thread is free, also if nobody waits for it any more. There are never
//! more threads than the pools have places.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use entrepot_core::client::ClientKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::address_policy::Purpose;

/// The origin of a name that is looked up. It decides the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// A registry of the list, its token server, the parent proxy or a receiver of notifications: the administrator named
    /// it.
    Administrator,
    /// A registry, which named it in a redirect or as the token server of anonymous clients.
    Registry,
    /// A client, for a tunnel.
    Client(ClientKey),
    /// Some client, for a plain request that is relayed to a host that is not listed. They share one client's share.
    AnyClient,
}

/// The pools. Clones share them.
#[derive(Clone)]
pub(crate) struct Lookups {
    resolve: Arc<Resolve>,
    administrators: Pool,
    registries: Pool,
    clients: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// A pool whose askers share a lookup of the same name. A dead name then holds one thread, however often it is asked
/// for.
#[derive(Clone)]
struct Pool {
    places: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<Name, Running>>>,
}

/// A name and a port.
type Name = (String, u16);

/// Tells the outcome of a lookup that runs.
type Running = watch::Receiver<Option<Found>>;

/// The outcome of a lookup, for each of those that wait for it.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Finds the addresses of a name, and blocks meanwhile.
type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The places of each client in the pool of tunnels. A client has an entry only while it looks something up or waits.
#[derive(Default)]
struct Shares(Mutex<HashMap<Option<ClientKey>, Arc<Semaphore>>>);

/// A client's place. The entry ends with the last one.
struct Share {
    client: Option<ClientKey>,
    shares: Arc<Shares>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The threads of each pool.
const LOOKUPS_MAX: usize = 64;
/// The threads that one client may have. The others of its lookups wait for these.
const LOOKUPS_PER_CLIENT_MAX: usize = 4;
/// For waiting and looking up together. A resolver without an answer is given up by `getaddrinfo` after 10 s (resolv.conf(5):
/// two attempts of five seconds), and then its second server has had its turn.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

impl Asker {
    /// The asker for a pooled connection of this purpose. Its client is not known: connections outlive requests.
    pub(crate) fn of(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Registry | Purpose::Parent | Purpose::Webhook => Self::Administrator,
            Purpose::RedirectFromPublic | Purpose::RedirectFromPrivate => Self::Registry,
            Purpose::Tunnel => Self::AnyClient,
        }
    }
}

impl Default for Lookups {
    /// Asks the system's resolver, so that `/etc/hosts` counts.
    fn default() -> Self {
        Self::with(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }
}

impl Lookups {
    fn with(resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        let places = || Arc::new(Semaphore::new(LOOKUPS_MAX));
        let pool = || Pool { places: places(), running: Arc::default() };
        Self {
            resolve: Arc::new(resolve),
            administrators: pool(),
            registries: pool(),
            clients: places(),
            shares: Arc::default(),
        }
    }

    /// The addresses of a name, within [`LOOKUP_TIMEOUT`].
    pub(crate) async fn resolve(&self, name: &str, port: u16, asker: Asker) -> io::Result<Vec<SocketAddr>> {
        let found = timeout(LOOKUP_TIMEOUT, self.resolve_patiently(name, port, asker)).await;
        found.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer")))
    }

    async fn resolve_patiently(&self, name: &str, port: u16, asker: Asker) -> io::Result<Vec<SocketAddr>> {
        let client = match asker {
            Asker::Administrator => return self.administrators.resolve(&self.resolve, name, port).await,
            Asker::Registry => return self.registries.resolve(&self.resolve, name, port).await,
            Asker::Client(client) => Some(client),
            Asker::AnyClient => None,
        };
        // The share comes first, so a client that waits for its own lookups holds no place of the pool.
        let share = self.shares.clone().take(client).await?;
        let place = self.clients.clone().acquire_owned().await.map_err(io::Error::other)?;
        look_up(self.resolve.clone(), name.to_owned(), port, (place, share)).await
    }
}

impl Pool {
    async fn resolve(&self, resolve: &Arc<Resolve>, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let key = (name.to_owned(), port);
        let mut found = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(found) => found.clone(),
                None => {
                    let (answer, found) = watch::channel(None);
                    running.insert(key.clone(), found.clone());
                    tokio::spawn(self.clone().run(resolve.clone(), key, answer));
                    found
                }
            }
        };
        let found = found.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
        let gone = || Err(Arc::new(io::Error::other("the lookup ended without an answer")));
        found.unwrap_or_else(gone).map_err(|error| io::Error::new(error.kind(), error))
    }

    /// Looks the name up for all askers, also if some of them have left.
    async fn run(self, resolve: Arc<Resolve>, key: Name, answer: watch::Sender<Option<Found>>) {
        let found = match timeout(LOOKUP_TIMEOUT, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => look_up(resolve, key.0.clone(), key.1, place).await,
            Ok(Err(closed)) => Err(io::Error::other(closed)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer")),
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let _ = answer.send(Some(found.map_err(Arc::new)));
    }
}

/// Asks the resolver on a thread of its own. `places` are kept until the thread is free.
async fn look_up<P: Send + 'static>(
    resolve: Arc<Resolve>,
    name: String,
    port: u16,
    places: P,
) -> io::Result<Vec<SocketAddr>> {
    let (answer, answered) = oneshot::channel();
    let looking_up = move || {
        let found = resolve(&name, port);
        drop(places);
        let _ = answer.send(found);
    };
    std::thread::Builder::new().name("lookup".to_owned()).spawn(looking_up)?;
    answered.await.map_err(io::Error::other)?
}

impl Shares {
    async fn take(self: Arc<Self>, client: Option<ClientKey>) -> io::Result<Share> {
        let semaphore = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(LOOKUPS_PER_CLIENT_MAX));
            table.entry(client).or_insert_with(new).clone()
        };
        // A lookup that is abandoned while it waits ends its entry as well.
        let mut share = Share { client, shares: self, permit: None };
        share.permit = Some(semaphore.acquire_owned().await.map_err(io::Error::other)?);
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.permit = None;
        let mut table = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Everybody else who waits or looks up for this client holds the semaphore too.
        if table.get(&self.client).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            table.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A resolver that answers for `alive` names and never for others, until it is let go.
    #[derive(Clone, Default)]
    struct Resolver(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        let_go: Mutex<bool>,
        changed: Condvar,
        asked: AtomicUsize,
    }

    impl Resolver {
        fn lookups(&self) -> Lookups {
            let resolver = self.0.clone();
            Lookups::with(move |name, port| {
                if name.starts_with("alive") {
                    return Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))]);
                }
                resolver.asked.fetch_add(1, Ordering::SeqCst);
                let held = resolver.let_go.lock().expect("no panic");
                drop(resolver.changed.wait_while(held, |let_go| !*let_go).expect("no panic"));
                Err(io::ErrorKind::NotFound.into())
            })
        }

        fn let_go(&self) {
            *self.0.let_go.lock().expect("no panic") = true;
            self.0.changed.notify_all();
        }

        async fn asked(&self, count: usize) {
            let waiting = async {
                while self.0.asked.load(Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), waiting).await.expect("lookups begin");
        }
    }

    fn client(number: u8) -> Asker {
        Asker::Client(ClientKey::of([192, 0, 2, number].into()))
    }

    /// 900 dead names of one client, and every pool still answers everybody else.
    #[tokio::test]
    async fn one_clients_dead_names_hold_up_nobody_else() {
        let resolver = Resolver::default();
        let lookups = resolver.lookups();
        let mut dead = Vec::new();
        for number in 0..900 {
            let lookups = lookups.clone();
            dead.push(tokio::spawn(async move {
                lookups.resolve(&format!("dead{number}.test"), 443, client(1)).await.expect_err("dead")
            }));
        }
        resolver.asked(LOOKUPS_PER_CLIENT_MAX).await;
        for asker in [Asker::Administrator, Asker::Registry, Asker::AnyClient, client(2)] {
            let found = timeout(Duration::from_secs(5), lookups.resolve("alive.test", 443, asker)).await;
            assert_eq!(found.expect("in time").expect("found").len(), 1, "{asker:?}");
        }
        assert_eq!(resolver.0.asked.load(Ordering::SeqCst), LOOKUPS_PER_CLIENT_MAX, "the others wait for these");
        resolver.let_go();
        for lookup in dead {
            lookup.await.expect("no panic");
        }
        assert!(lookups.shares.0.lock().expect("no panic").is_empty(), "no entry is left");
    }

    /// Clients together can fill the pool of tunnels, and no other.
    #[tokio::test]
    async fn all_clients_dead_names_hold_up_no_registry() {
        let resolver = Resolver::default();
        let lookups = resolver.lookups();
        for number in 0..200u8 {
            let lookups = lookups.clone();
            tokio::spawn(async move { lookups.resolve("dead.test", 443, client(number)).await });
        }
        resolver.asked(LOOKUPS_MAX).await;
        for asker in [Asker::Administrator, Asker::Registry] {
            let found = timeout(Duration::from_secs(5), lookups.resolve("alive.test", 443, asker)).await;
            found.expect("in time").expect("found");
        }
        assert_eq!(resolver.0.asked.load(Ordering::SeqCst), LOOKUPS_MAX);
        resolver.let_go();
    }

    /// Probes and pulls ask for a dead registry again and again.
    #[tokio::test]
    async fn a_dead_registry_holds_one_thread_however_often_it_is_asked_for() {
        for asker in [Asker::Administrator, Asker::Registry] {
            let resolver = Resolver::default();
            let lookups = resolver.lookups();
            let ask = |name: &'static str| {
                let lookups = lookups.clone();
                tokio::spawn(async move { lookups.resolve(name, 443, asker).await })
            };
            let dead: Vec<_> = (0..200).map(|_| ask("dead.test")).collect();
            resolver.asked(1).await;
            let other = ask("dead.other.test");
            resolver.asked(2).await;
            assert_eq!(ask("alive.test").await.expect("no panic").expect("found").len(), 1);
            assert_eq!(resolver.0.asked.load(Ordering::SeqCst), 2, "{asker:?}");
            resolver.let_go();
            for lookup in dead.into_iter().chain([other]) {
                let error = lookup.await.expect("no panic").expect_err("dead");
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
            }
            let again = ask("dead.test").await.expect("no panic");
            assert!(again.is_err() && resolver.0.asked.load(Ordering::SeqCst) == 3, "it is asked for anew");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_without_an_answer_ends_and_keeps_its_place() {
        let resolver = Resolver::default();
        let lookups = resolver.lookups();
        let began = tokio::time::Instant::now();
        let error = lookups.resolve("dead.test", 443, client(1)).await.expect_err("dead");
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, LOOKUP_TIMEOUT));
        assert_eq!(lookups.clients.available_permits(), LOOKUPS_MAX - 1, "its thread still waits");
        resolver.let_go();
    }
}
