//! Pushes that run, so that a collection leaves what they rely on. The layers of a push wait for its manifest. A large
//! layer may take longer than the grace period, and no request touches the others meanwhile.
//!
//! ```text
//! LivePush (an upload's session holds it) ─► keeps links that were young when the upload began
//! LivePushes::renew (an upload ended)     ─► makes these links young again, on disk: the manifest comes next
//! ```
//!
//! Bound: a link is made young again for [`PUSH_MAX`] after it was made. So links that no manifest ever names leave a
//! repository too that is pushed to all the time.

use std::collections::HashMap;
use std::fs::Metadata;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use entrepot_core::name::RepositoryName;

use super::facts::Facts;
use crate::errors::StoreError;
use crate::paths::Kept;
use crate::{lock, small_files};

/// No push takes longer.
const PUSH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The links of a repository are made young again at most so often in a grace period, because all of them are looked at.
const RENEWALS: u32 = 4;

/// The pushes that run in one store.
#[derive(Default)]
pub(super) struct LivePushes {
    begun: Mutex<HashMap<RepositoryName, Vec<SystemTime>>>,
    renewed: Mutex<HashMap<RepositoryName, Instant>>,
}

/// A push to a repository that goes on until this is dropped.
pub struct LivePush {
    pushes: Arc<LivePushes>,
    repository: RepositoryName,
    begun_at: SystemTime,
}

impl LivePush {
    pub(super) fn new(pushes: &Arc<LivePushes>, repository: &RepositoryName, begun_at: SystemTime) -> Self {
        lock(&pushes.begun).entry(repository.clone()).or_default().push(begun_at);
        Self { pushes: pushes.clone(), repository: repository.clone(), begun_at }
    }

    pub fn begun_at(&self) -> SystemTime {
        self.begun_at
    }
}

impl Drop for LivePush {
    fn drop(&mut self) {
        let mut begun = lock(&self.pushes.begun);
        let Some(times) = begun.get_mut(&self.repository) else { return };
        if let Some(own) = times.iter().position(|time| *time == self.begun_at) {
            times.swap_remove(own);
        }
        if times.is_empty() {
            begun.remove(&self.repository);
        }
    }
}

impl LivePushes {
    /// When the oldest push began that runs in the repository. None if none runs.
    pub(super) fn oldest(&self, repository: &RepositoryName) -> Option<SystemTime> {
        lock(&self.begun).get(repository)?.iter().min().copied()
    }

    /// Makes links and manifests young again that were so when the push began.
    pub(super) fn renew(
        &self,
        facts: &Facts,
        repository: &RepositoryName,
        begun_at: SystemTime,
        grace: Duration,
    ) -> Result<(), StoreError> {
        if grace.is_zero() {
            return Ok(());
        }
        let now = Instant::now();
        {
            let mut renewed = lock(&self.renewed);
            renewed.retain(|_, at| now.duration_since(*at) < grace / RENEWALS);
            if renewed.contains_key(repository) {
                return Ok(());
            }
            renewed.insert(repository.clone(), now);
        }
        let since = begun_at.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let _turn = facts.lock(repository);
        for (kept, path) in [Kept::Blobs, Kept::Manifests].map(|kept| (kept, facts.paths.kept(repository, kept))) {
            for digest in facts.digests_in(&path)? {
                let path = match kept {
                    Kept::Manifests => facts.paths.pushed_manifest(repository, &digest),
                    _ => facts.paths.pushed_blob(repository, &digest),
                };
                if std::fs::metadata(&path).is_ok_and(|file| relies_on(&file, since)) {
                    small_files::touch(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a push may rely on a link.
fn relies_on(file: &Metadata, since: SystemTime) -> bool {
    // A file system that does not note when a file was made lets its time count.
    let made_at = file.created().or_else(|_| file.modified());
    let is_new = made_at.is_ok_and(|made_at| made_at.elapsed().is_ok_and(|age| age < PUSH_MAX));
    is_new && file.modified().is_ok_and(|marked| marked >= since)
}
