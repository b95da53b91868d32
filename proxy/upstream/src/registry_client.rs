//! Runs an operation against a registry: authentication, redirects, quotas. Every request to a registry is made by
//! [`RegistryClient::execute`] or [`RegistryClient::execute_with_body`].
//!
//! Neighbours: `http_client` sends single requests, `token_cache` keeps tokens.
//! The cache's pipeline decides which operations run.
//!
//! Invariants: a credential and the administrator's headers go only to the registry's own origin, and no longer once a
//! redirect has left it (T3). A login goes only to a token server that belongs to the registry (T4). At most ten
//! redirects are followed, and no address is visited twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::host::RegistryHost;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT, VIA};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use url::Url;

use crate::address_policy::Purpose;
use crate::connector::Reach;
use crate::credential::{Credential, CredentialId, sensitive};
use crate::error::{Stage, UpstreamError};
use crate::governors::Governors;
use crate::http_client::{HttpClient, Manner, Response};
use crate::operation::Operation;
use crate::pull_quota::PullQuotas;
use crate::refused_accounts::RefusedAccounts;
use crate::timed_body::{RequestBody, TimedBody};
use crate::token_cache::TokenCache;
use crate::upstream_registry::{UpstreamRegistry, host_of};
use entrepot_core::secret::Secret;
use entrepot_observe::labels::{UpstreamMethod, UpstreamOutcome};
use entrepot_observe::metrics::Metrics;

mod authentication;
mod governed;

/// The client of upstream registries. Each configuration has its own; [`UpstreamMemory`] outlives reloads.
pub struct RegistryClient {
    client: HttpClient,
    memory: Arc<UpstreamMemory>,
}

/// The knowledge about upstream registries that outlives reloads.
pub struct UpstreamMemory {
    /// The tokens that were fetched, and how registries ask for them.
    pub tokens: TokenCache,
    /// The pull quotas that registries reported.
    pub quotas: PullQuotas,
    /// When registries may be asked.
    pub governors: Governors,
    /// The administrator's accounts that upstream refused lately.
    pub refused_accounts: RefusedAccounts,
    /// Counts the requests and their outcomes.
    pub metrics: Arc<Metrics>,
    /// `1.1 entrepot-<random>`, sent with every request. A request that comes in with it is a loop and is refused.
    pub via: HeaderValue,
}

/// The answer to an operation, whose body is not read yet.
pub struct Answer {
    /// The status of the last hop.
    pub status: StatusCode,
    /// The headers of the last hop.
    pub headers: HeaderMap,
    /// The body of the last hop.
    pub body: TimedBody,
    /// The `Docker-Content-Digest` of the first hop of the registry's origin that sent one. A content network sends none.
    pub digest: Option<Digest>,
    /// The host of the last hop.
    pub host: RegistryHost,
    /// Whether a redirect led to it, to any origin. Login pages are reached by redirects too.
    pub(crate) redirected: bool,
    /// Whether a redirect left the registry's origin. A refusal is then not the registry's.
    pub crossed: bool,
    /// The time until the head of the last hop arrived.
    pub elapsed: Duration,
}

impl UpstreamMemory {
    /// Nothing is known yet. `via` is the value of the `Via` header that tells this process apart.
    pub fn new(metrics: Arc<Metrics>, via: HeaderValue) -> Self {
        let (tokens, quotas, governors, refused_accounts) = Default::default();
        Self { tokens, quotas, governors, refused_accounts, metrics, via }
    }
}

impl Answer {
    /// Whether the answer is the registry's statement about the content. It is if it has a digest, or if no redirect led to
    /// it and it is not a page for people: login pages have status 200 too.
    pub fn is_registrys_word(&self) -> bool {
        self.digest.is_some() || !(self.redirected || self.is_page())
    }

    /// Whether the body is a page for people (`text/html`).
    pub fn is_page(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        content_type.trim_start().get(..9).is_some_and(|head| head.eq_ignore_ascii_case("text/html"))
    }

    /// The announced length in bytes. None if there is none, as with chunked bodies.
    pub fn content_length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// RFC 9110 sets no limit. Docker's clients stop at ten.
const REDIRECTS_MAX: usize = 10;

impl RegistryClient {
    /// Uses the connections of `client` and the memory that earlier configurations filled.
    pub fn new(client: HttpClient, memory: Arc<UpstreamMemory>) -> Self {
        Self { client, memory }
    }

    /// Opens connections for tunnels.
    pub fn reach(&self) -> &Reach {
        self.client.reach()
    }

    /// The knowledge that outlives reloads.
    pub fn memory(&self) -> &UpstreamMemory {
        &self.memory
    }

    /// Sends a notification to a receiver that the administrator named. It sends no login, follows no redirect and does not
    /// try again. The answer's body is not read.
    pub async fn notify(&self, request: http::Request<RequestBody>) -> Result<StatusCode, UpstreamError> {
        Ok(self.client.send(request, Purpose::Webhook, Manner::default()).await?.http.status())
    }

    /// Runs an operation without a body, whatever its governor says.
    async fn execute_now(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
    ) -> Result<Answer, UpstreamError> {
        match credential {
            Credential::None => self.follow(registry, operation, credential.id(), None, empty()).await,
            Credential::Header(own) => self.follow(registry, operation, credential.id(), Some(own), empty()).await,
            Credential::Answered(login) => self.execute_answering(registry, operation, login.as_ref()).await,
        }
    }

    /// Runs an operation whose body can be sent only once, so it authenticates first, whatever its governor says.
    async fn send_now(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        let login = match credential {
            Credential::None => return self.follow(registry, operation, credential.id(), None, body).await,
            Credential::Header(own) => {
                return self.follow(registry, operation, credential.id(), Some(own), body).await;
            }
            Credential::Answered(login) => login.as_ref(),
        };
        if self.memory.tokens.scheme(&registry.origin).is_none() {
            let ping = Operation::relay(Method::GET, "/v2/".into(), &HeaderMap::new(), None);
            let answer = self.follow(registry, &ping, credential.id(), None, empty()).await?;
            self.learn_challenge(registry, &answer.headers);
        }
        let authorization = self.remembered(registry, operation, login).await?;
        let answer = self.follow(registry, operation, credential.id(), authorization.as_ref(), body).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            // The body is consumed. The client's next attempt finds a valid token.
            self.answer_challenge(registry, operation, login, &answer.headers).await?;
        }
        Ok(answer)
    }

    async fn follow(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: CredentialId,
        authorization: Option<&Secret>,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        let started = Instant::now();
        let fail = |why: String| UpstreamError::protocol(registry.host(), why);
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
            let manner = Manner { patience: registry.patience, may_race: operation.may_race() };
            let sent = self.send(kind_of(&operation.method), request, purpose, manner).await;
            // The client chose the registry. The registry chose the redirect, so its target's refusal is upstream's fault.
            let misled =
                |error: UpstreamError| if crossed && error.is_ours() { fail(error.to_string()) } else { error };
            let response = sent.map_err(misled)?;
            let (head, body) = response.http.into_parts();
            if !crossed {
                self.memory.quotas.note(registry.host(), credential, &head.headers);
            }
            digest = digest.or_else(|| content_digest(&head.headers).filter(|_| !crossed));
            let location = redirect_location(head.status, &head.headers).filter(|_| operation.follows_redirects);
            let Some(location) = location else {
                let host = host_of(&url).unwrap_or_else(|| registry.host().clone());
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

    /// Sends one request and counts its outcome.
    async fn send(
        &self,
        kind: UpstreamMethod,
        request: Request<RequestBody>,
        purpose: Purpose,
        manner: Manner,
    ) -> Result<Response, UpstreamError> {
        let started = Instant::now();
        let sent = self.client.send(request, purpose, manner).await;
        let (outcome, head_after) = match &sent {
            Ok(response) => (outcome_of(response.http.status()), Some(started.elapsed())),
            Err(error) => (failure_of(error), None),
        };
        self.memory.metrics.upstream_request(kind, outcome, head_after);
        sent
    }

    fn hop_headers(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        authorization: Option<&Secret>,
        crossed: bool,
    ) -> HeaderMap {
        let mut headers = operation.headers.clone();
        let are_injected = operation.reads_content || registry.header_methods.contains(&operation.method);
        if !crossed && are_injected {
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
        // A body with a content coding would have another digest (T25).
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

/// The metrics' word for an answer with this status.
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

/// The metrics' word for a request that failed.
pub fn failure_of(error: &UpstreamError) -> UpstreamOutcome {
    if let Some(status) = error.of_token_server() {
        return outcome_of(status);
    }
    match error.stage {
        _ if error.is_timeout() => UpstreamOutcome::Timeout,
        Stage::Dns | Stage::Connect | Stage::Tls => UpstreamOutcome::Unreachable,
        Stage::Send | Stage::Head | Stage::Body => UpstreamOutcome::Broken,
    }
}

/// A request body without bytes.
pub fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The `Docker-Content-Digest` header. None if there is none, or no valid one.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
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

/// After a redirect by a public address, private addresses are refused (T5). Behind a parent proxy the address is unknown
/// and counts as public.
fn purpose_after(purpose: Purpose, peer_public: Option<bool>) -> Purpose {
    match (purpose, peer_public) {
        (Purpose::RedirectFromPublic, _) | (_, Some(true) | None) => Purpose::RedirectFromPublic,
        (_, Some(false)) => Purpose::RedirectFromPrivate,
    }
}

#[cfg(test)]
mod tests;
