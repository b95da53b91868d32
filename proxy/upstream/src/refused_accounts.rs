//! The administrator's accounts that upstream refused lately. For a minute each is left out, so that an expired password
//! costs nothing but what is private; then it is tried again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use entrepot_core::origin::Origin;

use crate::credential::CredentialId;

/// The refusals of the last minute.
#[derive(Default)]
pub struct RefusedAccounts {
    refused: Mutex<HashMap<(Origin, CredentialId), Instant>>,
}

/// How long a refused account is left out.
const LEFT_OUT: Duration = Duration::from_secs(60);
/// The most entries. Accounts are configured, so only wildcards have more than a few.
const ACCOUNTS_MAX: usize = 1024;

impl RefusedAccounts {
    /// Notes a refusal. Returns whether it is the first one of this account in a minute.
    pub(crate) fn note(&self, origin: &Origin, account: CredentialId) -> bool {
        self.note_at(origin, account, Instant::now())
    }

    fn note_at(&self, origin: &Origin, account: CredentialId, now: Instant) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, until| *until > now);
        if refused.len() >= ACCOUNTS_MAX {
            return false;
        }
        refused.insert((origin.clone(), account), now + LEFT_OUT).is_none()
    }

    /// Whether upstream refused the account in the last minute.
    pub fn has(&self, origin: &Origin, account: CredentialId) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&(origin.clone(), account)).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_a_minute_for_its_origin() {
        let (refused, account) = (RefusedAccounts::default(), CredentialId::of("Basic x"));
        let origin = |text: &str| text.parse::<Origin>().expect("an origin");
        let now = Instant::now();
        assert!(refused.note_at(&origin("a.example"), account, now));
        assert!(!refused.note_at(&origin("a.example"), account, now + LEFT_OUT / 2));
        assert!(refused.has(&origin("a.example"), account) && !refused.has(&origin("http://a.example"), account));
        assert!(refused.note_at(&origin("a.example"), account, now + LEFT_OUT * 2), "a minute without one");
    }
}
