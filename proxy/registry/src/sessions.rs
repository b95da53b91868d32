//! Upload sessions: which run, to whom they belong, how far they are. An id of 128 random bits is bound to its
//! repository and to the principal that began it; to others it is unknown.
//!
//! The table is memory; beside each upload's bytes lies a note of it, so that sessions survive a restart. The hash of the
//! bytes is not noted: after a restart they are hashed again when the upload ends.
//!
//! Invariant: no client uses up the table. An account and an address (an IPv6 /64) have a bound each. If many addresses
//! fill the table together, a session at rest of the one that has the most makes room for a client that has fewer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_config::ready::UploadLimits;
use entrepot_core::client::ClientKey;
use entrepot_core::digest::{Algorithm, Hasher};
use entrepot_core::name::RepositoryName;
use serde::{Deserialize, Serialize};
use tokio::sync::{MutexGuard, watch};

use super::access::Principal;
use super::quota::{Arrived, Arriving};
use entrepot_store::{FoundUpload, LivePush, Store, StoreError, UploadFile, UploadId, steady_now};

/// A client that is silent for so long loses its place to a newer request of the same owner. A connection that died
/// without a word holds the session no longer.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The sessions that run.
pub(super) struct Sessions {
    store: Arc<Store>,
    arriving: Arc<Arriving>,
    table: Mutex<HashMap<UploadId, Arc<Session>>>,
}

/// One session.
pub(super) struct Session {
    /// The one handle of its file.
    pub(super) file: UploadFile,
    pub(super) repository: RepositoryName,
    principal: Principal,
    /// None if a release before this was noted began it.
    client: Option<ClientKey>,
    /// By a clock that does not step.
    last_use: Mutex<SystemTime>,
    /// Keeps what was pushed before it, and waits for a manifest with it, from collections.
    pub(super) push: LivePush,
    /// How many requests wait for the one that has the session.
    waiting: watch::Sender<usize>,
    /// Its bytes, for the quotas.
    pub(super) arrived: Arrived,
    /// Held by the request that adds to it, while that lives; its last write may end later, see [`UploadFile`].
    pub(super) state: tokio::sync::Mutex<State>,
}

impl Session {
    /// The state of a session that goes on. Waits for the request that has it, which gives it up if its client is silent.
    /// None if the session is over.
    pub(super) async fn running(&self) -> Option<MutexGuard<'_, State>> {
        let waiting = Waiting::begin(&self.waiting);
        let state = self.state.lock().await;
        drop(waiting);
        Some(state).filter(|state| !state.is_over)
    }

    /// For the request that has the session, while its client sends nothing: ends when a newer request of the owner has
    /// waited for [`SILENCE_MAX`].
    pub(super) async fn is_wanted(&self) {
        let mut waiting = self.waiting.subscribe();
        loop {
            // The sender lives as long as the session.
            let _ = waiting.wait_for(|waiting| *waiting > 0).await;
            if tokio::time::timeout(SILENCE_MAX, waiting.wait_for(|waiting| *waiting == 0)).await.is_err() {
                return;
            }
        }
    }
}

/// A request that waits for a session.
struct Waiting<'s>(&'s watch::Sender<usize>);

impl<'s> Waiting<'s> {
    fn begin(waiting: &'s watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// How far a session is.
pub(super) struct State {
    /// Bytes that arrived.
    pub(super) length: u64,
    /// Their hash. None after a restart.
    pub(super) hasher: Option<Hasher>,
    /// It was published or given up.
    pub(super) is_over: bool,
}

/// The note beside the bytes.
#[derive(Serialize, Deserialize)]
struct Note {
    repository: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<String>,
    /// An address of the client's network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    client: Option<IpAddr>,
}

/// The reason why no session begins.
pub(super) enum NotBegun {
    /// The most that may run at the same time do.
    TooMany(TooMany),
    /// The system gives no randomness.
    Random,
    /// The disk.
    Store(StoreError),
}

/// The bound that is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TooMany {
    /// Of all clients together.
    Total,
    /// Of this account or address.
    OfClient(usize),
}

impl Sessions {
    /// With what an earlier process left; what cannot be read is left to the next start.
    pub(super) fn load(store: Arc<Store>, arriving: &Arc<Arriving>) -> Self {
        let found =
            store.uploads.take_over(|upload| Session::found(&upload, &store, arriving)).unwrap_or_else(|error| {
                tracing::error!("unfinished uploads cannot be found: {error}");
                Vec::new()
            });
        let table = found.into_iter().map(|session| (session.file.id, Arc::new(session))).collect();
        Self { store, arriving: arriving.clone(), table: Mutex::new(table) }
    }

    /// Begins a session of a client, if there is a place for one more.
    pub(super) async fn begin(
        &self,
        repository: &RepositoryName,
        (principal, client): (&Principal, IpAddr),
        algorithm: Algorithm,
        limits: UploadLimits,
    ) -> Result<Arc<Session>, NotBegun> {
        let id = UploadId::random().ok_or(NotBegun::Random)?;
        let session = Arc::new(Session {
            file: UploadFile::of(id),
            repository: repository.clone(),
            principal: principal.clone(),
            client: Some(ClientKey::of(client)),
            last_use: Mutex::new(steady_now()),
            push: self.store.repositories.pushing(repository, SystemTime::now()),
            waiting: watch::Sender::default(),
            arrived: self.arriving.count(repository, 0),
            state: tokio::sync::Mutex::new(State { length: 0, hasher: Some(Hasher::new(algorithm)), is_over: false }),
        });
        // The session does not rest before its note is written: a note that is written later would stay behind.
        let beginning = session.state.lock().await;
        let displaced = {
            let mut table = self.table();
            let displaced = place_for(&table, &session, limits).map_err(NotBegun::TooMany)?;
            // Both under one lock, so the bound holds at every moment.
            displaced.inspect(|displaced| _ = table.remove(displaced));
            table.insert(id, session.clone());
            displaced
        };
        if let Some(displaced) = displaced {
            let store = self.store.clone();
            // A client that leaves now must not leave the file.
            let _ = tokio::spawn(async move { store.uploads.discard(displaced).await }).await;
        }
        let noted = self.store.uploads.note(id, session.note(client)).await;
        drop(beginning);
        if let Err(error) = noted {
            self.end(id).await;
            return Err(NotBegun::Store(error));
        }
        Ok(session)
    }

    /// A session, for the principal that began it in that repository. Counts as a use.
    pub(super) fn find(&self, id: &str, repository: &RepositoryName, principal: &Principal) -> Option<Arc<Session>> {
        let session = self.table().get(&id.parse().ok()?)?.clone();
        let is_theirs = session.repository == *repository && session.principal == *principal;
        is_theirs.then(|| {
            session.touch();
            session
        })
    }

    /// Forgets a session and removes its bytes.
    pub(super) async fn end(&self, id: UploadId) {
        self.table().remove(&id);
        self.store.uploads.discard(id).await;
    }

    /// The number of sessions that run.
    pub(super) fn count(&self) -> usize {
        self.table().len()
    }

    /// Ends those that were not added to for so long, and sooner those that are empty.
    pub(super) async fn expire(&self, after: Duration, empty_after: Duration) -> usize {
        let now = steady_now();
        let old: Vec<_> =
            self.table().values().filter(|session| session.is_old(now, after, empty_after)).cloned().collect();
        let mut expired = 0;
        for session in old {
            if session.give_up() {
                self.end(session.file.id).await;
                expired += 1;
            }
        }
        expired
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Session>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn found(upload: &FoundUpload, store: &Store, arriving: &Arc<Arriving>) -> Option<Self> {
        let note: Note = serde_json::from_slice(&upload.note).ok()?;
        let repository: RepositoryName = note.repository.parse().ok()?;
        Some(Self {
            file: UploadFile::of(upload.id),
            push: store.repositories.pushing(&repository, upload.begun_at),
            waiting: watch::Sender::default(),
            arrived: arriving.count(&repository, upload.length),
            repository,
            principal: note.user.map_or(Principal::Anonymous, |user| Principal::User(user.into())),
            client: note.client.map(ClientKey::of),
            // A file of a clock that was ahead must not live for ever.
            last_use: Mutex::new(upload.last_use.min(steady_now())),
            state: tokio::sync::Mutex::new(State { length: upload.length, hasher: None, is_over: false }),
        })
    }

    /// The place where it goes on, relative to the door: by whatever name the client knows it.
    pub(super) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.file.id)
    }

    /// Something was added.
    pub(super) fn touch(&self) {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = steady_now();
    }

    fn used_at(&self) -> SystemTime {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing was added for too long.
    fn is_old(&self, now: SystemTime, after: Duration, empty_after: Duration) -> bool {
        let rested = now.duration_since(self.used_at()).unwrap_or_default();
        rested > after || (self.arrived.bytes() == 0 && rested > empty_after)
    }

    /// Gives the session up if it rests. False if a request has it, or if it is over and its bytes may be on their way
    /// to become content.
    fn give_up(&self) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        !std::mem::replace(&mut state.is_over, true)
    }

    fn note(&self, client: IpAddr) -> Vec<u8> {
        let user = match &self.principal {
            Principal::Anonymous => None,
            Principal::User(name) => Some(name.to_string()),
        };
        // Texts always serialise; an empty note would be found and dropped at the next start.
        serde_json::to_vec(&Note { repository: self.repository.to_string(), user, client: Some(client) })
            .unwrap_or_default()
    }
}

/// Whether there is a place for one more session. If the table is full, a session that rests makes room: of the networks
/// that have more than the new one's, that with the most; an empty session first, then the one that rested longest. It is
/// given up here, and to be ended.
fn place_for(
    table: &HashMap<UploadId, Arc<Session>>,
    new: &Session,
    limits: UploadLimits,
) -> Result<Option<UploadId>, TooMany> {
    let is_account = new.principal != Principal::Anonymous;
    let of_account = table.values().filter(|session| is_account && session.principal == new.principal).count();
    let of_client = table.values().filter(|session| session.client == new.client).count();
    if of_account.max(of_client) >= limits.per_client {
        return Err(TooMany::OfClient(limits.per_client));
    }
    if table.len() < limits.total {
        return Ok(None);
    }
    let mut counts: HashMap<Option<ClientKey>, usize> = HashMap::new();
    for session in table.values() {
        *counts.entry(session.client).or_default() += 1;
    }
    let count = |session: &Session| counts.get(&session.client).copied().unwrap_or(0);
    let mut heavier: Vec<_> = table.values().filter(|session| count(session) > of_client + 1).collect();
    heavier.sort_by_key(|session| (Reverse(count(session)), session.arrived.bytes() > 0, session.used_at()));
    let displaced = heavier.into_iter().find(|session| session.give_up());
    displaced.map(|session| Some(session.file.id)).ok_or(TooMany::Total)
}

#[cfg(test)]
mod tests {
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::sync::LazyLock;
    use std::task::Poll;

    use entrepot_store::Limits;
    use tempfile::TempDir;

    use super::*;

    /// A store for sessions that write nothing.
    static STORE: LazyLock<(TempDir, Arc<Store>)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let hour = Duration::from_secs(3600);
        let limits = Limits { max_size_bytes: 1 << 40, min_free_bytes: 0, inactive: hour, proofs: hour };
        let store = Store::open(folder.path(), limits).expect("a store");
        (folder, store)
    });

    fn session(account: &str, client: &str, bytes: u64) -> Arc<Session> {
        let repository: RepositoryName = "app".parse().expect("a name");
        let arrived = Arc::<Arriving>::default().count(&repository, bytes);
        Arc::new(Session {
            file: UploadFile::of(UploadId::random().expect("randomness")),
            push: STORE.1.repositories.pushing(&repository, SystemTime::now()),
            waiting: watch::Sender::default(),
            repository,
            principal: if account.is_empty() { Principal::Anonymous } else { Principal::User(account.into()) },
            client: Some(ClientKey::of(client.parse().expect(client))),
            last_use: Mutex::new(SystemTime::now()),
            arrived,
            state: tokio::sync::Mutex::new(State { length: bytes, hasher: None, is_over: false }),
        })
    }

    fn table(sessions: &[Arc<Session>]) -> HashMap<UploadId, Arc<Session>> {
        sessions.iter().map(|session| (session.file.id, session.clone())).collect()
    }

    const LIMITS: UploadLimits = UploadLimits { total: 6, per_client: 3 };

    #[test]
    fn accounts_and_networks_have_a_bound_each() {
        let full = |one: [(&str, &str); 3]| table(&one.map(|(account, client)| session(account, client, 0)));
        let of_client = Err(TooMany::OfClient(3));
        for (known, new, expected) in [
            ([("", "192.0.2.1"), ("", "192.0.2.1"), ("bob", "192.0.2.1")], ("", "192.0.2.1"), of_client),
            ([("", "192.0.2.1"), ("", "192.0.2.1"), ("bob", "192.0.2.1")], ("alice", "192.0.2.1"), of_client),
            ([("", "192.0.2.1"), ("", "192.0.2.1"), ("", "192.0.2.1")], ("", "192.0.2.2"), Ok(None)),
            ([("", "192.0.2.1"), ("", "::ffff:192.0.2.1"), ("", "192.0.2.1")], ("", "192.0.2.1"), of_client),
            ([("", "2001:db8::1"), ("", "2001:db8::2"), ("", "2001:db8::ffff:3")], ("", "2001:db8::4"), of_client),
            ([("", "2001:db8::1"), ("", "2001:db8::2"), ("", "2001:db8::3")], ("", "2001:db8:0:1::1"), Ok(None)),
            ([("ci", "192.0.2.1"), ("ci", "192.0.2.2"), ("ci", "192.0.2.3")], ("ci", "192.0.2.4"), of_client),
            ([("ci", "192.0.2.1"), ("ci", "192.0.2.2"), ("ci", "192.0.2.3")], ("", "192.0.2.4"), Ok(None)),
            ([("ci", "192.0.2.1"), ("ci", "192.0.2.2"), ("", "192.0.2.4")], ("ci", "192.0.2.4"), Ok(None)),
        ] {
            assert_eq!(place_for(&full(known), &session(new.0, new.1, 0), LIMITS), expected, "{known:?} {new:?}");
        }
    }

    #[test]
    fn in_a_full_table_the_network_with_the_most_makes_room() {
        let of = |client: &str, bytes| session("", client, bytes);
        let (empty, old) = (of("192.0.2.1", 0), of("192.0.2.1", 5));
        *old.last_use.lock().unwrap() = SystemTime::UNIX_EPOCH;
        let others = [of("192.0.2.1", 5), of("192.0.2.2", 0), of("192.0.2.2", 0), of("192.0.2.3", 0)];
        let all = table(&[&[empty.clone(), old.clone()][..], &others].concat());
        assert_eq!(place_for(&all, &of("192.0.2.2", 0), LIMITS), Err(TooMany::Total), "it has nearly as many");
        let busy = empty.state.try_lock().expect("at rest");
        assert_eq!(place_for(&all, &of("192.0.2.9", 0), LIMITS), Ok(Some(old.file.id)), "one in use stays");
        drop(busy);
        assert_eq!(place_for(&all, &of("192.0.2.9", 0), LIMITS), Ok(Some(empty.file.id)), "an empty one goes first");
        assert!(empty.state.try_lock().expect("at rest").is_over);
        let next = place_for(&all, &of("192.0.2.9", 0), LIMITS);
        assert_ne!(next, Ok(Some(empty.file.id)), "one that is over may be on its way to become content");
    }

    #[tokio::test]
    async fn a_session_that_begins_is_not_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = Limits {
            max_size_bytes: 1 << 40,
            min_free_bytes: 0,
            inactive: Duration::from_secs(3600),
            proofs: Duration::ZERO,
        };
        let store = Store::open(folder.path(), limits).expect("a store");
        let sessions = Sessions::load(store, &Arc::default());
        let repository = "app".parse().expect("a name");
        let client = (&Principal::Anonymous, [192, 0, 2, 1].into());
        let mut beginning = pin!(sessions.begin(&repository, client, Algorithm::Sha256, LIMITS));
        assert!(poll_fn(|task| Poll::Ready(beginning.as_mut().poll(task).is_pending())).await, "the note is written");
        let session = sessions.table().values().next().cloned().expect("the session");
        assert!(!session.give_up(), "its note would stay");
        assert!(beginning.await.is_ok() && session.give_up());
    }

    #[test]
    fn empty_sessions_are_old_in_minutes_and_others_in_hours() {
        let now = SystemTime::now();
        let (after, empty_after) = (Duration::from_secs(3600), Duration::from_secs(60));
        for (bytes, rested_s, expected) in
            [(0, 59, false), (0, 61, true), (1, 61, false), (1, 3599, false), (1, 3601, true), (0, 3601, true)]
        {
            let session = session("", "192.0.2.1", bytes);
            *session.last_use.lock().unwrap() = now - Duration::from_secs(rested_s);
            assert_eq!(session.is_old(now, after, empty_after), expected, "{bytes} {rested_s}");
        }
    }
}
