//! One operation against one registry: authentication, redirects, quota. Everything that leaves entrepot towards a
//! registry leaves through [`Upstream::execute`].
//!
//! Neighbours: `client.rs` moves the bytes, `token.rs` remembers tokens, `pull/` decides what to ask.
//! Invariants: a credential, and the administrator's headers, go to the registry's own origin and to no other, and
//! once a redirect has left that origin they do not come back (T3); a login goes only to a realm that belongs to the
//! registry (T4); no more than ten redirects are followed and no address twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot_core::challenge::{Challenge, realm_trusted_for};
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT, VIA, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use url::Url;

use crate::address::Purpose;
use crate::body::{RequestBody, TimedBody};
use crate::client::{Response, UpstreamClient};
use crate::connector::Reach;
use crate::credential::{Credential, CredentialId, Login, sensitive};
use crate::error::{ErrorKind, Stage, UpstreamError};
use crate::operation::Operation;
use crate::quota::Quotas;
use crate::registry::{Registry, host_of};
use crate::token::{self, Scheme, TokenAnswer, TokenKey, Tokens};
use entrepot_config::ready::Scheme as WireScheme;
use entrepot_core::secret::Secret;
use entrepot_observe::labels::{UpstreamMethod, UpstreamOutcome};
use entrepot_observe::metrics::Metrics;

/// The way to upstream registries. One for each configuration in force; tokens and quotas live on across reloads.
pub struct Upstream {
    client: UpstreamClient,
    memory: Arc<Memory>,
}

/// What is remembered about upstreams across configurations.
pub struct Memory {
    /// Tokens fetched here, and how registries ask for them.
    pub tokens: Tokens,
    /// Pull quotas told by upstreams.
    pub quotas: Quotas,
    /// What was asked of upstreams, and what came of it.
    pub metrics: Arc<Metrics>,
    /// `1.1 entrepot-<random>`: sent with every request, refused when it comes back (a loop).
    pub via: HeaderValue,
}

/// An answer's head with its body still to be read.
pub struct Answer {
    /// Status of the last hop.
    pub status: StatusCode,
    /// Headers of the last hop.
    pub headers: HeaderMap,
    /// The body of the last hop.
    pub body: TimedBody,
    /// `Docker-Content-Digest`, of the first hop that told one: after a redirect a CDN knows nothing of it.
    pub digest: Option<Digest>,
    /// The host that gave the answer.
    pub host: RegistryHost,
    /// Whether it is a redirect's, to whatever origin: a page that asks for a login comes like this too.
    pub redirected: bool,
    /// Whether that is another origin than the registry, after a redirect. Its refusals are not the registry's.
    pub crossed: bool,
    /// Until the head was there.
    pub elapsed: Duration,
}

impl Answer {
    /// Whether this is the registry's own word on the content: its digest, or an answer that no redirect led to and that is
    /// no page for people. One that asks for a login has status 200 as well.
    pub fn is_registrys_word(&self) -> bool {
        self.digest.is_some() || !(self.redirected || self.is_page())
    }

    /// Whether it is meant for people.
    pub fn is_page(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        content_type.trim_start().get(..9).is_some_and(|head| head.eq_ignore_ascii_case("text/html"))
    }

    /// The announced length.
    pub fn content_length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// RFC 9110 has no limit; Docker's clients stop at ten.
const REDIRECTS_MAX: usize = 10;
const TOKEN_ANSWER_MAX_BYTES: usize = 1 << 20;

impl Upstream {
    /// Over `client`, with what earlier configurations learned.
    pub fn new(client: UpstreamClient, memory: Arc<Memory>) -> Self {
        Self { client, memory }
    }

    /// The way to other hosts, for tunnels.
    pub fn reach(&self) -> &Reach {
        self.client.reach()
    }

    /// What is remembered about upstreams.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Sends a message to a receiver of the administrator's: no login, no redirects, no second try. What it answers
    /// beside its status is not read.
    pub async fn notify(&self, request: http::Request<RequestBody>) -> Result<StatusCode, UpstreamError> {
        Ok(self.client.send(request, Purpose::Webhook).await?.http.status())
    }

    /// Runs an operation without a body.
    pub async fn execute(
        &self,
        registry: &Registry,
        operation: &Operation,
        credential: &Credential,
    ) -> Result<Answer, UpstreamError> {
        let authorization = self.authorization(registry, operation, credential).await?;
        let answer = self.follow(registry, operation, credential.id(), authorization.as_ref(), empty()).await?;
        let Credential::Answered(login) = credential else { return Ok(answer) };
        if answer.status != StatusCode::UNAUTHORIZED || answer.crossed {
            return Ok(answer);
        }
        match self.answer_challenge(registry, operation, login.as_ref(), &answer.headers).await? {
            Some(fresh) if Some(&fresh) != authorization.as_ref() => {
                self.follow(registry, operation, credential.id(), Some(&fresh), empty()).await
            }
            _ => Ok(answer),
        }
    }

    /// Runs an operation with a body that can be sent only once: authentication comes first.
    pub async fn execute_with_body(
        &self,
        registry: &Registry,
        operation: &Operation,
        credential: &Credential,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        if let Credential::Answered(_) = credential
            && self.memory.tokens.scheme(&registry.host).is_none()
        {
            let ping = Operation::relay(Method::GET, "/v2/".into(), &HeaderMap::new(), None);
            let answer = self.follow(registry, &ping, credential.id(), None, empty()).await?;
            self.learn_challenge(registry, &answer.headers);
        }
        let authorization = self.authorization(registry, operation, credential).await?;
        let answer = self.follow(registry, operation, credential.id(), authorization.as_ref(), body).await?;
        if let Credential::Answered(login) = credential
            && answer.status == StatusCode::UNAUTHORIZED
        {
            // The body is gone, but the next try finds a token that is good.
            self.answer_challenge(registry, operation, login.as_ref(), &answer.headers).await?;
        }
        Ok(answer)
    }

    /// Remembers the challenge in an answer's headers, if there is one, and returns it.
    pub fn learn_challenge(&self, registry: &Registry, headers: &HeaderMap) -> Option<Scheme> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges = Challenge::parse(values);
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => {
                Some(Scheme::Bearer { realm: realm.clone(), service: service.clone() })
            }
            _ => None,
        });
        let basic = || challenges.iter().any(|c| matches!(c, Challenge::Basic { .. })).then_some(Scheme::Basic);
        let scheme = bearer.or_else(basic)?;
        self.memory.tokens.learn_scheme(&registry.host, scheme.clone());
        Some(scheme)
    }

    /// What to send before any challenge came: the client's own header, or the token that the registry asked for
    /// last time.
    async fn authorization(
        &self,
        registry: &Registry,
        operation: &Operation,
        credential: &Credential,
    ) -> Result<Option<Secret>, UpstreamError> {
        match credential {
            Credential::None => Ok(None),
            Credential::Header(value) => Ok(Some(value.clone())),
            Credential::Answered(login) => match self.memory.tokens.scheme(&registry.host) {
                Some(scheme) => self.answer_scheme(registry, operation, login.as_ref(), &scheme, false).await,
                None => Ok(None),
            },
        }
    }

    async fn answer_challenge(
        &self,
        registry: &Registry,
        operation: &Operation,
        login: Option<&Login>,
        headers: &HeaderMap,
    ) -> Result<Option<Secret>, UpstreamError> {
        match self.learn_challenge(registry, headers) {
            Some(scheme) => self.answer_scheme(registry, operation, login, &scheme, true).await,
            None => Ok(None),
        }
    }

    async fn answer_scheme(
        &self,
        registry: &Registry,
        operation: &Operation,
        login: Option<&Login>,
        scheme: &Scheme,
        refused: bool,
    ) -> Result<Option<Secret>, UpstreamError> {
        match scheme {
            Scheme::Basic => Ok(login.map(|login| login.basic().clone())),
            Scheme::Bearer { realm, .. } if login.is_some() && !self.trusts(registry, realm) => {
                tracing::warn!(registry = %registry.host, %realm, "this registry's token realm is not known to belong to it, so its account is not sent there; if it is meant, name it as registries.\"HOST\".realm in the configuration");
                Ok(None)
            }
            Scheme::Bearer { realm, service } => {
                let key = TokenKey {
                    realm: realm.to_string(),
                    service: service.clone(),
                    scopes: operation.scope().into_iter().collect(),
                    credential: login.map_or(CredentialId::ANONYMOUS, Login::id),
                };
                let token = self.token(registry, &key, login, refused).await?;
                Ok(token.map(|token| Secret::new(format!("Bearer {}", token.expose()))))
            }
        }
    }

    /// The token of `key`, from memory or from its realm; `refused` says that the one in memory did not do.
    async fn token(
        &self,
        registry: &Registry,
        key: &TokenKey,
        login: Option<&Login>,
        refused: bool,
    ) -> Result<Option<Secret>, UpstreamError> {
        let asked_at = Instant::now();
        let slot = self.memory.tokens.slot(key);
        let mut slot = slot.lock().await;
        if let Some((token, renew_at)) = &*slot
            && *renew_at > asked_at
            && !refused
        {
            return Ok(Some(token.clone()));
        }
        *slot = None;
        let Some(url) = token::request_url(key) else { return Ok(None) };
        let login = login.map(Login::basic);
        let (status, _, body) = self.ask_realm(registry, &url, login).await?;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let why = format!("its token server answered {status}");
            return Err(UpstreamError::new(Stage::Head, ErrorKind::Unreachable(why), &registry.host));
        }
        if !status.is_success() {
            tracing::warn!(registry = %registry.host, realm = %key.realm, %status, "the token realm refused; check the credentials configured for this registry");
            return Ok(None);
        }
        let Some((token, lifetime)) = TokenAnswer::parse(&body) else { return Ok(None) };
        *slot = Some((token.clone(), token::renew_at(asked_at, lifetime)));
        Ok(Some(token))
    }

    /// Whether a login for the registry may go to this realm: it belongs to the registry, or is one of those that the
    /// configuration gives it.
    pub fn trusts(&self, registry: &Registry, realm: &Url) -> bool {
        let https_required = registry.scheme == WireScheme::Https;
        let named = || realm.scheme() == "https" && host_of(realm).is_some_and(|host| registry.realms.contains(&host));
        realm_trusted_for(&registry.host, realm, https_required) || named()
    }

    /// GETs a token realm. A login is sent only where the realm belongs to the registry; anonymous requests go
    /// anywhere that a redirect could lead.
    pub async fn ask_realm(
        &self,
        registry: &Registry,
        url: &Url,
        authorization: Option<&Secret>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), UpstreamError> {
        let trusted = self.trusts(registry, url);
        if authorization.is_some() && !trusted {
            let realm = host_of(url).map_or_else(|| url.to_string(), |host| host.to_string());
            let why = format!("its token realm {realm} does not belong to it, so no login is sent there");
            return Err(UpstreamError::protocol(&registry.host, why));
        }
        let purpose = if trusted { Purpose::Registry } else { Purpose::RedirectFromPublic };
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization.and_then(sensitive) {
            headers.insert(AUTHORIZATION, value);
        }
        let request = self.request(&Method::GET, url, headers, empty());
        let request = request.map_err(|why| bad_url(&registry.host, &why))?;
        let response = self.send(UpstreamMethod::Token, request, purpose).await?;
        let (head, body) = response.http.into_parts();
        let body = Limited::new(body, TOKEN_ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| UpstreamError::protocol(&registry.host, format!("token answer: {error}")))?;
        Ok((head.status, head.headers, body.to_bytes()))
    }

    async fn follow(
        &self,
        registry: &Registry,
        operation: &Operation,
        credential: CredentialId,
        authorization: Option<&Secret>,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        let started = Instant::now();
        let fail = |why: String| UpstreamError::protocol(&registry.host, why);
        let mut url = registry.url(&operation.path).ok_or_else(|| fail("the path makes no URL".into()))?;
        let origin = url.origin();
        let (mut purpose, mut crossed, mut digest) = (registry.purpose, false, None);
        let mut visited = HashSet::new();
        let mut body = Some(body);
        loop {
            if !visited.insert(url.to_string()) || visited.len() > REDIRECTS_MAX + 1 {
                let what = if visited.len() > REDIRECTS_MAX { "more than ten redirects" } else { "a redirect loop" };
                return Err(fail(what.into()));
            }
            crossed |= url.origin() != origin;
            let headers = self.hop_headers(registry, operation, authorization.filter(|_| !crossed), crossed);
            let body = body.take().unwrap_or_else(empty);
            let request = self.request(&operation.method, &url, headers, body).map_err(&fail)?;
            let sent = self.send(kind_of(&operation.method), request, purpose).await;
            // The registry's own address is the client's choice, one that it redirects to is the registry's.
            let misled =
                |error: UpstreamError| if crossed && error.is_ours() { fail(error.to_string()) } else { error };
            let response = sent.map_err(misled)?;
            let (head, body) = response.http.into_parts();
            if !crossed {
                self.memory.quotas.note(&registry.host, credential, &head.headers);
            }
            digest = digest.or_else(|| content_digest(&head.headers).filter(|_| !crossed));
            let location = redirect_location(head.status, &head.headers).filter(|_| operation.follows_redirects);
            let Some(location) = location else {
                let host = host_of(&url).unwrap_or_else(|| registry.host.clone());
                let elapsed = started.elapsed();
                let (status, headers, redirected) = (head.status, head.headers, visited.len() > 1);
                return Ok(Answer { status, headers, body, digest, host, redirected, crossed, elapsed });
            };
            let next = url.join(&location).map_err(|_| fail("a redirect to an address that is no URL".into()))?;
            check_redirect(&url, &next, operation).map_err(&fail)?;
            if next.origin() != origin {
                purpose = purpose_after(purpose, response.peer_public);
            }
            url = next;
        }
    }

    /// Sends one request and counts what comes of it.
    async fn send(
        &self,
        kind: UpstreamMethod,
        request: Request<RequestBody>,
        purpose: Purpose,
    ) -> Result<Response, UpstreamError> {
        let started = Instant::now();
        let sent = self.client.send(request, purpose).await;
        let (outcome, head_after) = match &sent {
            Ok(response) => (outcome_of(response.http.status()), Some(started.elapsed())),
            Err(error) => (failure_of(error), None),
        };
        self.memory.metrics.upstream_request(kind, outcome, head_after);
        sent
    }

    fn hop_headers(
        &self,
        registry: &Registry,
        operation: &Operation,
        authorization: Option<&Secret>,
        crossed: bool,
    ) -> HeaderMap {
        let mut headers = operation.headers.clone();
        if !crossed {
            for (name, value) in &registry.headers {
                headers.insert(name.clone(), value.clone());
            }
        }
        if let Some(value) = authorization.and_then(sensitive) {
            headers.insert(AUTHORIZATION, value);
        }
        headers.extend(registry.heard_via.iter().map(|value| (VIA, value.clone())));
        headers
    }

    fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, String> {
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|_| "an address that is no URI".to_owned())?;
        *request.headers_mut() = headers;
        if request.body().is_end_stream() && matches!(*method, Method::GET | Method::HEAD) {
            request.headers_mut().remove(CONTENT_LENGTH);
        }
        let headers = request.headers_mut();
        // Blobs are always identity (T25): a compressed body has another digest.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.append(VIA, self.memory.via.clone());
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("entrepot/", env!("CARGO_PKG_VERSION"))));
        Ok(request)
    }
}

fn kind_of(method: &Method) -> UpstreamMethod {
    match *method {
        Method::GET => UpstreamMethod::Get,
        Method::HEAD => UpstreamMethod::Head,
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => UpstreamMethod::Push,
        _ => UpstreamMethod::Other,
    }
}

/// The word for an answer of this status.
pub fn outcome_of(status: StatusCode) -> UpstreamOutcome {
    match status.as_u16() {
        401 | 403 => UpstreamOutcome::Denied,
        404 | 410 => UpstreamOutcome::NotFound,
        429 => UpstreamOutcome::RateLimited,
        400..=499 => UpstreamOutcome::ClientError,
        500..=599 => UpstreamOutcome::ServerError,
        _ => UpstreamOutcome::Ok,
    }
}

/// The word for a failure.
pub fn failure_of(error: &UpstreamError) -> UpstreamOutcome {
    match error.stage {
        _ if error.is_timeout() => UpstreamOutcome::Timeout,
        Stage::Dns | Stage::Connect | Stage::Tls => UpstreamOutcome::Unreachable,
        Stage::Send | Stage::Head | Stage::Body => UpstreamOutcome::Broken,
    }
}

/// A body of no bytes.
pub fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `Docker-Content-Digest`, where it is one.
pub fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn redirect_location(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    redirects.then(|| headers.get(LOCATION)?.to_str().ok().map(str::to_owned)).flatten()
}

fn check_redirect(from: &Url, to: &Url, operation: &Operation) -> Result<(), String> {
    if !matches!(to.scheme(), "http" | "https") {
        return Err(format!("a redirect to a {} address", to.scheme()));
    }
    if from.scheme() == "https" && to.scheme() == "http" && !operation.verified_by_digest {
        return Err("a redirect from https to http for content that no digest checks".into());
    }
    Ok(())
}

/// Once a public address has redirected, private addresses stay out of reach (T5). Behind a parent proxy nobody here
/// knows the address, and it counts as public.
fn purpose_after(purpose: Purpose, peer_public: Option<bool>) -> Purpose {
    match (purpose, peer_public) {
        (Purpose::RedirectFromPublic, _) | (_, Some(true) | None) => Purpose::RedirectFromPublic,
        (_, Some(false)) => Purpose::RedirectFromPrivate,
    }
}

fn bad_url(host: &RegistryHost, why: &str) -> UpstreamError {
    UpstreamError::protocol(host, why.to_owned())
}
