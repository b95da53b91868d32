//! From a client's `Authorization` header to the credential that upstream is asked with.

use entrepot_core::name::RepositoryName;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::pull::{ConfigSnapshot, Pull};
use entrepot_config::ready::AccessMode;
use entrepot_core::secret::Secret;
use entrepot_upstream::credential::{Credential, CredentialId};
use entrepot_upstream::upstream_registry::UpstreamRegistry;

/// A token of ours that is over: the client has to ask for another one.
pub struct TokenIsOver;

/// The client's header, where it sent one that is text.
pub fn header(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| Secret::new(value))
}

impl Pull {
    /// The credential for a request about `repository`: the client's own wins; where access is shared, the
    /// administrator's account stands in for clients that sent none. An account pushes only if it was given for that.
    pub fn reader(
        &self,
        snapshot: &ConfigSnapshot,
        registry: &UpstreamRegistry,
        repository: Option<&RepositoryName>,
        header: Option<Secret>,
        pushes: bool,
    ) -> Result<Credential, TokenIsOver> {
        let shared = registry.access == AccessMode::Shared;
        let central = || match (shared, pushes) {
            (true, false) => snapshot.account(&registry.origin, repository),
            (true, true) => snapshot.account_for_pushes(&registry.origin, repository),
            (false, _) => None,
        };
        let Some(header) = header else {
            return Ok(central().map_or(Credential::None, |login| Credential::Answered(Some(login))));
        };
        match self.issued.local(&registry.origin, &header) {
            Some(None) => Err(TokenIsOver),
            Some(Some(token)) => Ok(Credential::Answered(token.login.or_else(central))),
            None if self.issued.seen(&header).is_some_and(|token| token.principal == CredentialId::ANONYMOUS) => {
                let anonymous = Credential::Header(header);
                Ok(central().map_or(anonymous, |login| Credential::Answered(Some(login))))
            }
            None => Ok(Credential::Header(header)),
        }
    }

    /// The credential for a request outside the registry's grammar: the client's own. The administrator's account has
    /// no part in it; a token of ours says nothing to others.
    pub fn passer(&self, registry: &UpstreamRegistry, header: Option<Secret>) -> Result<Credential, TokenIsOver> {
        let Some(header) = header else { return Ok(Credential::None) };
        match self.issued.local(&registry.origin, &header) {
            Some(Some(token)) => Ok(Credential::Answered(token.login)),
            Some(None) => Err(TokenIsOver),
            None => Ok(Credential::Header(header)),
        }
    }
}
