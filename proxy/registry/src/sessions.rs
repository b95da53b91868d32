//! Upload sessions: which run, to whom they belong, how far they are. An id of 128 random bits is bound to its
//! repository and to the principal that began it; to others it is unknown.
//!
//! The table is memory; beside each upload's bytes lies a note of it, so that sessions survive a restart. What the hash
//! of the bytes was is not noted: after a restart they are hashed again when the upload ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Hasher};
use entrepot_core::name::RepositoryName;
use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;

use super::access::Principal;
use super::error::RegistryError;
use super::quota::{Arrived, Arriving};
use entrepot_store::{FoundUpload, Store, StoreError, UploadFile, UploadId};

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
    last_use: Mutex<SystemTime>,
    /// Its bytes, for the quotas.
    pub(super) arrived: Arrived,
    /// Held by the request that adds to it, while that lives; its last write may end later, see [`UploadFile`].
    pub(super) state: tokio::sync::Mutex<State>,
}

impl Session {
    /// The state of a session that goes on. Waits for the request that has it. It is an error if the session is over.
    pub(super) async fn running(&self) -> Result<MutexGuard<'_, State>, RegistryError> {
        let state = self.state.lock().await;
        if state.is_over { Err(RegistryError::unknown_upload()) } else { Ok(state) }
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
}

/// The reason why no session begins.
pub(super) enum NotBegun {
    /// The most that may run at the same time do.
    TooMany,
    /// The system gives no randomness.
    Random,
    /// The disk.
    Store(StoreError),
}

impl Sessions {
    /// With what an earlier process left; what cannot be read is left to the next start.
    pub(super) fn load(store: Arc<Store>, arriving: &Arc<Arriving>) -> Self {
        let found = store.uploads.take_over(|upload| Session::found(&upload, arriving)).unwrap_or_else(|error| {
            tracing::error!("unfinished uploads cannot be found: {error}");
            Vec::new()
        });
        let table = found.into_iter().map(|session| (session.file.id, Arc::new(session))).collect();
        Self { store, arriving: arriving.clone(), table: Mutex::new(table) }
    }

    /// Begins a session.
    pub(super) async fn begin(
        &self,
        repository: &RepositoryName,
        principal: &Principal,
        algorithm: Algorithm,
        max: usize,
    ) -> Result<Arc<Session>, NotBegun> {
        let id = UploadId::random().ok_or(NotBegun::Random)?;
        let session = Arc::new(Session {
            file: UploadFile::of(id),
            repository: repository.clone(),
            principal: principal.clone(),
            last_use: Mutex::new(SystemTime::now()),
            arrived: self.arriving.count(repository, 0),
            state: tokio::sync::Mutex::new(State { length: 0, hasher: Some(Hasher::new(algorithm)), is_over: false }),
        });
        {
            let mut table = self.table();
            if table.len() >= max {
                return Err(NotBegun::TooMany);
            }
            table.insert(id, session.clone());
        }
        if let Err(error) = self.store.uploads.note(id, session.note()).await {
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

    /// Ends those that were not added to for so long.
    pub(super) async fn expire(&self, after: Duration) -> usize {
        let Some(before) = SystemTime::now().checked_sub(after) else { return 0 };
        let old: Vec<_> = self.table().values().filter(|session| session.used_at() < before).cloned().collect();
        let mut expired = 0;
        for session in old {
            // One that is being added to is in use.
            let Ok(mut state) = session.state.try_lock() else { continue };
            state.is_over = true;
            drop(state);
            self.end(session.file.id).await;
            expired += 1;
        }
        expired
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Session>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn found(upload: &FoundUpload, arriving: &Arc<Arriving>) -> Option<Self> {
        let note: Note = serde_json::from_slice(&upload.note).ok()?;
        let repository = note.repository.parse().ok()?;
        Some(Self {
            file: UploadFile::of(upload.id),
            arrived: arriving.count(&repository, upload.length),
            repository,
            principal: note.user.map_or(Principal::Anonymous, |user| Principal::User(user.into())),
            last_use: Mutex::new(upload.last_use),
            state: tokio::sync::Mutex::new(State { length: upload.length, hasher: None, is_over: false }),
        })
    }

    /// The place where it goes on, relative to the door: by whatever name the client knows it.
    pub(super) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.file.id)
    }

    /// Something was added.
    pub(super) fn touch(&self) {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    fn used_at(&self) -> SystemTime {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) -> Vec<u8> {
        let user = match &self.principal {
            Principal::Anonymous => None,
            Principal::User(name) => Some(name.to_string()),
        };
        // Texts always serialise; an empty note would be found and dropped at the next start.
        serde_json::to_vec(&Note { repository: self.repository.to_string(), user }).unwrap_or_default()
    }
}
