//! Pings and tokens: how a client comes to its credential.
//!
//! Upstream's challenges and tokens pass through unchanged as long as upstream answers and the administrator gave no
//! account for the registry. Else entrepot is the token server itself, at `/entrepot/token` of the registry's own
//! name: its tokens stand for the client's login, or for an anonymous client, and mean nothing outside this process.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::challenge::Challenge;
use entrepot_core::docker_hub;
use entrepot_core::error::ErrorCode;
use entrepot_core::origin::Origin;
use http::header::{CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::fetch::source::UpstreamRefusal;
use crate::pull::error::{PullError, is_transient};
use crate::pull::identity::header;
use crate::pull::issued::LOCAL_LIFETIME;
use crate::pull::{Pull, RequestContext, replies};
use entrepot_config::ready::AccessMode;
use entrepot_core::secret::Secret;
use entrepot_net::http::held_body::NotHeld;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_upstream::credential::{Credential, CredentialId, Login};
use entrepot_upstream::operation::Operation;
use entrepot_upstream::registry_client::{Answer, failure_of, outcome_of};
use entrepot_upstream::token_cache::{AuthScheme, Token, TokenKey, request_url};
use entrepot_upstream::upstream_registry::host_of;

/// The path at which entrepot gives out tokens of its own, on every registry's name.
pub const LOCAL_REALM_PATH: &str = "/entrepot/token";
const TOKEN_BODY_MAX_BYTES: usize = 1 << 20;

impl Pull {
    /// `GET /v2/`.
    pub(super) async fn ping(&self, request: &RequestContext) -> Result<Reply, PullError> {
        let sent = header(&request.headers);
        if let Some(header) = &sent
            && let Some(token) = self.issued.local(&request.registry.origin, header)
        {
            return Ok(if token.is_some() { pong() } else { self.local_challenge(request, None) });
        }
        // Never with the administrator's account: a client that is not asked keeps its own login to itself.
        let credential = sent.clone().map_or(Credential::None, Credential::Header);
        let operation = Operation::relay(request.method.clone(), "/v2/".into(), &request.headers, None);
        // A client that begins a pull of what is stored does not wait here either.
        match request.checking().execute_as(&credential, &operation).await {
            Ok(answer) if !is_transient(answer.status) => {
                if answer.status == StatusCode::UNAUTHORIZED {
                    return Err(self.refused_by_upstream(request, answer, ErrorCode::NameUnknown).await);
                }
                Ok(replies::relayed(answer))
            }
            outcome => {
                if let Err(error) = outcome {
                    tracing::warn!(registry = %request.registry.origin, "{error}; answering the ping here");
                }
                Ok(if sent.is_some() { pong() } else { self.local_challenge(request, None) })
            }
        }
    }

    /// A refusal as the client gets it. Where the administrator gave an account, the challenge leads to our own token
    /// endpoint, so that clients without a login need none and clients with one still use it.
    pub(super) fn challenged(&self, request: &RequestContext, mut refusal: UpstreamRefusal) -> UpstreamRefusal {
        if refusal.status != StatusCode::UNAUTHORIZED {
            return refusal;
        }
        let usable = match request.snapshot.upstream.learn_challenge(&request.registry, &refusal.headers) {
            Some(AuthScheme::Basic) => true,
            // A client's login may go where it would go without us, but not through us to a realm that we do not know.
            Some(AuthScheme::Bearer { realm, .. }) => request.snapshot.upstream.trusts(&request.registry, &realm),
            None => false,
        };
        if usable && shares_accounts(request, &request.registry.origin) {
            let values = refusal.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            let scope = Challenge::parse(values).into_iter().find_map(|challenge| match challenge {
                Challenge::Bearer { scope, .. } => scope,
                _ => None,
            });
            if let Ok(value) = HeaderValue::from_str(&challenge_text(request, scope.as_deref())) {
                refusal.headers.insert(WWW_AUTHENTICATE, value);
            }
        }
        refusal
    }

    /// 401 with our own realm.
    pub fn local_challenge(&self, request: &RequestContext, scope: Option<&str>) -> Reply {
        let challenge = challenge_text(request, scope);
        Reply::error(ErrorCode::Unauthorized, "").with(WWW_AUTHENTICATE, &challenge).because(Refused::Unauthenticated)
    }

    /// The registry whose tokens this endpoint gives out, if it is a token endpoint.
    pub(super) fn realm_of(&self, request: &RequestContext, path: &str) -> Option<Origin> {
        // Docker Hub's token server is known before any challenge was seen.
        let origin = &request.registry.origin;
        if origin.to_string() == docker_hub::TOKEN_HOST && path == docker_hub::TOKEN_PATH {
            return docker_hub::REGISTRY.parse().ok();
        }
        let service = query_values(&request.path_and_query, "service").pop();
        request.snapshot.upstream.memory().tokens.registry_of_realm(origin, path, service.as_deref())
    }

    /// A token request to a realm that is intercepted: passed on, and what the answer stands for remembered.
    pub(super) async fn token(
        &self,
        request: &RequestContext,
        registry: Origin,
        body: Incoming,
    ) -> Result<Reply, PullError> {
        let sent = header(&request.headers);
        let reads = request.method == Method::GET;
        if reads && sent.is_none() && shares_accounts(request, &registry) {
            return Ok(self.issue(&registry, None));
        }
        let patience = request.snapshot.config.client.body_timeout;
        let held = self.bodies.receive(request.connection.client.into(), body, TOKEN_BODY_MAX_BYTES, patience).await;
        let held = match held {
            Ok(held) => held,
            Err(why) => {
                let message = format!("entrepot: the token request cannot be read: {why}");
                let (code, refused) = match why {
                    NotHeld::Busy => (ErrorCode::TooManyRequests, Refused::Form),
                    NotHeld::Stalled => (ErrorCode::RequestTimeout, Refused::ClientStalled),
                    NotHeld::TooLarge | NotHeld::BrokeOff | NotHeld::Disk => (ErrorCode::BadRequest, Refused::Form),
                };
                return Ok(Reply::error(code, &message).because(refused));
            }
        };
        let body = held.bytes().clone();
        let identified = request.registry.injects_headers();
        let principal = principal(sent.as_ref(), &body, &request.path_and_query, reads).filter(|_| !identified);
        let scopes = asked_scopes(request, reads, &body);
        let login = sent.as_ref().and_then(Login::from_basic);
        let credential = sent.map_or(Credential::None, Credential::Header);
        let operation =
            Operation::relay(request.method.clone(), request.path_and_query.clone(), &request.headers, None);
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        // A token of ours stands in for one that is read.
        let asking = if reads { &request.checking() } else { request };
        let answer = asking.send(&credential, &operation, body).await;
        match answer {
            Ok(answer) if !is_transient(answer.status) => {
                Ok(self.passed_token(request, answer, principal, &scopes).await)
            }
            Ok(answer) if !reads => Err(PullError::answered(UpstreamRefusal::read(answer).await)),
            Err(error) if !reads => Err(self.unreachable(request, Arc::new(error))),
            _ => {
                tracing::warn!(realm = %request.registry.origin, %registry, "the token server is down; giving out a token for what is cached here");
                Ok(self.issue(&registry, login))
            }
        }
    }

    async fn passed_token(
        &self,
        request: &RequestContext,
        answer: Answer,
        principal: Option<CredentialId>,
        scopes: &[String],
    ) -> Reply {
        if answer.status != StatusCode::OK {
            return replies::relayed(answer);
        }
        let headers = answer.headers;
        let Ok(body) = Limited::new(answer.body, TOKEN_BODY_MAX_BYTES).collect().await else {
            let message = "entrepot: the token server's answer broke off";
            return Reply::error(ErrorCode::BadGateway, message).because(Refused::Broken);
        };
        let body = body.to_bytes();
        if let (Some(principal), Some(token)) = (principal, Token::parse(&body)) {
            self.note_token(request, &token.secret, principal, scopes, token.holds_for());
        }
        replies::refused(UpstreamRefusal { status: StatusCode::OK, headers, body })
    }

    /// Our own token endpoint: a client's login is checked with upstream's realm where upstream answers.
    pub(super) async fn local_token(&self, request: &RequestContext) -> Result<Reply, PullError> {
        if request.method != Method::GET {
            let message = "tokens are asked for with GET here";
            return Ok(Reply::error(ErrorCode::Unsupported, message).because(Refused::Method));
        }
        let registry = &request.registry;
        let Some(sent) = header(&request.headers) else { return Ok(self.issue(&registry.origin, None)) };
        let Some(login) = Login::from_basic(&sent) else {
            let message = "a token is given for a Basic login, or for none";
            return Ok(Reply::error(ErrorCode::Unauthorized, message).because(Refused::TokenRefused));
        };
        match self.scheme_of(request).await {
            Some(AuthScheme::Bearer { realm, service }) => {
                let scopes = query_values(&request.path_and_query, "scope");
                let key = TokenKey {
                    registry: registry.origin.clone(),
                    realm: realm.to_string(),
                    service,
                    scopes,
                    credential: login.id(),
                };
                self.realm_token(request, &key, login).await
            }
            Some(AuthScheme::Basic) => {
                let operation = Operation::relay(Method::GET, "/v2/".into(), &HeaderMap::new(), None);
                let credential = Credential::Header(login.basic().clone());
                match request.checking().execute_as(&credential, &operation).await {
                    Ok(answer) if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                        let message = "upstream refuses this login";
                        Ok(Reply::error(ErrorCode::Unauthorized, message).because(Refused::WrongLogin))
                    }
                    _ => Ok(self.issue(&registry.origin, Some(login))),
                }
            }
            None => Ok(self.issue(&registry.origin, Some(login))),
        }
    }

    async fn realm_token(&self, request: &RequestContext, key: &TokenKey, login: Login) -> Result<Reply, PullError> {
        let Some(url) = request_url(key) else { return Ok(self.issue(&request.registry.origin, Some(login))) };
        // The realm's URL may carry a secret in its query, so only its host is recorded.
        let host = host_of(&url).unwrap_or_else(|| request.registry.host().clone());
        let answer = request.snapshot.upstream.ask_realm(&request.checking().registry, &url, Some(login.basic())).await;
        let outcome = answer.as_ref().map_or_else(failure_of, |(status, ..)| outcome_of(*status));
        request.record_upstream(&host, outcome, None);
        match answer {
            Ok((StatusCode::OK, headers, body)) => {
                if let Some(token) = Token::parse(&body) {
                    self.note_token(request, &token.secret, login.id(), &key.scopes, token.holds_for());
                }
                Ok(replies::refused(UpstreamRefusal { status: StatusCode::OK, headers, body }))
            }
            Ok((status, headers, body)) if !is_transient(status) => {
                Err(PullError::answered(UpstreamRefusal { status, headers, body }))
            }
            Err(error) if !error.is_retryable() => Err(self.unreachable(request, Arc::new(error))),
            _ => Ok(self.issue(&request.registry.origin, Some(login))),
        }
    }

    /// A token passes to a client: it stands for the principal, in rights and in the budget of questions.
    fn note_token(
        &self,
        request: &RequestContext,
        token: &Secret,
        principal: CredentialId,
        scopes: &[String],
        lifetime: Duration,
    ) {
        self.issued.note(token, principal, scopes, lifetime);
        let header = CredentialId::of(&format!("Bearer {}", token.expose()));
        request.snapshot.upstream.memory().governors.note_token(header, principal);
    }

    /// How the registry asks for credentials; it is pinged where that is not known yet.
    async fn scheme_of(&self, request: &RequestContext) -> Option<AuthScheme> {
        let known = request.snapshot.upstream.memory().tokens.scheme(&request.registry.origin);
        if known.is_some() {
            return known;
        }
        let operation = Operation::relay(Method::GET, "/v2/".into(), &HeaderMap::new(), None);
        let answer = request.checking().execute_as(&Credential::None, &operation).await.ok()?;
        request.snapshot.upstream.learn_challenge(&request.registry, &answer.headers)
    }

    fn issue(&self, registry: &Origin, login: Option<Login>) -> Reply {
        let Some(token) = self.issued.issue(registry, login) else {
            let message = "entrepot: no token can be given out at the moment";
            return Reply::error(ErrorCode::Unavailable, message).because(Refused::TokenRefused);
        };
        // A tenth less than it holds: an anonymous one may have been given to others before.
        let (token, lifetime) = (token.expose(), LOCAL_LIFETIME.as_secs() * 9 / 10);
        let body = format!(r#"{{"token":"{token}","access_token":"{token}","expires_in":{lifetime}}}"#);
        Reply::full(StatusCode::OK, "application/json", body)
    }
}

/// Whether the administrator's account for a registry, or for its token realm, is there for clients without a login.
fn shares_accounts(request: &RequestContext, origin: &Origin) -> bool {
    request.snapshot.has_account(origin, None) && request.snapshot.registry(&origin.host).access == AccessMode::Shared
}

fn challenge_text(request: &RequestContext, scope: Option<&str>) -> String {
    let scheme = request.connection.scheme;
    let authority = request.registry.host().authority(scheme.default_port());
    // A scope comes from upstream: only what a quoted string holds without escapes is repeated.
    let scope = scope.filter(|scope| !scope.contains(['"', '\\'])).map(|scope| format!(",scope=\"{scope}\""));
    let scope = scope.unwrap_or_default();
    format!(
        "Bearer realm=\"{}://{authority}{LOCAL_REALM_PATH}\",service=\"{}\"{scope}",
        scheme.name(),
        request.registry.host().name()
    )
}

fn pong() -> Reply {
    let version = http::HeaderName::from_static("docker-distribution-api-version");
    Reply::full(StatusCode::OK, "application/json", "{}").with(version, "registry/2.0").with(CONTENT_LENGTH, "2")
}

/// The principal that a token is given to: a login by header or form, a refresh token, or anonymous. None if it cannot
/// be told.
fn principal(header: Option<&Secret>, body: &Bytes, path_and_query: &str, reads: bool) -> Option<CredentialId> {
    if let Some(header) = header {
        return Some(Login::from_basic(header).map_or(CredentialId::of(header.expose()), |login| login.id()));
    }
    if reads {
        // Any other parameter may be a credential, as GitLab's `private_token` is. Some servers split at semicolons
        // too.
        const HARMLESS: [&str; 5] = ["service", "scope", "account", "client_id", "offline_token"];
        let is_anonymous =
            !path_and_query.contains(';') && query(path_and_query).all(|(name, _)| HARMLESS.contains(&&*name));
        return is_anonymous.then_some(CredentialId::ANONYMOUS);
    }
    let field = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(body);
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    if let (Some(username), Some(password)) = (field("username"), field("password")) {
        return Some(Login::new(&username, &Secret::new(password)).id());
    }
    field("refresh_token").map(|token| CredentialId::of(&format!("refresh {token}")))
}

/// The scopes of a token request, in its query or its form.
fn asked_scopes(request: &RequestContext, reads: bool, form: &Bytes) -> Vec<String> {
    let mut scopes = query_values(&request.path_and_query, "scope");
    if !reads {
        let fields = url::form_urlencoded::parse(form).filter(|(name, _)| name == "scope");
        scopes.extend(fields.map(|(_, value)| value.into_owned()));
    }
    scopes
}

fn query(path_and_query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let query = path_and_query.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes())
}

fn query_values(path_and_query: &str, name: &str) -> Vec<String> {
    query(path_and_query).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_for_the_login_that_asked() {
        let basic = Secret::new("Basic YWxpY2U6cHc=");
        let alice = Login::new("alice", &Secret::new("pw")).id();
        let form = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(principal(Some(&basic), &Bytes::new(), "/t?private_token=x", true), Some(alice));
        let by_query = |query| principal(None, &Bytes::new(), query, true);
        let harmless =
            "/t?service=s&scope=repository:a:pull&scope=repository:b:pull&account=a&client_id=c&offline_token=1";
        assert_eq!(
            (by_query("/t"), by_query(harmless)),
            (Some(CredentialId::ANONYMOUS), Some(CredentialId::ANONYMOUS))
        );
        for secret in
            ["/t?private_token=x&scope=a", "/t?private%5Ftoken=x", "/t?key", "/t?Scope=a", "/t?scope=a;private_token=x"]
        {
            assert_eq!(by_query(secret), None, "{secret}");
        }
        assert_eq!(principal(None, &form("grant_type=password&username=alice&password=pw"), "/t", false), Some(alice));
        assert_eq!(principal(None, &form("grant_type=x"), "/t", false), None);
        assert_ne!(
            principal(None, &form("refresh_token=a"), "/t", false),
            principal(None, &form("refresh_token=b"), "/t", false)
        );
    }

    #[test]
    fn query_values_are_decoded() {
        // As dockerd asks before it mounts a layer from another repository.
        let path = "/entrepot/token?service=x&scope=repository%3Aa%2Fb%3Apull&scope=repository:c:pull,push";
        assert_eq!(query_values(path, "scope"), ["repository:a/b:pull", "repository:c:pull,push"]);
        assert!(query_values("/t", "scope").is_empty());
    }
}
