//! From a client's `Authorization` header to the credential that upstream is asked with.

use entrepot_core::name::RepositoryName;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::pull::issued::LocalToken;
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
        let central = || {
            let is_configured =
                registry.access == AccessMode::Shared && snapshot.has_account(&registry.origin, repository);
            match (is_configured, pushes) {
                (false, _) => None,
                // An account that upstream does not take counts as none, but we still answer upstream's challenges.
                (true, false) => Some(Credential::Answered(snapshot.account(&registry.origin, repository))),
                (true, true) => {
                    let login = snapshot.account_for_pushes(&registry.origin, repository);
                    login.map(|login| Credential::Answered(Some(login)))
                }
            }
        };
        let Some(header) = header else { return Ok(central().unwrap_or(Credential::None)) };
        match self.issued.local(&registry.origin, &header) {
            Some(None) => Err(TokenIsOver),
            Some(Some(LocalToken { login: Some(login), .. })) => Ok(Credential::Answered(Some(login))),
            Some(Some(_)) => Ok(central().unwrap_or(Credential::Answered(None))),
            None if self.issued.seen(&header).is_some_and(|token| token.principal == CredentialId::ANONYMOUS) => {
                Ok(central().unwrap_or(Credential::Header(header)))
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
