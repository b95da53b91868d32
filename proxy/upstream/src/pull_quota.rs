//! The pull quotas that upstream registries report (`RateLimit-Limit: 100;w=21600`, `RateLimit-Remaining`), for each
//! registry and credential. The administrator sees them before they are used up.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use entrepot_core::host::RegistryHost;
use entrepot_core::recent::Recent;
use http::HeaderMap;

use crate::credential::CredentialId;

/// A credential's quota at a registry, as of its last answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PullQuota {
    /// The number of pulls allowed in the window.
    pub limit: u64,
    /// The number of pulls left.
    pub remaining: u64,
    /// The length of the window in seconds. None if the registry does not tell.
    pub window_s: Option<u64>,
}

/// The last report for each registry and credential.
pub struct PullQuotas {
    seen: Mutex<Recent<(RegistryHost, CredentialId), (PullQuota, Instant)>>,
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
        let Some(quota) = parse(headers) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(&(registry.clone(), credential), (quota, Instant::now()));
    }

    /// All quotas, each with the time of its report, sorted by registry and credential.
    pub fn all(&self) -> Vec<(RegistryHost, CredentialId, PullQuota, Instant)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            seen.iter().map(|((host, credential), (quota, at))| (host.clone(), *credential, *quota, *at)).collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
    }
}

fn parse(headers: &HeaderMap) -> Option<PullQuota> {
    let (limit, window_s) = number(headers, "ratelimit-limit")?;
    let (remaining, _) = number(headers, "ratelimit-remaining")?;
    Some(PullQuota { limit, remaining, window_s })
}

/// Reads `100;w=21600`.
fn number(headers: &HeaderMap, name: &str) -> Option<(u64, Option<u64>)> {
    let mut parts = headers.get(name)?.to_str().ok()?.split(';');
    let number = parts.next()?.trim().parse().ok()?;
    let window = parts.find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
    Some((number, window))
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
        assert_eq!(all[0].2, PullQuota { limit: 100, remaining: 76, window_s: Some(21_600) });
    }
}
