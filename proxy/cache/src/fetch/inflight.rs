//! The state of one fetch, of a blob or an artefact, shared by its driver, its fetchers and its readers. No I/O happens
//! here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{Algorithm, Digest, Hasher};
use entrepot_core::host::RegistryHost;
use entrepot_core::origin::Origin;
use entrepot_core::validator::Validator;
use http::HeaderMap;
use tokio::sync::{Notify, watch};

use crate::fetch::FetchError;
use crate::fetch::plan::{Stretch, is_coming};
use crate::fetch::source::{BlobSource, Opened, UpstreamRefusal};
use crate::fetch::window::Window;
use entrepot_observe::labels::Bypass;
use entrepot_store::{ContentKey, ContentName, Extents, PartialBlob, Place};
use entrepot_upstream::credential::CredentialId;
use entrepot_upstream::error::UpstreamError;

/// The content of a fetch, where upstream serves it. Every source of the fetch is of its origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A blob, in this repository.
    Blob { place: Place, digest: Digest },
    /// What a path and query name at an origin.
    Artefact { origin: Origin, path: Arc<str> },
}

/// Content that is being fetched.
pub struct InflightFetch {
    pub target: Target,
    /// Its name in messages and errors.
    pub(super) content: ContentName,
    leader: CredentialId,
    state: Mutex<State>,
    opening: watch::Sender<Option<Opening>>,
    changed: watch::Sender<()>,
    /// Wakes the driver: a reader waits for bytes that no fetcher brings, or the last reader left.
    pub(super) wake: Notify,
}

/// A reader's share in a fetch. The fetch counts the reader until this is dropped.
pub struct Subscription {
    pub fetch: Arc<InflightFetch>,
    pub(super) id: u64,
}

/// The outcome of the first request to upstream.
#[derive(Clone)]
pub enum Opening {
    /// The blob is coming.
    Filling {
        /// The blob's length. None if upstream told no length.
        size: Option<u64>,
        /// Whether the answer's head alone shows that the registry serves the blob. Otherwise only the digest will show
        /// it.
        is_registrys_word: bool,
        /// The host that sends it.
        host: RegistryHost,
        /// From sending the request to the head of the answer.
        elapsed: Duration,
        headers: Arc<HeaderMap>,
    },
    /// The content is coming, but cannot be kept, for this reason. It goes through a window in memory.
    Passing {
        window: Arc<Window>,
        reason: Bypass,
        /// The following are as above.
        size: Option<u64>,
        is_registrys_word: bool,
        host: RegistryHost,
        elapsed: Duration,
        headers: Arc<HeaderMap>,
    },
    /// The content can be had but is not to be kept, or there is no window for it, for this reason. Each client fetches
    /// it alone. One client may take the answer that is open.
    NotStored(Arc<Mutex<Option<Opened>>>, Bypass),
    /// Upstream refused this credential, or does not have the blob.
    Refused(UpstreamRefusal),
    /// Upstream could not be asked.
    Failed(Arc<UpstreamError>),
    /// Upstream's answer made no sense.
    Broken(FetchError),
}

pub(super) struct State {
    opened_at: Option<SystemTime>,
    /// The state of an artefact that the bytes are of. Without one, only the first answer is read.
    pub(super) validator: Option<Validator>,
    /// The length. None until it is known.
    pub(super) size: Option<u64>,
    /// The bytes that can be read from `file`.
    pub(super) extents: Extents,
    pub(super) file: Option<Arc<PartialBlob>>,
    pub(super) running: Vec<Stretch>,
    demands: HashMap<u64, (u64, u64)>,
    next_id: u64,
    /// Whether the fetch takes no more readers.
    pub(super) closed: bool,
    pub(super) readers: usize,
    /// Whether a client asked for the blob to its end. If so, the blob is completed even if all clients leave.
    pub(super) wants_whole: bool,
    pub(super) sources: Vec<BlobSource>,
    /// The coding that upstream said the bytes have. Then nobody gets a part before the digest has shown that they have
    /// none.
    pub(super) coding: Option<&'static str>,
    pub(super) verified: bool,
    pub(super) end: Option<FetchEnd>,
}

/// How a fetch ended, if it was not published.
#[derive(Clone)]
pub(super) enum FetchEnd {
    /// No reader gets the rest.
    Failed(FetchError),
    /// The disk does not take the rest. Readers go on alone from `prefix`; `hasher` has seen the bytes before it.
    HandedOver { prefix: u64, hasher: Hasher },
}

/// The most credentials of followers that are kept in case the leader's runs out.
const SOURCES_MAX: usize = 16;

impl InflightFetch {
    /// A fetch of `target`, which `source` leads to.
    pub(super) fn new(target: Target, source: BlobSource) -> Arc<Self> {
        let (leader, content) = (source.credential.id(), target.name());
        let state = State {
            opened_at: None,
            validator: None,
            size: None,
            extents: Extents::default(),
            file: None,
            running: Vec::new(),
            demands: HashMap::new(),
            next_id: 0,
            closed: false,
            readers: 0,
            wants_whole: false,
            sources: vec![source],
            coding: None,
            verified: false,
            end: None,
        };
        let (opening, changed) = (watch::Sender::new(None), watch::Sender::new(()));
        Arc::new(Self { target, content, leader, state: Mutex::new(state), opening, changed, wake: Notify::new() })
    }

    /// Whether the first request was made for this target with this credential.
    pub fn led_by(&self, target: &Target, credential: CredentialId) -> bool {
        self.target == *target && self.leader == credential
    }

    /// Whether other answers than the first may add to it.
    pub(super) fn may_be_put_together(&self, state: &State) -> bool {
        self.content.digest().is_some() || state.validator.is_some()
    }

    pub(super) fn interrupted(&self) -> FetchError {
        FetchError::Interrupted { content: self.content.clone() }
    }

    /// Waits for upstream's first answer.
    pub async fn opened(&self) -> Opening {
        let mut opening = self.opening.subscribe();
        let interrupted = || Opening::Broken(self.interrupted());
        let opened = opening.wait_for(Option::is_some).await;
        opened.ok().and_then(|value| value.clone()).unwrap_or_else(interrupted)
    }

    /// Waits until the bytes are known to be right. It is an error if they are not.
    pub async fn judged(&self) -> Result<(), FetchError> {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            {
                let state = self.state();
                match &state.end {
                    _ if state.verified => return Ok(()),
                    Some(FetchEnd::Failed(error)) => return Err(error.clone()),
                    // A client that goes on alone checks its bytes alone.
                    Some(FetchEnd::HandedOver { .. }) => return Ok(()),
                    None => {}
                }
            }
            if changes.changed().await.is_err() {
                return Err(self.interrupted());
            }
        }
    }

    /// `at` is when upstream's answer came.
    pub(super) fn set_opening(&self, opening: Opening, at: SystemTime) {
        self.state().opened_at = Some(at);
        self.opening.send_replace(Some(opening));
    }

    /// The blob's length. None until it is known.
    pub fn size(&self) -> Option<u64> {
        self.state().size
    }

    /// The coding that upstream said the bytes have. None if it said none.
    pub fn coding(&self) -> Option<&'static str> {
        self.state().coding
    }

    /// Whether every byte is here and right.
    pub fn is_verified(&self) -> bool {
        self.state().verified
    }

    /// Has the blob completed even if all clients leave, because a client asked for its end as part of the whole.
    pub fn want_whole(&self) {
        self.state().wants_whole = true;
        self.wake.notify_one();
    }

    /// Whether upstream's first answer is there.
    pub(super) fn is_open(&self) -> bool {
        self.opening.borrow().is_some()
    }

    /// When upstream's first answer came. None if it is not there yet.
    pub fn opened_at(&self) -> Option<SystemTime> {
        self.state().opened_at
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes every reader.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Adds a reader. None if the fetch is ending. `whole` if the reader needs the blob to its end.
    pub fn join(self: &Arc<Self>, source: Option<BlobSource>, whole: bool) -> Option<Subscription> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.readers += 1;
        state.wants_whole |= whole;
        if let Some(source) = source
            && state.sources.len() < SOURCES_MAX
            && state.sources.iter().all(|known| known.credential != source.credential)
        {
            state.sources.push(source);
        }
        state.next_id += 1;
        let id = state.next_id;
        drop(state);
        self.wake.notify_one();
        Some(Subscription { fetch: self.clone(), id })
    }

    /// The offset where the fetcher `id` has to stop.
    pub(super) fn limit_of(&self, id: u64) -> u64 {
        let state = self.state();
        state.running.iter().find(|stretch| stretch.id == id).map_or(u64::MAX, |stretch| stretch.limit)
    }

    /// Says that `reader` waits for `offset..end`.
    pub(super) fn demand(&self, reader: u64, offset: u64, end: u64) {
        let mut state = self.state();
        state.demands.insert(reader, (offset, end));
        let coming = is_coming(offset, &state.running);
        drop(state);
        if !coming {
            self.wake.notify_one();
        }
    }

    pub(super) fn satisfied(&self, reader: u64) {
        self.state().demands.remove(&reader);
    }
}

impl Target {
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Blob { place, .. } => place.origin(),
            Self::Artefact { origin, .. } => origin,
        }
    }

    /// The name of the content at its origin.
    pub fn name(&self) -> ContentName {
        match self {
            Self::Blob { digest, .. } => ContentName::Digest(*digest),
            Self::Artefact { path, .. } => ContentName::Path(path.clone()),
        }
    }

    /// The key by which a fetch is found.
    pub fn key(&self) -> ContentKey {
        ContentKey { origin: self.origin().clone(), name: self.name() }
    }

    /// The hash that the bytes get.
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Blob { digest, .. } => digest.algorithm(),
            Self::Artefact { .. } => Algorithm::Sha256,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.fetch.state();
        state.readers -= 1;
        state.demands.remove(&self.id);
        drop(state);
        self.fetch.wake.notify_one();
    }
}

impl State {
    /// A number for a fetcher.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn demands(&self) -> Vec<(u64, u64)> {
        let mut demands: Vec<_> = self.demands.values().copied().collect();
        demands.sort_unstable();
        demands.dedup();
        demands
    }
}
