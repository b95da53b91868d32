//! Two small memories: locks by key, so that one miss is fetched once, and recent refusals.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fetch::source::UpstreamRefusal;
use entrepot_upstream::credential::CredentialId;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// A lock for each key that is held or waited for.
#[derive(Default)]
pub struct KeyedLocks {
    locks: Mutex<HashMap<String, Lock>>,
}

impl KeyedLocks {
    /// Waits for the lock of `key`.
    pub async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // As many entries as requests run, which the doors bound: idle ones go when the table has grown.
            if locks.len() >= SWEEP_AT {
                locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            locks.entry(key.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

const SWEEP_AT: usize = 256;

/// Upstream's recent "not found" answers, for the credential that got them.
#[derive(Default)]
pub struct Negatives {
    answers: Mutex<HashMap<(String, CredentialId), (UpstreamRefusal, Instant)>>,
}

const NEGATIVES_MAX: usize = 4096;
/// A longer answer is not remembered: a stranger may ask for thousands of names.
const NEGATIVE_MAX_BYTES: usize = 4096;

impl Negatives {
    /// The answer, while it lasts.
    pub fn get(&self, what: &str, credential: CredentialId) -> Option<UpstreamRefusal> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (refusal, until) = answers.get(&(what.to_owned(), credential))?;
        (*until > Instant::now()).then(|| refusal.clone())
    }

    /// Remembers an answer for `time`.
    pub fn note(&self, what: &str, credential: CredentialId, refusal: UpstreamRefusal, time: Duration) {
        if refusal.body.len() > NEGATIVE_MAX_BYTES {
            return;
        }
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= NEGATIVES_MAX {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() < NEGATIVES_MAX {
            answers.insert((what.to_owned(), credential), (refusal, now + time));
        }
    }

    /// Forgets every answer about names that start with `prefix`: something was pushed there.
    pub fn forget(&self, prefix: &str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|(what, _), _| !what.starts_with(prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn refusals_are_kept_for_their_time_and_their_credential() {
        let negatives = Negatives::default();
        let refusal = UpstreamRefusal { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), body: Bytes::new() };
        let alice = CredentialId::of("Basic alice");
        negatives.note("reg/a:1", alice, refusal.clone(), Duration::from_secs(60));
        negatives.note("reg/a:2", alice, refusal, Duration::ZERO);
        assert!(negatives.get("reg/a:1", alice).is_some());
        assert!(negatives.get("reg/a:1", CredentialId::ANONYMOUS).is_none());
        assert!(negatives.get("reg/a:2", alice).is_none());
        negatives.forget("reg/a");
        assert!(negatives.get("reg/a:1", alice).is_none());
    }

    #[tokio::test]
    async fn one_key_one_holder() {
        let locks = KeyedLocks::default();
        let held = locks.lock("a").await;
        let _other = locks.lock("b").await;
        assert!(tokio::time::timeout(Duration::from_millis(20), locks.lock("a")).await.is_err());
        drop(held);
        let _again = locks.lock("a").await;
    }
}
