//! Answers the challenges of registries: by which token server, with which scope, and with whose login.
//!
//! Neighbours: `registry_client` sends the requests, `token_cache` remembers tokens and what registries asked for.
//!
//! Invariants: a login goes only to the registry and to a token server that belongs to it ([`RegistryClient::trusts`],
//! T4 in `docs/threats.md`), and over http only if both were configured so. A token goes to the registry that it was
//! asked for.

use std::time::Instant;

use bytes::Bytes;
use entrepot_core::challenge::{Challenge, realm_trusted_for};
use entrepot_core::error::said;
use entrepot_core::origin::Scheme;
use entrepot_core::secret::Secret;
use entrepot_observe::labels::UpstreamMethod;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use url::Url;

use super::{Answer, RegistryClient, empty, redirect_location};
use crate::address_policy::Purpose;
use crate::credential::{CredentialId, Login, sensitive};
use crate::error::{ErrorKind, Stage, UpstreamError};
use crate::http_client::{Manner, Patience};
use crate::operation::Operation;
use crate::token_cache::{self, AuthScheme, Token, TokenKey};
use crate::upstream_registry::{UpstreamRegistry, host_of, origin_of};

/// What a registry asks for.
struct Demand {
    scheme: AuthScheme,
    /// The scopes that the challenge names. None if it names none: then the operation tells the scope.
    scopes: Option<Vec<String>>,
}

const TOKEN_ANSWER_MAX_BYTES: usize = 1 << 20;
/// A registry that asks for yet another token after these is not understood.
const ANSWERS_MAX: usize = 4;
/// Token servers redirect to another spelling of their path, once.
const REALM_REDIRECTS_MAX: usize = 5;
/// The longest scope of a challenge, and the most scopes, that are asked for.
const SCOPE_MAX_BYTES: usize = 1024;
const SCOPES_MAX: usize = 8;

impl RegistryClient {
    /// Runs an operation without a body, and answers the registry's challenges to it.
    ///
    /// A token that the registry refuses may be answered with a challenge that names another token server, as one that
    /// is only for such tokens. What the registry wants is told by its answer to a request without a token, so the
    /// operation begins anew; the other token server is asked if that leads nowhere.
    pub(super) async fn execute_answering(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        login: Option<&Login>,
    ) -> Result<Answer, UpstreamError> {
        let id = login.map_or(CredentialId::ANONYMOUS, Login::id);
        let mut scheme = self.memory.tokens.scheme(&registry.origin);
        let mut sent = self.remembered(registry, operation, login).await?;
        let mut answer = self.follow(registry, operation, id, sent.as_ref(), empty()).await?;
        let (mut asked, mut other, mut began_anew): (Vec<TokenKey>, Option<Demand>, bool) = Default::default();
        for _ in 0..ANSWERS_MAX {
            if answer.status != StatusCode::UNAUTHORIZED || answer.crossed {
                break;
            }
            let Some(demand) = demand(registry, &answer.headers) else { break };
            if sent.is_some() && !began_anew && is_another_realm(scheme.as_ref(), &demand.scheme) {
                (began_anew, other, sent) = (true, Some(demand), None);
                answer = self.follow(registry, operation, id, None, empty()).await?;
                continue;
            }
            let is_new =
                |demand: &Demand| key_of(registry, operation, demand, login).is_none_or(|key| !asked.contains(&key));
            let Some(demand) = Some(demand).filter(is_new).or_else(|| other.take().filter(is_new)) else { break };
            self.learn(registry, operation, &demand);
            asked.extend(key_of(registry, operation, &demand, login));
            let fresh = self.answer_demand(registry, operation, login, &demand, true).await?;
            if fresh.is_none() || fresh == sent {
                break;
            }
            (scheme, sent) = (Some(demand.scheme), fresh);
            answer = self.follow(registry, operation, id, sent.as_ref(), empty()).await?;
        }
        if let Some(login) = login
            && login.for_registry().is_some()
            && answer.status == StatusCode::UNAUTHORIZED
            && !answer.crossed
            && self.memory.tokens.scheme(&registry.origin) == Some(AuthScheme::Basic)
        {
            self.account_refused(registry, login, answer.status);
        }
        Ok(answer)
    }

    /// Remembers the challenge in an answer's headers. None if it has none that entrepot can answer.
    pub fn learn_challenge(&self, registry: &UpstreamRegistry, headers: &HeaderMap) -> Option<AuthScheme> {
        let scheme = demand(registry, headers)?.scheme;
        self.memory.tokens.learn_scheme(&registry.origin, scheme.clone());
        Some(scheme)
    }

    /// The `Authorization` of the first attempt, as the registry asked for it last time. None if it is not known yet.
    pub(super) async fn remembered(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        login: Option<&Login>,
    ) -> Result<Option<Secret>, UpstreamError> {
        let Some(scheme) = self.memory.tokens.scheme(&registry.origin) else { return Ok(None) };
        let scopes = operation.scope().and_then(|own| self.memory.tokens.scopes(&registry.origin, &own));
        self.answer_demand(registry, operation, login, &Demand { scheme, scopes }, false).await
    }

    /// Answers the challenge in an answer's headers, and remembers it. None if there is none that can be answered.
    pub(super) async fn answer_challenge(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        login: Option<&Login>,
        headers: &HeaderMap,
    ) -> Result<Option<Secret>, UpstreamError> {
        let Some(demand) = demand(registry, headers) else { return Ok(None) };
        self.learn(registry, operation, &demand);
        self.answer_demand(registry, operation, login, &demand, true).await
    }

    fn learn(&self, registry: &UpstreamRegistry, operation: &Operation, demand: &Demand) {
        self.memory.tokens.learn_scheme(&registry.origin, demand.scheme.clone());
        if let (Some(own), Some(told)) = (operation.scope(), &demand.scopes) {
            self.memory.tokens.learn_scopes(&registry.origin, own, told);
        }
    }

    /// `refused` is true if the registry refused the token in memory.
    async fn answer_demand(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        login: Option<&Login>,
        demand: &Demand,
        refused: bool,
    ) -> Result<Option<Secret>, UpstreamError> {
        if let AuthScheme::Bearer { realm, .. } = &demand.scheme
            && login.is_some()
            && !self.trusts(registry, realm)
        {
            self.warn_of_realm(registry, realm);
            return Ok(None);
        }
        match key_of(registry, operation, demand, login) {
            None => Ok(login.and_then(Login::for_registry).cloned()),
            Some(key) => {
                let token = self.token(registry, &key, login, refused).await?;
                Ok(token.map(|token| Secret::new(format!("Bearer {}", token.expose()))))
            }
        }
    }

    /// Says that a login is not sent to this token server. That is said once.
    pub fn warn_of_realm(&self, registry: &UpstreamRegistry, realm: &Url) {
        let Some(host) = origin_of(realm) else { return };
        if !self.memory.tokens.note_untrusted(&registry.origin, &host) {
            return;
        }
        tracing::warn!(registry = %registry.origin, %realm, "the registry names a token server that is not known to belong to it, so no account is sent there; if you trust it, set registries.\"{}\".realm = \"{}\"", registry.host(), host.authority());
    }

    /// The token of `key`, from memory or from its token server. `refused` is true if the registry refused the one in
    /// memory.
    async fn token(
        &self,
        registry: &UpstreamRegistry,
        key: &TokenKey,
        login: Option<&Login>,
        refused: bool,
    ) -> Result<Option<Secret>, UpstreamError> {
        let asked_at = Instant::now();
        let slot = self.memory.tokens.slot(key);
        let mut slot = match registry.patience {
            Patience::Full => slot.lock().await,
            // A patient request may be waiting for the token server.
            Patience::Check => match timeout(self.client.check_timeout(), slot.lock()).await {
                Ok(slot) => slot,
                Err(_) => return Err(UpstreamError::new(Stage::Head, ErrorKind::TimedOut, registry.host())),
            },
        };
        if let Some((token, renew_at)) = &*slot
            && *renew_at > asked_at
            && !refused
        {
            return Ok(Some(token.clone()));
        }
        *slot = None;
        let Some(url) = token_cache::request_url(key) else { return Ok(None) };
        let (status, headers, body) = self.ask_realm(registry, &url, login.map(Login::basic)).await?;
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.memory.governors.token_refused(&registry.origin, login, headers, body.clone());
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let said = said(&body).map(Into::into);
            return Err(UpstreamError::new(Stage::Head, ErrorKind::TokenServer { status, said }, registry.host()));
        }
        if !status.is_success() {
            if let Some(login) = login {
                self.login_refused(registry, key, login, status).await;
            }
            return Ok(None);
        }
        let Some(token) = Token::parse(&body) else { return Ok(None) };
        *slot = Some((token.secret.clone(), token_cache::renew_at(asked_at, token.reused_for())));
        Ok(Some(token.secret))
    }

    /// The token server refused a token. A server that answers 401 refuses the login. Any other refusal may be about the
    /// scope alone, and clients choose that: then the server is asked for a token without a scope.
    async fn login_refused(&self, registry: &UpstreamRegistry, key: &TokenKey, login: &Login, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED || key.scopes.is_empty() {
            self.account_refused(registry, login, status);
        } else if login.is_account() {
            let unscoped = TokenKey { scopes: Vec::new(), ..key.clone() };
            // It is asked anew, because the password may have run out since the last time. An outage says nothing.
            let _ = Box::pin(self.token(registry, &unscoped, Some(login), true)).await;
        }
    }

    /// Upstream does not take this login. That is remembered and told only if it is the administrator's.
    fn account_refused(&self, registry: &UpstreamRegistry, login: &Login, status: StatusCode) {
        if !login.is_account() {
            return;
        }
        self.memory.metrics.accounts_refused.inc();
        if self.memory.refused_accounts.note(&registry.origin, login.id()) {
            tracing::warn!(registry = %registry.origin, %status, "upstream refuses the account that is configured for this registry; pulls go on without it, what is private fails; renew its password and reload");
        }
    }

    /// Whether a login for the registry may go to the token server at `realm`: it belongs to the registry, or the
    /// configuration names it for the registry.
    pub fn trusts(&self, registry: &UpstreamRegistry, realm: &Url) -> bool {
        let https_required = registry.origin.scheme == Scheme::Https;
        let is_plain = realm.username().is_empty() && realm.password().is_none();
        let named = || is_plain && origin_of(realm).is_some_and(|origin| registry.realms.contains(&origin));
        realm_trusted_for(registry.host(), realm, https_required) || named()
    }

    /// GETs from a token server, whatever its governor says. A login is sent only if [`Self::trusts`] it. Anonymous
    /// requests may go to every public address. Redirects are followed on the token server's own origin.
    pub(super) async fn ask_realm_now(
        &self,
        registry: &UpstreamRegistry,
        url: &Url,
        authorization: Option<&Secret>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), UpstreamError> {
        let trusted = self.trusts(registry, url);
        let name = |url: &Url| host_of(url).map_or_else(|| "another address".to_owned(), |host| host.to_string());
        if authorization.is_some() && !trusted {
            let why = format!("its token server {} does not belong to it, so no login is sent there", name(url));
            return Err(UpstreamError::protocol(registry.host(), why));
        }
        let purpose = if trusted { Purpose::Registry } else { Purpose::RedirectFromPublic };
        let fail = |why: String| UpstreamError::protocol(registry.host(), why);
        let mut url = url.clone();
        for _ in 0..=REALM_REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization.and_then(sensitive) {
                headers.insert(AUTHORIZATION, value);
            }
            let request = self.request(&Method::GET, &url, headers, empty()).map_err(fail)?;
            let manner = Manner { patience: registry.patience, may_race: false };
            let response = self.send(UpstreamMethod::Token, request, purpose, manner).await?;
            let (head, body) = response.http.into_parts();
            if let Some(location) = redirect_location(head.status, &head.headers) {
                let next = url.join(&location).map(|next| secured(registry, next));
                let next = next.map_err(|_| fail("its token server redirects to an address that is no URL".into()))?;
                if next.origin() != url.origin() || !next.username().is_empty() || next.password().is_some() {
                    let why =
                        format!("its token server redirects to {}, where nobody is asked for a token", name(&next));
                    return Err(fail(why));
                }
                url = next;
                continue;
            }
            let body = Limited::new(body, TOKEN_ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| fail(format!("token answer: {error}")))?;
            return Ok((head.status, head.headers, body.to_bytes()));
        }
        Err(fail("its token server redirects in a circle".into()))
    }
}

/// The challenge that is answered: Bearer before Basic. None if there is neither.
fn demand(registry: &UpstreamRegistry, headers: &HeaderMap) -> Option<Demand> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenges = Challenge::parse(values);
    let bearer = challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer { realm, service, scope } => Some(Demand {
            scheme: AuthScheme::Bearer { realm: secured(registry, realm.clone()), service: service.clone() },
            scopes: scope.as_deref().and_then(scopes),
        }),
        _ => None,
    });
    let is_basic = || challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic { .. }));
    bearer.or_else(|| is_basic().then_some(Demand { scheme: AuthScheme::Basic, scopes: None }))
}

/// A registry behind a server that ends TLS calls its own addresses http. What belongs to an https registry is asked by
/// https.
fn secured(registry: &UpstreamRegistry, mut url: Url) -> Url {
    if registry.origin.scheme == Scheme::Https && url.scheme() == "http" {
        // An http URL always becomes an https one.
        let _ = url.set_scheme("https");
    }
    url
}

/// The scopes of a challenge, which have spaces between them. None if there are none, or more than make sense.
fn scopes(text: &str) -> Option<Vec<String>> {
    let scopes: Vec<_> = text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    (text.len() <= SCOPE_MAX_BYTES && (1..=SCOPES_MAX).contains(&scopes.len())).then_some(scopes)
}

fn is_another_realm(known: Option<&AuthScheme>, told: &AuthScheme) -> bool {
    match (known, told) {
        (Some(AuthScheme::Bearer { realm, .. }), AuthScheme::Bearer { realm: other, .. }) => realm != other,
        _ => false,
    }
}

/// The token that answers a demand. None if it wants the login itself.
fn key_of(
    registry: &UpstreamRegistry,
    operation: &Operation,
    demand: &Demand,
    login: Option<&Login>,
) -> Option<TokenKey> {
    let AuthScheme::Bearer { realm, service } = &demand.scheme else { return None };
    Some(TokenKey {
        registry: registry.origin.clone(),
        realm: realm.to_string(),
        service: service.clone(),
        scopes: demand.scopes.clone().unwrap_or_else(|| operation.scope().into_iter().collect()),
        credential: login.map_or(CredentialId::ANONYMOUS, Login::id),
    })
}

#[cfg(test)]
mod tests;
