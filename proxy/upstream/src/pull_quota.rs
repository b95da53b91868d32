//! The pull quotas that upstream registries report (`RateLimit-Limit: 100;w=21600`, `RateLimit-Remaining`), for each
//! registry and credential. The administrator sees them before they are used up.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::budget::Quota;
use entrepot_core::host::RegistryHost;
use entrepot_core::recent::Recent;
use http::HeaderMap;

use crate::credential::CredentialId;

/// The last report for each registry and credential.
pub struct PullQuotas {
    seen: Mutex<Recent<(RegistryHost, CredentialId), (Quota, Instant)>>,
}

/// The most entries. The one whose report is oldest is dropped for a new one.
const QUOTAS_MAX: usize = 256;

impl Default for PullQuotas {
    fn default() -> Self {
        Self { seen: Mutex::new(Recent::new(QUOTAS_MAX)) }
    }
}

impl PullQuotas {
    /// Records the quota in an answer's headers, if there is one.
    pub(crate) fn note(&self, registry: &RegistryHost, credential: CredentialId, headers: &HeaderMap) {
        let Some(quota) = Quota::read(headers) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(&(registry.clone(), credential), (quota, Instant::now()));
    }

    /// All quotas, each with the time of its report, sorted by registry and credential.
    pub fn all(&self) -> Vec<(RegistryHost, CredentialId, Quota, Instant)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            seen.iter().map(|((host, credential), (quota, at))| (host.clone(), *credential, *quota, *at)).collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hubs_headers_are_remembered_per_credential() {
        let quotas = PullQuotas::default();
        let host: RegistryHost = "registry-1.docker.io".parse().expect("host");
        let mut headers = HeaderMap::new();
        quotas.note(&host, CredentialId::ANONYMOUS, &headers);
        assert!(quotas.all().is_empty());
        headers.insert("ratelimit-limit", "100;w=21600".parse().expect("value"));
        headers.insert("ratelimit-remaining", "76;w=21600".parse().expect("value"));
        quotas.note(&host, CredentialId::ANONYMOUS, &headers);
        quotas.note(&host, CredentialId::of("Basic x"), &headers);
        let all = quotas.all();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].2, Quota { limit: 100, remaining: 76, window_s: Some(21_600) });
    }
}
